"""PropelAuth itself as an asset, upstream of every table: observed in five requests, and watched by a sensor."""

import json
import time

import dagster as dg

from propel_assets.defs.assets import api_asset
from propel_assets.defs.automation import refresh, refresh_recent
from propel_assets.defs.failures import convert_errors
from propel_assets.defs.resources import PropelAuthApiKey, Warehouse, settings_of
from propel_assets.settings import Settings, require_credentials
from propel_assets.source.changes import Changes, find_changes
from propel_assets.source.client import Client

OBSERVED_EVERY = "*/15 * * * *"
SENSOR_SECONDS = 300


def _look(settings: Settings) -> Changes:
    with convert_errors():
        return find_changes(Client(require_credentials(settings).tenant))


@dg.observable_source_asset(
    key=api_asset(),
    description="PropelAuth's backend API. Observing it counts users, orgs, invites and API keys in five requests; "
    "its version changes when one of these totals does.\n\n[PropelAuth's reference](https://docs.propelauth.com/reference)",
    group_name="propel_auth_api",
    automation_condition=dg.AutomationCondition.on_cron(OBSERVED_EVERY),
    tags={"dagster/kind/propelauth": "", "dagster/kind/api": ""},
)
def propel_auth_api(propel_auth: PropelAuthApiKey, warehouse: Warehouse) -> dg.ObserveResult:
    """Count what can be counted."""
    changes = _look(settings_of(warehouse, propel_auth))
    return dg.ObserveResult(
        data_version=dg.DataVersion(changes.version),
        metadata={
            **{f"total_{name}": total for name, total in changes.totals.items()},
            **{f"newest_{name}": dg.MetadataValue.timestamp(float(at)) for name, at in changes.newest.items()},
        },
    )


@dg.sensor(
    name="propel_auth_changes",
    jobs=[refresh, refresh_recent],
    minimum_interval_seconds=SENSOR_SECONDS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Counts users, orgs, invites and API keys every five minutes. A total that changed asks for `refresh`; "
    "somebody active, for `refresh_recent`, once in PROPELAUTH_RECENT_MINUTES. For those who prefer a sensor to the "
    "automation conditions of the assets.",
)
def propel_auth_changes(  # noqa: D103
    context: dg.SensorEvaluationContext, propel_auth: PropelAuthApiKey, warehouse: Warehouse
) -> dg.SensorResult | dg.SkipReason:
    settings, now = settings_of(warehouse, propel_auth), time.time()
    changes = _look(settings)
    known = json.loads(context.cursor) if context.cursor else {}
    if known.get("version") != changes.version:
        job = refresh
    elif known["newest"] == changes.newest:
        return dg.SkipReason(f"Nothing has changed: {changes.version}.")
    elif (wait := known["asked_at"] + 60 * settings.recent_minutes - now) > 0:
        return dg.SkipReason(f"Somebody was active. The next refresh_recent may start in {wait / 60:.0f} min.")
    else:
        job = refresh_recent
    # The time makes the key unique: a total may come back to a value it had before.
    request = dg.RunRequest(job_name=job.name, run_key=f"{changes.version} at {now:.3f}")
    cursor = {"version": changes.version, "newest": changes.newest, "asked_at": now}
    return dg.SensorResult(run_requests=[request], cursor=json.dumps(cursor))
