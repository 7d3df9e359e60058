"""The checks of every table after a load, one function per check. Asset checks and the command line call these.

Evidence is counts and ids. Personal values are hidden, not hashed: a plain hash could be reversed by guessing. A check
that cannot be evaluated raises an error: a broken check is not bad data.
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from statistics import median
from typing import Any, Literal

from dlt.destinations.exceptions import DatabaseUndefinedRelation

from propel_assets.catalog import AUTH_EVENT, PROPEL_CHECKS, Reference, Table
from propel_assets.privacy.filter import HELD_BACK
from propel_assets.privacy.policy import VARIANT
from propel_assets.privacy.redaction import describe_key
from propel_assets.source.reconcile import REASONS, UNEXPECTED, is_same_type
from propel_assets.warehouse.audit import FUTURE_TOLERANCE, LoadRecord, decode_json
from propel_assets.warehouse.grades import GRADED, latest_grades, unreported_changes
from propel_assets.warehouse.query import Warehouse

Severity = Literal["ERROR", "WARN"]
FIRST = 5
SQL_TYPES = {"text": "VARCHAR", "bool": "BOOLEAN"}  # by dlt's names; the others are the same in SQL
MISMATCHES = {"type", "column type"}  # reasons that mean: the value is not of the declared type
HISTORY_LOADS = 30
LEAST_LOADS = 5  # before a history says anything
LEAST_ROWS, LEAST_SHARE, DEVIATIONS = 10, 0.1, 4.0  # how far from the median is still usual
NORMAL = 1.4826  # a median absolute deviation as a standard deviation, for values that vary at random
NOT_LOADED = "Not loaded yet."
MISSING = "The table is missing"
NO_WEBHOOKS = (
    "Look at the endpoint in the PropelAuth dashboard: it must be enabled, with the public URL of the receiver and all "
    "events. If its deliveries fail with 401, the receiver does not have the signing secret of this endpoint. If they "
    "succeed, the events wait in the store: turn on the sensor, or run `propel-assets load auth_event`."
)
MAX_SILENCE = timedelta(hours=6)  # without an event, while scans find changes
WEBHOOKS_STOPPED = (
    "Check that the receiver runs (propel-assets webhooks), that the sensor for events is on, and that the endpoint is "
    "enabled in the PropelAuth dashboard: it is disabled after days of failures. Then run a full load."
)


@dataclass(frozen=True)
class CheckResult:
    """The result of one check, with its evidence. A failed WARN does not stop what is downstream.

    `examine` adds the names of the table and the check.
    """

    passed: bool
    severity: Severity
    summary: str
    evidence: dict[str, Any] = field(default_factory=dict)
    query: str = ""
    table: str = ""
    check: str = ""


class TableFacts:
    """What the checks of one table share. Each fact is queried once, when it is first needed."""

    def __init__(self, warehouse: Warehouse, table: Table) -> None:
        """Query nothing yet."""
        self.warehouse, self.table = warehouse, table

    @cached_property
    def columns(self) -> dict[str, str]:
        """The columns at the destination with dlt's names of their types; empty: there is no such table."""
        return self.warehouse.columns_of(self.table.name)

    @cached_property
    def load(self) -> LoadRecord | None:
        """The last load that wrote the table."""
        return self.warehouse.audit.last_load(self.table)

    @cached_property
    def load_or_events(self) -> LoadRecord | None:
        """The last load that wrote the table, those of rows that events named included."""
        return self.warehouse.audit.last_load(self.table, events=True)

    @cached_property
    def full_load(self) -> LoadRecord | None:
        """The last full load that wrote the table: only full loads remove what PropelAuth has deleted."""
        return self.warehouse.audit.last_load(self.table, full=True)

    @cached_property
    def is_missing(self) -> bool:
        """Whether there is no such table, although a load wrote rows. A table without rows is not always created."""
        return not self.columns and any(load and load.rows_read for load in (self.full_load, self.load_or_events))

    @cached_property
    def attempt(self) -> LoadRecord | None:
        """The last load that tried to read the table."""
        return self.warehouse.audit.last_load(self.table, skipped=True)

    @property
    def counts_query(self) -> str:
        """The query behind ``rows``, ``keys`` and ``values``."""
        name, key = self.warehouse.table(self.table.name), ", ".join(map(self.warehouse.column, self.table.key))
        values = "".join(f", count({self.warehouse.column(column)})" for column in self.columns)
        distinct = f"SELECT count(*) FROM (SELECT DISTINCT {key} FROM {name}) d"  # noqa: S608 - quoted names
        return f"SELECT count(*), ({distinct}){values} FROM {name}"  # noqa: S608 - quoted names

    @cached_property
    def _counts(self) -> tuple[int, ...]:
        return tuple(map(int, self.warehouse.rows(self.counts_query)[0]))

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self._counts[0]

    @property
    def keys(self) -> int:
        """The number of different primary keys."""
        return self._counts[1]

    @property
    def values(self) -> dict[str, int]:
        """The number of non-null values of each column."""
        return dict(zip(self.columns, self._counts[2:], strict=True))


