"""The change log at the destination: what it has of the rows that a load reads, and how it is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dlt

from propel_assets.catalog import AUTH_EVENT, ORG_MEMBERSHIP, ORG_QUERY, PROPEL_CHANGES, PROPEL_SCANS, USER_QUERY, Table
from propel_assets.privacy.policy import Policy
from propel_assets.settings import Target
from propel_assets.source.change_log import Key
from propel_assets.source.readers.events import FOLLOWED, SINCE, UNREAD_ORGS, UNREAD_USERS
from propel_assets.source.stream import ResumeState, RowsToReadAgain, ScanResult
from propel_assets.warehouse.audit import as_utc, decode_json
from propel_assets.warehouse.pipeline import has_write_lock
from propel_assets.warehouse.query import Connect, Warehouse, connect, in_batches, placeholders

LOADS_TO_FOLLOW = 50
NOT_ENDED = "the write of this load has not ended"


class StoredRows:
    """The stored tables, as the change log of a load compares them. Implements `StoredTables`."""

    def __init__(self, pipeline: dlt.Pipeline, target: Target, policy: Policy) -> None:
        """Query nothing yet."""
        self._arguments = pipeline, target, policy

    def rows(self, table: Table, ids: Sequence[str], column: str = "") -> list[dict[str, Any]]:
        """Return the rows whose ``column``, by default the first one of the key, is one of ``ids``."""
        with connect(*self._arguments) as warehouse:
            return warehouse.rows_of(table, column or table.key[0], ids)

    def log_state(self) -> tuple[bool, int]:
        """Return whether the change log has rows, and how many loads of events are complete."""
        with connect(*self._arguments) as warehouse:
            sql = f"SELECT 1 FROM {warehouse.table(PROPEL_CHANGES.name)}"  # noqa: S608 - a quoted name
            has_rows = _has_log(warehouse) and bool(warehouse.rows(sql, limit=1))
            return has_rows, _last_event_load(warehouse).event_loads + 1

    def deleted_since_full_load(self, table: Table) -> set[Key]:
        """Return the keys of the rows of ``table`` that loads of events have deleted since its last full load began.

        No clock has to be right: `propel_scans.event_loads` has the number of loads of events that were complete when a
        load began. Loads of events that are not complete have no number; they can have deleted rows before their write
        failed. A row that another load has restored meanwhile is deleted twice, and counts once.
        """
        with connect(*self._arguments) as warehouse:
            if not _has_log(warehouse):
                return set()
            order = f"AND s.mode = 'full' ORDER BY {warehouse.load_order} DESC, s.load_id DESC"
            full = _scans_of(warehouse, "s.event_loads", (table,), order, limit=1)
            sql = (
                f"SELECT DISTINCT {', '.join(f'c.{name}' for name in table.key)} "  # noqa: S608 - our names
                f"FROM {warehouse.complete_loads_of(PROPEL_SCANS.name)} JOIN {warehouse.table(PROPEL_CHANGES.name)} c "
                "ON c.load_id = s.load_id AND c.table_name = s.table_name "
                "WHERE s.table_name = %s AND s.mode = 'events' AND s.event_loads >= %s AND c.change = 'deleted'"
            )
            deleted = set(warehouse.rows(sql, table.name, full[0][0] if full else 0))
            if began := next(iter(warehouse.audit.full_load_start_times(table)), None):
                sql = (
                    f"SELECT DISTINCT {', '.join(table.key)} FROM {warehouse.table(PROPEL_CHANGES.name)} "  # noqa: S608
                    "WHERE table_name = %s AND mode = 'events' AND change = 'deleted' AND observed_to >= %s "
                    f"AND load_id NOT IN (SELECT s.load_id FROM {warehouse.complete_loads_of(PROPEL_SCANS.name)})"
                )
                deleted |= set(warehouse.rows(sql, table.name, began))
            return deleted

    def first_receipt(self, ids: Sequence[str]) -> datetime | None:
        """Return when the first of the messages ``ids`` of `auth_event` was received."""
        with connect(*self._arguments) as warehouse:
            rows = warehouse.rows_of(AUTH_EVENT, AUTH_EVENT.key[0], ids)
        return min((as_utc(row["received_at"]) for row in rows if row.get("received_at")), default=None)

    def last_read_times(self, table: Table, ids: Sequence[str]) -> dict[str, datetime | None]:
        """Return for each id the latest time at which a complete load began to read the stored row.

        Times of the future are left out: a wrong clock wrote them.
        """
        now = datetime.now(UTC)
        with connect(*self._arguments) as warehouse:
            full = next((at for at in warehouse.audit.full_load_start_times(table) if at <= now), None)
            found: dict[str, datetime | None] = dict.fromkeys(ids, full)
            for batch in in_batches(ids if _has_log(warehouse) else ()):
                key = warehouse.column(table.key[0])
                sql = (
                    f"SELECT s.{key}, max(s.observed_from) FROM {warehouse.complete_loads_of(PROPEL_CHANGES.name)} "  # noqa: S608
                    f"WHERE s.table_name = %s AND s.observed_from <= %s AND s.{key} IN {placeholders(batch)} "
                    f"GROUP BY s.{key}"
                )
                for id_, at in warehouse.rows(sql, table.name, now, *batch):
                    found[id_] = max(filter(None, (full, as_utc(at))))
        return found

    def read_since_full_load(self, table: Table) -> set[str]:
        """Return the ids that the change log has since the last full load of ``table`` began."""
        with connect(*self._arguments) as warehouse:
            began = next(iter(warehouse.audit.full_load_start_times(table)), None)
            if began is None or not _has_log(warehouse):
                return set()
            sql = (
                f"SELECT DISTINCT {warehouse.column(table.key[0])} FROM "  # noqa: S608 - quoted names
                f"{warehouse.table(PROPEL_CHANGES.name)} WHERE table_name = %s AND observed_to >= %s"
            )
            return {id_ for (id_,) in warehouse.rows(sql, table.name, began)}

    def rows_to_read_again(self) -> RowsToReadAgain:
        """Return the rows that must be read again, because loads were reading when events were applied.

        Loads of events write one at a time, and `propel_scans.event_loads` has the number of those that were complete
        when a load began: so no clock has to be right. Each of these loads can have read a row before an event was
        applied, and written it after.
        """
        if not can_read_again(*self._arguments[1:]):
            return RowsToReadAgain()
        with connect(*self._arguments) as warehouse:
            loads, events = _loads(warehouse), _last_event_load(warehouse)
            ids = [load.load_id for load in loads]
            late = [
                load for load in loads if load.event_loads <= events.event_loads and load.load_id not in events.followed
            ]
            since = _first_applied(warehouse, min(load.event_loads for load in late)) if late else None
            unread_users = _without_loaded(warehouse, (USER_QUERY,), events.unread_users)
            unread_orgs = _without_loaded(warehouse, (ORG_QUERY, ORG_MEMBERSHIP), events.unread_orgs)
            rows: list[tuple[Any, ...]] = []
            if since:
                sql = f"SELECT DISTINCT user_id, org_id FROM {warehouse.table(AUTH_EVENT.name)} WHERE received_at >= %s"  # noqa: S608
                rows = warehouse.rows(sql, since)
        users, orgs = ({row[place] for row in rows if row[place]} for place in (0, 1))
        named = {id_.lower() for id_ in users | orgs}
        left_by = {id_: number for id_, number in (unread_users | unread_orgs).items() if id_ not in named}
        return RowsToReadAgain(
            loads=ids,
            since=since,
            read_from=min(load.started_at for load in late) if since else None,
            users=sorted(users | {*unread_users}),
            orgs=sorted(orgs | {*unread_orgs}),
            event_loads=events.event_loads + 1,
            left_by=left_by,
        )


def can_read_again(target: Target, policy: Policy) -> bool:
    """Return whether rows that events changed during a load are read again after it.

    Where a load excludes events while it reads, they need not be. Where `auth_event` has no ids as PropelAuth has them,
    they cannot be, so loads must exclude events.
    """
    return has_write_lock(target) and all(
        policy.rules[AUTH_EVENT.name][name].action == "keep" for name in ("user_id", "org_id", "received_at")
    )


@dataclass(frozen=True)
class _Load:
    """A load of users or orgs. ``event_loads``: how many loads of events were complete when it began."""

    load_id: str
    started_at: datetime
    event_loads: int


@dataclass(frozen=True)
class _EventLoad:
    """The last load of events. ``event_loads``: how many others were complete; -1: there is none.

    ``followed``: the loads of users and orgs that had written when it began. ``unread_users``, ``unread_orgs``: what it
    could not read again, each with the number of the first load of events that could not.
    """

    event_loads: int = -1
    followed: frozenset[str] = frozenset()
    unread_users: Mapping[str, int] = field(default_factory=dict)
    unread_orgs: Mapping[str, int] = field(default_factory=dict)


def _scans_of(
    warehouse: Warehouse, columns: str, tables: Sequence[Table], rest: str, *params: Any, limit: int | None = None
) -> list[tuple[Any, ...]]:
    """Return ``columns`` of the complete scans of ``tables`` that have `event_loads`."""
    if "event_loads" not in warehouse.columns_of(PROPEL_SCANS.name):
        return []
    sql = (
        f"SELECT {columns} FROM {warehouse.complete_loads_of(PROPEL_SCANS.name)} "  # noqa: S608 - our names
        f"WHERE s.table_name IN {placeholders(tables)} AND s.mode <> 'events' AND s.verdict <> 'skipped' "
        f"AND s.event_loads IS NOT NULL {rest}"
    )
    return warehouse.rows(sql, *(table.name for table in tables), *params, limit=limit)


def _loads(warehouse: Warehouse) -> list[_Load]:
    """Return the last loads of users and orgs. Every load of events handles all of them: there are never so many.

    A load whose write was killed or failed is one of them: it can have replaced a table.
    """
    if "event_loads" not in warehouse.columns_of(PROPEL_SCANS.name):
        return []
    sql = (
        f"SELECT load_id, started_at, event_loads FROM {warehouse.table(PROPEL_SCANS.name)} "  # noqa: S608 - our names
        "WHERE table_name IN (%s, %s) AND mode <> 'events' AND (verdict <> 'skipped' OR reason = %s) "
        "AND event_loads IS NOT NULL ORDER BY event_loads DESC, load_id DESC"
    )
    rows = warehouse.rows(sql, USER_QUERY.name, ORG_QUERY.name, NOT_ENDED, limit=LOADS_TO_FOLLOW)
    return [_Load(load_id, as_utc(started_at), event_loads) for load_id, started_at, event_loads in rows]


def _last_event_load(warehouse: Warehouse) -> _EventLoad:
    # Of a load of events, the row of auth_event has the mode `full`: `events` marks the tables that are read again.
    columns, order = "s.event_loads, s.resume_state", "ORDER BY s.event_loads DESC"
    for event_loads, state in _scans_of(warehouse, columns, (AUTH_EVENT,), order, limit=1):
        cursor = _cursor_of(state)
        unread = [_numbers(cursor.get(name), event_loads) for name in (UNREAD_USERS, UNREAD_ORGS)]
        return _EventLoad(event_loads, frozenset(cursor.get(FOLLOWED, ())), *unread)
    return _EventLoad()


def _numbers(unread: Any, event_loads: int) -> dict[str, int]:
    """Return the unread ids of a cursor with their numbers. Earlier versions wrote a list of ids."""
    return dict(unread) if isinstance(unread, Mapping) else dict.fromkeys(unread or (), event_loads)


def _without_loaded(warehouse: Warehouse, tables: Sequence[Table], unread: Mapping[str, int]) -> dict[str, int]:
    """Return the ``unread`` ids without those whose rows full loads have read since they were left unread.

    ``tables``: those with rows of the ids. The ones that are never loaded do not count.
    """
    if not unread:
        return {}
    order = "AND s.mode = 'full' ORDER BY s.event_loads DESC"
    full = [_scans_of(warehouse, "s.event_loads", (table,), order, limit=1) for table in tables]
    last = min((rows[0][0] for rows in full if rows), default=-1)
    return {id_: number for id_, number in unread.items() if number >= last}


def _first_applied(warehouse: Warehouse, event_loads: int) -> datetime | None:
    """Return the receipt of the oldest event that the loads of events after the first ``event_loads`` have applied."""
    rows = _scans_of(warehouse, "s.resume_state", (AUTH_EVENT,), "AND s.event_loads >= %s", event_loads)
    cursors = [_cursor_of(state) for (state,) in rows]
    return min((datetime.fromisoformat(cursor[SINCE]) for cursor in cursors if cursor.get(SINCE)), default=None)


def _cursor_of(state: Any) -> Mapping[str, Any]:
    return ResumeState.from_json(decode_json(state) or {}).cursor


def write_change_log(connect: Connect, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to the change log. If there is none yet, this load creates it and writes no rows to it."""
    with connect() as warehouse:
        if _has_log(warehouse):
            warehouse.insert(PROPEL_CHANGES, rows)


def note_write(connect: Connect, pipeline: dlt.Pipeline, results: Sequence[ScanResult]) -> None:
    """Add rows to `propel_scans` that show that a load begins to write. The load replaces them in one transaction.

    If it is killed, the next load of events finds that it can have replaced a table. The first load of a version with
    another `propel_scans` has none.
    """
    [load_id] = pipeline.list_normalized_load_packages()
    names = [column.name for column in PROPEL_SCANS.columns]
    kept = ("table_name", "mode", "event_loads", "started_at", "finished_at")
    rows = [
        {
            **dict.fromkeys(names),
            **{name: getattr(result, name) for name in kept},
            "load_id": load_id,
            "verdict": "skipped",
            "reason": NOT_ENDED,
        }
        for result in results
        if not result.skipped
    ]
    with connect() as warehouse:
        if {*names} <= {*warehouse.columns_of(PROPEL_SCANS.name)}:
            warehouse.insert(PROPEL_SCANS, rows)


def _has_log(warehouse: Warehouse) -> bool:
    return bool(warehouse.columns_of(PROPEL_CHANGES.name))
