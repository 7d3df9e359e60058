"""What runs by itself: the sensor, the observation, the conditions of the assets, the schedule."""

import datetime

import dagster as dg
import pytest
import time_machine
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
)

from propel_assets import PropelAuthConfig, build_definitions
from propel_assets.catalog import AUTH_EVENT, TABLES
from propel_assets.definitions import defs
from propel_assets.defs.marts import build_marts
from propel_assets_tests.defs.default import API, DEFAULT

BY_DEFAULT = {DEFAULT.asset_key(table) for table in TABLES if table.default}
OF_WEBHOOKS = dg.AssetSelection.assets(DEFAULT.asset_key(AUTH_EVENT)).downstream().resolve(defs.resolve_asset_graph())
MARTS = {key for op in build_marts(DEFAULT) for key in op.keys} - OF_WEBHOOKS  # they are built after the tables


# --- the sensor ---


@pytest.fixture
def tick(settings, home, instance):
    """Let the sensor look once; it remembers its cursor from tick to tick, as the daemon does.

    The instance has files: one in memory does not store which schedules and sensors are on.
    """
    cursor, sensor = None, defs.resolve_sensor_def("propel_auth_changes")

    def look():
        nonlocal cursor
        context = dg.build_sensor_context(instance=instance, cursor=cursor, resources=DEFAULT.resources)
        seen = sensor.evaluate_tick(context)
        cursor = seen.cursor or cursor
        return seen

    return look


def test_the_sensor_asks_for_a_refresh_when_a_total_changed_and_only_then(tick, sandbox) -> None:
    (first,) = tick().run_requests
    quiet = tick()
    sandbox.store.add_user()
    (second,) = tick().run_requests
    assert (first.job_name, second.job_name) == ("propel_auth_refresh", "propel_auth_refresh")
    assert not quiet.run_requests
    assert "users=300" in quiet.skip_message
    assert first.run_key != second.run_key


def test_a_total_that_comes_back_to_an_old_value_is_a_change_too(tick, sandbox) -> None:
    keys = [tick().run_requests[0].run_key]
    user = sandbox.store.add_user()
    keys.append(tick().run_requests[0].run_key)
    sandbox.store.delete_user(user)
    keys.append(tick().run_requests[0].run_key)
    assert len(set(keys)) == 3


def test_a_login_asks_for_nothing_at_once(tick, sandbox) -> None:
    tick()
    sandbox.store.touch_user(next(iter(sandbox.store.users)))
    assert not tick().run_requests


def test_a_tick_is_five_requests(tick, sandbox) -> None:
    tick()
    assert len(sandbox.requests) == 5


def test_a_feature_that_is_off_does_not_stop_the_sensor(tick, sandbox) -> None:
    sandbox.faults.set("orgs_off")
    assert "orgs=off" in tick().run_requests[0].run_key


def test_a_failed_tick_says_what_to_do_and_forgets_nothing(tick, sandbox, monkeypatch) -> None:
    tick()
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        with pytest.raises(dg.Failure) as failed:
            tick()
    assert "PROPELAUTH_API_KEY is not a key of this environment" in (failed.value.description or "")
    assert not tick().run_requests


def turn_on(instance: dg.DagsterInstance, name: str, data: SensorInstigatorData | ScheduleInstigatorData) -> None:
    """Turn on a schedule or sensor, as the UI does."""
    location = GrpcServerCodeLocationOrigin(host="localhost", port=1, location_name="here")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), name)
    kind = InstigatorType.SENSOR if isinstance(data, SensorInstigatorData) else InstigatorType.SCHEDULE
    instance.add_instigator_state(InstigatorState(origin, kind, InstigatorStatus.RUNNING, data))


def test_the_sensor_leaves_all_work_to_the_automation_sensor_while_that_is_on(tick, instance, sandbox) -> None:
    turn_on(instance, "propel_auth_automation", SensorInstigatorData())
    assert "propel_auth_automation is on" in tick().skip_message
    assert len(sandbox.requests) == 0


