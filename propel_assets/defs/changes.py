"""PropelAuth's API as an asset upstream of every table, observed in five requests, and the sensor that polls it."""

import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from propel_assets.defs.automation import AUTOMATION, RECENT_HOURLY
from propel_assets.defs.dagster_compat import is_run_of_location, names_turned_on
from propel_assets.defs.environment import Environment
from propel_assets.defs.failures import convert_errors
from propel_assets.settings import Settings, require_credentials
from propel_assets.source.changes import Changes, find_changes
from propel_assets.source.client import Client

SENSOR_SECONDS = 300
MAX_WAIT_SECONDS = 3600
MAX_RUN_SECONDS = 86_400
STARTED = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
ENDED = (dg.DagsterRunStatus.SUCCESS, *FAILED)


def _read_totals(settings: Settings) -> Changes:
    with convert_errors():
        return find_changes(Client(require_credentials(settings).tenant))


def build_api_asset(environment: Environment) -> dg.AssetsDefinition:
    """Return the observable asset that stands for PropelAuth's API."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # it may change in a minor release, and every command prints it
        observable = dg.multi_observable_source_asset(
            name=environment.named("observe_api"),
            specs=[environment.api_spec],
            required_resource_keys=environment.resource_keys,
        )

    @observable
    def observe_api(context: dg.AssetExecutionContext) -> Iterator[dg.ObserveResult]:
        changes = _read_totals(environment.settings(context.resources))
        yield dg.ObserveResult(
            asset_key=environment.api_spec.key,
            data_version=dg.DataVersion(changes.version),
            metadata={
                **{f"total_{name}": total for name, total in changes.totals.items()},
                **{f"newest_{name}": dg.MetadataValue.timestamp(float(at)) for name, at in changes.newest.items()},
            },
        )

    return observe_api


def build_changes_sensor(environment: Environment, jobs: Sequence[Any]) -> list[dg.SensorDefinition]:
    """Return the sensor that starts a job when PropelAuth's totals change; none where it is left out."""
    if not environment.config.changes_sensor:
        return []
    names = [job.name for job in jobs]
    config, automation, hourly = environment.config, environment.named(AUTOMATION), environment.named(RECENT_HOURLY)
    recent = f" Activity starts `{names[1]}`, once in PROPELAUTH_RECENT_MINUTES." if names[1:] else ""

    @dg.sensor(
        name=environment.named("changes"),
        jobs=jobs,
        required_resource_keys=environment.resource_keys,
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Counts users, orgs, invites and API keys every 5 minutes. A changed total starts `{names[0]}`."
        f"{recent} Use it where sign-ups, deletions and activity must arrive within minutes. It leaves the work to "
        f"`{automation}` and `{hourly}` while they are on.",
    )
    def changes(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        on = names_turned_on(context)  # Dagster keeps the state of a sensor that was removed
        if config.automation and automation in on:
            return dg.SkipReason(f"{automation} is on and loads changes.")
        has_hourly = config.recent_cron and hourly in on
        return _request(context, environment.settings(context.resources), names[:1] if has_hourly else names)

    return [changes]


def run_in_progress(context: dg.SensorEvaluationContext, *jobs: str) -> str:
    """Return a sentence about a run of ``jobs`` in this code location that has not ended; empty if there is none.

    A run that has started and was not updated for a day counts as ended: its process was killed.
    """
    running = [status for status in dg.DagsterRunStatus if status not in ENDED]
    for job in jobs:
        for record in context.instance.get_run_records(dg.RunsFilter(job_name=job, statuses=running)):
            if is_run_of_location(context, record.dagster_run) and not _is_lost(record):
                run_id, minutes = record.dagster_run.run_id, _age(record) / 60
                return f"A run of {job} is in progress: {run_id}, unchanged for {minutes:.0f} min."
    return ""


def _age(record: dg.RunRecord) -> float:
    """Return the seconds since the status of a run changed."""
    return time.time() - record.update_timestamp.timestamp()


def _is_lost(record: dg.RunRecord) -> bool:
    return record.dagster_run.status in STARTED and _age(record) > MAX_RUN_SECONDS


def _has_failed(context: dg.SensorEvaluationContext, cursor: Mapping[str, Any]) -> bool:
    """Return whether the newest run of the requested job since the request has failed, was canceled or is lost."""
    since = datetime.fromtimestamp(cursor["requested_at"], UTC)
    found = context.instance.get_run_records(dg.RunsFilter(job_name=cursor["job"], created_after=since))
    runs = [record for record in found if is_run_of_location(context, record.dagster_run)]
    return bool(runs) and (runs[0].dagster_run.status in FAILED or _is_lost(runs[0]))


def _request(
    context: dg.SensorEvaluationContext, settings: Settings, jobs: Sequence[str]
) -> dg.SensorResult | dg.SkipReason:
    """Request the first of ``jobs`` when a total changed, and the second when there was activity.

    A run that failed is requested again, after a wait that doubles with each failure.
    """
    now, changes = time.time(), _read_totals(settings)
    cursor = json.loads(context.cursor) if context.cursor else {}
    job, tries = jobs[0], 0
    if cursor.get("version") == changes.version:
        if cursor.get("job") in jobs and _has_failed(context, cursor):
            job, tries = cursor["job"], cursor["tries"] + 1
            wait = cursor["requested_at"] + min(SENSOR_SECONDS * 2**tries, MAX_WAIT_SECONDS) - now
            if wait > 0:
                return dg.SkipReason(f"The last run of {job} failed. It is requested again in {wait / 60:.0f} min.")
        elif not jobs[1:] or cursor["newest"] == changes.newest:
            return dg.SkipReason(f"Nothing has changed: {changes.version}.")
        elif (wait := cursor["requested_at"] + 60 * settings.recent_minutes - now) > 0:
            return dg.SkipReason(f"Users were active. The next run of {jobs[1]} may start in {wait / 60:.0f} min.")
        else:
            job = jobs[1]
    if running := run_in_progress(context, *jobs):
        return dg.SkipReason(f"{running} The change is handled when it has ended.")
    # The time makes the key unique: a total may return to an earlier value.
    request = dg.RunRequest(job_name=job, run_key=f"{changes.version} at {now:.3f}")
    state = {"version": changes.version, "newest": changes.newest, "requested_at": now, "job": job, "tries": tries}
    return dg.SensorResult(run_requests=[request], cursor=json.dumps(state))
