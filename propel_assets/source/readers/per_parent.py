"""`PerParent`: one request for each row of another table."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from propel_assets.catalog import BY_NAME, Table
from propel_assets.catalog.model import PerParent
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets.source.lists import ListOutcome, get_or_none, request_each
from propel_assets.source.readers.context import ScanContext, list_result, read_ids, skip_if_not_enabled
from propel_assets.source.stream import Rows, ScanResult

FLAGGED = "flagged"  # in the cursor: the ids of the parents whose row has the flag


def read_per_parent(context: ScanContext, table: Table, shape: PerParent) -> Iterator[Rows | ScanResult]:
    """Read one row per parent. A parent that the list does not have any more has none."""
    parent = BY_NAME[shape.parent]
    parameter = parent.key[0]
    row_type = RowType(table, given=() if shape.has_key else (parameter,))
    decode = PageDecoder(row_type)

    def request(id_: str) -> Any:
        return get_or_none(context.client, table.path_of(**{parameter: id_}), decode)

    with skip_if_not_enabled(table.path, table.feature):
        ids, outcome = read_ids(context, parent)
        rows = _request_all(context, table, request, ids)
        if missing := [id_ for id_ in ids if id_ not in rows]:
            rows, outcome = _retry_missing(context, parent, table, request, rows, missing, outcome)
    constants = None if shape.has_key else {parameter: [*rows]}
    yield Rows(table.name, row_type.to_arrow([*rows.values()], constants))
    result = replace(list_result(table, outcome), rows_read=len(rows), newest=None)
    yield _with_flagged(context, shape, result, rows) if shape.flag else result


def _with_flagged(context: ScanContext, shape: PerParent, result: ScanResult, rows: Mapping[str, Any]) -> ScanResult:
    """Keep the ids of the rows where the flag is true, and say what it means that there are new ones."""
    flagged = [id_ for id_, row in rows.items() if getattr(row, f"f_{shape.flag}") is True]
    new = set(flagged) - {*context.resume_state.cursor.get(FLAGGED, ())}
    reason = f"{result.reason}; {shape.flag_note.format(len(new))}".removeprefix("; ") if new else result.reason
    return replace(result, reason=reason, cursor={FLAGGED: flagged})


def _request_all(context: ScanContext, table: Table, request: Any, ids: list[str]) -> dict[str, Any]:
    """Return the rows of ``ids``, in their order, without those that returned 404."""
    answers = request_each(context.client, request, ids, table.name, context.progress)
    return {id_: row for id_, row in zip(ids, answers, strict=True) if row is not None}


def _retry_missing(
    context: ScanContext,
    parent: Table,
    table: Table,
    request: Any,
    rows: dict[str, Any],
    missing: list[str],
    outcome: ListOutcome,
) -> tuple[dict[str, Any], ListOutcome]:
    """Read the list again, and request the rows of ``missing`` that it still has once more.

    A parent that was deleted after it was listed returns 404 and is no longer in the list. One that is still in the
    list has a row that was not read: the scan is not proved.
    """
    listed = set(read_ids(context, parent)[0])
    rows = rows | _request_all(context, table, request, [id_ for id_ in missing if id_ in listed])
    left = sum(id_ in listed and id_ not in rows for id_ in missing)
    if left:
        reason = f"{left} row{'' if left == 1 else 's'} of {parent.name} returned 404 twice and are still in its list"
        outcome = replace(outcome, verdict="counted", reason=f"{outcome.reason}; {reason}".removeprefix("; "))
    return rows, outcome
