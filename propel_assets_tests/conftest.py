"""Fixtures of every test: no settings, a folder of its own, a PropelAuth on localhost, a real DuckDB file."""

import importlib
import io
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

# Before anything imports dlt, which looks at this once: its default folder is shared by the whole machine.
os.environ["DLT_DATA_DIR"] = tempfile.mkdtemp(prefix="propel-assets-tests-")
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"

import duckdb
import hypothesis
import pytest
import time_machine
from dlt.common.time import increasing_precise_time

from propel_assets.cli.main import main
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import Settings, load_settings, parsing
from propel_assets.warehouse.dlt_setup import set_up_dlt
from propel_assets_tests.cases import cases
from propel_assets_tests.loads import build_once, load_scans
from propel_assets_tests.processes import running_sandbox

Query = Callable[[str], list[tuple]]
WITH_REST = ("browser", "marts", "sandbox")
"""The folders with tests that need Node.js or chromium, as in the Makefile."""

# No deadline: the machine may be busy.
hypothesis.settings.register_profile(
    "tests",
    max_examples=cases(100),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for a sample."""
    parser.addoption(
        "--sample",
        type=int,
        metavar="N",
        help="Of the tests marked `slow`, run one in N, the same ones each time; of modules marked as a whole, too.",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse tests that `make test-rest` would not find, and keep a sample of the slow tests."""
    for item in items:
        is_rest = item.get_closest_marker("node") or item.get_closest_marker("browser")
        if is_rest and item.path.relative_to(Path(__file__).parent).parts[0] not in WITH_REST:
            raise pytest.UsageError(f"`make test-rest` does not run {item.nodeid}: move it to {', '.join(WITH_REST)}.")
    number = config.getoption("--sample")
    if number:
        left_out = {item for item in items if _is_slow(item) and zlib.crc32(_sampled_as(item)) % number}
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def _sampled_as(item: pytest.Item) -> bytes:
    is_own = any(mark.name == "slow" for mark in item.own_markers)
    return (item.nodeid if is_own else item.location[0]).encode()


def remove_settings(patch: pytest.MonkeyPatch) -> None:
    """Remove the settings of the shell."""
    for name in list(os.environ):
        if name.startswith(("PROPEL", "DAGSTER", "DESTINATION__", "SOURCES__")):
            patch.delenv(name)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the settings of the shell, and work in a folder of its own."""
    remove_settings(monkeypatch)
    monkeypatch.setattr(parsing, "_reported", set())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(tmp_path / "propel_auth_pipeline.duckdb"))


@pytest.fixture
def travel(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], time_machine.travel]:
    """Let so many days pass, or come back, within a block. dlt's load ids do not come back before the test ends."""
    monkeypatch.setattr(increasing_precise_time, "_last", increasing_precise_time._last)
    return lambda days: time_machine.travel(datetime.now(UTC) + timedelta(days=days))


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A running sandbox of 300 users and 24 orgs."""
    with running_sandbox(users=300, orgs=24, seed=7) as running:
        yield running


@pytest.fixture
def settings(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that read the sandbox, also set in the environment."""
    monkeypatch.setenv("PROPELAUTH_AUTH_URL", sandbox.url)
    monkeypatch.setenv("PROPELAUTH_API_KEY", sandbox.api_key)
    monkeypatch.setenv("PROPELAUTH_RETRY_SECONDS", "5")
    return load_settings()


@pytest.fixture
def query(tmp_path: Path) -> Query:
    """Return the rows of a query on the loaded tables; their schema is on the search path."""

    def ask(sql: str) -> list[tuple]:
        with duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb"), read_only=True) as db:
            db.execute("USE propel_auth_data")
            return db.execute(sql).fetchall()

    return ask


def invoke_cli(*words: str, **environment: str) -> subprocess.CompletedProcess:
    """Run `propel-assets` with arguments and environment variables, in this process."""
    set_up_dlt()
    output, errors = io.StringIO(), io.StringIO()
    log, handler = logging.getLogger("dlt"), logging.StreamHandler(errors)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(tempfile, "tempdir", None)  # TMPDIR is read again
        patch.setattr(log, "handlers", [*log.handlers, handler])
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main(words, prog_name="propel-assets")
    return subprocess.CompletedProcess(words, int(ended.value.code or 0), output.getvalue(), errors.getvalue())


@pytest.fixture
def run_cli() -> Callable[..., subprocess.CompletedProcess]:
    """Run `propel-assets` with arguments and environment variables, in this process."""
    return invoke_cli


@pytest.fixture
def run_process() -> Callable[..., subprocess.CompletedProcess]:
    """Run `propel-assets` with arguments and environment variables, in a process of its own."""

    def run(*words: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "propel_assets.cli", *words]
        env = {**os.environ, **environment}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)

    return run


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A running sandbox of 60 users and 6 orgs, the same each time; the environment names it."""
    with running_sandbox(users=60, orgs=6, seed=7) as running:
        monkeypatch.setenv("PROPELAUTH_AUTH_URL", running.url)
        monkeypatch.setenv("PROPELAUTH_API_KEY", running.api_key)
        monkeypatch.setenv("PROPELAUTH_RETRY_SECONDS", "2")
        yield running


def load_once(factory: pytest.TempPathFactory, name: str, sandbox: Sandbox, load: Callable[[Settings], object]) -> Path:
    """Return a DuckDB file that ``load`` fills from ``sandbox``, once for all workers."""
    file = "propel_auth_pipeline.duckdb"

    def build(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch, sandbox:
            remove_settings(patch)
            patch.chdir(folder)
            patch.setenv("PROPELAUTH_AUTH_URL", sandbox.url)
            patch.setenv("PROPELAUTH_API_KEY", sandbox.api_key)
            patch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(folder / file))
            load(load_settings())

    return build_once(factory, name, build) / file


@pytest.fixture(scope="session")
def database_of_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DuckDB file with some tables of `small`, and the results of their checks."""
    tables = ["user_query", "org_query", "end_user_api_keys", "user_report", "scim_groups", "custom_role_mappings"]

    def load(_: Settings) -> None:
        done = invoke_cli("load", *tables)
        assert done.returncode == 0, done.stderr

    return load_once(tmp_path_factory, "small", Sandbox(users=60, orgs=6, seed=7), load)


@pytest.fixture(scope="session")
def database_of_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DuckDB file with the users, memberships and orgs of `sandbox`. No check has run."""
    sandbox = Sandbox(users=300, orgs=24, seed=7)
    return load_once(tmp_path_factory, "sandbox", sandbox, lambda settings: load_scans(settings, "users", "orgs"))


@pytest.fixture
def loaded_settings(settings: Settings, database_of_sandbox: Path, tmp_path: Path) -> Settings:
    """`settings`, whose users and orgs are in this test's DuckDB file."""
    shutil.copy(database_of_sandbox, tmp_path / "propel_auth_pipeline.duckdb")
    return settings


@pytest.fixture
def loaded(small: Sandbox, database_of_small: Path, tmp_path: Path) -> Sandbox:
    """`small`, some tables of which are in this test's DuckDB file."""
    shutil.copy(database_of_small, tmp_path / "propel_auth_pipeline.duckdb")
    return small


@pytest.fixture
def run_sql(tmp_path: Path) -> Callable[[str], None]:
    """Run a statement on this test's DuckDB file."""

    def run(sql: str) -> None:
        with duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb")) as db:
            db.execute(sql)

    return run


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """A real PostgreSQL server, which no test stops. Each test makes a database of its own: `place`."""
    with importlib.import_module("propel_assets_tests.destinations.standins.postgres").Postgres() as server:
        yield server
