"""A warehouse per test for tests that change something, and one that is loaded once for tests that only query."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import time_machine
import yaml
from dlt.common.time import increasing_precise_time

from propel_assets.catalog import TABLES
from propel_assets.marts.runner import open_dbt
from propel_assets.marts.sources import PROJECT
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import Settings, load_settings
from propel_assets.warehouse.load import load_scan
from propel_assets_tests.processes import running_sandbox

SCANS = tuple(
    dict.fromkeys(t.scan for t in TABLES if t.group in {"users", "orgs", "api_keys", "insights"} and t.default)
)
SEARCH_PATH = "propel_auth_marts,propel_auth_history,propel_auth_data"
DESCRIPTIONS: dict[str, dict[str, Any]] = {
    model["name"]: model
    for file in sorted((PROJECT / "models").rglob("*.yml"))
    for document in [yaml.safe_load(file.read_text(encoding="utf-8"))]
    for model in (*document.get("models", ()), *document.get("seeds", ()))
}
"""The description of each mart and history, by name."""


def past_noon() -> date:
    """Return the latest day whose noon in UTC is past: the sandbox's clock starts at noon."""
    return (datetime.now(UTC) - timedelta(hours=12)).date()


@dataclass(frozen=True)
class Loaded:
    """A sandbox that does not change, and the DuckDB file with its tables and marts."""

    sandbox: Sandbox
    file: Path

    def query(self, sql: str, time_zone: str = "UTC") -> list[tuple]:
        """Return the rows of ``sql``."""
        with duckdb.connect(str(self.file), read_only=True) as db:
            db.execute(f"SET TimeZone = '{time_zone}'")
            db.execute(f"SET search_path = '{SEARCH_PATH}'")
            return db.execute(sql).fetchall()


@pytest.fixture(scope="package")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    file = tmp_path_factory.mktemp("marts") / "propel_auth_pipeline.duckdb"
    with pytest.MonkeyPatch.context() as patch, Sandbox(users=300, orgs=24, seed=7, now=past_noon()) as sandbox:
        patch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(file))
        settings = load_settings({"auth_url": sandbox.url, "api_key": sandbox.api_key})
        with time_machine.travel(datetime.fromtimestamp(sandbox.store.now, UTC) + timedelta(minutes=10)):
            for scan in SCANS:
                load_scan(scan, settings)
        with open_dbt(settings) as dbt:
            assert dbt.run("build").failed == {}
        yield Loaded(sandbox, file)


@pytest.fixture
def small_sandbox() -> Iterator[Sandbox]:
    """A sandbox with few users, so that a load is fast."""
    with running_sandbox(users=20, orgs=4, seed=3, now=date(2026, 11, 24)) as running:
        yield running


@pytest.fixture
def small(small_sandbox: Sandbox) -> Settings:
    return load_settings({"auth_url": small_sandbox.url, "api_key": small_sandbox.api_key})


@pytest.fixture
def build() -> Callable[..., None]:
    """Build the selected marts, and assert that nothing fails."""

    def run(settings: Settings, *select: str, **variables: Any) -> None:
        with open_dbt(settings) as dbt:
            assert dbt.run("build", *(["--select", *select] if select else []), **variables).failed == {}

    return run


class Simulation:
    """A sandbox and the clock of this process, moved together, with a load and a build of the marts on some days."""

    def __init__(
        self,
        sandbox: Sandbox,
        settings: Settings,
        scans: tuple[str, ...],
        select: tuple[str, ...],
        time_zone: str = "UTC",
    ) -> None:
        """Load ``scans`` and build ``select`` with each load, in a session with ``time_zone``."""
        self.sandbox, self.settings, self.scans, self.select = sandbox, settings, scans, select
        self.store, self.time_zone = sandbox.store, time_zone

    def load(self, *scans: str) -> datetime:
        """Load 10 minutes after the last change in the sandbox, build the marts, and return the time of the load."""
        at = datetime.fromtimestamp(self.store.now, UTC) + timedelta(minutes=10)
        with time_machine.travel(at):
            for scan in scans or self.scans:
                load_scan(scan, self.settings)
            with open_dbt(self.settings) as opened:
                output = {**opened.profile.output, "settings": {"TimeZone": self.time_zone}}
                dbt = replace(opened, profile=replace(opened.profile, output=output))
                words = ["--select", *self.select] if self.select else []
                assert dbt.run("build", *words).failed == {}
        return at

    def wait(self, *, days: int = 0, hours: int = 0) -> None:
        """Let time pass in the sandbox."""
        with self.store.lock:
            self.store.now += days * 86_400 + hours * 3_600
            self.store.version += 1


@pytest.fixture
def simulate(small_sandbox: Sandbox, small: Settings, monkeypatch) -> Callable[..., Simulation]:
    """Return a simulation on the small sandbox. dlt's load ids, which are times, go back after the test."""
    monkeypatch.setattr(increasing_precise_time, "_last", increasing_precise_time._last)

    def start(*select: str, scans: tuple[str, ...] = ("users", "orgs")) -> Simulation:
        return Simulation(small_sandbox, small, scans, select)

    return start
