"""All uses of Dagster that Dagster does not mark as public. Other modules import them from here.

Each function says why the public API is not enough; `propel_assets_tests/defs/test_dagster_compat.py` fails when an
upgrade of Dagster changes one of them.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterAssetCheckFailedError  # not exported, although it ends steps of users


def events_of_run(
    instance: dg.DagsterInstance, run_id: str, kinds: set[dg.DagsterEventType]
) -> Iterator[dg.DagsterEvent]:
    """Yield the events of a run. The public API has materializations, observations and changes of the run's status."""
    for entry in instance.all_logs(run_id, of_type=kinds):
        if entry.dagster_event is not None:
            yield entry.dagster_event


def is_blocking_check(error: Any) -> bool:
    """Return whether ``error``, as Dagster stores it, is that of a failed blocking check. It is stored as text."""
    return error is not None and error.cls_name == DagsterAssetCheckFailedError.__name__


def is_run_of_location(context: dg.SensorEvaluationContext, run: dg.DagsterRun) -> bool:
    """Return whether a run is one of the code location of the sensor. Where that is not known, it is.

    Jobs of two code locations can have one name, and `DagsterRun` has no public field for the code location.
    """
    origin = run.remote_job_origin
    return origin is None or _is_of_location(context, origin.repository_origin)


def names_turned_on(context: dg.SensorEvaluationContext) -> set[str]:
    """Return the names of the schedules and sensors of this code location that are on. No public call lists them."""
    return {
        state.instigator_name
        for state in context.instance.all_instigator_state()
        if state.is_running and _is_of_location(context, state.origin.repository_origin)
    }


def resolve_job(definitions: dg.Definitions, name: str) -> dg.JobDefinition:
    """Return a job of assets. `Definitions.get_job_def` warns that it will not resolve such jobs in a later release."""
    return definitions.resolve_job_def(name)


def assets_of(job: dg.JobDefinition) -> set[dg.AssetKey]:
    """Return the assets that ``job`` materializes. `JobDefinition` has no public list of them."""
    return set(job.asset_layer.selected_asset_keys)


def _is_of_location(context: dg.SensorEvaluationContext, repository_origin: Any) -> bool:
    location = context.code_location_origin
    return location is None or repository_origin.code_location_origin.location_name == location.location_name
