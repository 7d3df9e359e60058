"""Grades the webhooks: compares each proved full scan with the previous one and counts the changes without an event.

The tables cannot be compared, because events have corrected them in between. So each scan copies its ids, roles and
flags into `propel_scan_state`, with the privacy policy applied. This starts with the first full load after the first
event. docs/webhooks.md defines a grade.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from propel_assets.catalog import (
    AUTH_EVENT,
    BY_NAME,
    PROPEL_EVENT_GRADES,
    PROPEL_SCAN_STATE,
    PROPEL_SCANS,
    USER_QUERY,
    Table,
)
from propel_assets.catalog.events import EVENTS
from propel_assets.catalog.model import ReportedChange
from propel_assets.source.stream import ResumeState, ScanResult
from propel_assets.warehouse.audit import as_utc, decode_json
from propel_assets.warehouse.query import FileWarehouse, Warehouse, placeholders
from propel_assets.warehouse.retention import proposes_erasure

REPORTED_CHANGES = EVENTS.reports
GRADED = tuple(dict.fromkeys(change.table for change in REPORTED_CHANGES))
SETTLE_DELAY = timedelta(minutes=2)  # after a scan. Svix retries a delivery after 5 seconds, then after 5 minutes
MAX_LATENESS = timedelta(hours=1)  # events that are received later than this after the scan are not counted
RECEIVER_CLOCK_DIFFERENCE = timedelta(seconds=5)  # between the receiver and the process that loads
MAX_LATENESS_ROWS = 10_000  # events that the median and maximum lateness are computed from


@dataclass(frozen=True)
class _Scan:
    """A scan whose state is stored."""

    load_id: str
    started_at: datetime
    finished_at: datetime
    privacy: str


@dataclass(frozen=True)
class Grade:
    """A row of `propel_event_grades`."""

    table_name: str
    event_type: str
    compared_from: datetime
    compared_to: datetime
    changes: int
    missed: int
    last_event_at: datetime
    is_settled: bool


TIMES = {name for name, field in Grade.__dataclass_fields__.items() if field.type is datetime}


def grade_scan(warehouse: Warehouse, load_id: str, results: Sequence[ScanResult]) -> None:
    """Store the state of each table whose full scan is proved, and grade it. Call it after the events are loaded.

    The previous scan is graded again first, because late events may have been received since.
    """
    if isinstance(warehouse, FileWarehouse):
        return
    graded = [r.table_name for r in results if r.verdict == "proved" and r.mode == "full" and r.table_name in GRADED]
    for name in graded:
        table = BY_NAME[name]
        _grade(warehouse, table)
        _keep_state(warehouse, table, load_id)
        _grade(warehouse, table)
    for table in (BY_NAME[name] for name in GRADED if name not in graded):
        if any(reference.table in graded for reference in table.references):
            _grade(warehouse, table)  # this load read which orgs were deleted


def settle_grades(warehouse: Warehouse) -> None:
    """Grade the last scan of each table again after `SETTLE_DELAY`. Call it after all events are loaded."""
    if isinstance(warehouse, FileWarehouse) or not warehouse.columns_of(PROPEL_EVENT_GRADES.name):
        return
    for name in GRADED:
        newest = latest_grades(warehouse, [name])
        if newest and not newest[0].is_settled and newest[0].compared_to + SETTLE_DELAY <= datetime.now(UTC):
            _grade(warehouse, BY_NAME[name])


def latest_grades(warehouse: Warehouse, names: Sequence[str], *, settled: bool = False) -> list[Grade]:
    """Return the grades of the last graded scan of each table; with ``settled``, of the last that is settled."""
    columns = list(Grade.__dataclass_fields__)
    if not warehouse.columns_of(PROPEL_EVENT_GRADES.name):
        return []
    found: list[Grade] = []
    for name in names:
        sql = (
            f"SELECT {', '.join(columns)} FROM {warehouse.table(PROPEL_EVENT_GRADES.name)} "  # noqa: S608 - quoted names
            f"WHERE table_name = %s {'AND is_settled ' if settled else ''}ORDER BY compared_to DESC, event_type"
        )
        stored: list[dict[str, Any]] = [
            dict(zip(columns, row, strict=True)) for row in warehouse.rows(sql, name, limit=len(REPORTED_CHANGES))
        ]
        rows = [Grade(**{**row, **{time: as_utc(row[time]) for time in TIMES}}) for row in stored]
        found += [row for row in rows if row.compared_to == rows[0].compared_to]
    return found


def _keep_state(warehouse: Warehouse, table: Table, load_id: str) -> None:
    """Copy the compared columns into `propel_scan_state`, and delete the state of all but the last two scans.

    The row without ids is inserted last and marks the state as complete. A state without it is ignored.
    """
    stored = warehouse.columns_of(table.name)
    names = [column.name for column in PROPEL_SCAN_STATE.columns if column.name in stored]
    state, columns = warehouse.table(PROPEL_SCAN_STATE.name), ", ".join(map(warehouse.column, names))
    warehouse.execute(
        f"INSERT INTO {state} (load_id, table_name, {columns}) "  # noqa: S608 - quoted names
        f"SELECT %s, %s, {columns} FROM {warehouse.table(table.name)}",
        load_id,
        table.name,
    )
    warehouse.execute(f"INSERT INTO {state} (load_id, table_name) VALUES (%s, %s)", load_id, table.name)  # noqa: S608
    kept = [scan.load_id for scan in _scans(warehouse, table)]
    sql = f"DELETE FROM {state} WHERE table_name = %s AND load_id NOT IN {placeholders(kept)}"  # noqa: S608 - quoted
    if table == USER_QUERY and warehouse.columns_of(AUTH_EVENT.name):
        # Keep the rows of these users: an erasure is proposed only for a user that an audit table has.
        sql += (
            f" AND (user_id IS NULL OR user_id NOT IN (SELECT e.user_id FROM {warehouse.table(AUTH_EVENT.name)} e "  # noqa: S608
            f"WHERE {proposes_erasure(warehouse, 'e')}))"
        )
    warehouse.execute(sql, table.name, *kept)


def _scans(warehouse: Warehouse, table: Table) -> list[_Scan]:
    """Return the last two scans whose state is stored, the newest first."""
    sql = (
        "SELECT s.load_id, s.started_at, s.finished_at, s.resume_state "  # noqa: S608 - quoted names
        f"FROM {warehouse.table(PROPEL_SCAN_STATE.name)} m "
        f"JOIN {warehouse.table(PROPEL_SCANS.name)} s ON s.load_id = m.load_id AND s.table_name = m.table_name "
        "WHERE m.table_name = %s AND m.user_id IS NULL AND m.org_id IS NULL ORDER BY s.finished_at DESC, s.load_id DESC"
    )
    return [
        _Scan(load_id, as_utc(started), as_utc(finished), ResumeState.from_json(decode_json(state) or {}).privacy)
        for load_id, started, finished, state in warehouse.rows(sql, table.name, limit=2)
    ]


def _grade(warehouse: Warehouse, table: Table) -> None:
    """Compare the last two scans of ``table`` and store the grade; nothing if events do not cover the time between."""
    scans = _scans(warehouse, table)
    if len(scans) < 2 or scans[0].privacy != scans[1].privacy or not warehouse.columns_of(AUTH_EVENT.name):
        return
    now, before = scans
    sql = f"SELECT min(received_at), max(received_at) FROM {warehouse.table(AUTH_EVENT.name)}"  # noqa: S608 - quoted
    [(first, last)] = warehouse.rows(sql)
    if first is None or as_utc(first) > before.started_at:
        return
    graded_at = datetime.now(UTC)
    rows = [
        {
            "load_id": now.load_id,
            "table_name": table.name,
            "event_type": change.event_type,
            "previous_load_id": before.load_id,
            "compared_from": before.started_at,
            "compared_to": now.finished_at,
            **_compare(warehouse, table, change, before, now),
            "last_event_at": as_utc(last),
            "graded_at": graded_at,
            "is_settled": now.finished_at + SETTLE_DELAY <= graded_at,
        }
        for change in _comparable(warehouse, table)
    ]
    grades = warehouse.table(PROPEL_EVENT_GRADES.name)
    sql = f"DELETE FROM {grades} WHERE load_id = %s AND table_name = %s"  # noqa: S608 - a quoted name
    warehouse.execute(sql, now.load_id, table.name)
    warehouse.insert(PROPEL_EVENT_GRADES, rows)


def unreported_changes(warehouse: Warehouse, names: Sequence[str]) -> int:
    """Return the number of changes between the last two proved full scans that an event should have reported.

    For tables without a grade, because no event was received before the scans.
    """
    if isinstance(warehouse, FileWarehouse) or not warehouse.columns_of(PROPEL_SCAN_STATE.name):
        return 0
    changes = 0
    for table in map(BY_NAME.__getitem__, names):
        scans, began = _scans(warehouse, table), warehouse.audit.full_load_start_times(table)
        if len(scans) < 2 or scans[0].privacy != scans[1].privacy or not began or scans[0].started_at < began[0]:
            continue  # the last full load stored no state: webhooks are no longer configured
        for change in _comparable(warehouse, table):
            changed, params = _changes(warehouse, table, change, *reversed(scans))
            changes += int(warehouse.rows(f"SELECT count(*) FROM ({changed}) c", *params)[0][0])  # noqa: S608
    return changes


def _comparable(warehouse: Warehouse, table: Table) -> Iterator[ReportedChange]:
    """Yield the changes of ``table`` that the privacy policy leaves comparable: equal ids in both tables."""
    rules, stored = warehouse.privacy.rules, warehouse.columns_of(table.name)
    actions = [(rules[table.name][key].action, rules[AUTH_EVENT.name][key].action) for key in table.key]
    if any("drop" in pair or pair[0] != pair[1] for pair in actions):
        return
    for change in REPORTED_CHANGES:
        if change.table == table.name and all(
            name in stored and rules[table.name][name].action != "drop" for name in change.columns
        ):
            yield change


def _compare(
    warehouse: Warehouse, table: Table, change: ReportedChange, before: _Scan, now: _Scan
) -> dict[str, int | float | None]:
    """Return the numbers of changes and of missed changes, and the lateness of the events."""
    changed, params = _changes(warehouse, table, change, before, now)
    same = _join(warehouse, table.key, "e", "c")
    created = warehouse.column("created_at")
    has_time = change.kind == "added" and "created_at" in warehouse.columns_of(table.name)
    joined = (
        f"LEFT JOIN {warehouse.table(table.name)} t ON {_join(warehouse, table.key, 't', 'c')} " if has_time else ""
    )
    times = f"min(t.{created})" if has_time else "NULL"
    keys = ", ".join(f"c.{name}" for name in map(warehouse.column, table.key))
    per_change = (
        f"SELECT {keys}, min(e.received_at) AS received_at, {times} AS created_at FROM ({changed}) c {joined}"  # noqa: S608
        f"LEFT JOIN {warehouse.table(AUTH_EVENT.name)} e ON {same} AND e.event_type IN (%s, %s) "
        f"AND e.received_at >= %s AND e.received_at < %s GROUP BY {keys}"
    )
    params = (
        *params,
        change.event_type,
        change.or_event or change.event_type,
        before.started_at - RECEIVER_CLOCK_DIFFERENCE,
        now.finished_at + MAX_LATENESS,
    )
    [(changes, received)] = warehouse.rows(f"SELECT count(*), count(received_at) FROM ({per_change}) g", *params)  # noqa: S608
    late = []
    if has_time and received:
        sql = (
            f"SELECT received_at, created_at FROM ({per_change}) g "  # noqa: S608 - quoted names
            "WHERE received_at IS NOT NULL AND created_at IS NOT NULL"
        )
        found = warehouse.rows(sql, *params, limit=MAX_LATENESS_ROWS)
        late = [(as_utc(received_at) - as_utc(created_at)).total_seconds() for received_at, created_at in found]
    return {
        "changes": int(changes),
        "missed": int(changes) - int(received),
        "late_seconds_median": round(median(late), 3) if late else None,
        "late_seconds_max": round(max(late), 3) if late else None,
    }


def _changes(
    warehouse: Warehouse, table: Table, change: ReportedChange, before: _Scan, now: _Scan
) -> tuple[str, tuple[Any, ...]]:
    """Return the query of the keys that changed, and its parameters.

    Memberships of a deleted user or org are not counted as removed: the deletion has its own event. Until the orgs have
    been scanned after the memberships, an org without a member counts as deleted.
    """
    scan, other = (now, before) if change.kind != "removed" else (before, now)
    params = (table.name, scan.load_id, table.name, other.load_id)
    keys, state = list(map(warehouse.column, table.key)), warehouse.table(PROPEL_SCAN_STATE.name)
    same = _join(warehouse, table.key, "a", "b")
    of_scan = f"SELECT * FROM {state} WHERE table_name = %s AND load_id = %s AND {keys[0]} IS NOT NULL"  # noqa: S608
    conditions = [f"b.{keys[0]} IS NULL"]
    if change.kind == "changed":
        differs = " OR ".join(_differs(warehouse, table, column) for column in change.columns)
        conditions = [f"b.{keys[0]} IS NOT NULL", f"({differs})"]
        if change.value is not None:
            conditions.append(f"{'' if change.value else 'NOT '}a.{warehouse.column(change.columns[0])}")
    elif change.kind == "removed":
        for reference in table.references:
            if warehouse.columns_of(reference.table):
                parent = _join(warehouse, reference.columns, "p", "a")
                conditions.append(f"EXISTS (SELECT 1 FROM {warehouse.table(reference.table)} p WHERE {parent})")  # noqa: S608
                if not _is_scanned_after(warehouse, BY_NAME[reference.table], table, now):
                    conditions.append(f"EXISTS (SELECT 1 FROM ({of_scan}) p WHERE {parent})")  # noqa: S608
                    params += (table.name, now.load_id)
    selected = ", ".join(f"a.{name}" for name in keys)
    sql = f"SELECT {selected} FROM ({of_scan}) a LEFT JOIN ({of_scan}) b ON {same} WHERE {' AND '.join(conditions)}"  # noqa: S608
    return sql, params


def _join(warehouse: Warehouse, columns: Sequence[str], left: str, right: str) -> str:
    """Return the condition that two relations have equal values in ``columns``."""
    return " AND ".join(f"{left}.{name} = {right}.{name}" for name in map(warehouse.column, columns))


def _is_scanned_after(warehouse: Warehouse, parent: Table, table: Table, scan: _Scan) -> bool:
    """Return whether ``parent``, which ``table`` refers to, was read in ``scan`` of ``table`` or after it."""
    return parent.scan == table.scan or any(
        began >= scan.finished_at for began in warehouse.audit.full_load_start_times(parent)[:1]
    )


def _differs(warehouse: Warehouse, table: Table, name: str) -> str:
    """Return the condition that two scans returned different values; nulls are equal."""
    is_json, column = table.column(name).type == "json", warehouse.column(name)
    old, new = (warehouse.json_to_compare(f"{a}.{column}") if is_json else f"{a}.{column}" for a in "ab")
    return f"{old} IS DISTINCT FROM {new}"
