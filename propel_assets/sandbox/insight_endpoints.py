"""The endpoints of User Insights: reports and charts, in their envelopes.

Source: PropelAuth/propelauth-py 20487b0, ``api/user_insights.py`` and ``types/user_insights.py``.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from propel_assets.sandbox import insights, parameters
from propel_assets.sandbox.calls import Call, page
from propel_assets.sandbox.parameters import refuse
from propel_assets.sandbox.store import Store


class InsightEndpoints:
    """Reports and charts. The caller holds the store's lock."""

    def __init__(self, store: Store) -> None:
        """Read from ``store``."""
        self._store = store

    def user_report(self, call: Call) -> dict[str, Any]:
        """GET user_report/{report_type}."""
        return self._report(call, "user_reports", insights.USER_REPORTS, insights.user_report)

    def org_report(self, call: Call) -> dict[str, Any]:
        """GET org_report/{report_type}."""
        return self._report(call, "org_reports", insights.ORG_REPORTS, insights.org_report)

    def chart_metrics(self, call: Call) -> dict[str, Any]:
        """GET chart_metrics/{metric}."""
        metric = call.path["metric"]
        if metric not in insights.CHART_TYPES:
            raise refuse("chart_metric", "unknown")
        cadence = parameters.choice(call.query, "cadence", insights.CADENCES)
        today = datetime.fromtimestamp(self._store.now, UTC).date()
        start = parameters.day(call.query, "start_date", today - timedelta(days=30))
        end = parameters.day(call.query, "end_date", today)
        if start > end:
            raise refuse("start_date", "must not be after end_date")
        return {
            "chart_type": insights.CHART_TYPES[metric],
            "cadence": cadence,
            "metrics": insights.chart_metrics(self._store, metric, cadence, start, end),
        }

    def _report(
        self,
        call: Call,
        name: str,
        types: Mapping[str, Mapping[str, int]],
        compute: Callable[[Store, str, str], list[dict[str, Any]]],
    ) -> dict[str, Any]:
        report_type = call.path["report_type"]
        if report_type not in types:
            raise refuse("report_type", f"must be one of {', '.join(types)}")
        interval = parameters.choice(call.query, "report_interval", tuple(types[report_type]))
        rows = self._store.cached(
            f"{name} {report_type} {interval}",
            lambda: compute(self._store, report_type, interval),
        )
        shown = page(call, name, rows, total_name="total_count")
        return {**shown, "report_time": self._store.now}