def row_count(facts: TableFacts) -> CheckResult:
    """The number of rows, and of values of each column, is what the load read. A merged table has at least as many."""
    load, table = facts.load_or_events, facts.table
    if load is None:
        return _result(NOT_LOADED)
    if facts.is_missing:
        text = f"{MISSING}. The last load read {load.rows_read} rows. Load the table again."
        return _result(text, failed="ERROR", evidence={"expected": load.rows_read, "verdict": load.verdict})
    if not facts.columns:
        return _result(NOT_LOADED)
    rows, expected = facts.rows, load.rows_expected
    evidence: dict[str, Any] = {"rows": rows, "expected": expected, "verdict": load.verdict}
    if load.total_max is not None:
        evidence |= {"api_total_min": load.total_min, "api_total_max": load.total_max}
    query = f"SELECT count(*) FROM {facts.warehouse.table(table.name)}"  # noqa: S608 - shown, not run
    if expected is not None and rows != expected:
        text = f"{rows} rows, expected {expected}. Load the table again."
        return _result(text, failed="ERROR", evidence=evidence, query=query)
    if rows < load.rows_read:
        text = f"{rows} rows, fewer than the {load.rows_read} rows that the last load read. Load the table again."
        return _result(text, failed="ERROR", evidence=evidence, query=query)
    if wrong := _wrong_values(facts, load):
        evidence["values"] = wrong
        listed = ", ".join(f"`{column}` has {found} values, expected {read}" for column, (found, read) in wrong.items())
        text = f"Values were lost: {listed}. Load the table again."
        return _result(text, failed="ERROR", evidence=evidence, query=facts.counts_query)
    if _outside(rows, load) and expected is not None:
        text = f"{rows} rows; PropelAuth reported {load.total_min} to {load.total_max} during the scan."
        return _result(text, failed="WARN", evidence=evidence, query=query)
    read = f". The last load read {load.rows_read} of them." if expected is None else ", as many as were read."
    return _result(f"{rows} rows{read}", evidence=evidence, query=query)


def _wrong_values(facts: TableFacts, load: LoadRecord) -> dict[str, tuple[int, int]]:
    """Return the columns whose number of values, variants included, is not what was read, with both numbers.

    A table that was merged into has at least what was read.
    """
    replaced, wrong = load.rows_expected is not None, {}
    for column, read in (decode_json(load.values_read) or {}).items():
        found = _number_of_values(facts, column)
        if found < read or (replaced and found != read):
            wrong[column] = (found, read)
    return wrong


def _outside(rows: int, load: LoadRecord) -> bool:
    if load.total_min is None or load.total_max is None:
        return False
    return not load.total_min <= rows <= load.total_max


