"""`propel_auth_refresh_recent` through Dagster, and the sensor that asks for it."""

import json

import dagster as dg
import pytest

from propel_assets.definitions import defs


@pytest.mark.slow
def test_refresh_recent_merges_what_changed(settings, sandbox, query, instance) -> None:
    jobs = [defs.resolve_job_def("propel_auth_refresh_recent") for _ in range(2)]
    assert jobs[0].execute_in_process(instance=instance).success
    newcomer = sandbox.store.add_user()
    result = jobs[1].execute_in_process(instance=instance)
    assert result.success
    assert all(check.passed for check in result.get_asset_check_evaluations())
    metadata = {
        e.materialization.asset_key.path[-1]: e.materialization.metadata
        for e in result.get_asset_materialization_events()
    }
    assert set(metadata) == {"user_query", "org_membership", "chart_metrics"}
    assert metadata["user_query"]["mode"].value == "recent"
    assert metadata["user_query"]["dagster/row_count"].value == len(sandbox.store.users)
    assert query(f"SELECT count(*) FROM user_query WHERE user_id = '{newcomer}'") == [(1,)]


@pytest.mark.usefixtures("home")
def test_activity_asks_for_what_changed_and_a_total_for_everything(settings, sandbox, instance, monkeypatch) -> None:
    resources = dict(defs.resources or {})
    sensor = defs.resolve_sensor_def("propel_auth_changes")
    cursor: str | None = None

    def tick() -> str:
        nonlocal cursor
        context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs, resources=resources)
        data = sensor.evaluate_tick(context)
        cursor = data.cursor or cursor
        return str(data.run_requests[0].job_name if data.run_requests else data.skip_message)

    assert tick() == "propel_auth_refresh"
    assert "Nothing has changed" in tick()
    user_id = next(iter(sandbox.store.users))
    sandbox.store.touch_user(user_id)
    assert "propel_auth_refresh_recent may start in 60 min" in tick()
    monkeypatch.setenv("PROPELAUTH_RECENT_MINUTES", "0")
    assert tick() == "propel_auth_refresh_recent"
    assert "Nothing has changed" in tick()
    sandbox.store.add_user()
    assert tick() == "propel_auth_refresh"
    assert json.loads(cursor or "")["newest"]["sign_up"] > 0
