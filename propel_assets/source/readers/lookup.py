"""`Lookup`: one request for each value that the run's configuration names."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from propel_assets.catalog import Table
from propel_assets.catalog.model import Lookup
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets.source.lists import get_or_none, request_each
from propel_assets.source.readers.context import ScanContext, SkipScan
from propel_assets.source.stream import Rows, ScanResult


def read_lookup(context: ScanContext, table: Table, shape: Lookup) -> Iterator[Rows | ScanResult]:
    """Read one row per value, whether or not PropelAuth has it."""
    values = list(dict.fromkeys(context.options.lookups.get(table.name, ())))
    if not values:
        raise SkipScan("No values to look up: set them as options of `propel-assets load` or in the run's config.")
    yield look_up(context, table, shape.parameter, values)
    yield ScanResult(
        table_name=table.name,
        verdict="proved",
        pages=len(values),
        rows_read=len(values),
    )


def look_up(context: ScanContext, table: Table, parameter: str, values: Sequence[str]) -> Rows:
    """Request each value, and return one row for each. Its key is the value; `found`: whether PropelAuth has it."""
    (key,) = table.key
    row_type = RowType(table, constant_columns=(key, "found"))
    decode = PageDecoder(row_type)
    in_path = f"{{{parameter}}}" in table.path

    def request(value: str) -> Any:
        params = {parameter: value}
        return get_or_none(context.client, table.path_of(**params), decode, None if in_path else params)

    answers = list(request_each(context.client, request, values, table.name, context.progress))
    not_found = msgspec.json.decode(b"{}", type=row_type.struct)
    constants = {key: values, "found": [row is not None for row in answers]}
    return Rows(table.name, row_type.to_arrow([row or not_found for row in answers], constants))