def schema(facts: TableFacts) -> CheckResult:
    """Every declared column exists with its type and, where required, has values. Unexpected fields are listed."""
    if not facts.columns:
        return _result(NOT_LOADED)
    described = (decode_json(facts.load.unknown_fields) if facts.load else None) or {}
    held_back = [name for name, text in described.items() if text == HELD_BACK]
    unexpected = _unexpected(facts, described)
    mismatched, kept = _variants(facts)
    evidence: dict[str, Any] = _declared_columns(facts) | {"unexpected": list(unexpected)}
    errors = [*evidence.pop("errors"), *mismatched.values()]
    evidence |= {"held_back": held_back} if held_back else {}
    if columns := [*mismatched, *kept]:
        evidence["variants"] = {column: _variant_keys(facts, column) for column in columns}
    if errors:
        text = f"Schema mismatch: {'; '.join(errors)}."
        return _result(text, failed="ERROR", evidence=evidence, query=facts.counts_query)
    if held_back:
        text = f"Fields that the privacy policy does not classify were not stored: {', '.join(held_back)}. "
        text += "In a policy file, keep or drop them under [new_fields.TABLE], for example "
        text += f'[new_fields.{facts.table.name}] with {json.dumps(held_back[0])} = "drop".'
        return _result(text, failed="ERROR", evidence=evidence, query=facts.counts_query)
    if unexpected or kept:
        texts = [f"Unexpected fields: {', '.join(unexpected.values())}."] if unexpected else []
        texts += [f"{text}." for text in kept.values()]
        text = " ".join(texts)
        return _result(text, failed="WARN", evidence=evidence, query=facts.counts_query)
    text = f"{len(facts.table.columns)} columns match the catalog."
    return _result(text, evidence=evidence, query=facts.counts_query)


def _declared_columns(facts: TableFacts) -> dict[str, list[str]]:
    """Return which declared columns are missing, of another type, or empty although required."""
    dropped = facts.warehouse.privacy.columns(facts.table, "drop")
    missing, other_type, empty, errors = [], [], [], []
    for column in facts.table.columns:
        name, found = column.name, facts.columns.get(column.name)
        if found is None:
            missing.append(name)
            errors.append(f"`{name}` is missing")
        elif not is_same_type(column.type, found):
            other_type.append(name)
            errors.append(f"`{name}` is {_sql_type(found)}, expected {_sql_type(column.type)}")
        elif column.required and facts.rows and name not in dropped and not _number_of_values(facts, name):
            empty.append(name)
            errors.append(f"required column `{name}` is empty")
    return {"missing": missing, "other_type": other_type, "required_but_empty": empty, "errors": errors}


def _number_of_values(facts: TableFacts, column: str) -> int:
    """Return how many values a column has, those in its variant included."""
    return facts.values.get(column, 0) + facts.values.get(f"{column}{VARIANT}", 0)


def _sql_type(kind: str) -> str:
    return SQL_TYPES.get(kind, kind.upper())


def _unexpected(facts: TableFacts, described: Mapping[str, str]) -> dict[str, str]:
    """Return the unexpected fields of the last load, and other columns with values, each with where it is stored."""
    found = {
        name: f"`{name}` ({text.removeprefix(UNEXPECTED).strip(', ')})"
        for name, text in described.items()
        if text.startswith(UNEXPECTED)
    }
    known = {column.name for column in facts.table.columns}
    known |= ((decode_json(facts.load.values_read) if facts.load else None) or {}).keys()
    for name in facts.columns:
        if facts.values[name] and name.removesuffix(VARIANT) not in known and not name.startswith("_dlt"):
            found[name] = f"`{name}`"
    return found


