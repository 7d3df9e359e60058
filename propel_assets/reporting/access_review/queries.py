"""What the queries of an access review share: times, and the scans up to its end."""

from datetime import datetime
from typing import Any

from propel_assets.catalog import PROPEL_SCANS
from propel_assets.warehouse.audit import as_utc
from propel_assets.warehouse.query import Warehouse, timestamp_literal


def utc(at: Any) -> datetime | None:
    """Return a stored time in UTC; None for null."""
    return as_utc(at) if at else None


def scan_rows(
    warehouse: Warehouse, end: datetime, columns: str, table: str, rest: str, *, limit: int | None = None
) -> list[tuple[Any, ...]]:
    """Return columns of the complete scans of ``table`` that finished before ``end``."""
    return warehouse.rows(
        f"SELECT {columns} FROM {warehouse.complete_loads_of(PROPEL_SCANS.name)} "  # noqa: S608 - our names
        f"WHERE s.table_name = %s AND s.finished_at < {timestamp_literal(end)} {rest}",
        table,
        limit=limit,
    )
