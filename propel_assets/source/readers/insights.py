"""`ReportGrid` and `MetricGrid`: PropelAuth's insight reports and chart metrics."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter
from typing import Any

from propel_assets.catalog import USER_QUERY, Table
from propel_assets.catalog.model import MetricGrid, ReportGrid
from propel_assets.errors import LossRefused, PermanentApiError, UnprovedScan
from propel_assets.source.decode import PageDecoder, RowType, to_arrow
from propel_assets.source.lists import MAX_ATTEMPTS, ListEndpoint, ListScan
from propel_assets.source.readers.context import ScanContext, SkipScan, list_result, skip_if_not_enabled, skip_reason
from propel_assets.source.scan import Order
from propel_assets.source.stream import Rows, ScanResult, join_reasons

METRIC_DAYS_READ_AGAIN = 35
WITH_ROWS = "reports"  # in the cursor: the reports that have rows
SINCE = "since"  # in the cursor: the first day that may still change


def read_reports(context: ScanContext, table: Table, shape: ReportGrid) -> Iterator[Rows | ScanResult]:
    """Read the report of every type and interval. A report that the project does not have is named in the reason.

    Raises:
        LossRefused: a report that had rows at the last load is not available.
    """
    results: list[ScanResult] = []
    errors: dict[str, PermanentApiError] = {}
    with_rows: list[str] = []
    for type_, intervals in shape.intervals:
        for interval in intervals:
            report, has_rows = f"{type_} {interval}", False
            try:
                for item in _read_report(context, table, type_, interval):
                    if isinstance(item, Rows):
                        has_rows = True
                        yield item
                    else:
                        results.append(item)
            except PermanentApiError as error:
                if has_rows or table.feature is None or error.status not in table.feature.statuses:
                    raise
                errors[report] = error
            with_rows += [report] if has_rows else []
    if not results:
        raise SkipScan(skip_reason(table.path, *errors.values()))
    result = replace(_joined(results), cursor={WITH_ROWS: with_rows})
    if errors:
        _refuse_lost_reports(context, table, errors)
        missing = (f"{report}: {skip_reason(table.path, error)}" for report, error in errors.items())
        reason = join_reasons(f"Not available: {' '.join(missing)}", result.reason)
        result = replace(result, verdict="counted", reason=reason)
    if not result.rows_read:
        yield Rows(table.name, to_arrow(table, ()))
    yield result


def _refuse_lost_reports(context: ScanContext, table: Table, errors: Mapping[str, PermanentApiError]) -> None:
    """Refuse to replace the rows of a report by none because it is not available."""
    lost = [report for report in errors if report in context.resume_state.cursor.get(WITH_ROWS, ())]
    if lost and not context.client.tenant.allow_loss:
        raise LossRefused(
            f"{table.name} had rows of {', '.join(lost)} at the last load, and GET {table.path} now returns "
            f"{errors[lost[0]].status} for it. The previous data is kept. If PropelAuth does not have the report any "
            "more, run once with PROPELAUTH_ALLOW_LOSS=true."
        )


def _read_report(context: ScanContext, table: Table, type_: str, interval: str) -> Iterator[Rows | ScanResult]:
    """Read one report. If PropelAuth computes it again meanwhile, read it again.

    Raises:
        UnprovedScan: it was computed again after rows had been returned, or in each attempt.
    """
    row_type = RowType(table, constant_columns=("type", "interval", "report_time"))
    times: set[int] = set()
    report_ids: set[str] = set()
    has_rows = False

    def note(page: Any) -> None:
        times.update([] if page.report_time is None else [page.report_time])
        report_ids.update(row.f_report_id for row in page.items)

    endpoint = ListEndpoint(
        table.name,
        table.path_of(type=type_),
        table.items,
        "total_count",
        row_type,
        {"report_interval": interval},
        on_page=note,
    )
    for _ in range(MAX_ATTEMPTS):
        times.clear()
        report_ids.clear()
        scan = ListScan(context.client, endpoint, Order(attrgetter("f_report_id", "f_id")), progress=context.progress)
        for rows in scan:
            if len(times) > 1 and len(report_ids) > 1:
                break
            constants = {"type": type_, "interval": interval, "report_time": max(times, default=None)}
            yield Rows(table.name, row_type.to_arrow(rows, constants))
            has_rows = True
        else:
            yield list_result(table, scan.outcome)
            return
        if has_rows:
            break
    raise UnprovedScan(
        f"{table.name}: PropelAuth computed the report {type_} {interval} again while it was read. The previous data "
        "is kept. Run again."
    )


def _joined(results: list[ScanResult]) -> ScanResult:
    """Return one result for the lists of a table."""
    return ScanResult(
        table_name=results[0].table_name,
        verdict="proved" if {result.verdict for result in results} == {"proved"} else "counted",
        reason=join_reasons(*dict.fromkeys(result.reason for result in results)),
        rows_read=sum(result.rows_read for result in results),
        total_min=sum(result.total_min or 0 for result in results),
        total_max=sum(result.total_max or 0 for result in results),
        attempts=max(result.attempts for result in results),
        pages=sum(result.pages for result in results),
    )


def read_metrics(context: ScanContext, table: Table, shape: MetricGrid) -> Iterator[Rows | ScanResult]:
    """Read every metric: at first from the day of the oldest user, later from the first day that may still change."""
    today = datetime.now(UTC).date()
    row_type = RowType(table, constant_columns=("metric", "cadence", "chart_type"))
    decode = PageDecoder(row_type, table.items, [("chart_type", str | None)])
    unfinished = [today]
    rows_read = pages = 0
    with skip_if_not_enabled(table.path, table.feature, lambda: rows_read):
        first_day = _first_day(context, today)
        for metric in shape.metrics:
            for cadence in shape.cadences:
                start = _period_start(first_day, cadence).isoformat()
                params = {"cadence": cadence, "start_date": start, "end_date": today.isoformat()}
                answer = context.client.get(table.path_of(metric=metric), decode, params)
                unfinished += [row.f_date for row in answer.items if not row.f_cadence_completed]
                rows_read += len(answer.items)
                pages += 1
                constants = {"metric": metric, "cadence": cadence, "chart_type": answer.chart_type}
                yield Rows(table.name, row_type.to_arrow(answer.items, constants))
    yield ScanResult(
        table_name=table.name,
        verdict="proved",
        rows_read=rows_read,
        pages=pages,
        cursor={SINCE: min(unfinished).isoformat()},
    )


def _first_day(context: ScanContext, today: date) -> date:
    since = context.resume_state.cursor.get(SINCE)
    if since and context.options.can_merge:
        return min(date.fromisoformat(since), today - timedelta(days=METRIC_DAYS_READ_AGAIN))
    params = {"page_size": 1, "page_number": 0, "order_by": "CREATED_AT_ASC"}
    answer = context.client.get(USER_QUERY.path, PageDecoder(RowType(USER_QUERY), USER_QUERY.items), params)
    oldest = answer.items[0].f_created_at if answer.items else None
    if not isinstance(oldest, int):  # no user, or a value of another type
        return today
    return datetime.fromtimestamp(max(0, min(oldest, time.time())), UTC).date()


def _period_start(day: date, cadence: str) -> date:
    if cadence == "Weekly":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if cadence == "Monthly" else day
