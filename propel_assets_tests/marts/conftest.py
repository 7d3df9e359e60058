"""A warehouse per test for tests that change something, and one that is loaded once for tests that only query."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from propel_assets.marts.runner import Dbt, open_dbt
from propel_assets.marts.sources import PROJECT
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import Settings, load_settings
from propel_assets_tests.loads import build_once, load_scans
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


WITHOUT_TESTS = ("--exclude-resource-type", "test")
"""Options of `dbt build` for a state that a later build replaces: the data tests are 60 % of the nodes."""


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


@contextmanager
def open_dbt_in(settings: Settings, time_zone: str) -> Iterator[Dbt]:
    """Open dbt with sessions in a time zone, on DuckDB."""
    with open_dbt(settings) as dbt:
        output = dict(dbt.profile.output)
        if dbt.profile.kind == "duckdb":
            output["settings"] = {"TimeZone": time_zone}
        yield replace(dbt, profile=replace(dbt.profile, output=output))


@pytest.fixture(scope="package")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    def build(folder: Path) -> None:
        day = past_noon()
        (folder / "day").write_text(day.isoformat())
        with pytest.MonkeyPatch.context() as patch, Sandbox(users=300, orgs=24, seed=7, now=day) as sandbox:
            patch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(folder / "propel_auth_pipeline.duckdb"))
            settings = load_settings({"auth_url": sandbox.url, "api_key": sandbox.api_key})
            with time_machine.travel(datetime.fromtimestamp(sandbox.store.now, UTC) + timedelta(minutes=10)):
                load_scans(settings, *SCANS)
            with open_dbt(settings) as dbt:
                assert dbt.run("build").failed == {}

    folder = build_once(tmp_path_factory, "marts", build)
    day = date.fromisoformat((folder / "day").read_text())
    with Sandbox(users=300, orgs=24, seed=7, now=day) as sandbox:
        yield Loaded(sandbox, folder / "propel_auth_pipeline.duckdb")


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

    def run(settings: Settings, *select: str, run_tests: bool = True, **variables: Any) -> None:
        words = ["build", *(["--select", *select] if select else []), *(() if run_tests else WITHOUT_TESTS)]
        with open_dbt(settings) as dbt:
            assert dbt.run(*words, **variables).failed == {}

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
        self.has_built = False

    def load(self, *scans: str) -> datetime:
        """Load 10 minutes after the last change in the sandbox, build the marts, and return the time of the load.

        `check` runs the data tests. Seeds never change: only the first load builds them.
        """
        at = datetime.fromtimestamp(self.store.now, UTC) + timedelta(minutes=10)
        with time_machine.travel(at):
            load_scans(self.settings, *scans or self.scans)
            self._run_dbt("build", *WITHOUT_TESTS, *(["seed"] if self.has_built else []))
        self.has_built = True
        return at

    def check(self) -> None:
        """Run the data tests on what the last load has built."""
        if self.has_built:
            self._run_dbt("test", "--no-write-json")

    def _run_dbt(self, *words: str) -> None:
        with open_dbt_in(self.settings, self.time_zone) as dbt:
            assert dbt.run(*words, *(["--select", *self.select] if self.select else [])).failed == {}

    def wait(self, *, days: int = 0, hours: int = 0) -> None:
        """Let time pass in the sandbox."""
        with self.store.lock:
            self.store.now += days * 86_400 + hours * 3_600
            self.store.version += 1


@pytest.fixture
def simulate(small_sandbox: Sandbox, small: Settings, monkeypatch) -> Iterator[Callable[..., Simulation]]:
    """Return a simulation on the small sandbox. After the test, dbt's data tests run and dlt's load ids go back."""
    monkeypatch.setattr(increasing_precise_time, "_last", increasing_precise_time._last)
    started: list[Simulation] = []

    def start(*select: str, scans: tuple[str, ...] = ("users", "orgs")) -> Simulation:
        started.append(Simulation(small_sandbox, small, scans, select))
        return started[-1]

    yield start
    for simulation in started:
        simulation.check()
