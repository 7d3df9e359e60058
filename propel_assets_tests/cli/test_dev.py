"""The real `dagster dev`, used through its GraphQL API as the UI uses it."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import httpx
import psutil
import pytest

import propel_assets
from propel_assets.catalog import BY_NAME
from propel_assets.cli import dev as dev_command
from propel_assets.warehouse.checks import checks_of
from propel_assets_tests.processes import free_port, listens, wait_until

REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "propel_assets.definitions"}
LAUNCH = """mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RUN = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
CHECK = """query ($key: AssetKeyInput!, $name: String!) {
    assetCheckExecutions(assetKey: $key, checkName: $name, limit: 1) { runId status evaluation { success } } }"""
ROWS = """query ($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
    assetMaterializations(limit: 1) { metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }"""
SMALL_SANDBOX = ("--sandbox-port", "0", "--users", "20", "--orgs", "3")
TERMINATE = "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"
START_SENSOR = """mutation ($selector: SensorSelector!) { startSensor(sensorSelector: $selector) {
    __typename ... on Sensor { sensorState { status } } } }"""
START_SCHEDULE = """mutation ($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) {
    __typename ... on ScheduleStateResult { scheduleState { status } } } }"""
TICKS = """query ($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) { ... on Sensor {
    sensorState { ticks { status runIds error { message } } } } } }"""


class Dev:
    """A running `dagster dev`."""

    def __init__(self, home: Path, port: int, log: Path) -> None:
        self.home, self.log = home, log
        self._url = f"http://127.0.0.1:{port}/graphql"
        command = [sys.executable, "-m", "dagster", "dev", "-m", "propel_assets.definitions"]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, "-h", "127.0.0.1", "-p", str(port)],
                env={**os.environ, "DAGSTER_HOME": str(home)},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # As a terminal starts it. A script in the background ignores SIGINT, and so would all that it starts.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def ask(self, query: str, **variables: Any) -> Any:
        """Return the one answer to a GraphQL query."""
        answer = httpx.post(self._url, json={"query": query, "variables": variables}, timeout=60).json()
        assert "errors" not in answer, answer["errors"]
        return next(iter(answer["data"].values()))

    def answers(self) -> bool:
        """Return whether it serves our code location."""
        query = "{ repositoriesOrError { __typename ... on RepositoryConnection { nodes { name } } } }"
        try:
            return bool(self.ask(query).get("nodes"))
        except httpx.TransportError:
            return False

    def wait(self, until: Callable[[], Any], what: str, seconds: float = 120) -> Any:
        """Return what ``until`` returns once it is something; fail with what is going on when that takes too long."""
        return wait_until(until, self.process, what, seconds=seconds, every=0.25)

    def processes(self) -> list[psutil.Process]:
        """Return every process of this instance, also those whose parent has ended."""
        return [process for process in psutil.process_iter() if _home_of(process) == str(self.home)]


def _home_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("DAGSTER_HOME", "") if process.status() != psutil.STATUS_ZOMBIE else ""
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


