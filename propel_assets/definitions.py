"""The way in for Dagster: puts together what `defs/` makes. Keep asset logic out of here.

Loads, validates and shows its lineage with nothing configured; a run then says what is missing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from propel_assets.defs.alerts import alerts
from propel_assets.defs.assets import build_raw_assets
from propel_assets.defs.automation import (
    refresh,
    refresh_daily,
    refresh_recent,
    refresh_recent_hourly,
)
from propel_assets.defs.changes import propel_auth_api, propel_auth_changes
from propel_assets.defs.checks import build_checks
from propel_assets.defs.executors import executor
from propel_assets.defs.marts import build_marts
from propel_assets.defs.resources import PropelAuthApiKey, Warehouse
from propel_assets.settings import disable_dlt_telemetry


def build_defs(
    resources: Mapping[str, Any] | None = None,
    loggers: Mapping[str, dg.LoggerDefinition] | None = None,
    more_jobs: Sequence[Any] = (),
) -> dg.Definitions:
    """Return every definition; ``resources`` replace the default ones of the same name."""
    disable_dlt_telemetry()
    return dg.Definitions(
        assets=[propel_auth_api, *build_raw_assets(), *build_marts()],
        asset_checks=build_checks(),
        jobs=[refresh, refresh_recent, *more_jobs],
        schedules=[refresh_daily, refresh_recent_hourly],
        sensors=[propel_auth_changes, alerts],
        resources={"propel_auth": PropelAuthApiKey(), "warehouse": Warehouse(), **(resources or {})},
        executor=executor(),
        loggers=loggers,
    )


defs = build_defs()
