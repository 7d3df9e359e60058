"""The way in for Dagster: puts together what `defs/` makes. Keep asset logic out of here.

Loads, validates and shows its lineage with nothing configured; a run then says what is missing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from propel_assets.defs.assets import build_raw_assets
from propel_assets.defs.automation import (
    refresh,
    refresh_daily,
    refresh_recent,
    refresh_recent_hourly,
    report_failed_checks,
    report_run_failure,
)
from propel_assets.defs.changes import propel_auth_api, propel_auth_changes
from propel_assets.defs.checks import build_checks
from propel_assets.defs.marts import build_marts
from propel_assets.defs.resources import PropelAuthApiKey, Warehouse
from propel_assets.settings import executor_name, no_dlt_telemetry

EXECUTORS = {"in_process": dg.in_process_executor, "multiprocess": dg.multiprocess_executor}


def build_defs(
    resources: Mapping[str, Any] | None = None,
    loggers: Mapping[str, dg.LoggerDefinition] | None = None,
    more_jobs: Sequence[Any] = (),
) -> dg.Definitions:
    """Return every definition; ``resources`` replace the default ones of the same name."""
    no_dlt_telemetry()
    return dg.Definitions(
        assets=[propel_auth_api, *build_raw_assets(), *build_marts()],
        asset_checks=build_checks(),
        jobs=[refresh, refresh_recent, *more_jobs],
        schedules=[refresh_daily, refresh_recent_hourly],
        sensors=[propel_auth_changes, report_run_failure, report_failed_checks],
        resources={"propel_auth": PropelAuthApiKey(), "warehouse": Warehouse(), **(resources or {})},
        executor=EXECUTORS[executor_name()],
        loggers=loggers,
    )


defs = build_defs()