@pytest.fixture
def dev(settings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Dev]:
    """A `dagster dev` on the sandbox, with the instance settings we ship; its log's tail is shown if the test fails."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    shutil.copy(Path(propel_assets.__file__).parent / "cli" / "dagster.yaml", home)
    running = Dev(home, free_port(), tmp_path / "dagster-dev.log")
    try:
        yield running
    finally:
        for process in running.processes():
            process.kill()
        running.process.wait()
        print(running.log.read_text()[-8000:])


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_dagster_dev_materializes_checks_ticks_and_stops(dev, sandbox, query) -> None:
    dev.wait(dev.answers, "dagster dev serves the code location")

    # "Materialize" on two assets of one scan and one of another
    names = ("user_query", "org_membership", "org_query")
    keys = {name: {"path": ["propel_auth", name]} for name in names}
    selector = {**REPOSITORY, "pipelineName": "__ASSET_JOB", "assetSelection": list(keys.values())}
    launched = dev.ask(LAUNCH, params={"selector": selector, "mode": "default"})
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["run"]["runId"]
    ended = {"SUCCESS", "FAILURE", "CANCELED"}
    status = dev.wait(lambda: ended & {dev.ask(RUN, id=run_id)["status"]}, "the run ends")
    assert status == {"SUCCESS"}

    for name, key in keys.items():
        (materialized,) = dev.ask(ROWS, key=key)["assetMaterializations"]
        shown = {entry["label"]: entry.get("intValue") for entry in materialized["metadataEntries"]}
        assert shown["dagster/row_count"] == query(f"SELECT count(*) FROM {name}")[0][0] > 0
        for check in checks_of(BY_NAME[name]):
            (execution,) = dev.ask(CHECK, key=key, name=check)
            assert execution == {"runId": run_id, "status": "SUCCEEDED", "evaluation": {"success": True}}
    assert query("SELECT count(*) FROM user_query") == [(300,)]

    # the schedule and the sensor, turned on
    schedule = dev.ask(START_SCHEDULE, selector={**REPOSITORY, "scheduleName": "propel_auth_daily"})
    assert schedule["scheduleState"]["status"] == "RUNNING"
    sensor = {**REPOSITORY, "sensorName": "propel_auth_changes"}
    assert dev.ask(START_SENSOR, selector=sensor)["sensorState"]["status"] == "RUNNING"

    sandbox.faults.set("latency_ms", 200)

    def ticked() -> list[dict[str, Any]]:
        ticks = dev.ask(TICKS, selector=sensor)["sensorState"]["ticks"]
        return [tick for tick in ticks if tick["status"] != "STARTED"]

    (tick,) = dev.wait(ticked, "the sensor ticks")
    assert tick["error"] is None
    assert tick["status"] == "SUCCESS"
    (refresh,) = tick["runIds"]

    # "Terminate" in the middle of it: what had been loaded before stays
    reading = len(sandbox.requests)
    dev.wait(lambda: len(sandbox.requests) > reading, "the refresh reads")
    assert dev.ask(TERMINATE, id=refresh)["__typename"] == "TerminateRunSuccess"
    assert dev.wait(lambda: ended & {dev.ask(RUN, id=refresh)["status"]}, "the refresh ends") == {"CANCELED"}
    assert query("SELECT count(*) FROM user_query") == [(300,)]

    # Ctrl-C
    dev.process.send_signal(signal.SIGINT)
    dev.process.wait(60)
    _, alive = psutil.wait_procs(dev.processes(), timeout=60)
    assert alive == []

    kept = b"".join(path.read_bytes() for path in dev.home.rglob("*") if path.is_file()) + dev.log.read_bytes()
    people = [user.wire["email"] for user in sandbox.store.users.values()]
    assert [secret for secret in (sandbox.api_key, *people) if secret.encode() in kept] == []


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_propel_assets_dev_listens_on_this_machine_only() -> None:
    port = free_port()
    command = [sys.executable, "-m", "propel_assets.cli", "dev", "--port", str(port), *SMALL_SANDBOX]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: listens(port), process, "the UI comes up", seconds=200)
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            sockets = [socket for member in family for socket in member.net_connections("inet")]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    listening = {socket.laddr for socket in sockets if socket.status == psutil.CONN_LISTEN}
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert port in {address.port for address in listening}
    assert len(listening) >= 2  # the sandbox too


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_live_day_is_in_the_tables_within_two_minutes(tmp_path, query) -> None:
    port = free_port()
    # With this seed, a user is deleted at least every 95 seconds.
    live = ["dev", "--live", "--seed", "34", "--port", str(port), *SMALL_SANDBOX]
    command = [sys.executable, "-m", "propel_assets.cli", *live]
    log, family = tmp_path / "dev.log", []

    def ask(text: str, **variables: Any) -> Any:
        body = {"query": text, "variables": variables}
        answer = httpx.post(f"http://127.0.0.1:{port}/graphql", json=body, timeout=60).json()
        return next(iter(answer["data"].values()))

    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:

        def wait(until: Callable[[], Any], what: str, seconds: float) -> Any:
            return wait_until(until, process, what, seconds=seconds, every=0.5)

        def rows(sql: str) -> list[tuple]:
            with contextlib.suppress(duckdb.Error):  # a load has the file open
                return query(sql)
            return []

        try:
            wait(lambda: "UI is ready" in log.read_text(), "the UI is ready", 200)
            family = psutil.Process(process.pid).children(recursive=True)
            assert "propel_auth_events is off" not in log.read_text()
            url = re.search(r"PropelAuth sandbox: (http://127\.0\.0\.1:\d+) ", log.read_text())[1]  # type: ignore[index]
            keys = [{"path": ["propel_auth", name]} for name in ("user_query", "org_membership", "org_query")]
            selector = {**REPOSITORY, "pipelineName": "__ASSET_JOB", "assetSelection": keys}
            run = ask(LAUNCH, params={"selector": selector, "mode": "default"})["run"]["runId"]
            wait(lambda: ask(RUN, id=run)["status"] == "SUCCESS", "the tables are loaded", 120)

            def newest() -> dict[str, Any]:
                params = {"order_by": "CREATED_AT_DESC", "page_size": "1"}
                headers = {"Authorization": "Bearer sandbox-api-key"}
                users = httpx.get(f"{url}/api/backend/v1/user/query", params=params, headers=headers).json()["users"]
                return users[0]

            def is_gone(user_id: str) -> bool:
                headers = {"Authorization": "Bearer sandbox-api-key"}
                return httpx.get(f"{url}/api/backend/v1/user/{user_id}", headers=headers).status_code == 404

            before, signed_up = newest()["user_id"], set()

            def is_one_in_the_table() -> bool:
                """Whether a user who has signed up since then is in the table. Others may leave before."""
                signed_up.update({newest()["user_id"]} - {before})
                return any(rows(f"SELECT 1 FROM user_query WHERE user_id = '{user_id}'") for user_id in signed_up)

            wait(is_one_in_the_table, "a user who has signed up is in the table", 240)
            known = [user_id for (user_id,) in wait(lambda: rows("SELECT user_id FROM user_query"), "rows", 60)]
            gone = wait(lambda: [user_id for user_id in known if is_gone(user_id)], "a user is deleted", 200)
            sql = f"SELECT 1 FROM user_query WHERE user_id = '{gone[0]}' UNION ALL SELECT 2"
            wait(lambda: rows(sql) == [(2,)], "the user has left the table", 120)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert psutil.wait_procs(family, timeout=60)[1] == []
        finally:
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--port", "--sandbox-port"])
def test_propel_assets_dev_refuses_a_port_that_is_in_use_before_it_starts_anything(
    option, run_process, tmp_path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ran = run_process("dev", "--port", "0", "--sandbox-port", "0", option, str(port))
    sentence = f"Error: Cannot use port {port} of 127.0.0.1 ({option}): address already in use. Choose another one.\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", sentence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["dev", "demo"])
def test_the_sandbox_is_refused_before_it_starts_where_the_tables_are_of_another_tenant(
    command, loaded, run_cli, tmp_path
) -> None:
    before = sorted(tmp_path.iterdir())
    ran = run_cli(command, "--seed", "8")
    tenants = "propel-assets-sandbox/7, not from propel-assets-sandbox/8"
    assert ran.stderr.startswith(
        f"Error: The tables of this folder were loaded from {tenants}. A folder holds one tenant"
    )
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert sorted(tmp_path.iterdir()) == before


def test_propel_assets_dev_refuses_one_port_for_both(run_process) -> None:
    port = str(free_port())
    ran = run_process("dev", "--port", port, "--sandbox-port", port)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"Cannot use port {port} of 127.0.0.1" in ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("killed", ["dagster_webserver", "dagster dev"])
def test_propel_assets_dev_prints_what_to_do_and_ends_when_a_process_of_dagster_ends(killed, tmp_path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "propel_assets.cli", "dev", "--port", str(port), *SMALL_SANDBOX]
    log, family = tmp_path / "dev.log", []
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            wait_until(lambda: "UI is ready" in log.read_text(), process, "the UI is ready", seconds=200)
            family = psutil.Process(process.pid).children(recursive=True)
            next(member for member in family if f"-m {killed} " in " ".join(member.cmdline())).kill()
            assert process.wait(60) == 1
            psutil.wait_procs(family, timeout=60)
            assert not listens(port)
        finally:
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            process.kill()
    printed = log.read_text()
    assert printed.count("Error: `dagster dev` ended with status ") == 1
    assert "dg dev" not in printed
    before, _, after = printed.partition("The Dagster UI is ready.")
    sandbox = re.search(r"PropelAuth sandbox is at (http://127\.0\.0\.1:\d+)\. Starting Dagster; ", before)
    assert sandbox
    assert printed.count("Dagster UI: http") == 1
    assert f"Dagster UI: http://127.0.0.1:{port}/asset-groups" in after
    assert "Materialize all" in after
    assert "API key: sandbox-api-key" in after
    assert "User token: sandbox-user-token" in after
    assert f"propel-assets fault scim_off --url {sandbox[1]}\n" in after


def test_the_wait_for_the_ui_prints_its_progress_and_ends_with_the_process(monkeypatch, capsys) -> None:
    monkeypatch.setattr(dev_command, "PROGRESS_SECONDS", 0)
    with subprocess.Popen(["sleep", "1"]) as process:
        assert not dev_command._wait_for_ui(process, free_port())
    assert "Starting Dagster: 0 s\n" in capsys.readouterr().out
