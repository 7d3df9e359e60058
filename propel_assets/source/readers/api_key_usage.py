"""`Custom("api_key_usage")`: how often API keys were validated, one request per day, or per day and key."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import msgspec

from propel_assets.catalog import END_USER_API_KEY_USAGE, END_USER_API_KEY_USAGE_TOTAL, END_USER_API_KEYS, Table
from propel_assets.source.decode import to_arrow
from propel_assets.source.lists import get_or_none, request_each
from propel_assets.source.readers.context import ScanContext, read_ids, skip_if_not_enabled
from propel_assets.source.stream import Rows, ScanResult, join_reasons
from propel_assets.source.values import Int64

FIRST_LOAD_DAYS = 30
TOTAL = "total"
"""The entry of the cursor for all keys together, beside the ids of keys."""


class _Usage(msgspec.Struct):
    """The answer of the usage endpoint."""

    count: Int64


def read_api_key_usage(context: ScanContext, tables: Sequence[Table]) -> Iterator[Rows | ScanResult]:
    """Read the days that were not over at the last load. Finished days do not change."""
    total, per_key = END_USER_API_KEY_USAGE_TOTAL, END_USER_API_KEY_USAGE
    today = datetime.now(UTC).date()
    first_day = (today - timedelta(days=FIRST_LOAD_DAYS)).isoformat()
    read_until = context.resume_state.cursor if context.options.can_merge else {}
    decode = msgspec.json.Decoder(_Usage).decode

    def days_of(entry: str) -> list[str]:
        start = date.fromisoformat(read_until.get(entry, first_day))
        return [(start + timedelta(days=n)).isoformat() for n in range((today - start).days + 1)]

    def request_total(day: str) -> _Usage:
        return context.client.get(total.path, decode, {"date": day})

    def request_key(key_and_day: tuple[str, str]) -> _Usage | None:
        key, day = key_and_day
        return get_or_none(context.client, per_key.path, decode, {"date": day, "api_key_id": key})

    with skip_if_not_enabled(total.path, total.feature):
        days = days_of(TOTAL)
        totals = list(request_each(context.client, request_total, days, total.name, context.progress))
        keys, listed = read_ids(context, END_USER_API_KEYS) if context.options.usage_per_key else ([], None)
        keys_and_days = [(key, day) for key in keys for day in days_of(key)]
        counts = list(request_each(context.client, request_key, keys_and_days, per_key.name, context.progress))
    missing = {key for (key, _), answer in zip(keys_and_days, counts, strict=True) if answer is None}
    # The time zone of a day is not documented: yesterday may still change.
    yesterday = (today - timedelta(days=1)).isoformat()
    cursor = {**context.resume_state.cursor, **dict.fromkeys({TOTAL, *keys} - missing, yesterday)}

    rows = [{"date": day, "count": answer.count} for day, answer in zip(days, totals, strict=True)]
    yield Rows(total.name, to_arrow(total, rows))
    yield ScanResult(table_name=total.name, verdict="proved", pages=len(days), rows_read=len(rows), cursor=cursor)

    rows = [
        {"date": day, "api_key_id": key, "count": answer.count}
        for (key, day), answer in zip(keys_and_days, counts, strict=True)
        if answer is not None
    ]
    reason = "" if context.options.usage_per_key else "usage per API key was not requested (`--usage-per-key`)"
    if listed:
        reason = listed.reason
    if missing:
        not_found = f"404 for {len(missing)} of {len(keys)} API keys, which can have been deleted"
        reason = join_reasons(reason, not_found)
    yield Rows(per_key.name, to_arrow(per_key, rows))
    yield ScanResult(
        table_name=per_key.name,
        verdict="counted" if missing or not listed else listed.verdict,
        reason=reason,
        pages=len(keys_and_days),
        rows_read=len(rows),
        cursor=cursor,
    )
