"""Jobs and schedules. The schedules are off until somebody turns them on."""

import dagster as dg

from propel_assets.catalog import SCANS, TABLES, options_of
from propel_assets.defs.assets import asset_key

refresh = dg.define_asset_job(
    "refresh",
    # By the catalogue, so that a new table needs no edit here; the tables that cost a request per user are left out.
    selection=dg.AssetSelection.assets(*(asset_key(table) for table in TABLES if table.default)).downstream(),
    description="Read everything PropelAuth has, replace the tables, examine them, build the marts.",
)

refresh_recent = dg.define_asset_job(
    "refresh_recent",
    selection=dg.AssetSelection.assets(*(asset_key(table) for table in TABLES if table.recent)),
    description="Read who signed up or was active since the last load, and the newest chart metrics, and merge them. "
    "A few requests instead of one per hundred users; only `refresh` sees deletions and other edits.",
    config={"ops": {f"load_{scan}": {"config": {"recent": True}} for scan in SCANS if "recent" in options_of(scan)}},
)

refresh_daily = dg.ScheduleDefinition(
    name="refresh_daily",
    job=refresh,
    cron_schedule="15 4 * * *",  # off the hour: everybody else's start at :00
    execution_timezone="Etc/UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,  # a laptop must not call a live API by itself
    description="Everything, every night.",
)


refresh_recent_hourly = dg.ScheduleDefinition(
    name="refresh_recent_hourly",
    job=refresh_recent,
    cron_schedule="45 * * * *",
    execution_timezone="Etc/UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Who signed up or was active, every hour.",
)
