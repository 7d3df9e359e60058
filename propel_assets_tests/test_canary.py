"""No text of a row leaves the destination, whatever fails: a canary word in every text is searched in everything else.

Each failure happens in a command and in a Dagster run. Afterwards the word is searched in the output, in all files of
Dagster, of dlt and of the temporary folder, in the audit tables, in the alerts and in the log of the sensor.

The failures: the destination refuses a row and quotes it, a table or database cannot be written, a DuckDB file is
locked, a response is truncated, has the wrong shape or lacks its key, the key is refused (401), a feature is refused
(403), checks fail with evidence, code raises errors with the word in their texts, and dbt models and tests fail. A user
is looked up by an address, in vain, and events with the word in their payloads cannot be applied.
Failures of responses, of the key, of look-ups, of events and of code do not depend on the destination: they happen with
DuckDB only. One run has a process for each step.

Not covered: names of roles, which are the same for all users, and files without write permission, which root can write.
"""

import base64
import gzip
import json
import logging
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from propel_assets.catalog import AUDIT_TABLES
from propel_assets.defs.build import build_definitions
from propel_assets.privacy.policy_file import load_policy
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import load_settings
from propel_assets.warehouse.dlt_setup import set_up_dlt
from propel_assets.warehouse.query import open_warehouse
from propel_assets.webhooks.store import WebhookStore
from propel_assets_tests.canary import Canary, break_code
from propel_assets_tests.destinations.standins.local import DeltaFiles, DuckDb, PlainFiles
from propel_assets_tests.destinations.standins.postgres import Postgres
from propel_assets_tests.processes import ROOT
from propel_assets_tests.reporting.servers import Webhook, running_webhook
from propel_assets_tests.webhooks.conftest import received

STORED = ("user_query", "org_query", "pending_org_invites")  # at every destination
RESPONSES = ("end_user_api_keys", "user_report", "org_report", "scim_groups")  # at DuckDB: the destination is not used
FOLDERS = ("DAGSTER_HOME", "DLT_DATA_DIR", "TMPDIR", "XDG_CACHE_HOME", "HOME")
HOLD = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
LONGEST = 80  # of a first name, on PostgreSQL


class Place:
    """A destination with the canary in its tables, and everything that runs have written elsewhere.

    Attributes:
        canary: the word.
        sandbox: the PropelAuth whose texts contain it.
        kind: the destination.
        warehouse: the folder of its files, which is not searched.
        left: the folder of all other files.
        output: what was written elsewhere than to files, by its origin.
    """

    def __init__(self, kind: str, sandbox: Sandbox, folder: Path, capfd: pytest.CaptureFixture) -> None:
        """Fill the sandbox with the canary."""
        self.kind, self.sandbox, self.canary = kind, sandbox, Canary()
        self.warehouse, self.left = folder / "warehouse", folder / "left"
        self.output: dict[str, str] = {}
        self._capfd, self._cursor = capfd, None
        self.canary.fill(sandbox.store)
        self.definitions = build_definitions()

    def command(self, name: str, *words: str, module: str = "propel_assets.cli") -> subprocess.CompletedProcess:
        """Run `propel-assets` in a process of its own and keep its output."""
        command = [sys.executable, "-m", module, *words]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=False)
        self.output[f"command, {name}"] = ran.stdout + ran.stderr
        return ran

    def materialize(self, name: str, *assets: str | dg.AssetKey) -> dg.ExecuteInProcessResult:
        """Run Dagster on ``assets``, which are keys or names of raw tables, and keep its output."""
        keys = [dg.AssetKey(["propel_auth", asset]) if isinstance(asset, str) else asset for asset in assets]
        job = self.definitions.resolve_implicit_global_asset_job_def()
        with dg.DagsterInstance.from_config(str(self.left / "DAGSTER_HOME")) as instance:
            result = job.execute_in_process(instance=instance, asset_selection=keys, raise_on_error=False)
        self._keep(f"Dagster, {name}")
        return result

    def tick(self) -> None:
        """Let the sensor of the alerts read the runs since its last tick, and keep its output."""
        sensor = self.definitions.resolve_sensor_def("propel_auth_alerts")
        with dg.DagsterInstance.from_config(str(self.left / "DAGSTER_HOME")) as instance:
            context = dg.build_sensor_context(
                instance=instance, cursor=self._cursor, definitions=self.definitions, sensor_name=sensor.name
            )
            self._cursor = sensor.evaluate_tick(context).cursor
        self.output["cursor of the sensor"] = self._cursor or ""
        self._keep("log of the sensor")

    def _keep(self, name: str) -> None:
        captured = self._capfd.readouterr()
        self.output[name] = captured.out + captured.err

    def rows(self, *tables: str) -> str:
        """Return all rows of ``tables`` as text."""
        settings = load_settings()
        with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
            return json.dumps(
                {name: warehouse.rows(f"SELECT * FROM {warehouse.table(name)}") for name in tables},
                default=str,
                ensure_ascii=False,
            )

    def findings(self) -> list[str]:
        """Return where the canary is, outside the tables of the destination."""
        texts = [name for name, text in self.output.items() if self.canary.found_in(text.encode())]
        return texts + self.canary.files_with_it(self.left, Path(os.environ["DLT_DATA_DIR"]))


