"""The readers without proofs of their own: `PagedList`, `Document`, `Lookup` and `Custom("employees")`."""

from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from propel_assets.catalog import USER_QUERY, Table
from propel_assets.catalog.model import Document, Lookup
from propel_assets.errors import PermanentApiError, SettingsError
from propel_assets.settings import variable_to_set
from propel_assets.source.client import BACKEND_KEY, NO_AUTH
from propel_assets.source.convert import convert
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets.source.lists import get_or_none, request_each
from propel_assets.source.readers.context import ScanContext, SkipScan, list_result, list_scan, skip_if_not_enabled
from propel_assets.source.stream import Rows, ScanResult
from propel_assets.source.values import UUID


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


def read_document(context: ScanContext, table: Table, shape: Document) -> Iterator[Rows | ScanResult]:
    """Read the answer of ``table``'s endpoint."""
    token = context.client.tenant.oauth_token
    if shape.auth == "user_token" and not token:
        variable = variable_to_set("oauth_token", context.client.tenant.environment)
        raise SkipScan(f"No access token of an end user: set {variable}.")
    auth = {"api_key": BACKEND_KEY, "none": NO_AUTH, "user_token": token}[shape.auth]
    row_type = RowType(table)
    with skip_if_not_enabled(table.path, table.feature):
        answer = context.client.get(table.path, PageDecoder(row_type, table.items), auth=auth)
    rows = answer.items if table.items else [answer]
    yield Rows(table.name, row_type.to_arrow(rows))
    yield ScanResult(table_name=table.name, verdict="proved", pages=1, rows_read=len(rows))


def read_lookup(context: ScanContext, table: Table, shape: Lookup) -> Iterator[Rows | ScanResult]:
    """Read one row per value, whether or not PropelAuth has it."""
    values = list(dict.fromkeys(context.options.lookups.get(table.name, ())))
    if not values:
        raise SkipScan("No values to look up: set them as options of `propel-assets load` or in the run's config.")
    if f"{{{shape.parameter}}}" in table.path:  # an e-mail address would be in a URL, and in logs
        _require(table, "a UUID", values, lambda value: bool(UUID.fullmatch(value)))
    else:
        _require(table, "valid UTF-8", values, _is_utf8)
    rows, is_any_found = _look_up(context, table, shape.parameter, values)
    if not is_any_found:
        _require_api(context)
    yield rows
    yield ScanResult(
        table_name=table.name,
        verdict="proved",
        pages=len(values),
        rows_read=len(values),
    )


def _require(table: Table, rule: str, values: Sequence[str], follows: Callable[[str], bool]) -> None:
    """Raise SettingsError if a value does not follow the rule."""
    others = [place for place, value in enumerate(values, start=1) if not follows(value)]
    if others:
        places = ", ".join(map(str, others[:10]))
        raise SettingsError(
            f"{table.name}: not {rule}: value number {places}. Nothing was requested. Correct the values in the "
            "options of the command or in the run's config."
        )


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # a byte of the command line that is not UTF-8
        return False
    return True


def _require_api(context: ScanContext) -> None:
    """Raise the error of a list that always exists, if it is not found either: the URL is not that of PropelAuth."""
    try:
        context.client.get(USER_QUERY.path, msgspec.json.decode, {"page_size": 1, "page_number": 0})
    except PermanentApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            raise


def _look_up(context: ScanContext, table: Table, parameter: str, values: Sequence[str]) -> tuple[Rows, bool]:
    """Request each value, and return one row for each, and whether PropelAuth has any.

    The key of a row is the value; `found`: whether PropelAuth has it.
    """
    (key,) = table.key
    row_type = RowType(table, constant_columns=(key, "found"))
    decode = PageDecoder(row_type)
    in_path = f"{{{parameter}}}" in table.path

    def request(value: str) -> Any:
        params = {parameter: value}
        return get_or_none(context.client, table.path_of(**params), decode, None if in_path else params)

    answers = list(request_each(context.client, request, values, table.name, context.progress))
    not_found = msgspec.json.decode(b"{}", type=row_type.struct)
    found = [row is not None for row in answers]
    rows = row_type.to_arrow([row or not_found for row in answers], {key: values, "found": found})
    return Rows(table.name, rows), any(found)


def read_employees(context: ScanContext, tables: Sequence[Table]) -> Iterator[Rows | ScanResult]:
    """Read all users, then look up each impersonator: PropelAuth has no list of employees."""
    (table,) = tables
    users = list_scan(context, USER_QUERY)
    named = (row.f_impersonator_user_id for rows in users for row in rows)
    ids = sorted({id_ for id_ in named if id_ and isinstance(id_, str)})
    yield _look_up(context, table, "employee_id", ids)[0]
    yield ScanResult(
        table_name=table.name,
        verdict=users.outcome.verdict,
        reason=users.outcome.reason,
        pages=users.outcome.pages,
        rows_read=len(ids),
    )
