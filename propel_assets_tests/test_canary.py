"""No text of a row leaves the destination, whatever fails: a canary word in every text is searched in everything else.

Each failure happens in a command and in a Dagster run. Afterwards the word is searched in the output, in all files of
Dagster, of dlt and of the temporary folder, in the audit tables, in the alerts and in the log of the sensor.

The failures: the destination refuses a row and quotes it, a table or database cannot be written, a DuckDB file is
locked, a response is truncated, has the wrong shape or lacks its key, the key is refused (401), a feature is refused
(403), checks fail with evidence, code raises errors with the word in their texts, and dbt models and tests fail.

Not covered: names of roles, which are the same for all users, and files without write permission, which root can write.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from deltalake import DeltaTable

from propel_assets.catalog import AUDIT_TABLES
from propel_assets.defs.build import build_definitions
from propel_assets.privacy.policy_file import load_policy
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import load_settings
from propel_assets.warehouse.query import open_warehouse
from propel_assets_tests.canary import Canary, break_code
from propel_assets_tests.destinations.standins.local import DeltaFiles, DuckDb, PlainFiles
from propel_assets_tests.destinations.standins.postgres import Postgres
from propel_assets_tests.processes import ROOT
from propel_assets_tests.reporting.servers import Webhook, running_webhook

TABLES = (
    "user_query",
    "org_membership",
    "org_query",
    "pending_org_invites",
    "end_user_api_keys",
    "user_report",
    "org_report",
    "scim_groups",
)
FOLDERS = ("DAGSTER_HOME", "DLT_DATA_DIR", "TMPDIR", "XDG_CACHE_HOME", "HOME")
HOLD = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
LONGEST = 60  # of a first name, at the destinations that can limit it


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

    def materialize(self, name: str, *tables: str) -> dg.ExecuteInProcessResult:
        """Run Dagster on ``tables`` and keep its output."""
        keys = [dg.AssetKey(["propel_auth", *table.split("/")]) for table in tables]
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
    """Let the destination refuse the users, in an error that quotes a row."""
    place.sandbox.store.update_user(min(place.sandbox.store.users), first_name=place.canary.text() * 3)
    if place.kind == "duckdb":
        [name] = {place.sandbox.store.users[user].wire["first_name"] for user in [min(place.sandbox.store.users)]}
        place.sandbox.store.update_user(max(place.sandbox.store.users), first_name=name)
        with duckdb.connect(str(place.warehouse / "propel_auth_pipeline.duckdb")) as db:
            db.execute("CREATE UNIQUE INDEX names ON propel_auth_data.user_query (first_name)")
    elif place.kind == "postgres":
        run_on_postgres(f"ALTER TABLE propel_auth_data.user_query ADD CHECK (length(first_name) < {LONGEST})")
    elif place.kind == "files":
        DeltaTable(str(files_of(place, "user_query"))).alter.add_constraint(
            {"names": f"length(first_name) < {LONGEST}"}
        )
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
def place(request, make_place) -> Place:
    kind = KINDS[request.param]
    return make_place(request.param, kind() if kind else request.getfixturevalue("postgres"))


# --- tests ---


def test_no_text_of_a_row_leaves_the_destination(place, webhook, monkeypatch) -> None:
    place.tick()
    loaded = place.command("good", "load", *TABLES)
    assert loaded.returncode == 0, loaded.stderr
    for table in TABLES:
        assert place.canary.found_in(place.rows(table).encode()), f"{table} has no canary that could be found"
    assert place.materialize("good", *TABLES).success

    refuse_rows(place)
    faults = place.sandbox.faults
    faults.set("truncated", path="/api/backend/v1/user_report")
    faults.set("wrong_json", place.canary.text(), path="/api/backend/v1/org_report")
    faults.set("missing_field", "api_keys.api_key_id")
    faults.set("retyped_field", ["orgs.can_setup_saml", "invites.created_at"])
    faults.set("unknown_field", ["orgs", "invites"])
    faults.set("scim_off", 403)
    failed = place.command("rows and responses", "load", *TABLES)
    run = place.materialize("rows and responses", *TABLES)
    faults.clear()
    print(failed.stderr)
    assert failed.returncode == 1
    assert not run.success

    with unusable(place):
        assert place.command("unusable", "load", "pending_org_invites").returncode == 1
        assert not place.materialize("unusable", "pending_org_invites").success

    some = ("user_query", "org_query", "end_user_api_keys")
    text = place.canary.text()
    broken = place.command("defects", text, "load", *some, module="propel_assets_tests.canary")
    assert broken.returncode == 1
    with monkeypatch.context() as patch:
        break_code(patch, text)
        run = place.materialize("defects", *some)
    assert len(run.get_step_failure_events()) == 3

    place.tick()
    place.output["alerts"] = "\n".join(webhook.texts)
    place.output["audit tables"] = place.rows(*(table.name for table in AUDIT_TABLES))
    for name, text in place.output.items(): print("=====", name); print(text)
    assert place.findings() == []
