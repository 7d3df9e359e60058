"""The webhook events of PropelAuth: 29 types with the fields of their payloads.

Source: PropelAuth's documentation of webhooks. A payload is a flat JSON object with `event_type`. It has no id and no
time: those are in the headers of a delivery.
"""

from dataclasses import dataclass
from typing import Any

EVENT_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "org.created": (("name", "org_id"), ()),
    "org.updated": (("org_id",), ()),
    "org.deleted": (("org_id",), ()),
    "org.saml_setup": (("org_id",), ()),
    "org.saml_went_live": (("org_id",), ()),
    "org.saml_removed": (("org_id",), ()),
    "org.api_key_deleted": (("org_id", "api_key_id"), ()),
    "org.scim_group_created": (("org_id", "scim_group_id", "display_name"), ()),
    "org.scim_group_updated": (("org_id", "scim_group_id", "display_name"), ()),
    "org.scim_group_deleted": (("org_id", "scim_group_id"), ()),
    "org.scim_key_created": (("org_id", "scim_key_id"), ()),
    "org.scim_key_revoked": (("org_id", "scim_key_id"), ()),
    "user.created": (
        ("user_id", "email", "email_confirmed"),
        ("first_name", "last_name", "username", "picture_url"),
    ),
    "user.updated": (("user_id",), ()),
    "user.deleted": (("user_id",), ()),
    "user.enabled": (("user_id",), ()),
    "user.disabled": (("user_id",), ()),
    "user.locked": (("user_id",), ()),
    "user.logged_out": (("user_id",), ()),
    "user.added_to_org": (("user_id", "org_id", "role"), ()),
    "user.removed_from_org": (("removed_user_id", "org_id"), ()),
    "user.role_changed_within_org": (("user_id", "org_id", "new_role"), ()),
    "user.added_to_scim_group": (("user_id", "org_id", "scim_group_id"), ()),
    "user.removed_from_scim_group": (("user_id", "org_id", "scim_group_id"), ()),
    "user.deleted_personal_api_key": (("user_id", "api_key_id"), ()),
    "user.impersonated": (("user_id", "impersonator_user_id"), ()),
    "user.invited_to_org": (("org_id",), ("user_id", "role")),
    "user.login": (("user_id",), ("active_org_id",)),
    "user.send_mfa_phone_code": (("user_id", "phone_number"), ()),
}
"""By event type: the fields that are always sent, and those that are left out when they have no value."""


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """One change of the state, as webhooks report it."""

    number: int
    """From 0, in the order in which the changes happened."""
    happened_at: float
    """Unix seconds of this machine's clock."""
    payload: dict[str, Any]

    @property
    def event_type(self) -> str:
        """The type, such as `user.created`."""
        return self.payload["event_type"]


def make_event(number: int, happened_at: float, event_type: str, fields: dict[str, Any]) -> WebhookEvent:
    """Return the event with the fields of its type. Optional ones without a value are left out.

    Raises:
        ValueError: a required field is missing, or a field does not belong to the type.
    """
    required, optional = EVENT_FIELDS[event_type]
    payload = {name: value for name, value in fields.items() if value is not None}
    if missing := [name for name in required if name not in payload]:
        raise ValueError(f"{event_type} without {missing}")
    if unknown := payload.keys() - {*required, *optional}:
        raise ValueError(f"{event_type} with {sorted(unknown)}")
    return WebhookEvent(number, happened_at, {"event_type": event_type, **payload})