# --- failures of each destination ---


def files_of(place: Place, table: str) -> Path:
    return place.warehouse / "lake" / "propel_auth_data" / table


def refuse_rows(place: Place) -> None:
    """Let the destination refuse the users, in an error that quotes a row, and change the type of a column."""
    store, name = place.sandbox.store, place.canary.text().lower() * 3
    for user in (min(store.users), max(store.users)):
        store.update_user(user, first_name=name)
    if place.kind == "duckdb":
        with duckdb.connect(str(place.warehouse / "propel_auth_pipeline.duckdb")) as db:
            db.execute("CREATE UNIQUE INDEX names ON propel_auth_data.user_query (first_name)")
            db.execute("ALTER TABLE propel_auth_data.org_query ALTER name TYPE INTEGER USING NULL")
    elif place.kind == "postgres":
        run_on_postgres(f"ALTER TABLE propel_auth_data.user_query ADD CHECK (length(first_name) < {LONGEST})")
        run_on_postgres("ALTER TABLE propel_auth_data.org_query ALTER name TYPE integer USING NULL")
    elif place.kind == "files":
        DeltaTable(str(files_of(place, "user_query"))).alter.add_constraint({"names": "first_name < 'a'"})
    else:
        block(place, "user_query")


def block(place: Place, table: str) -> None:
    """Replace the folder of a table by a file."""
    folder = files_of(place, table)
    folder.rename(place.warehouse / table)
    folder.write_text(place.canary.text())


