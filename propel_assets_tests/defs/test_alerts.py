"""Alerts, sent to a web server and a mail server on this machine: each once, in full, and never lost."""

import datetime
import socket
import time

import dagster as dg
import pytest
from dagster._core.events import (
    AssetMaterializationPlannedData,
    DagsterEvent,
    JobFailureData,
    RunFailureReason,
    StepMaterializationData,
)
from dagster._core.execution.plan.objects import StepFailureData
from dagster._core.executor.child_process_executor import ChildProcessCrashException
from dagster._grpc.client import DEFAULT_SENSOR_GRPC_TIMEOUT
from dagster_shared.error import SerializableErrorInfo

from propel_assets import PropelAuthConfig, build_definitions, errors
from propel_assets.definitions import defs
from propel_assets.defs import alerts as alerts_module
from propel_assets.defs import assets
from propel_assets.defs.alerts import ENDS, READING_SECONDS, STORE_SECONDS
from propel_assets.errors import PropelError
from propel_assets.reporting import alerts as reporting_alerts
from propel_assets.reporting import delivery
from propel_assets.reporting.alerts import AlertState, Cause
from propel_assets.settings import load_settings
from propel_assets.webhooks.postgres import CONNECT_SECONDS
from propel_assets.webhooks.store import StoredEvent, WebhookStore
from propel_assets_tests.reporting.servers import SECRET, dripping, running_mail_server, running_webhook

ALERTS = defs.resolve_sensor_def("propel_auth_alerts")


@pytest.fixture
def webhook(monkeypatch):
    with running_webhook() as server:
        monkeypatch.setenv("PROPELAUTH_ALERT_WEBHOOK", server.url)
        yield server


@pytest.fixture
def tick(instance, webhook, capsys):
    """Let the sensor look once, as the daemon does every minute; return what it logged."""
    cursor = None

    def look() -> str:
        nonlocal cursor
        context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs, sensor_name=ALERTS.name)
        capsys.readouterr()
        cursor = ALERTS.evaluate_tick(context).cursor
        return capsys.readouterr().err

    look()  # the first tick only marks what has ended before it
    return look


# --- causes and members ---


SEVERAL = ("org_query", "user_query", "custom_role_mappings", "end_user_api_keys", "pending_org_invites")


@pytest.mark.slow
def test_one_revoked_key_is_one_alert_that_lists_every_step_and_one_recovery(tick, run, webhook, monkeypatch) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        first = run("jwks", *SEVERAL)
        logged = tick()
        run("org_query", "user_report")  # one more step: the same cause, which is known
        tick()
        (text,) = webhook.texts
    steps = sorted(event.step_key for event in first.get_step_failure_events())
    title, line = text.splitlines()
    assert title == "*PropelAuth: Run failed: PropelAuth refused the API key*"
    assert line.startswith(f"- Run failed: PropelAuth refused the API key: {len(steps)} affected: ")
    assert [step for step in steps if step not in line] == []
    assert "returned 401" in line
    assert "Backend Integration" in line
    assert "Open the run in Dagster" in line
    assert first.run_id in line
    assert "ERROR" in logged
    assert "not-the-key" not in logged + text
    run("org_query")
    tick()
    assert len(webhook.texts) == 1
    run(*SEVERAL, "user_report")
    tick()
    assert len(webhook.texts) == 2
    assert "- Recovered: Run failed: PropelAuth refused the API key: " in webhook.texts[-1]
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        run("org_query")
    tick()
    assert len(webhook.texts) == 3


def test_two_causes_are_two_lines_of_one_message(tick, run, webhook, sandbox) -> None:
    sandbox.faults.set("wrong_json", {}, path="/api/backend/v1/custom_role_mappings")
    sandbox.faults.set("unknown_field", ["orgs"])
    run("custom_role_mappings", "org_query")
    tick()
    (text,) = webhook.texts
    _, *lines = sorted(text.splitlines())
    assert [line[:30] for line in lines] == ["- Run failed: PropelAuth refus", "- Schema changed: schema (WARN)"[:30]]


def test_a_cause_that_changes_is_reported_and_its_former_cause_does_not_recover(
    tick, run, webhook, sandbox, monkeypatch
) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        run("org_query")
        tick()
    sandbox.faults.set("redirect")
    run("org_query")
    tick()
    assert "Run failed: PropelAuth refused a request: propel_auth_load_orgs" in webhook.texts[-1]
    assert not any("Recovered" in text for text in webhook.texts)


