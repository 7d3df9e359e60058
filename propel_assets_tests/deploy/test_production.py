"""Dagster as in production: its own storage in PostgreSQL, a code server, a daemon, workers of Celery."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml

from propel_assets.sandbox.running import Sandbox
from propel_assets_tests.processes import ROOT, free_port, running, wait_until

DAGSTER = [sys.executable, "-m", "dagster"]
DEFINITIONS = ["-m", "propel_assets.definitions"]


def run(*command: str) -> str:
    """Run a command to its end and return what it said."""
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


# --- Celery ---


@pytest.fixture
def workers(redis, home, monkeypatch) -> Iterator[list[subprocess.Popen]]:
    """Two workers of Celery, each doing one thing at a time."""
    monkeypatch.setenv("PROPEL_EXECUTOR", "celery")
    monkeypatch.setenv("CELERY_BROKER_URL", redis)
    monkeypatch.setenv("CELERY_RESULT_BACKEND", redis)
    logs = [home / f"worker-{number}.log" for number in range(2)]
    command = [sys.executable, "-m", "celery", "-A", "dagster_celery.app", "worker", "--concurrency=1", "-l", "INFO"]
    started = []
    for log in logs:
        with log.open("wb") as out:
            started.append(subprocess.Popen([*command, "-n", f"{log.stem}@%h"], stdout=out, stderr=out))
    try:
        for worker, log in zip(started, logs, strict=True):
            wait_until(lambda log=log: b" ready." in log.read_bytes(), worker, "the worker is ready")
        yield started
    finally:
        for worker in started:
            worker.terminate()
            worker.wait(60)
        print(*(log.read_text()[-4000:] for log in logs))


@pytest.mark.slow
def test_two_workers_of_celery_load_two_tables_at_once(workers, home, rows, sandbox) -> None:
    selected = "key:propel_auth/user_query or key:propel_auth/org_query"
    run(*DAGSTER, "asset", "materialize", *DEFINITIONS, "--select", selected)
    assert {user for (user,) in rows("SELECT user_id FROM propel_auth_data.user_query")} == set(sandbox.store.users)
    assert {org for (org,) in rows("SELECT org_id FROM propel_auth_data.org_query")} == set(sandbox.store.orgs)
    for log in home.glob("worker-*.log"):
        assert "Task execute_plan" in log.read_text()
    kept = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert sandbox.api_key.encode() not in kept


# --- a code server, a daemon, PostgreSQL ---


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_launched_runs_go_one_after_the_other_through_the_queue_to_the_code_server(
    home, server, rows, tmp_path, monkeypatch
) -> None:
    port = free_port()
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text((ROOT / "deploy/workspace.yaml").read_text().replace("4000", str(port)))
    monkeypatch.setenv("PROPEL_CODE_SERVER_HOST", "127.0.0.1")
    code_server = [*DAGSTER, "code-server", "start", *DEFINITIONS, "-h", "127.0.0.1", "-p", str(port)]
    database = os.environ["DAGSTER_POSTGRES_URL"].split("/")[3].split("?")[0]

    run(*DAGSTER, "instance", "concurrency", "set", "propel_auth_api", "1")
    with running(code_server, port, seconds=200):
        for _ in range(2):
            run(*DAGSTER, "job", "launch", "-w", str(workspace), "-j", "propel_auth_refresh_recent")
        assert server.ask(database, "SELECT status FROM runs") == [("QUEUED",), ("QUEUED",)]
        command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace)]
        with (tmp_path / "daemon.log").open("wb") as log:
            daemon = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            statuses = "SELECT status FROM runs WHERE status IN ('SUCCESS', 'FAILURE')"
            wait_until(lambda: len(server.ask(database, statuses)) == 2, daemon, "the runs end", every=0.5, seconds=300)
        finally:
            daemon.terminate()
            daemon.wait(60)
            print((tmp_path / "daemon.log").read_text()[-4000:])
    first, second = server.ask(database, "SELECT status, start_time, end_time FROM runs ORDER BY start_time")
    assert (first[0], second[0]) == ("SUCCESS", "SUCCESS")
    assert first[2] <= second[1]
    assert rows("SELECT count(*) FROM propel_auth_data.user_query") == [(300,)]
    assert server.ask(database, "SELECT count(*) > 0 FROM event_logs") == [(True,)]
    assert not list(home.glob("history/**/*.db"))  # nothing in SQLite


# --- the receiver of webhooks ---


def test_the_receiver_of_the_containers_stores_what_the_sandbox_sends(server, tmp_path, monkeypatch) -> None:
    service = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]["webhooks"]
    port = free_port()
    url = server.place(tmp_path)["DESTINATION__POSTGRES__CREDENTIALS"].replace("://", "+psycopg2://")
    assert service["environment"]["PROPELAUTH_WEBHOOK_STORE"].startswith(
        "${PROPELAUTH_WEBHOOK_STORE:-postgresql+psycopg2://"
    )
    monkeypatch.setenv("PROPELAUTH_WEBHOOK_STORE", url)
    monkeypatch.setenv("PROPELAUTH_WEBHOOK_SECRET", Sandbox.webhook_secret)
    _, *words = [word.replace("8401", str(port)) for word in service["command"]]
    _, _, *check = [word.replace("8401", str(port)) for word in service["healthcheck"]["test"]]
    with running([sys.executable, "-m", "propel_assets.cli", *words], port):
        run(sys.executable, *check)
        receiver = f"http://127.0.0.1:{port}/webhooks/propelauth"
        with Sandbox(users=3, orgs=1, webhook_url=receiver) as sandbox:
            sandbox.store.log_in(next(iter(sandbox.store.users)))
            assert sandbox.webhooks.wait_until_sent()
            assert [attempt.status for attempt in sandbox.webhooks.deliveries[0].attempts] == [204]
    database = url.split("/")[3].split("?")[0]
    assert server.ask(database, "SELECT event_type FROM propel_webhook_events") == [("user.login",)]