@contextmanager
def unusable(place: Place) -> Iterator[None]:
    """Let no table be written: the DuckDB file is locked, the database is read-only, or its folder is a file."""
    if place.kind == "duckdb":
        command = [sys.executable, "-c", HOLD, str(place.warehouse / "propel_auth_pipeline.duckdb")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdin
            assert holder.stdout
            assert holder.stdout.readline() == "held\n"
            yield
            holder.stdin.close()
    elif place.kind == "postgres":
        database = os.environ["DESTINATION__POSTGRES__CREDENTIALS"].split("/")[3].split("?")[0]
        run_on_postgres(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        yield
        run_on_postgres(
            f"SET default_transaction_read_only = off; ALTER DATABASE {database} RESET default_transaction_read_only"
        )
    else:
        block(place, "pending_org_invites")
        yield
        files_of(place, "pending_org_invites").unlink()
        (place.warehouse / "pending_org_invites").rename(files_of(place, "pending_org_invites"))


def run_on_postgres(sql: str) -> None:
    import psycopg2

    connection = psycopg2.connect(os.environ["DESTINATION__POSTGRES__CREDENTIALS"])
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in sql.split(";"):
            cursor.execute(statement)
    connection.close()


# --- failures of every destination ---


def raise_in_code(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let readers and a check raise errors that quote a text."""
    text = place.canary.text()
    broken = place.command("defects", text, "load", *STORED, module="propel_assets_tests.canary")
    assert broken.returncode == 1
    assert "Unexpected TypeError" in broken.stderr
    with monkeypatch.context() as patch:
        break_code(patch, text)
        run = place.materialize("defects", *STORED)
    assert failed_steps(run) == {"load_users", "load_orgs", "check_pending_org_invites"}


def failed_steps(run: dg.ExecuteInProcessResult) -> set[str]:
    return {(event.step_key or "").removeprefix("propel_auth_") for event in run.get_step_failure_events()}


def fail_to_look_up_and_apply(place: Place) -> None:
    """Let a look-up fail, then a load of events, and a run with a process for each step."""
    faults, user_id = place.sandbox.faults, min(place.sandbox.store.users)
    faults.set("server_error", 500, path="/api/backend/v1/user")
    found = place.command("look-up", "load", "user_by_email", "--email", place.canary.email())
    assert "GET /api/backend/v1/user/email" in found.stderr
    payload = {"event_type": "user.created", "user_id": user_id, "email": place.canary.email()}
    with closing(WebhookStore(load_settings().webhook_store)) as store:
        store.add([received(payload)])
    assert "auth_event: not complete. " in place.command("events", "load", "auth_event").stderr
    words = ("asset", "materialize", "-m", "propel_assets.definitions", "--select")
    assert place.command("processes", *words, "key:propel_auth/user_query", module="dagster").returncode != 0
    faults.clear()


# --- fixtures ---


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def webhook(monkeypatch) -> Iterator[Webhook]:
    with running_webhook() as server:
        monkeypatch.setenv("PROPELAUTH_ALERT_WEBHOOK", server.url)
        yield server


@pytest.fixture
def make_place(webhook, tmp_path, monkeypatch, capfd) -> Iterator[Callable[[str, Any], Place]]:
    """Return a function that creates a place at a destination. The settings name it."""
    for variable in FOLDERS:
        (tmp_path / "left" / variable).mkdir(parents=True)
        monkeypatch.setenv(variable, str(tmp_path / "left" / variable))
    (tmp_path / "warehouse").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path / "left")
    (tmp_path / "left" / "DAGSTER_HOME" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("PROPELAUTH_RETRY_SECONDS", "1")
    monkeypatch.setenv("PROPELAUTH_LOCK_SECONDS", "1")
    set_up_dlt()
    for handler in logging.getLogger("dlt").handlers:  # their stream is that of an earlier test
        if type(handler) is logging.StreamHandler:
            monkeypatch.setattr(handler, "stream", sys.stderr)
    with Sandbox(users=40, orgs=6, seed=7) as sandbox:
        monkeypatch.setenv("PROPELAUTH_AUTH_URL", sandbox.url)
        monkeypatch.setenv("PROPELAUTH_API_KEY", sandbox.api_key)

        def make(kind: str, stand_in: Any) -> Place:
            for variable, value in stand_in.place(tmp_path / "warehouse").items():
                monkeypatch.setenv(variable, value)
            return Place(kind, sandbox, tmp_path, capfd)

        yield make


KINDS = {"duckdb": DuckDb, "postgres": None, "files": DeltaFiles, "plain_files": PlainFiles}


@pytest.fixture(params=["duckdb", "postgres", "files", pytest.param("plain_files", marks=pytest.mark.destinations)])
def place(request) -> Place:
    # PostgreSQL first: its files are not in the folder that is searched.
    stand_in = KINDS[request.param]() if KINDS[request.param] else request.getfixturevalue("postgres")
    return request.getfixturevalue("make_place")(request.param, stand_in)


# --- tests ---


@pytest.mark.slow
def test_no_text_of_a_row_leaves_the_destination(place, webhook, monkeypatch) -> None:
    tables = (*STORED, *RESPONSES) if place.kind == "duckdb" else STORED
    place.tick()
    loaded = place.command("good", "load", *tables)
    assert loaded.returncode == 0, loaded.stderr
    for table in tables:
        assert place.canary.found_in(place.rows(table).encode()), f"{table} has no canary that could be found"

    refuse_rows(place)
    faults = place.sandbox.faults
    faults.set("truncated", path="/api/backend/v1/user_report")
    faults.set("wrong_json", place.canary.text(), path="/api/backend/v1/org_report")
    faults.set("missing_field", "api_keys.api_key_id")
    faults.set("retyped_field", ["orgs.can_setup_saml", "invites.created_at"])
    faults.set("unknown_field", ["orgs", "invites"])
    faults.set("scim_off", 403)
    failed = place.command("rows and responses", "load", *tables)
    run = place.materialize("rows and responses", *tables)
    faults.clear()
    assert failed.returncode == 1
    assert "user_query, org_membership: not loaded. Loading users into " in failed.stderr
    assert "ERROR pending_org_invites: schema: Schema mismatch: " in failed.stderr
    steps = failed_steps(run)
    assert {"load_users", "check_pending_org_invites"} <= steps
    if place.kind == "duckdb":
        assert "end_user_api_keys: not loaded. " in failed.stderr
        assert "response truncated" in failed.stderr
        assert "returned JSON of an unexpected shape" in failed.stderr
        assert "scim_groups: skipped. The key may not read this: " in failed.stderr
        assert {"load_user_reports", "load_org_reports", "load_end_user_api_keys"} <= steps

    with unusable(place):
        assert place.command("unusable", "load", "pending_org_invites").returncode == 1
        assert not place.materialize("unusable", "pending_org_invites").success

    if place.kind == "duckdb":  # the others are not used in these failures
        raise_in_code(place, monkeypatch)
        monkeypatch.setenv("PROPEL_EXECUTOR", "multiprocess")
        monkeypatch.setenv("PROPELAUTH_WEBHOOK_STORE", f"sqlite:///{place.warehouse}/events.db")
        fail_to_look_up_and_apply(place)
        faults.set("key_revoked")
        assert "returned 401" in place.command("key refused", "load", *STORED).stderr
        assert not place.materialize("key refused", "org_query").success

    place.tick()
    assert webhook.texts
    place.output["alerts"] = "\n".join(webhook.texts)
    place.output["audit tables"] = place.rows(*(table.name for table in AUDIT_TABLES))
    assert any(name.suffix == ".err" for name in place.left.rglob("*")), "no compute logs"
    assert place.findings() == []


@pytest.mark.slow
def test_a_failed_mart_or_dbt_test_quotes_no_row(make_place, webhook) -> None:
    place = make_place("duckdb", DuckDb())
    histories = [dg.AssetKey(["propel_auth_history", name]) for name in ("users_history", "orgs_history")]
    place.tick()
    assert place.command("good", "load", "user_query", "org_query").returncode == 0
    assert place.materialize("good marts", *histories).success
    with duckdb.connect(str(place.warehouse / "propel_auth_pipeline.duckdb")) as db:
        db.execute("USE propel_auth_data")
        db.execute("INSERT INTO propel_auth_history.users_history SELECT * FROM propel_auth_history.users_history")
        db.execute("CREATE UNIQUE INDEX names ON propel_auth_history.orgs_history (name)")
        db.execute("UPDATE org_query SET max_users = 12345")  # another version of each org, with the same name
    run = place.materialize("marts", *histories)
    failures = [str(event.step_failure_data.error) for event in run.get_step_failure_events()]
    place.tick()
    place.output["alerts"] = "\n".join(webhook.texts)
    assert any("orgs_history: Runtime Error, Constraint Error" in text for text in failures), failures
    assert any("is_grain_users_history" in text for text in failures), failures
    assert place.findings() == []


def test_a_log_that_cannot_be_written_quotes_no_error(monkeypatch, tmp_path, capfd) -> None:
    set_up_dlt()
    canary, log = Canary(), logging.getLogger("dlt")
    with (tmp_path / "log").open("w") as closed:
        monkeypatch.setattr(log.handlers[0], "stream", closed)
    try:
        int(canary.word)
    except ValueError:
        log.exception("A job failed.")
    assert not canary.found_in("".join(capfd.readouterr()).encode())


def test_the_search_finds_the_word_in_any_form(tmp_path) -> None:
    canary = Canary()
    row = canary.text()
    forms = {
        "json": json.dumps({"name": row}).encode(),
        "percent": quote(canary.email()).encode(),
        "wrapped": f"{canary.word[:9]}\n   {canary.word[9:]}".encode(),
        "utf-16": row.encode("utf-16"),
        "base64": base64.b64encode(f"x{row}".encode()),
        "gzip": gzip.compress(row.encode()),
    }
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
    with closing(sqlite3.connect(tmp_path / "sqlite")) as database, database:
        database.execute("CREATE TABLE logs (event TEXT)")
        database.execute("INSERT INTO logs VALUES (?)", ["x" * 4071 + row])
    pq.write_table(pa.table({"name": [row]}), tmp_path / "parquet")
    (tmp_path / "other").write_bytes(Canary().word.encode())
    found = {Path(file).name for file in canary.files_with_it(tmp_path)}
    assert found == {*forms, "sqlite", "parquet"}
