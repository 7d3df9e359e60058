"""`Custom("employees")`: the employees that users name as their impersonators. PropelAuth has no list of employees."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from propel_assets.catalog import USER_QUERY, Table
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets.source.lists import get_or_none, request_each
from propel_assets.source.readers.context import ScanContext, list_scan
from propel_assets.source.stream import Rows, ScanResult


def read_employees(context: ScanContext, tables: Sequence[Table]) -> Iterator[Rows | ScanResult]:
    """Read all users, then look up each impersonator."""
    (table,) = tables
    users = list_scan(context, USER_QUERY)
    named = (row.f_impersonator_user_id for rows in users for row in rows)
    ids = sorted({id_ for id_ in named if id_})
    row_type = RowType(table, constant_columns=("employee_id", "found"))
    decode = PageDecoder(row_type)

    def request(id_: str) -> Any:
        return get_or_none(context.client, table.path_of(employee_id=id_), decode)

    answers = list(request_each(context.client, request, ids, table.name, context.progress))
    not_found = msgspec.json.decode(b"{}", type=row_type.struct)
    constants = {"employee_id": ids, "found": [row is not None for row in answers]}
    yield Rows(table.name, row_type.to_arrow([row or not_found for row in answers], constants))
    yield ScanResult(
        table_name=table.name,
        verdict=users.outcome.verdict,
        reason=users.outcome.reason,
        pages=users.outcome.pages,
        rows_read=len(ids),
    )