def test_a_run_that_ended_before_its_first_step_is_reported(tick, instance, webhook) -> None:
    job = defs.resolve_job_def("propel_auth_refresh")
    row = "Key (email)=(Alice Q. Smith) already exists."
    failure = JobFailureData(SerializableErrorInfo(row, [], "IntegrityError"), RunFailureReason.UNEXPECTED_TERMINATION)
    instance.report_run_failed(instance.create_run_for_job(job), f"The run worker failed: {row}", failure)
    tick()
    (text,) = webhook.texts
    assert "Run failed: outside of its steps: propel_auth_refresh: Dagster reports: " in text
    assert "reports: unexpected termination, IntegrityError." in text
    assert "Alice" not in text


def test_a_run_of_another_job_that_ended_before_its_first_step_is_reported(tick, instance, webhook) -> None:
    mine = dg.define_asset_job("mine", selection=dg.AssetSelection.assets(["propel_auth", "org_query"]))
    job = dg.Definitions.merge(defs, dg.Definitions(jobs=[mine])).resolve_job_def("mine")
    run, key = instance.create_run_for_job(job), dg.AssetKey(["propel_auth", "org_query"])
    planned = AssetMaterializationPlannedData(key)  # Dagster's daemon and the UI log it when they create a run
    event = DagsterEvent.build_asset_materialization_planned_event("mine", "propel_auth_load_orgs", planned)
    instance.report_dagster_event(event, run.run_id)
    instance.report_run_failed(run)
    tick()
    (text,) = webhook.texts
    assert "Run failed: it did not start: mine: Dagster could not start its process. " in text


def start(instance, job: dg.JobDefinition) -> dg.DagsterRun:
    """Create a run and start it, as its process does."""
    run = instance.create_run_for_job(job)
    for event in ("PIPELINE_STARTING", "PIPELINE_START"):
        instance.report_dagster_event(DagsterEvent(event, job.name), run.run_id)
    return run


def test_a_run_whose_process_was_killed_is_reported_as_such(tick, instance, webhook) -> None:
    run = start(instance, defs.resolve_job_def("propel_auth_refresh"))
    instance.report_engine_event("Run execution process was terminated by signal 9 (SIGKILL). Alice", run)
    instance.report_run_failed(run)  # as Dagster's code server does
    tick()
    (text,) = webhook.texts
    assert "Run failed: its process ended: propel_auth_refresh: It reported no error. Likely causes: " in text
    assert "out of memory" in text
    assert "what the error names" not in text
    assert "Alice" not in text


def test_a_run_that_dagster_stopped_is_reported_as_such(tick, instance, webhook) -> None:
    run = start(instance, defs.resolve_job_def("propel_auth_refresh"))
    instance.report_run_canceling(run, message="Canceling due to exceeding maximum runtime of 60 seconds.")
    instance.report_run_failed(run, "Exceeded maximum runtime of 60 seconds.")
    tick()
    (text,) = webhook.texts
    assert "Run failed: Dagster stopped it: propel_auth_refresh: Likely cause: it took longer than" in text


def test_a_job_recovers_only_when_a_run_of_it_succeeds(tick, instance, webhook, kill_step) -> None:
    job = defs.resolve_job_def("propel_auth_refresh")
    instance.report_run_failed(start(instance, job))
    tick()
    kill_step(None)  # a run that fails in a step
    tick()
    assert "propel_auth_load_orgs" in webhook.texts[-1]
    assert not any("Recovered" in text for text in webhook.texts)
    instance.report_dagster_event(DagsterEvent("PIPELINE_SUCCESS", job.name), start(instance, job).run_id)
    tick()
    assert "Recovered: Run failed: its process ended: job propel_auth_refresh" in webhook.texts[-1]


@pytest.fixture
def kill_step(instance):
    """Let a run fail as Dagster records it when the process or pod of a step is gone."""

    def kill(class_name: str | None) -> None:
        job = defs.resolve_job_def("propel_auth_refresh")
        run = instance.create_run_for_job(job)
        error = SerializableErrorInfo("Step propel_auth_load_orgs failed health check: Alice", [], class_name)
        failure = StepFailureData(error, user_failure_data=None)
        step = {"step_key": "propel_auth_load_orgs", "event_specific_data": failure}
        instance.report_dagster_event(DagsterEvent("STEP_FAILURE", job.name, **step), run.run_id)
        instance.report_run_failed(run)

    return kill


