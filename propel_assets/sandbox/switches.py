"""The switches of a sandbox: names, allowed values, limits and effects.

``read_switch`` checks them for all sources: code, ``--fault`` options and JSON.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

FIELDS = {
    "users": (
        "user_id email email_confirmed has_password username first_name last_name picture_url properties metadata "
        "locked enabled mfa_enabled can_create_orgs created_at last_active_at update_password_required "
        "legacy_user_id impersonator_user_id org_id_to_org_info"
    ),
    "orgs": (
        "org_id name url_safe_org_slug can_setup_saml is_saml_configured is_saml_in_test_mode domain extra_domains "
        "domain_autojoin domain_restrict password_rotation_enabled password_rotation_history_size "
        "password_rotation_period isolated max_users metadata legacy_org_id custom_role_mapping_name created_at"
    ),
    "memberships": (
        "org_id org_name org_metadata url_safe_org_name org_role_structure user_role "
        "inherited_user_roles_plus_current_role user_permissions additional_roles legacy_org_id"
    ),
    "invites": (
        "invitee_email org_id org_name role_in_org additional_roles_in_org created_at expires_at inviter_email "
        "inviter_user_id"
    ),
    "api_keys": "api_key_id created_at expires_at_seconds metadata user_id org_id display_name",
    "groups": "group_id display_name external_id_from_idp",
    "user_reports": (
        "id report_id user_id email username first_name last_name user_created_at last_active_at org_data "
        "extra_properties"
    ),
    "org_reports": "id report_id org_id name num_users org_created_at extra_properties",
}
"""The objects of the API whose fields switches can change, and these fields."""
FIELD_NAMES = tuple(f"{kind}.{field}" for kind, fields in FIELDS.items() for field in fields.split())


@dataclass(frozen=True, slots=True)
class Switch:
    """One kind of fault, or one limit of faults."""

    effect: str
    values: str
    """The allowed values, in words."""
    accepts: Callable[[Any], bool]
    default: Any = None
    """The value for ``true``. None: ``true`` is not allowed."""
    names: tuple[str, ...] = ()
    """The names that a value may consist of."""

    @property
    def allowed(self) -> str:
        """The allowed values with the default, in words."""
        return self.values if self.default in (None, True) else f"{self.values}; true: {json.dumps(self.default)}"

    def check(self, name: str, value: Any) -> Any:
        """Return ``value``, or the default for True.

        Raises:
            ValueError: the value is not allowed.
        """
        value = self.default if value is True and self.default is not None else value
        if self.accepts(value):
            return value
        parts = value if isinstance(value, list) else [value]
        wrong = next((part for part in parts if isinstance(part, str) and part not in self.names), "")
        raise ValueError(
            f"Fault {name}: {value!r:.80} is not allowed.{_did_you_mean(wrong, self.names)} Allowed: {self.allowed}."
        )


def _did_you_mean(word: str, names: tuple[str, ...]) -> str:
    close = get_close_matches(word, names, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _number(effect: str, minimum: float, maximum: float) -> Switch:
    values = f"a number from {minimum:,} to {maximum:,}"
    return Switch(effect, values, lambda v: type(v) in (int, float) and minimum <= v <= maximum)


def _whole(effect: str, minimum: int, maximum: float = math.inf, *, default: int | None = None) -> Switch:
    values = f"a whole number from {minimum}" + (f" to {maximum:,}" if maximum < math.inf else "")
    return Switch(effect, values, lambda v: type(v) is int and minimum <= v <= maximum, default)


def _flag(effect: str) -> Switch:
    return Switch(effect, "true", lambda value: value is True, True)


def _choice(effect: str, names: tuple[str, ...]) -> Switch:
    return Switch(effect, ", ".join(names), lambda value: isinstance(value, str) and value in names, names=names)


def _names(effect: str, values: str, names: tuple[str, ...], *, default: list[str] | None = None) -> Switch:
    def accepts(value: Any) -> bool:
        parts = value if isinstance(value, list) else [value]
        return bool(parts) and all(isinstance(part, str) and part in names for part in parts)

    return Switch(effect, f"{values}, or a JSON list of them", accepts, default, names)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def _is_header(item: tuple[Any, Any]) -> bool:
    return all(isinstance(part, str) and re.fullmatch(r"[!-~][ -~]{0,199}", part) is not None for part in item)


def _is_error_body(item: tuple[Any, Any]) -> bool:
    status, error = item
    return (
        re.fullmatch(r"[45]\d\d", status) is not None
        and isinstance(error, dict)
        and error.keys() == {"content_type", "body"}
        and all(isinstance(text, str) for text in error.values())
        and (not error["content_type"] or _is_header(("Content-Type", error["content_type"])))
    )


_status = partial(_whole, minimum=400, maximum=599)

SWITCHES = {
    # the response as a whole
    "latency_ms": _number("wait this long before each response", 0, 3_600_000),
    "rate_limit": _number("requests per second (token bucket of at least 1); above it, 429", 0.001, 1_000_000),
    "retry_after": _choice("send Retry-After with 429 and 503", ("seconds", "date", "none")),
    "server_error": _status("respond with this status", default=500),
    "reset": _flag("reset the TCP connection instead of responding"),
    "truncated": _flag("announce the whole body, send half of it, close the connection"),
    "slow_body_ms": _number("spread the body over this time", 0, 3_600_000),
    "html": Switch(
        "respond with an HTML page and this status",
        "200, or a whole number from 400 to 599",
        lambda value: type(value) is int and (value == 200 or 400 <= value <= 599),
        200,
    ),
    "wrong_json": Switch("respond with 200 and this JSON value", "any JSON value", _is_json, []),
    "redirect": Switch(
        "respond with 302 to this base URL",
        "a URL that starts with http:// or https://",
        lambda value: isinstance(value, str) and re.fullmatch(r"https?://[!-~]+", value) is not None,
        "http://elsewhere.example",
    ),
    "key_revoked": _flag("respond with 401 to every key"),
    # features that are not enabled: the status of the response
    "orgs_off": _status("orgs are not enabled: this status; users have no org_id_to_org_info", default=426),
    "include_orgs_off": _status("include_orgs=true is refused with this status", default=426),
    "insights_off": _status("User Insights are not enabled: this status", default=403),
    "api_keys_off": _status("API keys are not enabled: this status", default=403),
    "scim_off": _status("SCIM is not enabled: this status", default=403),
    # pages
    "page_size_cap": _whole("the largest page_size; 100 when off", 1, 10_000),
    "page_size_refused": _flag("respond with 400 to a larger page_size instead of reducing it"),
    "repeated_page": _whole("the page of this number has the rows of the next page", 0),
    "shuffled_ties": _flag("users and orgs of the same second change places at each request"),
    "past_end": _status("respond with this status to a page after the last one", default=404),
    # what `propel-assets probe` finds
    "response_headers": Switch(
        "add these headers to each response",
        "a JSON object of names and values",
        lambda value: isinstance(value, dict) and all(map(_is_header, value.items())),
    ),
    "error_bodies": Switch(
        "respond with these bodies",
        "a JSON object of statuses, each with content_type and body",
        lambda value: isinstance(value, dict) and all(map(_is_error_body, value.items())),
    ),
    "unknown_org_empty": _flag("the members of an unknown org are an empty list, not 404"),
    "org_detail_created_at": _flag("GET org/{org_id} has created_at"),
    # users
    "delete_every": _whole("delete a user at every n-th request", 1),
    "signup_every": _whole("sign up a user at every n-th request", 1),
    "insert_every": _whole(
        "at every n-th request, insert a user whose created_at is that of one of the oldest 10 % of users", 1
    ),
    # webhooks: each applies to one event
    "webhook_lost": _flag("never send this event"),
    "webhook_duplicated": _whole("send this event this many times", 2, 100, default=2),
    "webhook_delay_ms": _number("wait this long before the first attempt", 0, 86_400_000),
    "webhook_disorder": _whole("hold events back until this many are waiting, and send them in random order", 2, 1_000),
    "webhook_burst": _whole("hold events back until this many are waiting, and send them at the same time", 2, 1_000),
    "webhook_forged": _flag("also send this event under another id with a signature by another secret"),
    "webhook_replayed": _flag("also send this event as it was signed 10 minutes ago"),
    # fields
    "unknown_field": _names(
        "add the fields new_scalar and new_object to these objects",
        f"one of {', '.join(FIELDS)}",
        tuple(FIELDS),
        default=["users", "orgs", "memberships"],
    ),
    "missing_field": _names("leave this field out", "a field such as users.email", FIELD_NAMES),
    "retyped_field": _names("send this field as a value of another type", "a field such as users.email", FIELD_NAMES),
}
LIMITS = {
    "path": Switch(
        "only requests whose path starts with this",
        "a path that starts with /",
        lambda value: isinstance(value, str) and re.fullmatch(r"(/[!-~]*)?", value) is not None,
    ),
    "after": _whole("let this many requests pass first", 0),
    "requests": Switch(
        "affect this many requests, then turn off",
        "a whole number from 1",
        lambda value: value is None or (type(value) is int and value >= 1),
    ),
    "share": Switch(
        "affect this share of requests, drawn from the seed",
        "a number above 0 and up to 1",
        lambda value: type(value) in (int, float) and 0 < value <= 1,
    ),
}


@dataclass(slots=True)
class Fault:
    """One switch that is on."""

    value: Any
    requests: int | None = None
    path: str = ""
    share: float = 1.0
    after: int = 0


def read_switch(name: str, value: Any, limits: Mapping[str, Any]) -> Fault | None:
    """Return the fault that a switch and its limits describe; None when the value turns it off (False, None).

    Raises:
        ValueError: the name, the value or a limit is not allowed; the text has the allowed ones.
    """
    if name not in SWITCHES:
        hint = _did_you_mean(name, tuple(SWITCHES)) or f" Faults: {', '.join(SWITCHES)}."
        raise ValueError(f"No fault is named {name!r:.80}.{hint}")
    for limit, given in limits.items():
        if limit not in LIMITS:
            raise ValueError(f"Fault {name}: no limit is named {limit!r:.80}. Limits: {', '.join(LIMITS)}.")
        LIMITS[limit].check(f"{name}, limit {limit}", given)
    switch = SWITCHES[name]
    if (value is None or value is False) and not switch.accepts(value):
        return None
    return Fault(switch.check(name, value), **limits)


def parse_option(option: str) -> tuple[str, Fault | None]:
    """Return the switch that ``NAME[=VALUE][,path=P][,after=N][,requests=N][,share=S]`` describes.

    Values are read as JSON where possible, otherwise as text.

    Raises:
        ValueError: see ``read_switch``.
    """
    first, *limits = re.split(r",(?=[a-z]+=)", option)
    name, given, value = first.partition("=")
    pairs = (limit.partition("=") for limit in limits)
    return name, read_switch(name, _json_or_text(value) if given else True, {k: _json_or_text(v) for k, _, v in pairs})


def parse_json(switches: Any) -> dict[str, Fault | None]:
    """Return the switches that a JSON object describes.

    It maps names to values, to ``{"value": …, "requests": …}``, or to false or null, which turn them off.

    Raises:
        ValueError: it is not an object; see ``read_switch``.
    """
    if not isinstance(switches, dict):
        raise ValueError('Faults must be a JSON object, for example {"latency_ms": 50}.')  # noqa: TRY004 - as above
    return {name: _read_json(name, given) for name, given in switches.items()}


def _read_json(name: str, given: Any) -> Fault | None:
    limits = dict(given) if isinstance(given, dict) else {"value": given}
    fault = read_switch(name, limits.pop("value", True), limits)
    return None if given is None or given is False else fault


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