def test_the_sensor_leaves_activity_to_the_hourly_schedule_while_that_is_on(
    tick, instance, sandbox, monkeypatch
) -> None:
    monkeypatch.setenv("PROPELAUTH_RECENT_MINUTES", "0")
    turn_on(instance, "propel_auth_recent_hourly", ScheduleInstigatorData("45 * * * *"))
    assert tick().run_requests[0].job_name == "propel_auth_refresh"
    sandbox.store.touch_user(next(iter(sandbox.store.users)))
    assert "Nothing has changed" in tick().skip_message
    sandbox.store.add_user()
    assert tick().run_requests[0].job_name == "propel_auth_refresh"


@pytest.mark.slow
def test_a_change_during_a_refresh_is_requested_when_it_has_ended(tick, instance, sandbox) -> None:
    tick()
    job = defs.resolve_job_def("propel_auth_refresh")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    sandbox.store.add_user()
    assert f"in progress: {run.run_id}, unchanged for 0 min." in tick().skip_message
    instance.report_run_canceled(run)
    assert tick().run_requests[0].job_name == "propel_auth_refresh"


def after(minutes: float):
    """Set the clock of this process, in a with statement."""
    return time_machine.travel(datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=minutes))


@pytest.mark.slow
def test_a_run_that_failed_is_requested_again_with_longer_waits_until_one_succeeds(tick, instance, sandbox) -> None:
    job = defs.resolve_job_def("propel_auth_refresh")
    tick()
    instance.report_run_failed(instance.create_run_for_job(job))
    assert "The last run of propel_auth_refresh failed" in tick().skip_message
    with after(11):
        (again,) = tick().run_requests
        assert again.job_name == "propel_auth_refresh"
        instance.report_run_canceled(instance.create_run_for_job(job))
    with after(25):
        assert "failed" in tick().skip_message
    with after(32):
        assert len(tick().run_requests) == 1
        instance.create_run_for_job(job, status=dg.DagsterRunStatus.SUCCESS)
    with after(300):
        assert "Nothing has changed" in tick().skip_message


@pytest.mark.slow
def test_a_run_that_is_lost_blocks_no_request_after_a_day_and_a_waiting_run_does(tick, instance, sandbox) -> None:
    job = defs.resolve_job_def("propel_auth_refresh")
    tick()
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    sandbox.store.add_user()
    assert "in progress" in tick().skip_message
    with after(60 * 24 + 1):
        assert len(tick().run_requests) == 1
        instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED)
        sandbox.store.add_user()
    with after(60 * 24 * 3):
        assert "in progress" in tick().skip_message


def test_recent_loads_wait_for_each_other(tick, instance, sandbox, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_RECENT_MINUTES", "0")
    tick()
    sandbox.store.touch_user(next(iter(sandbox.store.users)))
    recent = defs.resolve_job_def("propel_auth_refresh_recent")
    run = instance.create_run_for_job(recent, status=dg.DagsterRunStatus.NOT_STARTED)
    assert "A run of propel_auth_refresh_recent is in progress" in tick().skip_message
    instance.report_run_canceled(run)
    assert tick().run_requests[0].job_name == "propel_auth_refresh_recent"


def test_the_state_of_an_automation_sensor_that_was_removed_does_not_stop_the_sensor(
    settings, home, instance, sandbox
) -> None:
    turn_on(instance, "propel_auth_automation", SensorInstigatorData())
    turn_on(instance, "propel_auth_recent_hourly", ScheduleInstigatorData("45 * * * *"))
    without = build_definitions(PropelAuthConfig(automation=False, recent_cron=None, marts=False))
    context = dg.build_sensor_context(instance=instance, resources=DEFAULT.resources)
    assert len(without.resolve_sensor_def("propel_auth_changes").evaluate_tick(context).run_requests or ()) == 1


# --- the API as an observable asset ---


@pytest.fixture
def observe(settings, instance):
    """Observe PropelAuth as the UI's button does; return the observation."""

    def look() -> dg.AssetObservation:
        job = defs.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=instance, asset_selection=[API])
        (event,) = [event for event in result.all_events if event.event_type_value == "ASSET_OBSERVATION"]
        return event.asset_observation_data.asset_observation

    return look