@pytest.mark.parametrize("class_name", [None, ChildProcessCrashException.__name__])
def test_a_step_whose_process_was_killed_is_reported_as_such(tick, kill_step, webhook, class_name) -> None:
    kill_step(class_name)
    tick()
    (text,) = webhook.texts
    assert "propel_auth_load_orgs: The process of the step ended without reporting an error." in text
    assert "Alice" not in text


def test_problems_of_what_was_removed_are_resolved(instance, webhook) -> None:
    removed = {"step propel_auth_load_orgs", "propel_auth/org_query: age", "propel_auth/org_query: schema"}
    removed |= {"propel_auth/user_query: a_check_that_was_renamed", "job a_job_that_was_removed"}
    kept = {"step propel_auth_load_users", "propel_auth/user_query: age", "job propel_auth_refresh", "job __ASSET_JOB"}
    kept |= {"propel_auth/user_query: schema"}
    problems = {name: Cause(f"Run failed: {name}") for name in removed | kept}
    cursor = AlertState({kind.value: 0 for kind in ENDS}, problems).to_json()
    smaller = build_definitions(PropelAuthConfig(tables=["user_query", "org_membership"], marts=False))
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, definitions=smaller, sensor_name="propel_auth_alerts"
    )
    cursor = smaller.resolve_sensor_def("propel_auth_alerts").evaluate_tick(context).cursor
    assert set(AlertState.from_json(cursor or "").open_problems) == kept
    assert all(f"Recovered: Run failed: {name}" in webhook.texts[0] for name in removed)


def test_a_failed_check_is_reported_as_the_check_and_not_also_as_its_step(tick, run, webhook, sandbox) -> None:
    sandbox.faults.set("missing_field", "orgs.name")
    run("org_query")
    tick()
    (text,) = webhook.texts
    assert "Schema changed: schema (ERROR): propel_auth/org_query: " in text
    assert "check_org_query" not in text


@pytest.mark.slow
def test_a_further_table_whose_schema_changes_is_reported(tick, run, webhook, sandbox) -> None:
    sandbox.faults.set("unknown_field", ["orgs"])
    assert run("org_query").success
    tick()
    assert "Schema changed: schema (WARN): propel_auth/org_query: " in webhook.texts[0]
    assert "columns of their own" in webhook.texts[0]
    sandbox.faults.set("unknown_field", ["orgs", "users"])
    run("org_query", "user_query")
    tick()
    assert "Schema changed: schema (WARN): propel_auth/user_query: " in webhook.texts[1]
    assert len(webhook.texts) == 2


def test_an_unusual_loss_is_reported_with_how_to_allow_it(tick, run, webhook, sandbox) -> None:
    run("user_query")
    for user in list(sandbox.store.users)[:200]:
        sandbox.store.delete_user(user)
    run("user_query")
    tick()
    assert "Unusual loss: too many rows are missing: propel_auth_load_users" in webhook.texts[-1]
    assert "PROPELAUTH_ALLOW_LOSS" in webhook.texts[-1]
    assert "@" not in webhook.texts[-1]


