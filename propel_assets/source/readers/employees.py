"""`Custom("employees")`: the employees that users name as their impersonators. PropelAuth has no list of employees."""

from collections.abc import Iterator, Sequence

from propel_assets.catalog import USER_QUERY, Table
from propel_assets.source.readers.context import ScanContext, list_scan
from propel_assets.source.readers.lookup import look_up
from propel_assets.source.stream import Rows, ScanResult


def read_employees(context: ScanContext, tables: Sequence[Table]) -> Iterator[Rows | ScanResult]:
    """Read all users, then look up each impersonator."""
    (table,) = tables
    users = list_scan(context, USER_QUERY)
    named = (row.f_impersonator_user_id for rows in users for row in rows)
    ids = sorted({id_ for id_ in named if id_})
    yield look_up(context, table, "employee_id", ids)
    yield ScanResult(
        table_name=table.name,
        verdict=users.outcome.verdict,
        reason=users.outcome.reason,
        pages=users.outcome.pages,
        rows_read=len(ids),
    )