def _variants(facts: TableFacts) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variants that hold values: those of declared columns that have another type, and the others."""
    declared = {column.name: column.type for column in facts.table.columns}
    filled = {name: n for name in facts.columns if name.endswith(VARIANT) and (n := facts.values[name])}
    reasons = facts.warehouse.audit.variant_reasons(facts.table) if filled else {}
    mismatched, kept = {}, {}
    for variant, number in filled.items():
        column = variant.removesuffix(VARIANT)
        if column not in facts.columns and column not in declared:
            continue
        why = reasons.get(column, {"type"} if column in declared else {"column type"})
        kind = _sql_type(declared.get(column) or facts.columns[column])
        listed = " or ".join(sorted(REASONS[reason].format(kind=kind) for reason in why))
        text = f"{number} value{'' if number == 1 else 's'} of `{column}` in `{variant}` ({listed})"
        (mismatched if column in declared and why & MISMATCHES else kept)[column] = text
    return mismatched, kept


def _variant_keys(facts: TableFacts, column: str) -> list[str]:
    """Return the first primary keys of the rows whose value of ``column`` is in its variant."""
    warehouse, table = facts.warehouse, facts.table
    keys, variant = ", ".join(map(warehouse.column, table.key)), warehouse.column(f"{column}{VARIANT}")
    query = f"SELECT {keys} FROM {warehouse.table(table.name)} WHERE {variant} IS NOT NULL"  # noqa: S608 - quoted names
    return [describe_key(table, table.key, row) for row in warehouse.rows(query, limit=FIRST)]


def primary_key_is_unique(facts: TableFacts) -> CheckResult:
    """No primary key is duplicated or null."""
    table, warehouse = facts.table, facts.warehouse
    if not facts.columns:
        return _result(NOT_LOADED)
    keys = ", ".join(map(warehouse.column, table.key))
    name = warehouse.table(table.name)
    query = f"SELECT {keys}, count(*) FROM {name} GROUP BY {keys} HAVING count(*) > 1"  # noqa: S608 - quoted names
    if facts.rows == facts.keys and all(facts.values[key] == facts.rows for key in table.key):
        text = f"{facts.keys} unique primary keys, 0 null."
        return _result(text, evidence={"null_keys": 0, "first": []}, query=query)
    nulls = " OR ".join(f"{warehouse.column(key)} IS NULL" for key in table.key)
    missing = warehouse.number(f"SELECT count(*) FROM {name} WHERE {nulls}")  # noqa: S608 - quoted names
    duplicates = warehouse.number(f"SELECT count(*) FROM ({query}) d")  # noqa: S608
    first = [describe_key(table, table.key, row[:-1]) for row in warehouse.rows(query, limit=FIRST)]
    text = f"{duplicates} duplicate primary keys, {missing} null. Load the table again."
    evidence = {"null_keys": missing, "first": first}
    return _result(text, failed="ERROR", evidence=evidence, query=query)


def references_exist(facts: TableFacts) -> CheckResult:
    """Every foreign key has a row in the referenced table.

    A missing row is an error if one scan reads both tables and the last load did not skip the table. Otherwise it is a
    warning.
    """
    table, warehouse = facts.table, facts.warehouse
    if not facts.columns:
        return _result(NOT_LOADED)
    skipped = facts.attempt is not None and facts.attempt.verdict == "skipped"  # its rows are older than the others
    evidence: dict[str, Any] = {}
    queries: dict[Reference, str] = {}
    for reference in table.references:
        if warehouse.columns_of(reference.table):
            queries[reference] = _missing_references(warehouse, table, reference)
        else:
            evidence[reference.table] = "not loaded, not examined"
    counts = _count_all(warehouse, list(queries.values()))
    missing, severity = [], "WARN"
    for (reference, query), count in zip(queries.items(), counts, strict=True):
        evidence[reference.table] = count
        if count:
            first = [describe_key(table, reference.columns, row) for row in warehouse.rows(query, limit=FIRST)]
            evidence[f"first_not_in_{reference.table}"] = first
            missing.append(f"{count} not in `{reference.table}`")
            severity = "ERROR" if reference.blocking and not skipped else severity
    query = ";\n".join(queries.values())
    if missing:
        text = f"Missing references: {', '.join(missing)}."
        if skipped:
            text += f" The last load skipped {table.name} and kept its previous data."
        elif severity == "WARN":
            text += " The tables were read one after the other. The next load usually resolves it."
        return _result(text, failed=severity, evidence=evidence, query=query)
    return _result("All references exist.", evidence=evidence, query=query)


def _missing_references(warehouse: Warehouse, table: Table, reference: Reference) -> str:
    columns = [warehouse.column(name) for name in reference.columns]
    same = " AND ".join(f"p.{name} = c.{name}" for name in columns)
    has_key = " AND ".join(f"c.{name} IS NOT NULL" for name in columns)
    return (
        f"SELECT DISTINCT {', '.join(f'c.{name}' for name in columns)} FROM {warehouse.table(table.name)} c "  # noqa: S608
        f"WHERE {has_key} AND NOT EXISTS (SELECT 1 FROM {warehouse.table(reference.table)} p WHERE {same})"
    )


def _count_all(warehouse: Warehouse, queries: Sequence[str]) -> list[int]:
    """Return the number of rows of each query, by one statement."""
    counts = ", ".join(f"(SELECT count(*) FROM ({query}) d)" for query in queries)  # noqa: S608
    return [int(count) for count in warehouse.rows(f"SELECT {counts}")[0]] if queries else []


def volume(facts: TableFacts) -> CheckResult:
    """The last load read about as many rows as the loads before it: within four deviations (MAD) of their median."""
    table = facts.table
    if facts.load is None:
        return _result(NOT_LOADED)
    now, *before = facts.warehouse.audit.rows_read(table, loads=HISTORY_LOADS + 1)
    if len(before) < LEAST_LOADS:
        text = f"{now} rows. The check starts after {LEAST_LOADS} earlier loads; there are {len(before)}."
        return _result(text)
    usual = median(before)
    deviation = NORMAL * median(abs(rows - usual) for rows in before)
    reach = max(DEVIATIONS * deviation, LEAST_SHARE * usual, LEAST_ROWS)
    low, high = max(0, round(usual - reach)), round(usual + reach)
    evidence = {"rows": now, "expected_from": low, "expected_to": high, "history": [*reversed(before), now]}
    if low <= now <= high:
        return _result(f"{now} rows, expected {low} to {high}.", evidence=evidence)
    text = (
        f"{now} rows, expected {low} to {high} from the last {len(before)} loads. Compare with PropelAuth's dashboard. "
        "If the change is real, the check adapts after some loads."
    )
    return _result(text, failed="WARN", evidence=evidence)


def up_to_date(facts: TableFacts) -> CheckResult:
    """The last load read the table, and its last full load is not too old. Tables loaded by name have no limit of age.

    Recent loads and events do not count: they do not remove every user, org and membership that PropelAuth deleted.
    """
    tried, last, full, table = facts.attempt, facts.load, facts.full_load, facts.table
    if tried is None:
        return _result(NOT_LOADED)
    evidence: dict[str, Any] = {"loaded_before": last is not None}
    state, age = "There is no full load.", None
    if last:
        evidence["loaded_at"] = last.finished_at.isoformat()
    if full:
        age = datetime.now(UTC) - full.finished_at
        hours = round(age / timedelta(hours=1), 1)
        evidence |= {"full_load_at": full.finished_at.isoformat(), "full_load_age_hours": hours}
        known = age >= -FUTURE_TOLERANCE
        state = f"The last full load was {_age(age)} ago." if known else "The age of the data is unknown."
    if tried.verdict == "skipped":
        evidence["reason"] = tried.reason
        kept = " The previous data is kept." if last else ""
        text = f"Skipped at the last load. {tried.reason} {state}{kept}"
        return _result(text, failed=None if table.is_lookup else "WARN", evidence=evidence)
    if facts.is_missing:
        evidence["reason"] = MISSING
        return _result(f"{MISSING}. {state} Load the table again.", failed="WARN", evidence=evidence)
    max_age = facts.warehouse.max_age
    if table.default and (age is None or not -FUTURE_TOLERANCE <= age <= max_age):
        old = f"Older than {max_age / timedelta(hours=1):g} hours"
        evidence["reason"] = old if age is None or age > max_age else "The load has a time in the future"
        text = (
            f"{evidence['reason']}. {state} Run `propel-assets load {table.name}`, and check that the "
            "schedule is on and that its last run succeeded."
        )
        return _result(text, failed="WARN", evidence=evidence)
    return _result(state, evidence=evidence)


def _age(age: timedelta) -> str:
    hours = max(0, int(age / timedelta(hours=1)))
    return f"{hours} hours" if hours < 48 else f"{hours // 24} days"


def events_received(facts: TableFacts) -> CheckResult:
    """A webhook was received for each change between the last two proved full loads.

    The check passes where webhooks are not configured.
    """
    table, warehouse = facts.table, facts.warehouse
    names = GRADED if table == AUTH_EVENT else [table.name]
    if not warehouse.count(AUTH_EVENT.name):
        if changes := unreported_changes(warehouse, names):
            text = f"No webhook was ever loaded, and the last two full loads differ by {changes} changes. {NO_WEBHOOKS}"
            return _result(text, failed="WARN", evidence={"changes": changes})
        return _result("No webhook has been loaded, so there is nothing to compare.")
    newest, grades = latest_grades(warehouse, names), latest_grades(warehouse, names, settled=True)
    if not newest:
        text = "Nothing to compare yet: this needs two proved full loads after the first webhook."
        return _result(text)
    evidence: dict[str, Any] = {
        "changes": {grade.event_type: grade.changes for grade in grades},
        "missed": {grade.event_type: grade.missed for grade in grades},
    }
    silent = max(grade.compared_to - grade.last_event_at for grade in newest)
    if silent > MAX_SILENCE and (changes := sum(grade.changes for grade in newest)):
        evidence["silent_hours"] = round(silent / timedelta(hours=1), 1)
        text = (
            f"No webhook was loaded in the {_age(silent)} before the last full load, which found {changes} changes. "
            f"{WEBHOOKS_STOPPED}"
        )
        return _result(text, failed="WARN", evidence=evidence)
    if missed := {grade.event_type: grade for grade in grades if grade.missed}:
        since = min(grade.compared_from for grade in missed.values())
        listed = ", ".join(f"`{name}` {grade.missed} of {grade.changes}" for name, grade in missed.items())
        text = (
            f"Changes without a webhook since {since:%Y-%m-%d %H:%M} UTC: {listed}. The full load has corrected the "
            "tables. Look at the failed deliveries of the endpoint in the PropelAuth dashboard."
        )
        return _result(text, failed="WARN", evidence=evidence)
    total = sum(grade.changes for grade in grades)
    text = f"{total} changes, each with a webhook."
    if not grades:
        text = (
            "Nothing to compare yet: events of the last full load can still arrive. They are compared after 2 minutes."
        )
    return _result(text, evidence=evidence)


CHECKS: dict[str, Callable[[TableFacts], CheckResult]] = {
    "row_count": row_count,
    "schema": schema,
    "primary_key_is_unique": primary_key_is_unique,
    "references_exist": references_exist,
    "volume": volume,
    "up_to_date": up_to_date,
    "events_received": events_received,
}


def checks_of(table: Table) -> tuple[str, ...]:
    """Return the names of the checks of ``table``."""
    left_out = set() if table.references else {"references_exist"}
    left_out |= set() if table.default else {"volume"}  # the number of rows loaded by name depends on the names
    left_out |= set() if table.name in (*GRADED, AUTH_EVENT.name) else {"events_received"}
    return tuple(name for name in CHECKS if name not in left_out)


def examine(warehouse: Warehouse, table: Table, names: Sequence[str] | None = None) -> list[CheckResult]:
    """Run the checks of ``table`` and store their results in `propel_checks`.

    If one fails, another load can be in the middle of its write: they are run again while none writes.

    Raises:
        WarehouseBusy: a load wrote until the time limit.
    """
    names = names or checks_of(table)
    facts = TableFacts(warehouse, table)
    results = _run(facts, names)
    if warehouse.write_lock and any(not f.passed and f.severity == "ERROR" for f in results):
        with warehouse.write_lock():
            facts = TableFacts(warehouse, table)
            results = _run(facts, names)
    load = facts.attempt
    if load is not None:
        now = datetime.now(UTC)
        warehouse.insert(
            PROPEL_CHECKS,
            [
                {
                    "load_id": load.load_id,
                    "table_name": result.table,
                    "check_name": result.check,
                    "passed": result.passed,
                    "severity": result.severity,
                    "summary": result.summary,
                    "checked_at": now,
                }
                for result in results
            ],
        )
    return results


def _run(facts: TableFacts, names: Sequence[str]) -> list[CheckResult]:
    return [replace(CHECKS[name](facts), table=facts.table.name, check=name) for name in names]


def _result(
    summary: str,
    *,
    failed: Severity | None = None,
    evidence: dict[str, Any] | None = None,
    query: str = "",
) -> CheckResult:
    return CheckResult(failed is None, failed or "ERROR", summary, evidence or {}, query)


def last_results(warehouse: Warehouse, table: Table) -> tuple[CheckResult, ...]:
    """Return the last stored result of each check of ``table``."""
    checks = warehouse.table(PROPEL_CHECKS.name)
    newest = f"SELECT check_name, max(checked_at) AS newest_at FROM {checks} WHERE table_name = %s GROUP BY check_name"  # noqa: S608
    sql = (
        f"SELECT c.check_name, c.passed, c.severity, c.summary FROM {checks} c "  # noqa: S608
        f"JOIN ({newest}) n ON n.check_name = c.check_name AND n.newest_at = c.checked_at WHERE c.table_name = %s"
    )
    latest: dict[str, CheckResult] = {}
    with contextlib.suppress(DatabaseUndefinedRelation):
        for name, passed, severity, summary in warehouse.rows(sql, table.name, table.name):
            latest[name] = CheckResult(bool(passed), severity, summary, table=table.name, check=name)
    return tuple(latest.values())
