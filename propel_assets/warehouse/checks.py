"""What is promised of every table after a load, one function per promise. Asset checks and the command line call these.

Evidence is counts and ids. A value that tells who somebody is, is shown hashed. A promise that cannot be examined
raises: a broken check is not bad data.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any, Literal

from propel_assets.catalog import PROPEL_CHECKS, Reference, Table
from propel_assets.privacy.filter import HELD_BACK
from propel_assets.warehouse.audit import LoadRecord
from propel_assets.warehouse.query import Warehouse

Severity = Literal["ERROR", "WARN"]
FIRST = 5
VARIANT = "__v_text"
SAME_TYPE = {
    "json": {"json", "text"},
    "date": {"date", "timestamp"},
    "bool": {"bool", "bigint"},
    "double": {"double", "decimal"},
}
MAX_AGE = timedelta(hours=26)  # a day between two loads of the schedule refresh_daily, and two hours for the load
HISTORY_LOADS = 30
LEAST_LOADS = 5  # before a history says anything
LEAST_ROWS, LEAST_SHARE, DEVIATIONS = 10, 0.1, 4.0  # how far from the median is still usual
NORMAL = 1.4826  # a median absolute deviation as a standard deviation, for values that vary at random


@dataclass(frozen=True)
class Finding:
    """Whether a promise holds for a table, and how one can tell. A failed WARN does not stop what is downstream."""

    table: str
    check: str
    passed: bool
    severity: Severity
    summary: str
    evidence: dict[str, Any] = field(default_factory=dict)
    query: str = ""


def row_count(warehouse: Warehouse, table: Table) -> Finding:
    """The table has exactly the rows the load accepted; PropelAuth's own total is shown beside it."""
    load = warehouse.audit.last_load(table)
    if load is None or not warehouse.columns_of(table.name):
        return _finding(table, "row_count", "Not loaded yet.")
    rows = warehouse.count(table.name)
    expected = load.rows_expected
    evidence: dict[str, Any] = {"rows": rows, "expected": expected, "verdict": load.verdict}
    if load.total_max is not None:
        evidence |= {"api_total_min": load.total_min, "api_total_max": load.total_max}
    query = f"SELECT count(*) FROM {warehouse.table(table.name)}"  # noqa: S608 - shown, not run
    if expected is not None and rows != expected:
        text = f"{rows} rows, {expected} expected. Load the table again."
        return _finding(table, "row_count", text, failed="ERROR", evidence=evidence, query=query)
    if rows < load.rows_read:
        text = f"{rows} rows, fewer than the {load.rows_read} the last load read. Load the table again."
        return _finding(table, "row_count", text, failed="ERROR", evidence=evidence, query=query)
    if _outside(rows, load) and expected is not None:
        text = f"{rows} rows; PropelAuth counted {load.total_min} to {load.total_max} while they were read."
        return _finding(table, "row_count", text, failed="WARN", evidence=evidence, query=query)
    return _finding(table, "row_count", f"{rows} rows, as read.", evidence=evidence, query=query)


def _outside(rows: int, load: LoadRecord) -> bool:
    if load.total_min is None or load.total_max is None:
        return False
    return not load.total_min <= rows <= load.total_max


def schema(warehouse: Warehouse, table: Table) -> Finding:
    """Every declared column is there with its type and, where required, filled; anything else is named."""
    columns = warehouse.columns_of(table.name)
    if not columns:
        return _finding(table, "schema", "Not loaded yet.")
    declared = {column.name: column for column in table.columns}
    missing = [name for name in declared if name not in columns]
    retyped = [
        f"{name}: {columns[name]}, declared {column.type}"
        for name, column in declared.items()
        if name in columns and columns[name] not in SAME_TYPE.get(column.type, {column.type})
    ]
    filled, query = _filled(warehouse, table, columns)
    rows = filled.pop("*")
    dropped = warehouse.privacy.columns(table, "drop")
    empty = [
        c.name for c in table.columns if c.required and rows and not filled.get(c.name, 1) and c.name not in dropped
    ]
    held_back = _held_back(warehouse.audit.last_load(table))
    strange = [name for name in columns if name.endswith(VARIANT) and filled[name]]
    unknown = [
        name
        for name in columns
        if name not in declared and not name.startswith("_dlt") and name not in strange and filled[name]
    ]
    evidence = {"missing": missing, "other_type": retyped + strange, "required_but_empty": empty, "unknown": unknown}
    evidence |= {"held_back": held_back} if held_back else {}
    if missing or retyped or strange or empty:
        wrong = ", ".join([*missing, *retyped, *strange, *empty])
        text = f"PropelAuth sends this table otherwise than declared: {wrong}."
        return _finding(table, "schema", text, failed="ERROR", evidence=evidence, query=query)
    if held_back:
        text = (
            f"Fields the privacy policy does not know were held back: {', '.join(held_back)}. Add rules for them to "
            "the policy file; propel-assets privacy shows the rules in force."
        )
        return _finding(table, "schema", text, failed="ERROR", evidence=evidence, query=query)
    if unknown:
        text = f"Fields the catalogue does not know were loaded too: {', '.join(unknown)}."
        return _finding(table, "schema", text, failed="WARN", evidence=evidence, query=query)
    return _finding(table, "schema", f"{len(declared)} columns as declared.", evidence=evidence, query=query)


