"""A warehouse of its own for each test that changes something, and one, loaded once, for those that only ask."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pytest

from propel_assets.catalog import TABLES
from propel_assets.marts.runner import connected_dbt
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import Settings, load_settings
from propel_assets.warehouse.load import load_scan

SCANS = tuple(
    dict.fromkeys(t.scan for t in TABLES if t.group in {"users", "orgs", "api_keys", "insights"} and t.default)
)


@dataclass(frozen=True)
class Loaded:
    """A sandbox that nobody changes, and the DuckDB file with its tables and marts."""

    sandbox: Sandbox
    file: Path

    def ask(self, sql: str) -> list[tuple]:
        with duckdb.connect(str(self.file), read_only=True) as db:
            db.execute("SET TimeZone = 'UTC'")
            db.execute("SET search_path = 'propel_auth_marts,propel_auth_history,propel_auth_data'")
            return db.execute(sql).fetchall()


@pytest.fixture(scope="package")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    file = tmp_path_factory.mktemp("marts") / "propel_auth_pipeline.duckdb"
    today = datetime.now(UTC).date()
    with pytest.MonkeyPatch.context() as patch, Sandbox(users=300, orgs=24, seed=7, now=today) as sandbox:
        patch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(file))
        settings = load_settings({"auth_url": sandbox.url, "api_key": sandbox.api_key})
        for scan in SCANS:
            load_scan(scan, settings)
        with connected_dbt(settings) as dbt:
            assert dbt.run("build").broken == {}
        yield Loaded(sandbox, file)


@pytest.fixture
def small_sandbox() -> Iterator[Sandbox]:
    """Few people, so that a load takes no time."""
    with Sandbox(users=20, orgs=4, seed=3, now=date(2026, 11, 24)) as running:
        yield running


@pytest.fixture
def small(small_sandbox: Sandbox) -> Settings:
    return load_settings({"auth_url": small_sandbox.url, "api_key": small_sandbox.api_key})


@pytest.fixture
def build() -> Callable[..., None]:
    """Run dbt on what is asked for, and expect it to succeed."""

    def run(settings: Settings, *select: str) -> None:
        with connected_dbt(settings) as dbt:
            assert dbt.run("build", *(["--select", *select] if select else [])).broken == {}

    return run
