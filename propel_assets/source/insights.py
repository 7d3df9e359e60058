"""What PropelAuth counts itself: reports, chart metrics, API key usage."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter

import msgspec

from propel_assets.catalog import BY_NAME, INSIGHTS, Table
from propel_assets.errors import PermanentApiError
from propel_assets.source.decode import PageDecoder, RowType, to_arrow
from propel_assets.source.lists import ScanReport
from propel_assets.source.scan import Order
from propel_assets.source.table_reader import Rows, TableReader, skip_reason

CHART_DAYS_AGAIN = 35
USAGE_DAYS_AT_FIRST = 30
ALL_KEYS = "all"

USER_REPORTS = {
    "reengagement": ("Weekly", "Monthly"),
    "churn": ("7", "14", "30"),
    "top_inviter": ("30", "60", "90"),
    "champion": ("30", "60", "90"),
}
ORG_REPORTS = {
    "reengagement": ("Weekly", "Monthly"),
    "churn": ("7", "14", "30"),
    "growth": ("30", "60", "90"),
    "attrition": ("30", "60", "90"),
}
METRICS = ("signups", "orgs_created", "active_users", "active_orgs")
CADENCES = ("Daily", "Weekly", "Monthly")


class InsightsReader(TableReader):
    """Reads numbers that have a day or a report they belong to."""

    def _read_api_key_usage(self) -> Iterator[Rows]:
        """Ask for the days not finished at the last load: finished days do not change."""
        table, report = BY_NAME["end_user_api_key_usage"], self.reports["end_user_api_key_usage"]
        keys = [ALL_KEYS]
        today = datetime.now(UTC).date()
        with self._skipping(table):
            if self._options.usage_per_key:
                keys += self._api_key_ids()
            memory = {} if self._options.anew else self._state.setdefault("usage_since", {})
            at_first = today - timedelta(days=USAGE_DAYS_AT_FIRST)
            asked = [
                (day, key)
                for key in keys
                for day in _days(date.fromisoformat(memory[key]) if key in memory else at_first, today)
            ]
            decode = msgspec.json.Decoder(_Count).decode

            def ask(day_and_key: tuple[date, str]) -> int:
                day, key = day_and_key
                if key == ALL_KEYS:
                    return self._client.get(table.path, decode, {"date": day.isoformat()}).count
                answer = self._unless_missing(table.path, decode, {"date": day.isoformat(), "api_key_id": key})
                return answer.count if answer else 0  # the key has gone meanwhile

            counts = list(self._each(ask, asked, table.name))
            report.verdict, report.pages, report.rows_read = "proved", len(asked), len(asked)
            # Which time zone a day ends in is not documented: yesterday may still change.
            memory.update(dict.fromkeys(keys, (today - timedelta(days=1)).isoformat()))
            yield (
                table.name,
                to_arrow(
                    table,
                    (
                        {"date": day.isoformat(), "api_key_id": key, "count": count}
                        for (day, key), count in zip(asked, counts, strict=True)
                    ),
                ),
            )

    def _api_key_ids(self) -> list[str]:
        table = BY_NAME["end_user_api_keys"]
        order = Order(attrgetter("f_api_key_id"))
        report = ScanReport(table.name)
        batches = self._read_list(report, table.path, table.items, "total_api_keys", RowType(table), order, {})
        return [row.f_api_key_id for rows in batches for row in rows]

    def _read_user_reports(self) -> Iterator[Rows]:
        yield from self._read_reports("user_report", USER_REPORTS)

    def _read_org_reports(self) -> Iterator[Rows]:
        yield from self._read_reports("org_report", ORG_REPORTS)

    def _read_reports(self, name: str, kinds: dict[str, tuple[str, ...]]) -> Iterator[Rows]:
        """Read every type and interval; one that the tenant does not have is named, all missing is a skip."""
        table, total = BY_NAME[name], self.reports[name]
        refusals: dict[str, PermanentApiError] = {}
        asked = [(kind, interval) for kind, intervals in kinds.items() for interval in intervals]
        verdicts = []
        for kind, interval in asked:
            part = ScanReport(name)
            try:
                yield from self._read_report(part, table, kind, interval)
            except PermanentApiError as error:
                if error.status not in INSIGHTS.statuses:
                    raise
                refusals[f"{kind} {interval}"] = error
                continue
            verdicts.append(part.verdict)
            total.rows_read += part.rows_read
            total.pages += part.pages
            total.passes = max(total.passes, part.passes)
            total.total_min = (total.total_min or 0) + (part.total_min or 0)
            total.total_max = (total.total_max or 0) + (part.total_max or 0)
            total.unknown_fields |= part.unknown_fields
        if not verdicts:
            self._skip(skip_reason(table.path, *refusals.values()), table)
            return
        total.verdict = "proved" if set(verdicts) == {"proved"} else "counted"
        off = (f"{part}: {skip_reason(table.path, error)}" for part, error in refusals.items())
        total.reason = f"Not available: {' '.join(off)}" if refusals else ""
        if not total.rows_read:
            yield name, to_arrow(table, ())

    def _read_report(self, report: ScanReport, table: Table, kind: str, interval: str) -> Iterator[Rows]:
        row_type = RowType(table, constant_columns=("type", "interval", "report_time"))
        path = table.path_of(type=kind)
        params = {"report_interval": interval}
        times: list[int] = []
        order = Order(attrgetter("f_report_id", "f_id"))
        batches = self._read_list(
            report,
            path,
            table.items,
            "total_count",
            row_type,
            order,
            params,
            also=lambda a: times.append(a.report_time),
        )
        for rows in batches:
            given = {"type": kind, "interval": interval, "report_time": max(times)}
            yield table.name, row_type.to_arrow(rows, given)
        report.unknown_fields = row_type.schema_differences

    def _read_chart_metrics(self) -> Iterator[Rows]:
        """Read every metric from the oldest user's day on; later what may have changed since the last load."""
        table, report = BY_NAME["chart_metrics"], self.reports["chart_metrics"]
        today = datetime.now(UTC).date()
        row_type = RowType(table, constant_columns=("metric", "cadence", "chart_type"))
        decode = PageDecoder(row_type, table.items, [("chart_type", str | None)])
        with self._skipping(table):
            since = self._charts_since(today)
            unfinished = [today]
            for metric in METRICS:
                for cadence in CADENCES:
                    start = _period_start(since, cadence).isoformat()
                    params = {"cadence": cadence, "start_date": start, "end_date": today.isoformat()}
                    answer = self._client.get(table.path_of(metric=metric), decode, params)
                    rows = answer.items
                    unfinished += [row.f_date for row in rows if not row.f_cadence_completed]
                    report.rows_read += len(rows)
                    report.pages += 1
                    given = {"metric": metric, "cadence": cadence, "chart_type": answer.chart_type}
                    yield table.name, row_type.to_arrow(rows, given)
            report.verdict, report.unknown_fields = "proved", row_type.schema_differences
            self._state["charts_since"] = min(unfinished).isoformat()

    def _charts_since(self, today: date) -> date:
        if (known := self._state.get("charts_since")) and not self._options.anew:
            return min(date.fromisoformat(known), today - timedelta(days=CHART_DAYS_AGAIN))
        users = BY_NAME["user_query"]
        row_type = RowType(users)
        params = {"page_size": 1, "page_number": 0, "order_by": "CREATED_AT_ASC"}
        answer = self._client.get(users.path, PageDecoder(row_type, users.items), params)
        oldest = answer.items[0].f_created_at if answer.items else None
        return datetime.fromtimestamp(oldest, UTC).date() if oldest is not None else today


class _Count(msgspec.Struct):
    """The answer of the usage endpoint."""

    count: int


def _days(start: date, stop: date) -> list[date]:
    return [start + timedelta(days=n) for n in range((stop - start).days + 1)]


def _period_start(day: date, cadence: str) -> date:
    if cadence == "Weekly":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if cadence == "Monthly" else day
