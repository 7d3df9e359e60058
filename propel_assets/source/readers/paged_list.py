"""`PagedList`: a list in numbered pages that is a table of its own."""

from collections.abc import Iterator

from propel_assets.catalog import Table
from propel_assets.source.convert import convert
from propel_assets.source.decode import RowType
from propel_assets.source.readers.context import ScanContext, list_result, list_scan, skip_if_not_enabled
from propel_assets.source.stream import Rows, ScanResult


def read_paged_list(context: ScanContext, table: Table) -> Iterator[Rows | ScanResult]:
    """Read all rows of ``table``."""
    row_type = RowType(table)
    scan = list_scan(context, table, row_type, watch=context.watch(table))
    with skip_if_not_enabled(table.path, table.feature, lambda: scan.rows_read):
        for batch in convert(row_type, scan):
            yield Rows(table.name, batch.table)
    if not scan.rows_read:
        yield Rows(table.name, row_type.to_arrow([]))
    yield list_result(table, scan.outcome)
