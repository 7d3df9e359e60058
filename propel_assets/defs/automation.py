"""Jobs, schedules and the sensor of the automation conditions. Schedules and sensors are off until they are turned on.

They can all be on without doing the same work twice: the sensor for changes leaves the work to those that are on, see
`changes.py`.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from propel_assets.catalog import options_of
from propel_assets.defs.assets import load_op_name
from propel_assets.defs.environment import Environment

REFRESH, REFRESH_RECENT = "refresh", "refresh_recent"
DAILY, RECENT_HOURLY, AUTOMATION = "daily", "recent_hourly", "automation"


def build_jobs(environment: Environment, marts: Sequence[dg.AssetsDefinition]) -> list[Any]:
    """Return the job that loads all default tables and, if a table has them, the job that loads recent changes."""
    default = [environment.asset_key(table) for table in environment.tables if table.default]
    recent = [table for table in environment.tables if table.recent]
    scans = dict.fromkeys(table.scan for table in recent if "recent" in options_of(table.scan))
    refresh = dg.define_asset_job(
        environment.named(REFRESH),
        selection=dg.AssetSelection.assets(*default, *(key for op in marts for key in op.keys)),
        description="Reads every table that is loaded by default, replaces it, checks it, and builds the marts.",
    )
    if not recent:
        return [refresh]
    refresh_recent = dg.define_asset_job(
        environment.named(REFRESH_RECENT),
        selection=dg.AssetSelection.assets(*map(environment.asset_key, recent)),
        description="Reads users who signed up or were active since the last load, and the newest chart metrics, and "
        f"merges them, in a few requests. Only `{refresh.name}` detects deletions and other edits.",
        config={"ops": {load_op_name(environment, scan): {"config": {"recent": True}} for scan in scans}},
    )
    return [refresh, refresh_recent]


def build_schedules(environment: Environment, jobs: Sequence[Any]) -> list[dg.ScheduleDefinition]:
    """Return the schedules whose cron is set."""
    config = environment.config
    daily = "Loads the default tables and builds the marts. Most projects need only this one and the sensor for alerts."
    recent = f"Loads recent changes, between two runs of `{environment.named(DAILY)}`."
    planned = [(DAILY, jobs[0], config.daily_cron, daily)]
    planned += [(RECENT_HOURLY, job, config.recent_cron, recent) for job in jobs[1:]]
    return [
        dg.ScheduleDefinition(
            name=environment.named(name),
            job=job,
            cron_schedule=cron,
            execution_timezone=config.timezone,
            default_status=dg.DefaultScheduleStatus.STOPPED,
            description=description,
        )
        for name, job, cron, description in planned
        if cron
    ]


def build_automation_sensor(
    environment: Environment, assets: Sequence[dg.AssetsDefinition]
) -> list[dg.AutomationConditionSensorDefinition]:
    """Return the sensor that evaluates our automation conditions; none where they are left out.

    Without it, the default sensor of a project would evaluate them as soon as it is turned on.
    """
    if not environment.config.automation:
        return []
    keys = [key for definition in assets for key in definition.keys]
    return [
        dg.AutomationConditionSensorDefinition(
            environment.named(AUTOMATION),
            target=dg.AssetSelection.assets(*keys),
            default_status=dg.DefaultSensorStatus.STOPPED,
            description="Observes PropelAuth's totals every 15 minutes, loads the tables when they changed, and builds "
            "the marts. Use it where your assets have automation conditions that follow these assets.",
        )
    ]