def test_a_load_of_recent_changes_does_not_resolve_the_alert_of_a_full_load(tick, run, webhook, monkeypatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise errors.LossRefused("Nothing was loaded.")

    with monkeypatch.context() as failing:
        failing.setattr(assets, "load_scan", fail)
        run("user_query")
        tick()
    assert run("user_query", job="propel_auth_refresh_recent").success
    tick()
    assert len(webhook.texts) == 1
    run("user_query")
    tick()
    assert "Recovered: Unusual loss: too many rows are missing: step propel_auth_load_users" in webhook.texts[-1]


def test_an_error_of_another_library_is_reported_by_its_class_only(tick, run, webhook, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("Could not convert string 'Alice Q. Smith' to BOOL")

    monkeypatch.setattr(assets, "load_scan", fail)
    run("org_query")
    logged = tick()
    assert "Run failed: an unexpected error occurred: propel_auth_load_orgs: Unexpected ValueError" in webhook.texts[0]
    assert "Alice" not in webhook.texts[0] + logged


@pytest.mark.parametrize(
    ("error", "title"),
    [
        (errors.OtherPipeline, "Run failed: the dataset has tables of another dlt pipeline"),
        (errors.ErasureListChanged, "Run failed: a person was erased while a load was reading"),
        (errors.WebhookStoreError, "Run failed: the webhook store cannot be used"),
        (errors.OtherEnvironment, "Unusual loss: the tables belong to another environment"),
    ],
)
def test_each_class_of_error_has_a_title_of_its_own(tick, run, webhook, monkeypatch, error, title) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error("Nothing was loaded.")

    monkeypatch.setattr(assets, "load_scan", fail)
    run("org_query")
    tick()
    (text,) = webhook.texts
    assert f"{title}: propel_auth_load_orgs" in text


def test_no_two_classes_of_errors_have_the_same_title() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PropelError)]
    titles = [vars(found)["title"] for found in classes]
    assert len(set(titles)) == len(titles) > 15


def test_assets_and_jobs_of_other_definitions_are_not_reported(tick, instance, webhook) -> None:
    @dg.asset
    def theirs() -> None:
        raise ValueError

    @dg.asset_check(asset=["propel_auth", "org_query"])  # a check of theirs on a table of ours is reported
    def their_check() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False, description="It failed.")

    @dg.asset_check(asset=theirs)
    def another_check() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False)

    definitions = dg.Definitions(assets=[theirs], asset_checks=[their_check, another_check])
    definitions.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance, raise_on_error=False)
    tick()
    (text,) = webhook.texts
    (line,) = text.splitlines()[1:]
    assert line.startswith("- Check failed: their_check (ERROR): propel_auth/org_query: It failed.")


# --- old data ---


@pytest.mark.slow
@pytest.mark.parametrize(("status", "cause"), [(403, "The key may not read this"), (404, "Feature not enabled")])
def test_a_table_that_stops_loading_is_reported_once_with_the_reason(
    tick, run, webhook, sandbox, status, cause
) -> None:
    tables = ("scim_groups", "scim_group_members")
    run(*tables)
    sandbox.faults.set("scim_off", status)
    for _ in range(2):
        assert run(*tables).success
        tick()
    (text,) = webhook.texts
    assert f"- Not loaded: {cause}: 2 affected: " in text
    assert [table for table in tables if f"propel_auth/{table}" not in text] == []
    assert f"returned {status}" in text
    assert "The previous data is kept." in text
    sandbox.faults.clear()
    run(*tables)
    tick()
    assert f"Recovered: Not loaded: {cause}: 2 affected: " in webhook.texts[-1]


def test_a_table_that_was_never_loaded_did_not_stop(tick, run, webhook, sandbox) -> None:
    sandbox.faults.set("scim_off")
    run("scim_groups")
    assert tick() == ""
    assert webhook.requests == 0


def materialized(instance, run_id: str, hours: int, *tables: str) -> None:
    at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours)
    for table in tables:
        event = DagsterEvent(
            event_type_value="ASSET_MATERIALIZATION",
            job_name="propel_auth_refresh",
            event_specific_data=StepMaterializationData(dg.AssetMaterialization(dg.AssetKey(["propel_auth", table]))),
        )
        instance.report_dagster_event(event, run_id=run_id, timestamp=at.timestamp())


def test_the_stale_assets_of_a_run_are_one_alert(tick, instance, webhook) -> None:
    runs = [dg.DagsterRun("propel_auth_refresh").run_id for _ in range(3)]
    materialized(instance, runs[0], 30, "jwks", "org_query")
    materialized(instance, runs[1], 2, "user_query")
    tick()
    tick()
    (text,) = webhook.texts
    assert "Stale: no later load: 2 affected: " in text
    assert "propel_auth/jwks" in text
    assert "propel_auth/org_query" in text
    assert "user_query" not in text
    assert "loaded 30 hours ago, expected within 26." in text
    assert "propel_auth_daily" in text
    materialized(instance, runs[2], 0, "jwks")
    tick()
    assert len(webhook.texts) == 1
    instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey(["propel_auth", "org_query"])))
    tick()
    assert "Recovered: Stale: no later load: propel_auth/org_query: age" in webhook.texts[-1]