def _held_back(load: LoadRecord | None) -> list[str]:
    """Return the fields that the last load did not store."""
    told = load.unknown_fields if load else None
    while isinstance(told, str):  # SQLite's is encoded twice
        told = json.loads(told)
    fields = told or {}
    return [name for name, what in fields.items() if what == HELD_BACK]


def _filled(warehouse: Warehouse, table: Table, columns: Sequence[str] | dict[str, str]) -> tuple[dict[str, int], str]:
    """Return how many values each column has, and under `*` how many rows there are."""
    names = list(columns)
    counts = ", ".join(f"count({warehouse.column(name)})" for name in names)
    query = f"SELECT count(*), {counts} FROM {warehouse.table(table.name)}"  # noqa: S608 - quoted names
    return dict(zip(["*", *names], map(int, warehouse.rows(query)[0]), strict=True)), query


def primary_key_is_unique(warehouse: Warehouse, table: Table) -> Finding:
    """No key stands twice and none is null."""
    if not warehouse.columns_of(table.name):
        return _finding(table, "primary_key_is_unique", "Not loaded yet.")
    keys = ", ".join(map(warehouse.column, table.key))
    name = warehouse.table(table.name)
    nulls = " OR ".join(f"{warehouse.column(key)} IS NULL" for key in table.key)
    query = f"SELECT {keys}, count(*) FROM {name} GROUP BY {keys} HAVING count(*) > 1"  # noqa: S608 - quoted names
    twice = warehouse.rows(query, limit=FIRST)
    missing = warehouse.number(f"SELECT count(*) FROM {name} WHERE {nulls}")  # noqa: S608 - quoted names
    evidence = {"null_keys": missing, "first": [_shown(table, table.key, row[:-1]) for row in twice]}
    if twice or missing:
        how_many = warehouse.number(f"SELECT count(*) FROM ({query}) d")  # noqa: S608
        text = f"{how_many} keys stand twice or more, {missing} are null. Load the table again."
        return _finding(table, "primary_key_is_unique", text, failed="ERROR", evidence=evidence, query=query)
    return _finding(table, "primary_key_is_unique", "Every key stands once.", evidence=evidence, query=query)


def references_exist(warehouse: Warehouse, table: Table) -> Finding:
    """What a row points at is there: always within one scan, nearly always across scans."""
    if not warehouse.columns_of(table.name):
        return _finding(table, "references_exist", "Not loaded yet.")
    last = warehouse.audit.last_load(table, skipped=True)
    skipped = last is not None and last.verdict == "skipped"  # then its rows are older than what they point at
    evidence: dict[str, Any] = {}
    queries, dangling, severity = [], [], "WARN"
    for reference in table.references:
        if not warehouse.columns_of(reference.table):
            evidence[reference.table] = "not loaded, not examined"
            continue
        query = _dangling(warehouse, table, reference)
        count = warehouse.number(f"SELECT count(*) FROM ({query}) d")  # noqa: S608
        evidence[reference.table] = count
        queries.append(query)
        if count:
            first = [_shown(table, reference.columns, row) for row in warehouse.rows(query, limit=FIRST)]
            evidence[f"first_not_in_{reference.table}"] = first
            dangling.append(f"{count} not in {reference.table}")
            severity = "ERROR" if reference.blocking and not skipped else severity
    query = ";\n".join(queries)
    if dangling:
        text = f"Rows that point at nothing: {', '.join(dangling)}."
        if skipped:
            text += f" {table.name} was skipped and has its last good rows."
        elif severity == "WARN":
            text += " The tables were read one after the other; the next load should settle it."
        return _finding(table, "references_exist", text, failed=severity, evidence=evidence, query=query)
    return _finding(table, "references_exist", "Every reference is met.", evidence=evidence, query=query)


def _dangling(warehouse: Warehouse, table: Table, reference: Reference) -> str:
    columns = [warehouse.column(name) for name in reference.columns]
    same = " AND ".join(f"p.{name} = c.{name}" for name in columns)
    some = " AND ".join(f"c.{name} IS NOT NULL" for name in columns)
    return (
        f"SELECT DISTINCT {', '.join(f'c.{name}' for name in columns)} FROM {warehouse.table(table.name)} c "  # noqa: S608
        f"WHERE {some} AND NOT EXISTS (SELECT 1 FROM {warehouse.table(reference.table)} p WHERE {same})"
    )


