"""Every destination in turn, in a fresh place; and its tables, to compare with what the sandbox has."""

import contextlib
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dlt.common.time import increasing_precise_time

from propel_assets.catalog import BY_NAME
from propel_assets.privacy.policy_file import load_policy
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import Settings, load_settings
from propel_assets.warehouse.query import open_warehouse
from propel_assets_tests.processes import running_sandbox
from propel_assets_tests.truth import Rows, by_key, truth

# `make test` runs those that plain pip gives and that are quick; `make test-destinations` runs them all.
PLAIN = {"duckdb": "local.DuckDb", "postgres": "postgres.Postgres", "files": "local.DeltaFiles"}
OTHERS = {
    "plain_files": "local.PlainFiles",
    "ducklake": "local.DuckLake",
    "s3": "buckets.S3",
    "redshift": "redshift.Redshift",
    "snowflake": "snowflake.Snowflake",
    "bigquery": "bigquery.BigQuery",
    "databricks": "databricks.Databricks",
    "redshift_s3": "staged.RedshiftFromS3",
    "databricks_s3": "staged.DatabricksFromS3",
    "gcs": "buckets.Gcs",
    "azure": "buckets.Azure",
}
ALL = [
    *(pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in PLAIN),
    *(pytest.param(name, marks=[pytest.mark.destinations, pytest.mark.xdist_group(name)]) for name in OTHERS),
]
CLI = "propel_assets_tests.destinations.standins.cli"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def started() -> Iterator[Callable[[str], Any]]:
    """Return what stands for a destination, started once per session."""
    there: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:

        def start(name: str) -> Any:
            if name not in there:
                module, _, kind = {**PLAIN, **OTHERS}[name].partition(".")
                found = importlib.import_module(f"propel_assets_tests.destinations.standins.{module}")
                there[name] = stack.enter_context(getattr(found, kind)())
            return there[name]

        yield start


@pytest.fixture(params=ALL)
def destination(request, started, tmp_path, monkeypatch) -> str:
    """The name of a destination, which is where the settings point."""
    for variable, value in started(request.param).place(tmp_path).items():
        monkeypatch.setenv(variable, value)
    return request.param


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(users=120, orgs=12, seed=7) as running:
        yield running


@pytest.fixture
def settings(destination, sandbox, monkeypatch) -> Settings:
    monkeypatch.setenv("PROPELAUTH_AUTH_URL", sandbox.url)
    monkeypatch.setenv("PROPELAUTH_API_KEY", sandbox.api_key)
    return load_settings()


@pytest.fixture
def run(settings, run_cli) -> Callable[..., subprocess.CompletedProcess]:
    """Run `propel-assets` in this process, or in a process of its own, which may die at a point of the loading."""

    def propel_assets(
        *words: str, own_process: bool = False, dies_at: str = "run", times: int = 0
    ) -> subprocess.CompletedProcess:
        if not own_process and not times:
            return run_cli(*words)
        command = [sys.executable, "-m", CLI, dies_at, str(times), *words]
        return subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    return propel_assets


@pytest.fixture
def run_later(destination, run, travel, monkeypatch) -> Callable[..., subprocess.CompletedProcess]:
    """Run `propel-assets` with the clock of a new process; on DuckDB, in a new process.

    The clock of dlt's load ids, which never goes back, is all that a process keeps from one load to the next.
    """
    last = increasing_precise_time._last

    def propel_assets(*words: str) -> subprocess.CompletedProcess:
        monkeypatch.setattr(increasing_precise_time, "_last", last)
        return run(*words, own_process=destination == "duckdb")

    return propel_assets


@pytest.fixture
def rows(settings) -> Callable[..., Rows]:
    """Return the rows of a table by key, as the API would show them."""

    def read(name: str, *more: str) -> Rows:
        table = BY_NAME[name]
        columns = [column.name for column in table.columns] + list(more)
        with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
            listed = ", ".join(map(warehouse.column, columns))
            found = warehouse.rows(f"SELECT {listed} FROM {warehouse.table(name)}")
        return by_key(table, [dict(zip(columns, row, strict=True)) for row in found])

    return read


@pytest.fixture
def expected(sandbox) -> Callable[[str], Rows]:
    """Return the rows that `user_query` or `org_membership` must have: what the sandbox has now."""

    return lambda name: truth(sandbox.store, name)
