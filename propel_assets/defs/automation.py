"""Jobs, schedules and the sensors that report. All are off until somebody turns them on."""

from collections.abc import Sequence

import dagster as dg

from propel_assets.defs.assets import asset_key
from propel_assets.source.tables import TABLES

RECENT_SCANS = ("users", "chart_metrics")

refresh = dg.define_asset_job(
    "refresh",
    # By the catalogue, so that a new table needs no edit here; the tables that cost a request per user are left out.
    selection=dg.AssetSelection.assets(*(asset_key(table) for table in TABLES if table.default)).downstream(),
    description="Read everything PropelAuth has, replace the tables, examine them, build the marts.",
)

refresh_recent = dg.define_asset_job(
    "refresh_recent",
    selection=dg.AssetSelection.assets(*(asset_key(table) for table in TABLES if table.scan in RECENT_SCANS)),
    description="Read who signed up or was active since the last load, and the newest chart metrics, and merge them. "
    "A few requests instead of one per hundred users; only `refresh` sees deletions and other edits.",
    config={"ops": {"load_users": {"config": {"recent": True}}}},
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


@dg.run_failure_sensor(
    name="report_run_failure",
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Says which run failed, why, and what to do.",
)
def report_run_failure(context: dg.RunFailureSensorContext) -> None:
    """Log one line per failed step."""
    run = context.dagster_run
    for event in context.get_step_failure_events():
        data = event.step_failure_data
        said = data.user_failure_data.description if data.user_failure_data else None
        why = said or (data.error.message.strip() if data.error else context.failure_event.message)
        context.log.error(f"{run.job_name}, step {event.step_key}, failed: {why} Run: {run.run_id}.")
    _report_failed_checks(context, context.instance, run)


@dg.run_status_sensor(
    name="report_failed_checks",
    run_status=dg.DagsterRunStatus.SUCCESS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="A failed check does not fail its run: says which promise did not hold.",
)
def report_failed_checks(context: dg.RunStatusSensorContext) -> None:
    """Log one line per failed check."""
    _report_failed_checks(context, context.instance, context.dagster_run)


def _report_failed_checks(context: dg.RunStatusSensorContext, instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    for line in failed_checks(instance, run):
        context.log.warning(line)


def failed_checks(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Sequence[str]:
    """Return a sentence for each check that did not hold in ``run``."""
    records = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    lines = []
    for record in records:
        event = record.event_log_entry.dagster_event
        found = event.asset_check_evaluation_data if event else None
        if found and not found.passed:
            where = f"{found.asset_key.to_user_string()}: {found.check_name} ({found.severity.value})"
            lines.append(f"{where}: {found.description} Run: {run.run_id}.")
    return lines
