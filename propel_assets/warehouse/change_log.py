"""The change log at the destination: what it has of the rows that a load reads, and how it is written."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import dlt

from propel_assets.catalog import AUTH_EVENT, ORG_QUERY, PROPEL_CHANGES, PROPEL_SCANS, USER_QUERY, Table
from propel_assets.privacy.policy import Policy
from propel_assets.settings import Target
from propel_assets.source.readers.users import API_CLOCK_DIFFERENCE
from propel_assets.source.stream import OvertakenIds
from propel_assets.warehouse.audit import MAX_LOADS, as_utc
from propel_assets.warehouse.pipeline import has_write_lock
from propel_assets.warehouse.query import Warehouse, connect, in_batches, placeholders


class StoredRows:
    """The stored tables, as the change log of a load compares them. Implements `StoredTables`."""

    def __init__(self, pipeline: dlt.Pipeline, target: Target, policy: Policy) -> None:
        """Query nothing yet."""
        self._arguments = pipeline, target, policy

    def rows(self, table: Table, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows whose first key column is one of ``ids``."""
        with connect(*self._arguments) as warehouse:
            return warehouse.rows_of_keys(table, ids)

    def has_change_log(self) -> bool:
        """Whether the change log has rows."""
        with connect(*self._arguments) as warehouse:
            sql = f"SELECT 1 FROM {warehouse.table(PROPEL_CHANGES.name)}"  # noqa: S608 - a quoted name
            return _has_log(warehouse) and bool(warehouse.rows(sql, limit=1))

    def observed(self, table: Table, ids: Sequence[str]) -> dict[str, datetime | None]:
        """Return for each id the latest time after which its stored row was read, by a load that is complete."""
        with connect(*self._arguments) as warehouse:
            full = _last_full_load(warehouse, table)
            found: dict[str, datetime | None] = dict.fromkeys(ids, full)
            for some in in_batches(ids if _has_log(warehouse) else ()):
                key = warehouse.column(table.key[0])
                sql = (
                    f"SELECT c.{key}, max(c.observed_from) FROM {warehouse.table(PROPEL_CHANGES.name)} c "  # noqa: S608
                    f"JOIN {warehouse.table('_dlt_loads')} l ON l.load_id = c.load_id AND l.status = 0 "
                    f"WHERE c.table_name = %s AND c.{key} IN {placeholders(some)} GROUP BY c.{key}"
                )
                for id_, at in warehouse.rows(sql, table.name, *some):
                    found[id_] = max(as_utc(at), full or as_utc(at))
        return found

    def read_since_full_load(self, table: Table) -> set[str]:
        """Return the ids that the change log has since the last full load of ``table`` began."""
        with connect(*self._arguments) as warehouse:
            began = _last_full_load(warehouse, table)
            if began is None or not _has_log(warehouse):
                return set()
            sql = (
                f"SELECT DISTINCT {warehouse.column(table.key[0])} FROM "  # noqa: S608 - quoted names
                f"{warehouse.table(PROPEL_CHANGES.name)} WHERE table_name = %s AND observed_to >= %s"
            )
            return {id_ for (id_,) in warehouse.rows(sql, table.name, began)}

    def overtaken(self) -> OvertakenIds:
        """Return the ids that events named since loads began to read that no load of events has followed yet.

        Each of these loads can have read a row before an event was applied, and written it after.
        """
        if not can_read_again(*self._arguments[1:]):
            return OvertakenIds()
        with connect(*self._arguments) as warehouse:
            began = _followed_by_no_events(warehouse) if warehouse.columns_of(AUTH_EVENT.name) else None
            if began is None:
                return OvertakenIds()
            since = began - timedelta(seconds=API_CLOCK_DIFFERENCE)
            sql = f"SELECT DISTINCT user_id, org_id FROM {warehouse.table(AUTH_EVENT.name)} WHERE received_at >= %s"  # noqa: S608
            rows = warehouse.rows(sql, since)
        users, orgs = {user_id for user_id, _ in rows if user_id}, {org_id for _, org_id in rows if org_id}
        return OvertakenIds(since, sorted(users), sorted(orgs))


def can_read_again(target: Target, policy: Policy) -> bool:
    """Return whether rows that events changed during a load are read again after it.

    Where a load excludes events while it reads, they need not be. Where `auth_event` has no ids as PropelAuth has them,
    they cannot be, so loads must exclude events.
    """
    return has_write_lock(target) and all(
        policy.rules[AUTH_EVENT.name][i].action == "keep" for i in ("user_id", "org_id")
    )


def _followed_by_no_events(warehouse: Warehouse) -> datetime | None:
    """Return when the first load began to read that no load of events has followed; None: there is none.

    A full load replaces what earlier loads of its table wrote.
    """
    sql = (
        f"SELECT s.table_name, s.mode, s.started_at FROM {warehouse.table(PROPEL_SCANS.name)} s "  # noqa: S608
        f"JOIN {warehouse.table('_dlt_loads')} l ON l.load_id = s.load_id AND l.status = 0 "
        "WHERE s.table_name IN (%s, %s, %s) AND s.mode <> 'events' AND s.verdict <> 'skipped' "
        f"ORDER BY {warehouse.load_order} DESC, s.load_id DESC"
    )
    began: dict[str, datetime] = {}
    replaced: set[str] = set()
    names = (AUTH_EVENT.name, USER_QUERY.name, ORG_QUERY.name)
    for name, mode, started_at in warehouse.rows(sql, *names, limit=MAX_LOADS):
        if name == AUTH_EVENT.name:
            break
        if name not in replaced:
            began[name] = min(as_utc(started_at), began.get(name, as_utc(started_at)))
        if mode == "full":
            replaced.add(name)
    return min(began.values(), default=None)


def write_change_log(pipeline: dlt.Pipeline, target: Target, policy: Policy, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to the change log. The first load of a version without one creates it, and logs nothing."""
    with connect(pipeline, target, policy) as warehouse:
        if _has_log(warehouse):
            warehouse.insert(PROPEL_CHANGES, rows)


def _has_log(warehouse: Warehouse) -> bool:
    return bool(warehouse.columns_of(PROPEL_CHANGES.name))


def _last_full_load(warehouse: Warehouse, table: Table) -> datetime | None:
    """Return when the last full load of ``table`` began to read."""
    if not warehouse.columns_of(PROPEL_SCANS.name):
        return None
    sql = (
        f"SELECT s.started_at FROM {warehouse.table(PROPEL_SCANS.name)} s "  # noqa: S608
        f"JOIN {warehouse.table('_dlt_loads')} l ON l.load_id = s.load_id AND l.status = 0 "
        f"WHERE s.table_name = %s AND s.mode = 'full' AND s.verdict <> 'skipped' "
        f"ORDER BY {warehouse.load_order} DESC, s.load_id DESC"
    )
    for (began,) in warehouse.rows(sql, table.name, limit=1):
        return as_utc(began)
    return None
