"""`ReportGrid` and `MetricGrid`: PropelAuth's insight reports and chart metrics."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter

from propel_assets.catalog import USER_QUERY, Table
from propel_assets.catalog.model import MetricGrid, ReportGrid
from propel_assets.errors import PermanentApiError
from propel_assets.source.decode import PageDecoder, RowType, to_arrow
from propel_assets.source.lists import ListEndpoint, ListScan
from propel_assets.source.readers.context import ScanContext, SkipScan, list_result, skip_if_not_enabled, skip_reason
from propel_assets.source.scan import Order
from propel_assets.source.stream import Rows, ScanResult

METRIC_DAYS_READ_AGAIN = 35
SINCE = "since"  # in the cursor: the first day that may still change


def read_reports(context: ScanContext, table: Table, shape: ReportGrid) -> Iterator[Rows | ScanResult]:
    """Read the report of every type and interval. A report that the project does not have is named in the reason."""
    results: list[ScanResult] = []
    errors: dict[str, PermanentApiError] = {}
    for type_, intervals in shape.intervals:
        for interval in intervals:
            try:
                for item in _read_report(context, table, type_, interval):
                    if isinstance(item, Rows):
                        yield item
                    else:
                        results.append(item)
            except PermanentApiError as error:
                if table.feature is None or error.status not in table.feature.statuses:
                    raise
                errors[f"{type_} {interval}"] = error
    if not results:
        raise SkipScan(skip_reason(table.path, *errors.values()))
    result = _joined(results)
    if errors:
        missing = (f"{report}: {skip_reason(table.path, error)}" for report, error in errors.items())
        result = replace(result, reason=f"Not available: {' '.join(missing)}")
    if not result.rows_read:
        yield Rows(table.name, to_arrow(table, ()))
    yield result


def _read_report(context: ScanContext, table: Table, type_: str, interval: str) -> Iterator[Rows | ScanResult]:
    row_type = RowType(table, constant_columns=("type", "interval", "report_time"))
    times: list[int] = []
    endpoint = ListEndpoint(
        table.name,
        table.path_of(type=type_),
        table.items,
        "total_count",
        row_type,
        {"report_interval": interval},
        on_page=lambda answer: times.append(answer.report_time),
    )
    scan = ListScan(context.client, endpoint, Order(attrgetter("f_report_id", "f_id")), progress=context.progress)
    for rows in scan:
        constants = {"type": type_, "interval": interval, "report_time": max(times)}
        yield Rows(table.name, row_type.to_arrow(rows, constants))
    yield list_result(table, scan.outcome)


def _joined(results: list[ScanResult]) -> ScanResult:
    """Return one result for the lists of a table."""
    return ScanResult(
        table_name=results[0].table_name,
        verdict="proved" if {result.verdict for result in results} == {"proved"} else "counted",
        rows_read=sum(result.rows_read for result in results),
        total_min=sum(result.total_min or 0 for result in results),
        total_max=sum(result.total_max or 0 for result in results),
        passes=max(result.passes for result in results),
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
    return datetime.fromtimestamp(oldest, UTC).date() if oldest is not None else today


def _period_start(day: date, cadence: str) -> date:
    if cadence == "Weekly":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if cadence == "Monthly" else day