def volume(warehouse: Warehouse, table: Table) -> Finding:
    """The last load read about as many rows as the loads before it: within four deviations (MAD) of their median."""
    if warehouse.audit.last_load(table) is None:
        return _finding(table, "volume", "Not loaded yet.")
    now, *before = warehouse.audit.rows_read(table, loads=HISTORY_LOADS + 1)
    if len(before) < LEAST_LOADS:
        return _finding(table, "volume", f"{now} rows; {len(before)} loads before, {LEAST_LOADS} are needed to judge.")
    usual = median(before)
    deviation = NORMAL * median(abs(rows - usual) for rows in before)
    reach = max(DEVIATIONS * deviation, LEAST_SHARE * usual, LEAST_ROWS)
    low, high = max(0, round(usual - reach)), round(usual + reach)
    evidence = {"rows": now, "expected_from": low, "expected_to": high, "history": [*reversed(before), now]}
    if low <= now <= high:
        return _finding(table, "volume", f"{now} rows, {low} to {high} expected.", evidence=evidence)
    text = (
        f"{now} rows, {low} to {high} expected after the last {len(before)} loads. See whether PropelAuth's dashboard "
        "shows the same; a real change is usual again after some loads."
    )
    return _finding(table, "volume", text, failed="WARN", evidence=evidence)


def up_to_date(warehouse: Warehouse, table: Table) -> Finding:
    """The last load read the table, and its data is at most 26 hours old. Loading by name has no such limit."""
    tried, last = warehouse.audit.last_load(table, skipped=True), warehouse.audit.last_load(table)
    if tried is None:
        return _finding(table, "up_to_date", "Not loaded yet.")
    evidence: dict[str, Any] = {"loaded_before": last is not None}
    state, age = "There is no data.", timedelta(0)
    if last:
        age = datetime.now(UTC) - last.finished_at
        evidence |= {"loaded_at": last.finished_at.isoformat(), "age_hours": round(age / timedelta(hours=1), 1)}
        state = f"The data is {_age(age)} old."
    if tried.verdict == "skipped":
        evidence["reason"] = tried.reason
        kept = " The previous data is kept." if last else ""
        text = f"Skipped at the last load. {tried.reason} {state}{kept}"
        return _finding(table, "up_to_date", text, failed="WARN", evidence=evidence)
    if table.default and age > MAX_AGE:
        evidence["reason"] = f"Older than {MAX_AGE / timedelta(hours=1):.0f} hours"
        text = (
            f"{evidence['reason']}. {state} Run `propel-assets load {table.name}`, and check that the schedule "
            "refresh_daily is on and that its last run succeeded."
        )
        return _finding(table, "up_to_date", text, failed="WARN", evidence=evidence)
    return _finding(table, "up_to_date", state, evidence=evidence)


def _age(age: timedelta) -> str:
    hours = max(0, int(age / timedelta(hours=1)))
    return f"{hours} hours" if hours < 48 else f"{hours // 24} days"


CHECKS: dict[str, Callable[[Warehouse, Table], Finding]] = {
    "row_count": row_count,
    "schema": schema,
    "primary_key_is_unique": primary_key_is_unique,
    "references_exist": references_exist,
    "volume": volume,
    "up_to_date": up_to_date,
}


def checks_of(table: Table) -> tuple[str, ...]:
    """Return the promises made of ``table``."""
    left_out = set() if table.references else {"references_exist"}
    left_out |= set() if table.default else {"volume"}  # how much is loaded by name is up to whoever names it
    return tuple(name for name in CHECKS if name not in left_out)


def examine(warehouse: Warehouse, table: Table, names: Sequence[str] | None = None) -> list[Finding]:
    """Examine ``table`` and remember what was found in `propel_checks`."""
    findings = [CHECKS[name](warehouse, table) for name in names or checks_of(table)]
    load = warehouse.audit.last_load(table, skipped=True)
    if load is not None:
        now = datetime.now(UTC)
        warehouse.insert(
            PROPEL_CHECKS,
            [
                {
                    "load_id": load.load_id,
                    "table_name": finding.table,
                    "check_name": finding.check,
                    "passed": finding.passed,
                    "severity": finding.severity,
                    "summary": finding.summary,
                    "checked_at": now,
                }
                for finding in findings
            ],
        )
    return findings


def _finding(
    table: Table,
    check: str,
    summary: str,
    *,
    failed: Severity | None = None,
    evidence: dict[str, Any] | None = None,
    query: str = "",
) -> Finding:
    return Finding(table.name, check, failed is None, failed or "ERROR", summary, evidence or {}, query)


def _shown(table: Table, columns: Sequence[str], values: Sequence[Any]) -> str:
    """Return a key fit to be seen by everybody who sees the checks."""
    shown = [
        f"hashed:{hashlib.sha256(str(value).encode()).hexdigest()[:12]}" if table.column(name).personal else str(value)
        for name, value in zip(columns, values, strict=True)
    ]
    return ", ".join(shown)


def last_findings(warehouse: Warehouse, table: Table) -> tuple[int, int]:
    """Return how many of the last checks of ``table`` passed, and how many there were."""
    latest: dict[str, bool] = {}
    sql = (
        f"SELECT check_name, passed FROM {warehouse.table(PROPEL_CHECKS.name)} "  # noqa: S608 - a quoted name
        "WHERE table_name = %s ORDER BY checked_at"
    )
    for name, passed in warehouse.rows(sql, table.name):
        latest[name] = bool(passed)
    return sum(latest.values()), len(latest)
