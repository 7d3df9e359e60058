"""`Custom("api_key_usage")`: how often API keys were validated, one request per day and key."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import msgspec

from propel_assets.catalog import END_USER_API_KEYS, Table
from propel_assets.source.decode import to_arrow
from propel_assets.source.lists import get_or_none, request_each
from propel_assets.source.readers.context import ScanContext, read_ids, skip_if_not_enabled
from propel_assets.source.stream import Rows, ScanResult

FIRST_LOAD_DAYS = 30
ALL_KEYS = "all"


class _Usage(msgspec.Struct):
    """The answer of the usage endpoint."""

    count: int


def read_api_key_usage(context: ScanContext, tables: Sequence[Table]) -> Iterator[Rows | ScanResult]:
    """Read the days that were not over at the last load. Finished days do not change."""
    (table,) = tables
    today = datetime.now(UTC).date()
    first_day = (today - timedelta(days=FIRST_LOAD_DAYS)).isoformat()
    known = {} if context.options.full_refresh else context.resume_state.cursor
    decode = msgspec.json.Decoder(_Usage).decode

    def request(day_and_key: tuple[date, str]) -> _Usage | None:
        day, key = day_and_key
        params = {"date": day.isoformat()}
        if key == ALL_KEYS:
            return context.client.get(table.path, decode, params)
        return get_or_none(context.client, table.path, decode, params | {"api_key_id": key})

    with skip_if_not_enabled(table.path, table.feature):
        keys = [ALL_KEYS]
        if context.options.usage_per_key:
            keys += read_ids(context, END_USER_API_KEYS)[0]
        wanted = [(day, key) for key in keys for day in _days(date.fromisoformat(known.get(key, first_day)), today)]
        answers = list(request_each(context.client, request, wanted, table.name, context.progress))
    rows = [
        {"date": day.isoformat(), "api_key_id": key, "count": answer.count}
        for (day, key), answer in zip(wanted, answers, strict=True)
        if answer is not None
    ]
    yield Rows(table.name, to_arrow(table, rows))
    missing = {key for (_, key), answer in zip(wanted, answers, strict=True) if answer is None}
    # The time zone of a day is not documented: yesterday may still change.
    yesterday = (today - timedelta(days=1)).isoformat()
    yield ScanResult(
        table_name=table.name,
        verdict="counted" if missing else "proved",
        reason=f"404 for {len(missing)} of {len(keys) - 1} API keys, which can have been deleted" if missing else "",
        pages=len(wanted),
        rows_read=len(rows),
        cursor={**context.resume_state.cursor, **dict.fromkeys([key for key in keys if key not in missing], yesterday)},
    )


def _days(start: date, stop: date) -> list[date]:
    return [start + timedelta(days=n) for n in range((stop - start).days + 1)]
