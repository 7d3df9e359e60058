"""Reads an access review from the histories and the marts."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise

from dlt.destinations.exceptions import DatabaseUndefinedRelation

from propel_assets.catalog import END_USER_API_KEYS, ORG_MEMBERSHIP, ORG_QUERY, USER_QUERY
from propel_assets.errors import WarehouseError
from propel_assets.marts.runner import how_to_build
from propel_assets.reporting.access_review.api_keys import OPEN_DAYS, ApiKeyReader
from propel_assets.reporting.access_review.exceptions import DORMANT_DAYS, list_exceptions
from propel_assets.reporting.access_review.history import History
from propel_assets.reporting.access_review.members import read_changes, read_members, read_users
from propel_assets.reporting.access_review.model import AccessReview, Change, Member, Org, Scans
from propel_assets.settings import Target
from propel_assets.warehouse.audit import as_utc, as_utc_or_none
from propel_assets.warehouse.query import Warehouse, timestamp_literal

ADMIN_ROLES = ("Owner", "Admin")
SCANNED = (USER_QUERY.name, ORG_MEMBERSHIP.name, ORG_QUERY.name, END_USER_API_KEYS.name)


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
        reader = _Reader(History(warehouse, target, as_of), target, since, org_ids, tuple(admin_roles))
        return reader.review(with_names=with_names)
    except DatabaseUndefinedRelation:
        raise WarehouseError(
            f"The access review needs the history and the marts, which are not built here. {how_to_build(target)}"
        ) from None


class _Reader:
    """Reads one review."""

    def __init__(
        self, history: History, target: Target, since: date, org_ids: Collection[str], admin_roles: tuple[str, ...]
    ) -> None:
        self._history, self._target = history, target
        self._since, self._org_ids, self._admin_roles = since, {*org_ids}, admin_roles
        self._start = datetime.combine(since, time(), UTC)
        self._api_keys = ApiKeyReader(history)
        self._notes: list[str] = []

    def review(self, *, with_names: bool) -> AccessReview:
        self._require_known_orgs()
        history = self._history
        users = read_users(history)
        members, known_orgs = read_members(history, users, self._admin_roles), self._known_orgs()
        self._note_dropped_columns(members)
        changes, keys = read_changes(history, self._start, with_domains=with_names), self._api_keys
        api_keys = keys.read(users, {(member.user_id, member.org_id) for member in members}, self._org_ids)
        in_period = [at for at in history.loads if self._start <= at <= history.observed]
        last_before = history.loads[: bisect_left(history.loads, self._start)][-1:]
        gaps = [later - earlier for earlier, later in pairwise([*last_before, *in_period])]
        known_period = max(self._start, history.loads[0]), history.observed
        orgs = self._orgs_with_members(members, changes, known_orgs)
        people = {user_id: (user["name"], user["email"]) for user_id, user in users.items()} if with_names else {}
        return AccessReview(
            as_of=history.as_of,
            since=self._since,
            observed_at=history.observed,
            is_preliminary=datetime.now(UTC) < history.end or not self._includes_last_loads(),
            tenant=history.tenant_id(),
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
        self, members: Sequence[Member], changes: Sequence[Change], known_orgs: Mapping[str, Org]
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
            replace(known_orgs.get(id_) or Org(id_, id_), members=by_org[id_], changes=org_changes[id_])
            for id_ in ids
            if not self._org_ids or id_ in self._org_ids
        ]
        return sorted(orgs, key=lambda org: (org.name.lower(), org.org_id))

    def _note_dropped_columns(self, members: Sequence[Member]) -> None:
        for column in ("enabled", "locked", "mfa_enabled"):
            if members and all(getattr(member, column) is None for member in members):
                self._notes.append(f"Exceptions that depend on {column} are not known: the history has no value of it.")
        if members and not self._history.is_activity_known:
            self._notes.append(
                "Exceptions that depend on last_active_at are not known: the last full load has no value of it."
            )

    def _includes_last_loads(self) -> bool:
        """Return whether histories and marts include the last load of the period, for each table."""
        built = {
            USER_QUERY.name: f"SELECT max(as_of) FROM {self._history.marts}.audit_user_marts",  # noqa: S608 - our names
            ORG_QUERY.name: f"SELECT max(read_at) FROM {self._history.histories}.org_loads",  # noqa: S608
        }
        if not self._api_keys.has_no_keys:
            built[END_USER_API_KEYS.name] = f"SELECT max(as_of) FROM {self._history.marts}.fct_api_keys"  # noqa: S608
        for table, sql in built.items():
            try:
                [(at,)] = self._history.rows(sql)
            except DatabaseUndefinedRelation:
                if table == USER_QUERY.name:  # changes and activity may be older than the history
                    return False
                continue  # API keys are optional: the review has a note
            rest = "AND s.verdict <> 'skipped'"
            [(loaded,)] = self._history.scans("max(s.finished_at)", table, rest)
            if loaded and (at is None or as_utc(at) < as_utc(loaded)):
                return False
        if (usage := self._api_keys.usage_period) is None:
            return True
        try:
            [(day,)] = self._history.rows(f"SELECT max(day) FROM {self._history.marts}.fct_api_key_usage_daily")  # noqa: S608
        except DatabaseUndefinedRelation:
            return True
        return day is not None and day >= usage.last + timedelta(days=OPEN_DAYS)

    def _require_known_orgs(self) -> None:
        known_org_ids: set[str] = set()
        for history in ("orgs_history", "memberships_history") if self._org_ids else ():
            rows = self._history.rows(
                f"SELECT DISTINCT org_id FROM {self._history.histories}.{history} "  # noqa: S608 - our names
                f"WHERE valid_from < {timestamp_literal(self._history.end)}"
            )
            known_org_ids |= {str(org_id) for (org_id,) in rows}
        if unknown := sorted(self._org_ids - known_org_ids):
            raise WarehouseError(
                f"No org {' or '.join(unknown)} is in the history up to the end of {self._history.as_of} (UTC). "
                "Check the ids: they are in the column org_id of org_query."
            )

    def _known_orgs(self) -> dict[str, Org]:
        """Return the newest version of each org up to the review, deleted orgs included."""
        rows = self._history.rows(f"SELECT read_at FROM {self._history.histories}.org_loads")  # noqa: S608 - our names
        loads = sorted(as_utc(at) for (at,) in rows)  # orgs are a scan of their own
        loads_until_end = bisect_left(loads, self._history.end)
        if not loads_until_end:
            self._notes.append(
                f"The names of orgs are not known: orgs were not loaded before the end of {self._history.as_of} (UTC)."
            )
            return {}
        observed = loads[loads_until_end - 1]
        rows = self._history.rows(
            f"SELECT org_id, name, is_saml_configured, valid_to FROM {self._history.histories}.orgs_history "  # noqa: S608
            f"WHERE valid_from <= {timestamp_literal(observed)} ORDER BY org_id, valid_from"
        )
        return {
            org_id: Org(org_id, name or org_id, saml, is_deleted=bool(valid_to) and as_utc(valid_to) <= observed)
            for org_id, name, saml, valid_to in rows
        }

    def _scans(self) -> list[Scans]:
        found = []
        for table in SCANNED:
            columns = "s.verdict, s.finished_at, s.reason, s.rows_read, s.total_max, s.mode"
            rest = "AND coalesce(s.mode, 'full') <> 'events' ORDER BY s.finished_at, s.load_id"
            rows = self._history.scans(columns, table, rest)
            verdicts = Counter(row[0] for row in rows if as_utc(row[1]) >= self._start)
            verdict, at, reason, read, total, mode = rows[-1] if rows else ("", None, "", None, None, "")
            if mode == "recent":  # it read only what changed, and the total is of all rows
                read = total = None
            counts = (verdicts["proved"], verdicts["counted"], verdicts["skipped"])
            found.append(Scans(table, *counts, as_utc_or_none(at), verdict, reason or "", read, total))
        return found
