"""The job that applies webhook events, and the sensor that starts it. Off until it is turned on."""

import json
import time
from typing import Any

import dagster as dg

from propel_assets.catalog import AUTH_EVENT
from propel_assets.defs.changes import run_in_progress
from propel_assets.defs.environment import Environment
from propel_assets.defs.failures import convert_errors
from propel_assets.webhooks.apply import open_store

APPLY_EVENTS = "apply_events"
SENSOR_SECONDS = 30
MAX_WAIT_SECONDS = 600
ERASE_SECONDS = 86_400


def build_events_job(environment: Environment) -> list[Any]:
    """Return the job that loads and applies webhook events; none where the table of events is left out."""
    if AUTH_EVENT not in environment.tables:
        return []
    return [
        dg.define_asset_job(
            environment.named(APPLY_EVENTS),
            selection=dg.AssetSelection.assets(environment.asset_key(AUTH_EVENT)),
            description=f"Loads the received webhooks into `{AUTH_EVENT.name}`, and reads the users and orgs that "
            "they name from PropelAuth.",
        )
    ]


def build_events_sensor(environment: Environment, jobs: list[Any]) -> list[dg.SensorDefinition]:
    """Return the sensor that starts the job while events are pending; none where it is left out."""
    if not (jobs and environment.config.events_sensor):
        return []
    (job,) = jobs

    @dg.sensor(
        name=environment.named("events"),
        job=job,
        required_resource_keys=environment.resource_keys,
        minimum_interval_seconds=SENSOR_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Starts `{job.name}` every {SENSOR_SECONDS} seconds while webhooks are pending. Use it with "
        f"`propel-assets webhooks`. After a run that applied nothing, it waits up to {MAX_WAIT_SECONDS // 60} minutes. "
        "With PROPELAUTH_ERASE_DELETED, it also starts the job once a day to run the erasures that are due.",
    )
    def events(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        with convert_errors():
            settings = environment.settings(context.resources)
            with open_store(settings.webhook_store) as store:
                if store is None:
                    return dg.SkipReason("No webhook has been received. Start the receiver: propel-assets webhooks.")
                received_at = store.status().oldest_received_at
        cursor = json.loads(context.cursor) if context.cursor else {}
        now, oldest = time.time(), received_at.isoformat() if received_at else ""
        requested_at = cursor.get("requested_at", 0)
        is_erasure_due = settings.erase_deleted and abs(now - requested_at) > ERASE_SECONDS
        if not (oldest or is_erasure_due):
            cursor = json.dumps({"requested_at": requested_at})
            return dg.SensorResult(skip_reason="No event is pending.", cursor=cursor)
        if running := run_in_progress(context, job.name):
            return dg.SkipReason(running)
        attempts = cursor["tries"] if cursor.get("oldest") == oldest else 0
        wait = min(SENSOR_SECONDS * 2**attempts, MAX_WAIT_SECONDS) if attempts else 0
        left = requested_at + wait - now
        if attempts and 0 < left <= wait:  # if it is longer, the clock was ahead
            return dg.SkipReason(f"The last run applied no event. The next one starts in {left:.0f} s.")
        request = dg.RunRequest(run_key=f"{oldest} at {now:.3f}")
        state = {"oldest": oldest, "requested_at": now, "tries": attempts + 1}
        return dg.SensorResult(run_requests=[request], cursor=json.dumps(state))

    return [events]