# --- what is not reported ---


def test_a_successful_run_is_not_reported(tick, run, webhook) -> None:
    assert run("jwks").success
    assert tick() == ""
    assert webhook.requests == 0


def test_runs_that_failed_before_alerts_were_turned_on_are_not_reported(run, request, webhook, monkeypatch) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        run("jwks", "org_query")
    request.getfixturevalue("tick")()
    assert webhook.requests == 0


# --- the cursor ---


def test_runs_that_a_tick_has_no_time_for_are_read_by_the_next(tick, run, webhook, sandbox, monkeypatch) -> None:
    sandbox.faults.set("redirect")
    run("org_query")
    run("custom_role_mappings")
    monkeypatch.setattr(alerts_module, "READING_SECONDS", -1.0)
    tick()
    assert ["propel_auth_load_role_mappings" in text for text in webhook.texts] == [False]
    tick()
    assert ["propel_auth_load_role_mappings" in text for text in webhook.texts] == [False, True]


@pytest.mark.slow
def test_a_failure_after_more_runs_than_a_tick_reads_is_not_called_recovered(tick, run, webhook, monkeypatch) -> None:
    monkeypatch.setattr(alerts_module, "RUNS_AT_ONCE", 2)
    for _ in range(3):
        run("org_query")
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        run("org_query")
    for _ in range(3):
        tick()
    assert [text.splitlines()[0] for text in webhook.texts] == [
        "*PropelAuth: Run failed: PropelAuth refused the API key*"
    ]


def test_a_tick_ends_and_saves_its_cursor_although_the_webhook_drips(broken, tick, webhook, monkeypatch) -> None:
    with dripping("headers") as slow, monkeypatch.context() as setting:
        setting.setenv("PROPELAUTH_ALERT_WEBHOOK", f"http://127.0.0.1:{slow.port}/{SECRET}")
        setting.setattr(delivery, "SECONDS", 1.0)
        started = time.monotonic()
        logged = tick()
        seconds = time.monotonic() - started
    tick()
    assert "Alert target webhook: no success within 1 s. It is retried." in logged
    assert seconds < READING_SECONDS
    assert len(webhook.texts) == 1


def test_a_tick_is_shorter_than_the_daemon_waits() -> None:
    store = CONNECT_SECONDS + STORE_SECONDS
    assert READING_SECONDS + store + delivery.SECONDS <= DEFAULT_SENSOR_GRPC_TIMEOUT - 10


# --- failed deliveries ---


@pytest.fixture
def broken(run, monkeypatch, tick):
    """A load that failed and has not been looked at yet."""
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        run("org_query")


@pytest.mark.parametrize(
    ("status", "reason"), [(500, "returned 500."), (404, "Make a new one"), (302, "returned 302.")]
)
def test_an_alert_that_was_refused_is_sent_at_the_next_tick(broken, tick, webhook, status, reason) -> None:
    webhook.status = status
    said = tick()
    webhook.status = 200
    tick()
    tick()
    assert reason in said
    assert SECRET not in said
    assert len(webhook.texts) == 1
    assert webhook.requests == 2


def test_an_alert_that_cannot_be_delivered_is_given_up_in_the_end(broken, tick, webhook, monkeypatch) -> None:
    monkeypatch.setattr(reporting_alerts, "MAX_ATTEMPTS", 16)
    webhook.status = 500
    logged = [tick() for _ in range(20)]
    assert webhook.requests == 5  # after 1, 2, 4, 8 and 16 minutes
    assert ["not retried any more" in text for text in logged].index(True) == 15
    webhook.status = 200
    tick()
    assert webhook.texts == []


def test_an_alert_waits_until_a_wrong_setting_is_put_right(broken, tick, webhook, monkeypatch) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_ALERT_WEBHOOK", f"ftp://hooks.example.com/{SECRET}")
        said = tick()
    tick()
    assert (
        "Alert target webhook cannot be used, and its alerts are kept. PROPELAUTH_ALERT_WEBHOOK must look like" in said
    )
    assert SECRET not in said
    assert len(webhook.texts) == 1