def test_an_observation_is_five_requests_and_has_the_totals(observe, sandbox) -> None:
    seen = observe()
    store = sandbox.store
    assert len(sandbox.requests) == 5
    assert seen.metadata["total_users"].value == len(store.users)
    assert seen.metadata["total_orgs"].value == len(store.orgs)
    assert seen.metadata["total_invites"].value == len(store.invites)
    newest = max(user.wire["created_at"] for user in store.users.values())
    assert seen.metadata["newest_sign_up"].value == newest


def test_the_data_version_follows_the_totals_and_not_the_logins(observe, sandbox) -> None:
    versions = [observe().data_version]
    sandbox.store.touch_user(next(iter(sandbox.store.users)))
    versions.append(observe().data_version)
    sandbox.store.add_user()
    versions.append(observe().data_version)
    assert versions[0] == versions[1] != versions[2]


# --- automation conditions ---


@pytest.fixture
def evaluate(instance):
    """Evaluate the conditions of every asset as the daemon does every 30 seconds; return what is requested."""
    now, cursor = datetime.datetime(2026, 11, 24, 12, 1, tzinfo=datetime.UTC), None
    keys = defs.resolve_asset_graph().get_all_asset_keys()
    everything = dg.AssetSelection.assets(*keys)

    def requested(*, minutes: float = 0.5) -> set[dg.AssetKey]:
        nonlocal now, cursor
        now += datetime.timedelta(minutes=minutes)
        result = dg.evaluate_automation_conditions(
            defs, instance, asset_selection=everything, evaluation_time=now, cursor=cursor
        )
        cursor = result.cursor
        return {key for key in keys if result.get_num_requested(key)}

    assert requested() == set()  # the first evaluation only remembers
    return requested


def test_the_api_is_observed_every_quarter_of_an_hour(evaluate) -> None:
    assert evaluate() == set()
    assert evaluate(minutes=15) == {API}
    assert evaluate() == set()
    assert evaluate(minutes=15) == {API}


@pytest.mark.slow
def test_tables_are_loaded_when_the_totals_changed_and_only_then(evaluate, observe, sandbox) -> None:
    observe()
    assert evaluate() == BY_DEFAULT | MARTS
    assert evaluate() == set()
    observe()
    assert evaluate() == set()
    sandbox.store.add_user()
    observe()
    assert evaluate() == BY_DEFAULT | MARTS
    assert evaluate() == set()


def test_a_load_that_failed_is_not_repeated_for_ever(evaluate, observe, run, sandbox, monkeypatch) -> None:
    observe()
    assert evaluate() == BY_DEFAULT | MARTS
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        assert not run("org_query").success
    assert evaluate() == set()
    sandbox.store.add_org()
    observe()
    assert DEFAULT.asset_key(TABLES[0]) in evaluate()


def test_a_change_seen_during_a_load_is_loaded_after_it(evaluate, observe, sandbox, instance) -> None:
    observe()
    assert evaluate() == BY_DEFAULT | MARTS
    job = defs.resolve_job_def("propel_auth_refresh")
    key = next(key for key in BY_DEFAULT if key.path[-1] == "org_query")
    running = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, asset_selection=frozenset({key}))
    assert evaluate() == set()
    sandbox.store.add_org()
    observe()
    assert key not in evaluate()  # one load at a time
    instance.report_runless_asset_event(dg.AssetMaterialization(key))
    instance.report_run_canceled(running)
    assert key in evaluate()


# --- the schedule ---


def test_the_schedule_asks_for_a_refresh_every_night(instance) -> None:
    at = datetime.datetime(2026, 11, 24, 4, 15, tzinfo=datetime.UTC)
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=at)
    daily = defs.resolve_schedule_def("propel_auth_daily")
    assert len(daily.evaluate_tick(context).run_requests or ()) == 1
    assert daily.job_name == "propel_auth_refresh"
    assert daily.cron_schedule == "15 4 * * *"
    assert daily.execution_timezone == "Etc/UTC"
