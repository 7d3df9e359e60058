"""The sensor that applies webhook events, and its job."""

import json
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import time_machine

from propel_assets.catalog import AUTH_EVENT, BY_NAME, USER_QUERY
from propel_assets.definitions import defs as our_definitions
from propel_assets.defs.build import build_definitions
from propel_assets.defs.config import PropelAuthConfig
from propel_assets.errors import ErasureIncomplete
from propel_assets.settings import load_settings
from propel_assets.warehouse.checks import checks_of
from propel_assets.webhooks import apply
from propel_assets.webhooks.store import StoredEvent, WebhookStore
from propel_assets_tests.defs.default import DEFAULT

JOB = "propel_auth_apply_events"
AUTH_EVENT_KEY, USERS_KEY = map(DEFAULT.asset_key, (AUTH_EVENT, USER_QUERY))


@pytest.fixture
def store(settings) -> Iterator[WebhookStore]:
    opened = WebhookStore(settings.webhook_store)
    yield opened
    opened.close()


@pytest.fixture
def tick(settings, instance) -> Callable[[], Any]:
    """Evaluate the sensor once, with the cursor of the last tick."""
    cursor, sensor = None, our_definitions.resolve_sensor_def("propel_auth_events")

    def evaluate() -> Any:
        nonlocal cursor
        context = dg.build_sensor_context(instance=instance, cursor=cursor, resources=DEFAULT.resources)
        data = sensor.evaluate_tick(context)
        cursor = data.cursor if data.cursor is not None else cursor
        return data

    return evaluate


def received(payload: dict[str, Any]) -> StoredEvent:
    now = datetime.now(UTC)
    return StoredEvent(f"msg_{uuid.uuid4().hex}", payload["event_type"], now, now, json.dumps(payload))


def test_without_a_store_the_sensor_says_how_to_start_the_receiver(tick, tmp_path) -> None:
    assert "propel-assets webhooks" in tick().skip_message
    assert not (tmp_path / "propel_auth_webhooks.db").exists()


def test_pending_events_start_a_run_and_a_run_that_applied_none_is_repeated_later(tick, store, instance) -> None:
    assert tick().skip_message == "No event is pending."
    store.add([received({"event_type": "user.login", "user_id": "u"})])
    (first,) = tick().run_requests
    assert not tick().run_requests
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=70)):
        (second,) = tick().run_requests
        assert first.run_key != second.run_key
        assert not tick().run_requests
    store.remove([event.svix_id for event in store.pending(10)])
    assert tick().skip_message == "No event is pending."
    store.add([received({"event_type": "user.login", "user_id": "u"})])
    assert len(tick().run_requests) == 1


def test_a_clock_that_was_ahead_delays_no_run(tick, store) -> None:
    store.add([received({"event_type": "user.login", "user_id": "u"})])
    with time_machine.travel(datetime.now(UTC) + timedelta(days=60)):
        assert len(tick().run_requests) == 1
    assert len(tick().run_requests) == 1