def test_a_setting_that_is_not_allowed_is_reported(run, tick, webhook, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_MAX_LOSS", "20")
    run("jwks")
    tick()
    (text,) = webhook.texts
    assert "a setting is missing or invalid" in text
    assert "PROPELAUTH_MAX_LOSS" in text


def test_a_target_that_cannot_be_used_is_reported_to_the_others(broken, tick, webhook, monkeypatch) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_ALERT_APPRISE", f"nosuch://{SECRET}")
        logged = tick()
        tick()
        (text,) = webhook.texts
        assert "PropelAuth refused the API key" in text
        assert "Alerts: a target cannot be used: alert targets: apprise URL 1 cannot be used." in text
        assert SECRET not in text + logged
    tick()
    assert "Recovered: Alerts: a target cannot be used" in webhook.texts[-1]


def test_a_target_that_is_down_does_not_stop_delivery_to_the_other(
    broken, tick, webhook, tmp_path, monkeypatch
) -> None:
    with running_mail_server(tmp_path) as mail_server:
        monkeypatch.setenv("PROPELAUTH_ALERT_SMTP", f"smtp://{mail_server.address}")
        monkeypatch.setenv("PROPELAUTH_ALERT_FROM", "dagster@example.com")
        monkeypatch.setenv("PROPELAUTH_ALERT_TO", "data@example.com")
        webhook.status = 500
        tick()
        webhook.status = 200
        tick()
    assert len(mail_server.mails) == len(webhook.texts) == 1


@pytest.mark.parametrize(
    ("limit", "age_hours", "title"),
    [
        ({"max_events": 10}, 0, "Webhooks: the store is nearly full"),
        ({"max_bytes": 300}, 0, "Webhooks: the store is nearly full"),
        ({}, 7, "Webhooks: events are not loaded"),
    ],
)
def test_a_webhook_store_that_fills_or_is_not_read_is_reported_until_it_is_emptied(
    tick, webhook, monkeypatch, limit, age_hours, title
) -> None:
    limits = WebhookStore.__init__.__kwdefaults__ or {}
    monkeypatch.setattr(WebhookStore.__init__, "__kwdefaults__", {**limits, **limit})
    store = WebhookStore(load_settings().webhook_store)
    at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=age_hours)
    events = [StoredEvent(f"msg_{n}", "user.login", at, at, '{"event_type": "user.login"}') for n in range(9)]
    if not age_hours:
        store.add(events[:7])
        tick()
        assert webhook.texts == []
    store.add(events[7:])
    tick()
    tick()
    (text,) = webhook.texts
    assert title in text
    assert "Turn on the sensor propel_auth_events" in text
    store.remove([event.svix_id for event in events])
    store.close()
    tick()
    assert f"Recovered: {title}" in webhook.texts[-1]


def test_the_alert_of_a_webhook_store_that_was_removed_is_resolved(tick, webhook, tmp_path, monkeypatch) -> None:
    url = f"sqlite:///{tmp_path}/removed.db"
    monkeypatch.setenv("PROPELAUTH_WEBHOOK_STORE", url)
    store = WebhookStore(url)
    at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=7)
    store.add([StoredEvent("msg_1", "user.login", at, at, '{"event_type": "user.login"}')])
    store.close()
    tick()
    assert "Webhooks: events are not loaded" in webhook.texts[-1]
    assert "errors of PropelAuth for some users or orgs, only their events wait." in webhook.texts[-1]
    for file in tmp_path.glob("removed.db*"):
        file.unlink()
    tick()
    assert "Recovered: Webhooks: events are not loaded" in webhook.texts[-1]


def test_a_webhook_store_that_cannot_be_used_is_reported_until_its_url_is_corrected(tick, webhook, monkeypatch) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_WEBHOOK_STORE", "mysql://localhost/events")
        tick()
    assert (
        "Webhooks: the store cannot be read: webhook store: The URL of the webhook store has the dialect"
        in webhook.texts[-1]
    )
    tick()
    assert "Recovered: Webhooks: the store cannot be read" in webhook.texts[-1]


def test_a_webhook_store_that_does_not_respond_is_reported(tick, webhook, monkeypatch) -> None:
    monkeypatch.setattr(alerts_module, "STORE_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg2://127.0.0.1:{silent.getsockname()[1]}/events?connect_timeout=2"
        monkeypatch.setenv("PROPELAUTH_WEBHOOK_STORE", url)
        tick()
    assert "Webhooks: the store cannot be read" in webhook.texts[-1]
