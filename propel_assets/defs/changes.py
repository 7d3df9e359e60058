"""PropelAuth's API as an asset upstream of every table, observed in five requests, and the sensor that polls it."""

import json
import time
import warnings
from collections.abc import Iterator, Sequence
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
ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


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
    automation, hourly = environment.named(AUTOMATION), environment.named(RECENT_HOURLY)
    recent = f" Activity starts `{names[1]}`, once in PROPELAUTH_RECENT_MINUTES." if names[1:] else ""

    @dg.sensor(
        name=environment.named("changes"),
        jobs=jobs,
        required_resource_keys=environment.resource_keys,
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Counts users, orgs, invites and API keys every 5 minutes. A changed total starts `{names[0]}`."
        f"{recent} Use it where changes must arrive within minutes. It leaves the work to `{automation}` and "
        f"`{hourly}` while they are on.",
    )
    def changes(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        on = names_turned_on(context)
        if automation in on:
            return dg.SkipReason(f"{automation} is on and loads changes.")
        return _request(context, environment.settings(context.resources), names[:1] if hourly in on else names)

    return [changes]


def is_in_progress(context: dg.SensorEvaluationContext, job: str) -> bool:
    """Return whether a run of ``job`` in this code location has not ended."""
    running = [status for status in dg.DagsterRunStatus if status not in ENDED]
    records = context.instance.get_run_records(dg.RunsFilter(job_name=job, statuses=running))
    return any(is_run_of_location(context, record.dagster_run) for record in records)


def _request(
    context: dg.SensorEvaluationContext, settings: Settings, jobs: Sequence[str]
) -> dg.SensorResult | dg.SkipReason:
    """Request the first of ``jobs`` when a total changed, and the second when there was activity."""
    now, changes = time.time(), _read_totals(settings)
    cursor = json.loads(context.cursor) if context.cursor else {}
    if cursor.get("version") != changes.version:
        job = jobs[0]
        if is_in_progress(context, job):
            return dg.SkipReason(f"A run of {job} is in progress. The change is handled when it has ended.")
    elif not jobs[1:] or cursor["newest"] == changes.newest:
        return dg.SkipReason(f"Nothing has changed: {changes.version}.")
    elif (wait := cursor["requested_at"] + 60 * settings.recent_minutes - now) > 0:
        return dg.SkipReason(f"Users were active. The next run of {jobs[1]} may start in {wait / 60:.0f} min.")
    else:
        job = jobs[1]
    # The time makes the key unique: a total may return to an earlier value.
    request = dg.RunRequest(job_name=job, run_key=f"{changes.version} at {now:.3f}")
    state = {"version": changes.version, "newest": changes.newest, "requested_at": now}
    return dg.SensorResult(run_requests=[request], cursor=json.dumps(state))
