"""Reads the members of an access review, and their changes, from the histories and the marts."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple

from propel_assets.reporting.access_review.exceptions import DORMANT_DAYS, exceptions_of_member
from propel_assets.reporting.access_review.history import History
from propel_assets.reporting.access_review.model import Change, Member
from propel_assets.warehouse.audit import as_utc, as_utc_or_none
from propel_assets.warehouse.query import timestamp_literal

CHANGES = {
    "joined_org": "joined",
    "left_org": "left",
    "role_changed": "role changed",
    "additional_roles_changed": "additional roles changed",
    "included_roles_changed": "included roles changed",
    "signed_up": "signed up",
    "restored": "restored",
    "deleted": "deleted",
    "enabled": "enabled",
    "disabled": "disabled",
    "locked": "locked",
    "unlocked": "unlocked",
    "mfa_enabled": "second factor added",
    "mfa_disabled": "second factor removed",
    "email_changed": "e-mail address changed",
}
"""The text of the review, by `change` of fct_user_changes."""
ROLE_LISTS = ("additional_roles_changed", "included_roles_changed")


def read_users(history: History) -> dict[str, dict[str, Any]]:
    """Return the newest version of each user up to the review, deleted users included."""
    columns = ("user_id", "email", "first_name", "last_name", "enabled", "locked", "mfa_enabled", "valid_to")
    found: dict[str, dict[str, Any]] = {}
    for row in history.rows(
        f"SELECT {', '.join(columns)} FROM {history.histories}.users_history "  # noqa: S608 - our names
        f"WHERE valid_from <= {timestamp_literal(history.observed)} ORDER BY user_id, valid_from"
    ):
        user: dict[str, Any] = dict(zip(columns, row, strict=True))
        user["name"] = " ".join(filter(None, (user.pop("first_name"), user.pop("last_name"))))
        user["email"] = user["email"] or ""
        found[str(user["user_id"])] = user
    last_active = history.rows(
        f"SELECT user_id, max(day) FROM {history.marts}.fct_user_activity_daily "  # noqa: S608 - our names
        f"WHERE observed_at <= {timestamp_literal(history.observed)} GROUP BY user_id"
    )
    for user_id, day in last_active if history.is_activity_known else ():
        if user_id in found:
            found[user_id]["last_active_day"] = day
    return found


class _MembershipPeriod(NamedTuple):
    """The current uninterrupted membership of a user in an org."""

    role: str
    additional_roles: tuple[str, ...]
    inherited_roles: tuple[str, ...]
    role_since: datetime
    member_since: datetime


def _current_membership(versions: Sequence[tuple[Any, ...]], at: datetime) -> _MembershipPeriod | None:
    """Return the membership at the time ``at``; None if it has ended. ``versions``: of one membership, in order."""
    membership = ended = None
    for role, additional, all_roles, valid_from, valid_to in versions:
        start, roles = as_utc(valid_from), (role or "", _roles(additional))
        last = membership if ended == start else None
        role_since = last.role_since if last and last[:2] == roles else start
        inherited = tuple(r for r in _roles(all_roles) if r != role)
        membership = _MembershipPeriod(*roles, inherited, role_since, last.member_since if last else start)
        ended = as_utc_or_none(valid_to)
    return membership if ended is None or ended > at else None


def read_members(
    history: History, users: Mapping[str, Mapping[str, Any]], admin_roles: Collection[str]
) -> list[Member]:
    """Return the members of all orgs, with their exceptions. ``users``: by id."""
    dormant_before = history.observed.date() - timedelta(days=DORMANT_DAYS) if history.is_activity_known else None
    rows = history.rows(
        "SELECT org_id, user_id, user_role, additional_roles, inherited_user_roles_plus_current_role, valid_from, "  # noqa: S608
        f"valid_to FROM {history.histories}.memberships_history "
        f"WHERE valid_from <= {timestamp_literal(history.observed)} ORDER BY org_id, user_id, valid_from"
    )
    members = []
    for (org_id, user_id), versions in groupby(rows, key=lambda row: (str(row[0]), str(row[1]))):
        membership = _current_membership([row[2:] for row in versions], history.observed)
        user = users.get(user_id, {})
        if membership is None:
            continue
        member = Member(
            org_id=org_id,
            user_id=user_id,
            role=membership.role,
            additional_roles=membership.additional_roles,
            inherited_roles=membership.inherited_roles,
            role_since=history.interval(membership.role_since),
            member_since=history.interval(membership.member_since),
            enabled=user.get("enabled"),
            locked=user.get("locked"),
            mfa_enabled=user.get("mfa_enabled"),
            last_active_day=user.get("last_active_day"),
        )
        is_admin = member.holds(admin_roles)
        exceptions = exceptions_of_member(member, is_admin=is_admin, dormant_before=dormant_before)
        members.append(replace(member, exceptions=exceptions))
    return members


def read_changes(history: History, start: datetime, *, with_domains: bool) -> list[Change]:
    """Return the changes from ``start`` on. ``with_domains``: also e-mail domains, which can name a person."""
    rows = history.rows(
        "SELECT org_id, user_id, change, old_value, new_value, seen_at "  # noqa: S608 - our names
        f"FROM {history.marts}.fct_user_changes "
        f"WHERE seen_at >= {timestamp_literal(start)} AND seen_at <= {timestamp_literal(history.observed)}"
    )
    changes = [
        Change(
            org_id or "",
            user_id,
            CHANGES[kind],
            _value_text(kind, old),
            _value_text(kind, new),
            history.interval(as_utc(at)),
        )
        for org_id, user_id, kind, old, new, at in rows
        if kind not in ROLE_LISTS or {*_roles(old)} != {*_roles(new)}  # not another order only
    ]
    if not with_domains:
        email = CHANGES["email_changed"]
        changes = [replace(change, old="", new="") if change.change == email else change for change in changes]
    return sorted(changes, key=lambda c: (c.at.before, c.org_id, c.user_id, c.change))


def _roles(stored: str | None) -> tuple[str, ...]:
    """Return a JSON list of roles."""
    parsed = json.loads(stored) if stored else None
    return tuple(map(str, parsed)) if isinstance(parsed, list) else ()


def _value_text(kind: str, stored: str | None) -> str:
    """Return a value before or after a change as text. Additional and included roles are JSON lists, others are not."""
    return ", ".join(_roles(stored)) if kind in ROLE_LISTS else stored or ""
