"""The contract with Dagster: what `dagster_compat` uses that is not public. An upgrade that changes it fails here."""

import ast
from pathlib import Path

import dagster as dg
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

import propel_assets
from propel_assets.definitions import defs
from propel_assets.defs import dagster_compat

PACKAGE = Path(propel_assets.__file__).parent
NOT_PUBLIC = {
    "all_instigator_state",
    "all_logs",
    "asset_graph",
    "asset_layer",
    "code_location_origin",
    "get_records_for_run",
    "get_repository_def",
    "get_runs",
    "remote_job_origin",
    "resolve_job_def",
}


def test_only_dagster_compat_uses_what_is_not_public() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in NOT_PUBLIC)
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dagster._"))
    }
    assert found == {"defs/dagster_compat.py"}


def test_the_events_of_a_run_have_the_failures_of_steps_and_of_blocking_checks(instance) -> None:
    @dg.asset(check_specs=[dg.AssetCheckSpec("failing", asset="checked", blocking=True)])
    def checked() -> dg.MaterializeResult:
        return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=False)])

    @dg.asset
    def broken() -> None:
        raise ValueError

    result = dg.materialize([checked, broken], instance=instance, raise_on_error=False)
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.ASSET_CHECK_EVALUATION}
    events = list(dagster_compat.events_of_run(instance, result.run_id, kinds))
    assert {event.event_type for event in events} == kinds
    errors = {event.step_key: event.step_failure_data.error for event in events if event.is_step_failure}
    assert {step: dagster_compat.is_blocking_check(error) for step, error in errors.items()} == {
        "checked": True,
        "broken": False,
    }
    assert not dagster_compat.is_blocking_check(None)


def test_the_assets_of_a_job_are_those_that_it_materializes() -> None:
    job = dagster_compat.resolve_job(defs, "propel_auth_refresh_recent")
    assert {key.path[-1] for key in dagster_compat.assets_of(job)} == {"user_query", "org_membership", "chart_metrics"}


def test_a_run_is_one_of_a_code_location_unless_its_origin_has_another(instance, monkeypatch) -> None:
    job = dagster_compat.resolve_job(defs, "propel_auth_refresh")
    run = instance.create_run_for_job(job)
    context = dg.build_sensor_context(instance=instance)
    assert run.remote_job_origin is None
    assert dagster_compat.is_run_of_location(context, run)
    ours, other = (
        RemoteRepositoryOrigin(_location(name), "__repository__").get_job_origin(job.name) for name in ("ours", "other")
    )
    assert dagster_compat.is_run_of_location(context, run._replace(remote_job_origin=other))
    monkeypatch.setattr(type(context), "code_location_origin", _location("ours"))
    assert dagster_compat.is_run_of_location(context, run._replace(remote_job_origin=ours))
    assert not dagster_compat.is_run_of_location(context, run._replace(remote_job_origin=other))


def _location(name: str) -> InProcessCodeLocationOrigin:
    return InProcessCodeLocationOrigin(
        LoadableTargetOrigin(module_name="propel_assets.definitions"), location_name=name
    )