def test_due_erasures_start_a_run_each_day_also_without_events(tick, store, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_ERASE_DELETED", "true")
    runs = []
    for hours in (0, 1, 23, 25, 26, 51):
        with time_machine.travel(datetime.now(UTC) + timedelta(hours=hours)):
            runs.append(len(tick().run_requests or ()))
    assert runs == [1, 0, 0, 1, 0, 1]


def test_no_second_run_starts_while_one_is_in_progress(tick, store, instance) -> None:
    store.add([received({"event_type": "user.login", "user_id": "u"})])
    job = our_definitions.resolve_job_def(JOB)
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert f"A run of {JOB} is in progress: " in tick().skip_message


@pytest.mark.slow
def test_the_job_applies_events_and_logs_the_tables_that_they_changed(run, store, sandbox, query, run_sql) -> None:
    assert run("user_query", "org_membership", "org_query").success
    run_sql(
        "UPDATE propel_auth_data.propel_checks SET passed = false, summary = 'rows are missing' "
        "WHERE table_name = 'user_query' AND check_name = 'row_count'"
    )  # events do not correct it
    user_id = next(iter(sandbox.store.users))
    sandbox.store.delete_user(user_id)
    store.add([received({"event_type": "user.deleted", "user_id": user_id})])
    applied = run(job=JOB)
    assert applied.success
    rows = {
        event.asset_key.path[-1]: event.materialization.metadata["dagster/row_count"].value
        for event in applied.get_asset_materialization_events()
    }
    assert set(rows) == {"auth_event", "user_query", "org_membership"}
    assert rows["user_query"] == 299
    # The UI shows a check that is older than the last materialization as not evaluated.
    evaluated = applied.get_asset_check_evaluations()
    for name in rows:
        names = {check.check_name for check in evaluated if check.asset_key.path[-1] == name}
        assert names == set(checks_of(BY_NAME[name]))
    failed = [check for check in evaluated if not check.passed]
    assert [(check.asset_key.path[-1], check.check_name) for check in failed] == [("user_query", "row_count")]
    assert re.fullmatch(r"At \d{4}-\d\d-\d\d \d\d:\d\d UTC: rows are missing", failed[0].description)
    assert query(f"SELECT count(*) FROM user_query WHERE user_id = '{user_id}'") == [(0,)]
    assert store.status().pending == 0


@pytest.mark.parametrize(
    ("destination", "pool"),
    [
        ("postgres", "events"),
        ("reporting", "events"),
        *((name, "api") for name in ("duckdb", "ducklake", "motherduck", "snowflake", "redshift", "bigquery")),
        ("databricks", "api"),
        ("filesystem", "api"),
    ],
)
def test_events_run_beside_loads_only_where_a_lock_orders_their_writes(destination, pool, monkeypatch) -> None:
    monkeypatch.setenv("DESTINATION__REPORTING__DESTINATION_TYPE", "postgres")
    definitions = build_definitions(PropelAuthConfig(destination=destination, marts=False))
    loads = {key.path[-1]: definitions.resolve_assets_def(key).op for key in (AUTH_EVENT_KEY, USERS_KEY)}
    assert {name: op.pool for name, op in loads.items()} == {
        "auth_event": f"propel_auth_{pool}",
        "user_query": "propel_auth_api",
    }


def test_what_events_changed_is_recorded_also_if_the_run_then_fails(run, store, sandbox, monkeypatch, run_sql) -> None:
    assert run("user_query", "org_membership").success
    days_ago = "finished_at - INTERVAL 9 DAY"
    run_sql(f"UPDATE propel_auth_data.propel_scans SET finished_at = {days_ago}, started_at = {days_ago}")
    store.add([received({"event_type": "user.updated", "user_id": next(iter(sandbox.store.users))})])

    def fail(*_, **__):
        raise ErasureIncomplete("An automatic erasure failed.")

    monkeypatch.setattr(apply, "run_due_erasures", fail)
    monkeypatch.setenv("PROPELAUTH_ERASE_DELETED", "true")
    applied = run(job=JOB)
    assert not applied.success
    assert "user_query" in {event.asset_key.path[-1] for event in applied.get_asset_materialization_events()}
    [stale] = [
        c for c in applied.get_asset_check_evaluations() if (c.asset_key, c.check_name) == (USERS_KEY, "up_to_date")
    ]
    assert not stale.passed
    assert "reason" in stale.metadata  # alerts group by it
    assert store.status().pending == 0


def test_a_run_that_fails_keeps_the_events(run, store, sandbox, monkeypatch) -> None:
    assert run("user_query", "org_membership").success
    store.add([received({"event_type": "user.login", "user_id": next(iter(sandbox.store.users))})])
    monkeypatch.setenv("PROPELAUTH_API_KEY", "not-the-key")
    assert load_settings().api_key == "not-the-key"
    assert not run(job=JOB).success
    assert store.status().pending == 1
