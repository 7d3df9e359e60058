"""The state of each table: rows, the last scans, the last checks. Read from the warehouse, without Dagster."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from propel_assets.catalog import TABLES, Table
from propel_assets.warehouse.audit import MAX_CLOCK_DIFFERENCE
from propel_assets.warehouse.checks import Finding, TableFacts, last_findings, up_to_date
from propel_assets.warehouse.query import Warehouse

UNKNOWN_AGE = timedelta.max  # older than every limit


@dataclass(frozen=True)
class TableStatus:
    """The state of one table.

    Attributes:
        table: the table.
        is_default: whether every load reads it. Only such tables have to be up to date.
        rows: rows in the warehouse; None if it was never read.
        verdict: the verdict of the last scan: proved, counted or skipped.
        reason: why it was skipped or is not proved.
        loaded_at: when the last scan ended that wrote the table.
        proved_at: when the last scan ended that was proved complete.
        requests: requests of the last scan. Tables that are read together have the same number.
        rate_limited: responses with status 429 among them.
        checks_passed: how many of its last checks passed.
        checks: how many checks there were. Checks are stored when a load is checked in Dagster or by `load`.
        up_to_date: the check of the same name.
    """

    table: str
    is_default: bool
    rows: int | None
    verdict: str
    reason: str
    loaded_at: datetime | None
    proved_at: datetime | None
    requests: int | None
    rate_limited: int | None
    checks_passed: int
    checks: int
    up_to_date: Finding

    def age(self) -> timedelta | None:
        """Return the time since the table was written; None: never.

        Not negative, because clocks differ. `UNKNOWN_AGE` if a clock that was far ahead wrote the time of the load.
        """
        if self.loaded_at is None:
            return None
        age = datetime.now(UTC) - self.loaded_at
        return UNKNOWN_AGE if age < -MAX_CLOCK_DIFFERENCE else max(timedelta(), age)


def table_statuses(warehouse: Warehouse) -> list[TableStatus]:
    """Return the state of every table that a scan has read or skipped."""
    return [_status(warehouse, table) for table in TABLES if warehouse.audit.last_load(table, skipped=True)]


def _status(warehouse: Warehouse, table: Table) -> TableStatus:
    last, good = warehouse.audit.last_load(table, skipped=True), warehouse.audit.last_load(table)
    proved = warehouse.audit.last_load(table, verdict="proved")
    passed, checks = last_findings(warehouse, table)
    return TableStatus(
        table=table.name,
        is_default=table.default,
        rows=warehouse.count(table.name) if good else None,
        verdict=last.verdict if last else "",
        reason=(last.reason if last else "") or "",
        loaded_at=good.finished_at if good else None,
        proved_at=proved.finished_at if proved else None,
        requests=last.requests if last else None,
        rate_limited=last.rate_limited if last else None,
        checks_passed=passed,
        checks=checks,
        up_to_date=up_to_date(TableFacts(warehouse, table)),
    )


def too_old(statuses: Sequence[TableStatus], limit: timedelta) -> list[TableStatus]:
    """Return the default tables that were written before, and not within ``limit``."""
    return [s for s in statuses if s.is_default and (age := s.age()) is not None and age > limit]
