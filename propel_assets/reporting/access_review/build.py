"""Reads an access review from the histories and the marts."""

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import accumulate, groupby, pairwise
from typing import Any, NamedTuple

from dlt.destinations.exceptions import DatabaseUndefinedRelation

from propel_assets.catalog import END_USER_API_KEYS, ORG_MEMBERSHIP, ORG_QUERY, USER_QUERY
from propel_assets.errors import WarehouseError
from propel_assets.marts.runner import HISTORY, MARTS, how_to_build
from propel_assets.reporting.access_review.api_keys import OPEN_DAYS, ApiKeyReader
from propel_assets.reporting.access_review.exceptions import DORMANT_DAYS, exceptions_of_member, list_exceptions
from propel_assets.reporting.access_review.model import AccessReview, Change, Interval, Member, Org, Scans
from propel_assets.reporting.access_review.queries import scan_rows, utc
from propel_assets.settings import Target
from propel_assets.warehouse.audit import as_utc, decode_json
from propel_assets.warehouse.query import Warehouse, timestamp_literal

ADMIN_ROLES = ("Owner", "Admin")
SCANNED = (USER_QUERY.name, ORG_MEMBERSHIP.name, ORG_QUERY.name, END_USER_API_KEYS.name)
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


def build_review(
    warehouse: Warehouse,
    target: Target,
    as_of: date,
    since: date | None = None,
    *,
    org_ids: Collection[str] = (),
    admin_roles: Sequence[str] = ADMIN_ROLES,
    with_names: bool = False,
) -> AccessReview:
    """Read the review from the histories.

    Args:
        warehouse: the warehouse.
        target: its names.
        as_of: the day at whose end (UTC) the roles are reviewed.
        since: the first day of the period; None: 90 days before.
        org_ids: only these orgs; empty: all.
        admin_roles: roles whose holders count as administrators, also through a role that includes one. At least one
            role. The first one owns an org.
        with_names: also read names and e-mail addresses.

    Raises:
        WarehouseError: the history does not reach back to that day, or lacks one of ``org_ids``.
    """
    since = since or as_of - timedelta(days=DORMANT_DAYS)
    try:
        return _Reader(warehouse, target, as_of, since, org_ids, tuple(admin_roles)).review(with_names=with_names)
    except DatabaseUndefinedRelation:
        raise WarehouseError(
            f"The access review needs the history and the marts, which are not built here. {how_to_build(target)}"
        ) from None


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
        ended = utc(valid_to)
    return membership if ended is None or ended > at else None


class _KnownOrg(NamedTuple):
    """One org in the history."""

    name: str
    is_saml_configured: bool | None
    is_deleted: bool


