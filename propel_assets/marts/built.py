"""The marts that exist in the warehouse, with their rows and the age of their data."""

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dlt.destinations.exceptions import DatabaseException

from propel_assets.marts.runner import HISTORY, MARTS
from propel_assets.settings import Target
from propel_assets.warehouse.audit import as_utc_or_none
from propel_assets.warehouse.query import Warehouse

LOAD_TIMES = ("as_of", "read_at")
"""The column with the time of the load that a model was built from, in the marts and in the tables of loads."""


@dataclass(frozen=True)
class BuiltModel:
    """One table or view of the marts. ``as_of`` is None where a model has no such column, or no row."""

    name: str
    rows: int
    as_of: datetime | None


def built_models(warehouse: Warehouse, target: Target) -> Sequence[BuiltModel]:
    """Return the marts and histories of this environment. None where the destination has no information schema."""
    columns: dict[tuple[str, str], set[str]] = defaultdict(set)
    with contextlib.suppress(DatabaseException):
        rows = warehouse.rows(
            "SELECT table_schema, table_name, column_name FROM information_schema.columns "
            "WHERE lower(table_schema) IN (%s, %s)",
            *(target.named(schema) for schema in (HISTORY, MARTS)),
        )
        for schema, table, column in rows:
            columns[schema, table].add(column.lower())
    models = []
    for (schema, table), names in sorted(columns.items()):
        quoted = f"{warehouse.column(schema)}.{warehouse.column(table)}"
        newest = next((f"max({column})" for column in LOAD_TIMES if column in names), "NULL")
        [(count, as_of)] = warehouse.rows(f"SELECT count(*), {newest} FROM {quoted}")  # noqa: S608 - quoted names
        models.append(BuiltModel(table.lower(), int(count), as_utc_or_none(as_of)))
    return models
