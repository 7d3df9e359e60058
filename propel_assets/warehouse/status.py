"""The state of each table: rows, the last scans, the last checks. Read from the warehouse, without Dagster."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from propel_assets.catalog import TABLES, Table
from propel_assets.warehouse.audit import FUTURE_TOLERANCE
from propel_assets.warehouse.checks import CheckResult, TableFacts, last_results, up_to_date
from propel_assets.warehouse.query import Warehouse

UNKNOWN_AGE = timedelta.max  # older than every limit


@dataclass(frozen=True)
class TableStatus:
    """The state of one table.

    Attributes:
        table: the table.
        is_default: whether every load reads it. Only such tables have to be up to date.
        rows: rows in the warehouse; None if it was never read, or if the table is missing.
        rows_expected: rows that the last load wrote; None if it merged its rows into the table.
        verdict: the verdict of the last scan: proved, counted or skipped.
        reason: why it was skipped or is not proved.
        loaded_at: when the last scan ended that wrote the table.
        full_loaded_at: when the last full load of it ended. Only full loads remove what PropelAuth has deleted.
        is_missing: whether there is no such table, although a load wrote rows.
        proved_at: when the last scan ended that was proved complete.
        requests: requests of the last scan. Tables that are read together have the same number.
        rate_limited: responses with status 429 among them.
        last_checks: the last result of each check. It is stored when a load is checked in Dagster or by `load`.
        up_to_date: the check of the same name, evaluated now.
    """

    table: str
    is_default: bool
    rows: int | None
    rows_expected: int | None
    verdict: str
    reason: str
    loaded_at: datetime | None
    full_loaded_at: datetime | None
    is_missing: bool
    proved_at: datetime | None
    requests: int | None
    rate_limited: int | None
    last_checks: tuple[CheckResult, ...]
    up_to_date: CheckResult

    @property
    def checks_passed(self) -> int:
        """How many of the last checks passed."""
        return sum(check.passed for check in self.last_checks)

    def age(self) -> timedelta | None:
        """Return the time since the table was written; None: never."""
        return _age(self.loaded_at)

    def full_load_age(self) -> timedelta | None:
        """Return the time since the last full load; None: there was none."""
        return _age(self.full_loaded_at)

    @property
    def has_other_rows(self) -> bool:
        """Whether the number of rows is not what the last load wrote. Loads that merge do not determine a number."""
        return None not in (self.rows, self.rows_expected) and self.rows != self.rows_expected


def _age(at: datetime | None) -> timedelta | None:
    """Return the time since ``at``.

    Not negative, because clocks differ. `UNKNOWN_AGE` if a clock that was far ahead wrote the time.
    """
    if at is None:
        return None
    age = datetime.now(UTC) - at
    return UNKNOWN_AGE if age < -FUTURE_TOLERANCE else max(timedelta(), age)


def format_age(at: datetime) -> str:
    """Return the time since ``at`` in minutes, hours or days; `unknown` if it is too far in the future."""
    age = datetime.now(UTC) - at
    if age < -FUTURE_TOLERANCE:
        return "unknown"
    minutes = max(0, int(age.total_seconds() // 60))  # clocks differ
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} days"


def table_statuses(warehouse: Warehouse) -> list[TableStatus]:
    """Return the state of every table that a scan has read or skipped. Look-ups without values are left out."""
    return [
        _status(warehouse, table) for table in TABLES if warehouse.audit.last_load(table, skipped=not table.is_lookup)
    ]


def _status(warehouse: Warehouse, table: Table) -> TableStatus:
    facts = TableFacts(warehouse, table)
    last, good, full, newest = facts.attempt, facts.load, facts.full_load, facts.load_or_events
    proved = warehouse.audit.last_load(table, verdict="proved")
    return TableStatus(
        table=table.name,
        is_default=table.default,
        rows=warehouse.count(table.name) if good and not facts.is_missing else None,
        rows_expected=newest.rows_expected if newest else None,
        verdict=last.verdict if last else "",
        reason=(last.reason if last else "") or "",
        loaded_at=good.finished_at if good else None,
        full_loaded_at=full.finished_at if full else None,
        is_missing=facts.is_missing,
        proved_at=proved.finished_at if proved else None,
        requests=last.requests if last else None,
        rate_limited=last.rate_limited if last else None,
        last_checks=last_results(warehouse, table),
        up_to_date=up_to_date(facts),
    )


def too_old(statuses: Sequence[TableStatus], limit: timedelta, names: Collection[str] = ()) -> list[str]:
    """Return the tables without a full load within ``limit``; ``names``: only these; empty: the default tables.

    A table that was never written is too old, unless a scan skipped it, for example because its feature is not enabled.
    So is a missing table.
    """
    known = {s.table: s for s in statuses}
    wanted = [t.name for t in TABLES if (t.name in names if names else t.default)]
    return [name for name in wanted if name not in known or _is_too_old(known[name], limit)]


def _is_too_old(status: TableStatus, limit: timedelta) -> bool:
    age = status.full_load_age()
    return status.is_missing or (status.loaded_at is not None and (age is None or age > limit))
