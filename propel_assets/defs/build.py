"""Every definition of one PropelAuth environment, to be merged into a project."""

import logging

import dagster as dg

from propel_assets.defs.alerts import build_alerts_sensor
from propel_assets.defs.assets import build_raw_assets
from propel_assets.defs.automation import build_automation_sensor, build_jobs, build_schedules
from propel_assets.defs.changes import build_api_asset, build_changes_sensor
from propel_assets.defs.checks import build_checks
from propel_assets.defs.config import PropelAuthConfig
from propel_assets.defs.environment import Environment
from propel_assets.defs.events import build_events_job, build_events_sensor
from propel_assets.defs.marts import build_marts
from propel_assets.settings import disable_dlt_telemetry, report_misspelled_variables


def build_definitions(config: PropelAuthConfig | None = None) -> dg.Definitions:
    """Return the assets, checks, jobs, schedules, sensors and resources of one PropelAuth environment.

    There is no executor and no logger, every name begins with a prefix of the environment, and schedules and sensors
    are off, so that `dg.Definitions.merge` changes no definition of the project. In the process, dlt's telemetry is
    disabled unless RUNTIME__DLTHUB_TELEMETRY is set. Definitions load with nothing configured; a run reports what is
    missing::

        config = PropelAuthConfig(environment="staging")
        defs = dg.Definitions.merge(my_definitions, build_definitions(config))

    Args:
        config: the options; default: those of the stand-alone code location.
    """
    disable_dlt_telemetry()
    environment = Environment.from_config(config or PropelAuthConfig())
    report_misspelled_variables(logging.getLogger(__name__).warning, environment.name)
    marts = build_marts(environment)
    assets = [build_api_asset(environment), *build_raw_assets(environment), *marts]
    checks = build_checks(environment)
    jobs, event_jobs = build_jobs(environment, marts), build_events_job(environment)
    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=[*jobs, *event_jobs],
        schedules=build_schedules(environment, jobs),
        sensors=[
            *build_changes_sensor(environment, jobs),
            *build_events_sensor(environment, event_jobs),
            *build_automation_sensor(environment, assets),
            *build_alerts_sensor(environment, [*assets, *checks], [*jobs, *event_jobs]),
        ],
        resources=environment.resources,
    )
