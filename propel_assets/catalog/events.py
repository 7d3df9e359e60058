"""Webhook events, which PropelAuth sends and no endpoint returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from propel_assets.catalog.model import ReportedChange, Table, Webhooks, identifier, json, text, timestamp

REPORTS = (
    ReportedChange("user.created", "user_query", "added"),
    ReportedChange("user.deleted", "user_query", "removed"),
    ReportedChange("user.enabled", "user_query", "changed", ("enabled",), value=True),
    ReportedChange("user.disabled", "user_query", "changed", ("enabled",), value=False),
    ReportedChange("user.locked", "user_query", "changed", ("locked",), value=True),
    ReportedChange("user.added_to_org", "org_membership", "added"),
    ReportedChange("user.removed_from_org", "org_membership", "removed"),
    ReportedChange(
        "user.role_changed_within_org",
        "org_membership",
        "changed",
        ("user_role", "additional_roles"),
        or_event="user.added_to_org",  # after a removal, with another role
    ),
    ReportedChange("org.created", "org_query", "added"),
    ReportedChange("org.deleted", "org_query", "removed"),
)

NAMING_FIELDS = ("user_id", "removed_user_id", "api_key_id", "scim_group_id")


@dataclass(frozen=True)
class StoredEvent:
    """One verified webhook, as the webhook store has it.

    Attributes:
        svix_id: the message id: the same for every delivery attempt of one event.
        event_type: PropelAuth's name of the event, such as `user.created`.
        received_at: when the first attempt arrived here (UTC).
        sent_at: when that attempt was sent, from `svix-timestamp` (UTC, whole seconds).
        payload: the JSON object as it was sent; of an event about a phone code, only its type and its user.
    """

    svix_id: str
    event_type: str
    received_at: datetime
    sent_at: datetime
    payload: str


def ids_named_by(payload: Mapping[str, Any]) -> set[str]:
    """Return the ids of users, API keys and SCIM groups that an event names; of its org if it names nothing else."""
    named = {id_ for name in NAMING_FIELDS if isinstance(id_ := payload.get(name), str) and id_}
    org_id = payload.get("org_id")
    return named or ({org_id} if isinstance(org_id, str) and org_id else set())


EVENTS = Webhooks(applies_to=("user_query", "org_membership", "org_query"), reports=REPORTS)

AUTH_EVENT = Table(
    name="auth_event",
    scan="events",
    group="events",
    path="",
    items="payload",
    key=("message_id",),
    description="Webhook events, one row per event: log-ins, impersonations and every reported change. "
    "Rows are only added. Skipped before the first webhook was received.",
    columns=(
        text(
            "message_id",
            "The header `svix-id`: the same for every delivery of one event.",
            required=True,
            api_field="svix-id",
        ),
        text("event_type", "PropelAuth's name of the event, such as `user.created`.", required=True),
        identifier("user_id", "The user that the event is about. Null for events of orgs.", person="subject"),
        identifier("org_id", "The org that the event names."),
        text("role", "The role that the event names: of an added or invited member, or the new role."),
        identifier("impersonator_user_id", "The employee who impersonates the user.", person="mention"),
        json("payload", "The whole event, without the phone number of `user.send_mfa_phone_code`.", "free_form"),
        timestamp("received_at", "When the receiver accepted the first delivery (UTC).", required=True),
        timestamp(
            "attempted_at",
            "When that delivery was sent (UTC, whole seconds). A retried delivery is later than the event.",
            required=True,
            api_field="svix-timestamp",
        ),
    ),
    shape=EVENTS,
    doc="https://docs.propelauth.com/integrations/webhooks",
    load="merge",
    default=False,
)