class _Reader:
    """Reads one review."""

    def __init__(
        self,
        warehouse: Warehouse,
        target: Target,
        as_of: date,
        since: date,
        org_ids: Collection[str],
        admin_roles: tuple[str, ...],
    ) -> None:
        self._warehouse, self._target = warehouse, target
        self._history, self._marts = target.named(HISTORY), target.named(MARTS)
        self._as_of, self._since, self._org_ids, self._admin_roles = as_of, since, {*org_ids}, admin_roles
        self._end = datetime.combine(as_of + timedelta(days=1), time(), UTC)
        self._start = datetime.combine(since, time(), UTC)
        rows = self._rows(f"SELECT read_at, full_load_started_at FROM {self._history}.user_loads")  # noqa: S608
        starts = sorted((as_utc(read_at), utc(started) or as_utc(read_at)) for read_at, started in rows)
        self._loads = [read_at for read_at, _ in starts]
        # By load: the latest start of a full load up to it.
        self._full_load_starts = [*accumulate((started for _, started in starts), max)]
        loads_until_end = bisect_left(self._loads, self._end)
        if not loads_until_end:
            first = f"The first load is of {self._loads[0]:%Y-%m-%d}." if self._loads else "The history has no load."
            raise WarehouseError(f"The history has no load of users up to the end of {as_of} (UTC). {first}")
        self._observed = self._loads[loads_until_end - 1]
        full_load_start = self._full_load_starts[loads_until_end - 1]
        self._api_keys = ApiKeyReader(warehouse, self._marts, as_of, self._end, self._observed, full_load_start)
        self._is_activity_known = self._has_activity()
        self._notes: list[str] = []

    def _interval(self, seen_at: datetime) -> Interval:
        """Return the interval of a change that the load at ``seen_at`` showed: from the start of the full load before.

        The narrower intervals of the histories cannot be used: each is that of a version's last change, which can be a
        different one.
        """
        before = bisect_left(self._loads, seen_at)
        return Interval(self._full_load_starts[before - 1] if before else None, seen_at)

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._warehouse.rows(sql)

    def review(self, *, with_names: bool) -> AccessReview:
        self._require_known_orgs()
        users = self._users()
        members, known_orgs = self._members(users), self._known_orgs()
        self._note_dropped_columns(members)
        changes, keys = self._changes(with_domains=with_names), self._api_keys
        api_keys = keys.read(users, {(member.user_id, member.org_id) for member in members}, self._org_ids)
        in_period = [at for at in self._loads if self._start <= at <= self._observed]
        last_before = self._loads[: bisect_left(self._loads, self._start)][-1:]
        gaps = [later - earlier for earlier, later in pairwise([*last_before, *in_period])]
        known_period = max(self._start, self._loads[0]), self._observed
        orgs = self._orgs_with_members(members, changes, known_orgs)
        people = {user_id: (user["name"], user["email"]) for user_id, user in users.items()} if with_names else {}
        return AccessReview(
            as_of=self._as_of,
            since=self._since,
            observed_at=self._observed,
            is_preliminary=datetime.now(UTC) < self._end or not self._includes_last_loads(),
            tenant=self._tenant_id(),
            environment=self._target.environment,
            admin_roles=self._admin_roles,
            orgs=orgs,
            user_changes=[change for change in changes if not change.org_id and not self._org_ids],
            api_keys=api_keys,
            api_keys_at=keys.loaded_at,
            usage=keys.usage_period,
            exceptions=list_exceptions(orgs, api_keys, self._admin_roles[0]),
            scans=self._scans(),
            loads=len(in_period),
            longest_gap=max(gaps, default=None),
            changes_known=known_period if known_period[0] < known_period[1] else None,
            notes=[*self._notes, *keys.notes],
            people=people,
        )

    def _orgs_with_members(
        self, members: Sequence[Member], changes: Sequence[Change], known_orgs: Mapping[str, _KnownOrg]
    ) -> list[Org]:
        """Return the orgs that exist, and deleted ones with changes."""
        by_org: dict[str, list[Member]] = defaultdict(list)
        for member in sorted(members, key=lambda m: (not m.holds(self._admin_roles), m.role, m.user_id)):
            by_org[member.org_id].append(member)
        org_changes: dict[str, list[Change]] = defaultdict(list)
        for change in changes:
            org_changes[change.org_id].append(change)
        existing = [org_id for org_id, org in known_orgs.items() if not org.is_deleted]
        ids = {*by_org, *org_changes, *existing} - {""}
        orgs = [
            Org(
                org_id,
                *known_orgs.get(org_id, _KnownOrg(org_id, None, is_deleted=False)),
                by_org[org_id],
                org_changes[org_id],
            )
            for org_id in ids
            if not self._org_ids or org_id in self._org_ids
        ]
        return sorted(orgs, key=lambda org: (org.name.lower(), org.org_id))

    def _note_dropped_columns(self, members: Sequence[Member]) -> None:
        for column in ("enabled", "locked", "mfa_enabled"):
            if members and all(getattr(member, column) is None for member in members):
                self._notes.append(f"Exceptions that depend on {column} are not known: the history has no value of it.")
        if members and not self._is_activity_known:
            self._notes.append(
                "Exceptions that depend on last_active_at are not known: the last full load has no value of it."
            )

    def _last_users_load(self, column: str, condition: str) -> dict[str, Any] | None:
        """Return a JSON column of `propel_scans` for the last load of users in the review; None: it has no value."""
        rest = (
            f"AND {condition} AND s.verdict <> 'skipped' AND s.finished_at <= {timestamp_literal(self._observed)} "
            "ORDER BY s.finished_at DESC, s.load_id DESC"
        )
        rows = scan_rows(self._warehouse, self._end, f"s.{column}", USER_QUERY.name, rest, limit=1)
        return decode_json(rows[0][0]) if rows else None

    def _tenant_id(self) -> str:
        """Return the tenant of the last load of users in the review. A later load can be of another one."""
        state = self._last_users_load("resume_state", "s.resume_state IS NOT NULL") or {}
        return str(state.get("tenant_id", ""))

    def _has_activity(self) -> bool:
        """Return whether the last full load of users in the review has times of activity.

        An erasure clears `values_read`. Then the mart is read: it has activity on days other than sign-ups.
        """
        values = self._last_users_load("values_read", "coalesce(s.mode, 'full') = 'full'")
        if values is not None:
            return bool(values.get("last_active_at"))
        days = f"FROM {self._marts}.fct_user_activity_daily WHERE observed_at <= {timestamp_literal(self._observed)}"
        return bool(self._rows(f"SELECT 1 {days} AND NOT is_signup_day LIMIT 1"))

    def _includes_last_loads(self) -> bool:
        """Return whether histories and marts include the last load of the period, for each table."""
        built = {
            USER_QUERY.name: f"SELECT max(as_of) FROM {self._marts}.audit_user_marts",  # noqa: S608 - our names
            ORG_QUERY.name: f"SELECT max(read_at) FROM {self._history}.org_loads",  # noqa: S608
        }
        if not self._api_keys.has_no_keys:
            built[END_USER_API_KEYS.name] = f"SELECT max(as_of) FROM {self._marts}.fct_api_keys"  # noqa: S608
        for table, sql in built.items():
            try:
                [(at,)] = self._rows(sql)
            except DatabaseUndefinedRelation:
                if table == USER_QUERY.name:  # changes and activity may be older than the history
                    return False
                continue  # API keys are optional: the review has a note
            rest = "AND s.verdict <> 'skipped'"
            [(loaded,)] = scan_rows(self._warehouse, self._end, "max(s.finished_at)", table, rest)
            if loaded and (at is None or as_utc(at) < as_utc(loaded)):
                return False
        if (usage := self._api_keys.usage_period) is None:
            return True
        try:
            [(day,)] = self._rows(f"SELECT max(day) FROM {self._marts}.fct_api_key_usage_daily")  # noqa: S608
        except DatabaseUndefinedRelation:
            return True
        return day is not None and day >= usage.last + timedelta(days=OPEN_DAYS)

    def _require_known_orgs(self) -> None:
        known_org_ids: set[str] = set()
        for history in ("orgs_history", "memberships_history") if self._org_ids else ():
            rows = self._rows(
                f"SELECT DISTINCT org_id FROM {self._history}.{history} "  # noqa: S608 - our names
                f"WHERE valid_from < {timestamp_literal(self._end)}"
            )
            known_org_ids |= {str(org_id) for (org_id,) in rows}
        if unknown := sorted(self._org_ids - known_org_ids):
            raise WarehouseError(
                f"No org {' or '.join(unknown)} is in the history up to the end of {self._as_of} (UTC). "
                "Check the ids: they are in the column org_id of org_query."
            )

    def _users(self) -> dict[str, dict[str, Any]]:
        """Return the newest version of each user up to the review, deleted users included."""
        columns = ("user_id", "email", "first_name", "last_name", "enabled", "locked", "mfa_enabled", "valid_to")
        found: dict[str, dict[str, Any]] = {}
        for row in self._rows(
            f"SELECT {', '.join(columns)} FROM {self._history}.users_history "  # noqa: S608 - our names
            f"WHERE valid_from <= {timestamp_literal(self._observed)} ORDER BY user_id, valid_from"
        ):
            user: dict[str, Any] = dict(zip(columns, row, strict=True))
            user["name"] = " ".join(filter(None, (user.pop("first_name"), user.pop("last_name"))))
            user["email"] = user["email"] or ""
            found[str(user["user_id"])] = user
        last_active = self._rows(
            f"SELECT user_id, max(day) FROM {self._marts}.fct_user_activity_daily "  # noqa: S608 - our names
            f"WHERE observed_at <= {timestamp_literal(self._observed)} GROUP BY user_id"
        )
        for user_id, day in last_active if self._is_activity_known else ():
            if user_id in found:
                found[user_id]["last_active_day"] = day
        return found

    def _known_orgs(self) -> dict[str, _KnownOrg]:
        """Return the newest version of each org up to the review, deleted orgs included."""
        rows = self._rows(f"SELECT read_at FROM {self._history}.org_loads")  # noqa: S608 - our names
        loads = sorted(as_utc(at) for (at,) in rows)  # orgs are a scan of their own
        loads_until_end = bisect_left(loads, self._end)
        if not loads_until_end:
            self._notes.append(
                f"The names of orgs are not known: orgs were not loaded before the end of {self._as_of} (UTC)."
            )
            return {}
        observed = loads[loads_until_end - 1]
        rows = self._rows(
            f"SELECT org_id, name, is_saml_configured, valid_to FROM {self._history}.orgs_history "  # noqa: S608
            f"WHERE valid_from <= {timestamp_literal(observed)} ORDER BY org_id, valid_from"
        )
        return {
            org_id: _KnownOrg(name or org_id, saml, is_deleted=bool(valid_to) and as_utc(valid_to) <= observed)
            for org_id, name, saml, valid_to in rows
        }

    def _members(self, users: Mapping[str, Mapping[str, Any]]) -> list[Member]:
        rows = self._rows(
            "SELECT org_id, user_id, user_role, additional_roles, inherited_user_roles_plus_current_role, valid_from, "  # noqa: S608
            f"valid_to FROM {self._history}.memberships_history "
            f"WHERE valid_from <= {timestamp_literal(self._observed)} ORDER BY org_id, user_id, valid_from"
        )
        members = []
        for (org_id, user_id), versions in groupby(rows, key=lambda row: (str(row[0]), str(row[1]))):
            membership = _current_membership([row[2:] for row in versions], self._observed)
            user = users.get(user_id, {})
            if membership is None:
                continue
            member = Member(
                org_id=org_id,
                user_id=user_id,
                role=membership.role,
                additional_roles=membership.additional_roles,
                inherited_roles=membership.inherited_roles,
                role_since=self._interval(membership.role_since),
                member_since=self._interval(membership.member_since),
                enabled=user.get("enabled"),
                locked=user.get("locked"),
                mfa_enabled=user.get("mfa_enabled"),
                last_active_day=user.get("last_active_day"),
            )
            exceptions = exceptions_of_member(
                member, is_admin=member.holds(self._admin_roles), dormant_before=self._dormant_before
            )
            members.append(replace(member, exceptions=exceptions))
        return members

    @property
    def _dormant_before(self) -> date | None:
        return self._observed.date() - timedelta(days=DORMANT_DAYS) if self._is_activity_known else None

    def _changes(self, *, with_domains: bool) -> list[Change]:
        """Return the changes. ``with_domains``: also the domains of e-mail addresses, which can name a person."""
        rows = self._rows(
            "SELECT org_id, user_id, change, old_value, new_value, seen_at "  # noqa: S608 - our names
            f"FROM {self._marts}.fct_user_changes "
            f"WHERE seen_at >= {timestamp_literal(self._start)} AND seen_at <= {timestamp_literal(self._observed)}"
        )
        changes = [
            Change(
                org_id or "",
                user_id,
                CHANGES[kind],
                _value_text(kind, old),
                _value_text(kind, new),
                self._interval(as_utc(at)),
            )
            for org_id, user_id, kind, old, new, at in rows
            if kind not in ROLE_LISTS or {*_roles(old)} != {*_roles(new)}  # not another order only
        ]
        if not with_domains:
            email = CHANGES["email_changed"]
            changes = [replace(change, old="", new="") if change.change == email else change for change in changes]
        return sorted(changes, key=lambda c: (c.at.before, c.org_id, c.user_id, c.change))

    def _scans(self) -> list[Scans]:
        found = []
        for table in SCANNED:
            columns = "s.verdict, s.finished_at, s.reason, s.rows_read, s.total_max, s.mode"
            rest = "AND coalesce(s.mode, 'full') <> 'events' ORDER BY s.finished_at, s.load_id"
            rows = scan_rows(self._warehouse, self._end, columns, table, rest)
            verdicts = Counter(row[0] for row in rows if as_utc(row[1]) >= self._start)
            verdict, at, reason, read, total, mode = rows[-1] if rows else ("", None, "", None, None, "")
            if mode == "recent":  # it read only what changed, and the total is of all rows
                read = total = None
            counts = (verdicts["proved"], verdicts["counted"], verdicts["skipped"])
            found.append(Scans(table, *counts, utc(at), verdict, reason or "", read, total))
        return found


def _roles(stored: str | None) -> tuple[str, ...]:
    """Return a JSON list of roles."""
    parsed = json.loads(stored) if stored else None
    return tuple(map(str, parsed)) if isinstance(parsed, list) else ()


def _value_text(kind: str, stored: str | None) -> str:
    """Return a value before or after a change as text. Additional and included roles are JSON lists, others are not."""
    return ", ".join(_roles(stored)) if kind in ROLE_LISTS else stored or ""
