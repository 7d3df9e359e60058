"""`PerParent`: one request for each row of another table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from propel_assets.catalog import BY_NAME, Table
from propel_assets.catalog.model import PerParent
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets.source.lists import get_or_none, request_each
from propel_assets.source.readers.context import ScanContext, list_result, read_ids, skip_if_not_enabled
from propel_assets.source.stream import Rows, ScanResult, join_reasons

FLAGGED = "flagged"  # in the cursor: the ids of the parents whose row has the flag


def read_per_parent(context: ScanContext, table: Table, shape: PerParent) -> Iterator[Rows | ScanResult]:
    """Read one row per parent. A parent that was deleted after it was listed has none."""
    parent = BY_NAME[shape.parent]
    parameter = parent.key[0]
    row_type = RowType(table, constant_columns=() if shape.has_key else (parameter,))
    decode = PageDecoder(row_type)

    def request(id_: str) -> Any:
        return get_or_none(context.client, table.path_of(**{parameter: id_}), decode)

    def request_all(ids: Sequence[str]) -> dict[str, Any]:
        answers = request_each(context.client, request, ids, table.name, context.progress)
        return {id_: row for id_, row in zip(ids, answers, strict=True) if row is not None}

    with skip_if_not_enabled(table.path, table.feature):
        ids, outcome = read_ids(context, parent)
        rows = request_all(ids)
        if missing := [id_ for id_ in ids if id_ not in rows]:
            # The list no longer has a parent that was deleted. The others are requested once more.
            still_listed = {*read_ids(context, parent)[0]}.intersection(missing)
            rows |= request_all([id_ for id_ in missing if id_ in still_listed])
            if unread := len(still_listed - {*rows}):
                reason = f"Rows that {parent.name} lists and that returned 404 twice: {unread}"
                outcome = replace(outcome, verdict="counted", reason=join_reasons(outcome.reason, reason))
    constants = None if shape.has_key else {parameter: [*rows]}
    yield Rows(table.name, row_type.to_arrow([*rows.values()], constants))
    result = replace(list_result(table, outcome), rows_read=len(rows), newest=None)
    yield _with_flagged(context, shape, result, rows) if shape.flag else result


def _with_flagged(context: ScanContext, shape: PerParent, result: ScanResult, rows: Mapping[str, Any]) -> ScanResult:
    """Keep the ids of the rows in which the flag is true. Report the new ones."""
    flagged = [id_ for id_, row in rows.items() if getattr(row, f"f_{shape.flag}") is True]
    new = set(flagged) - {*context.resume_state.cursor.get(FLAGGED, ())}
    reason = join_reasons(result.reason, shape.flag_note.format(len(new)) if new else "")
    return replace(result, reason=reason, cursor={FLAGGED: flagged})
