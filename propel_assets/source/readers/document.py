"""`Document`: one answer that holds all rows, or one row."""

from collections.abc import Iterator

from propel_assets.catalog import Table
from propel_assets.catalog.model import Document
from propel_assets.source.client import BACKEND_KEY, NO_AUTH
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets.source.readers.context import ScanContext, SkipScan, skip_if_not_enabled
from propel_assets.source.stream import Rows, ScanResult


def read_document(context: ScanContext, table: Table, shape: Document) -> Iterator[Rows | ScanResult]:
    """Read the answer of ``table``'s endpoint."""
    token = context.client.tenant.oauth_token
    if shape.auth == "user_token" and not token:
        raise SkipScan("No access token of an end user: set PROPELAUTH_OAUTH_TOKEN.")
    auth = {"api_key": BACKEND_KEY, "none": NO_AUTH, "user_token": token}[shape.auth]
    row_type = RowType(table)
    with skip_if_not_enabled(table.path, table.feature):
        answer = context.client.get(table.path, PageDecoder(row_type, table.items), auth=auth)
    rows = answer.items if table.items else [answer]
    yield Rows(table.name, row_type.to_arrow(rows))
    yield ScanResult(table_name=table.name, verdict="proved", pages=1, rows_read=len(rows))
