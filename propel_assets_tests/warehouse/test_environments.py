"""Several PropelAuth environments in one process: each load reads, writes and remembers its own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from propel_assets.catalog import BY_NAME, tables_of
from propel_assets.privacy.policy_file import load_policy
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import Settings
from propel_assets.warehouse.checks import examine
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.query import open_warehouse

NAMES = ("production", "staging")


@pytest.fixture
def sandboxes() -> Iterator[dict[str, Sandbox]]:
    """A sandbox for each environment, with other users."""
    with Sandbox(users=40, orgs=4, seed=1) as production, Sandbox(users=60, orgs=6, seed=2) as staging:
        yield dict(zip(NAMES, (production, staging), strict=True))


@pytest.fixture(params=["a file for each", "one file"])
def environments(request, sandboxes, monkeypatch) -> dict[str, Settings]:
    """The settings of each environment; without a name for the file, dlt names it after the pipeline."""
    if request.param == "a file for each":
        monkeypatch.delenv("DESTINATION__DUCKDB__CREDENTIALS")
    return {
        name: Settings(environment=name, auth_url=sandbox.url, api_key=sandbox.api_key, retry_seconds=5)
        for name, sandbox in sandboxes.items()
    }


@pytest.fixture
def users(tmp_path: Path, request):
    """Return the ids of the users of an environment, as they are in its dataset."""

    def read(name: str) -> set[str]:
        one = tmp_path / "propel_auth_pipeline.duckdb"
        file = one if one.exists() else tmp_path / f"{name}_propel_auth_pipeline.duckdb"
        with duckdb.connect(str(file), read_only=True) as db:
            return {
                user for (user,) in db.execute(f"SELECT user_id FROM {name}_propel_auth_data.user_query").fetchall()
            }

    return read


def failed_checks(settings: Settings) -> list[str]:
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        findings = [finding for table in tables_of("users") for finding in examine(warehouse, BY_NAME[table.name])]
    return [f"{finding.check}: {finding.summary}" for finding in findings if not finding.passed]


@pytest.mark.slow
def test_loads_of_two_environments_alternate_in_one_process(sandboxes, environments, users) -> None:
    for _ in range(2):
        for name, settings in environments.items():
            load_scan("users", settings)
            assert users(name) == set(sandboxes[name].store.users)
        sandboxes["staging"].store.delete_user(min(sandboxes["staging"].store.users))
    assert users("production") == set(sandboxes["production"].store.users)
    assert {name: failed_checks(settings) for name, settings in environments.items()} == {name: [] for name in NAMES}


@pytest.mark.slow
def test_a_warehouse_stays_open_while_another_environment_is_loaded(sandboxes, environments, monkeypatch) -> None:
    for settings in environments.values():
        load_scan("users", settings)
    production = environments["production"]
    with open_warehouse(production.target, load_policy(production.privacy_settings)) as warehouse:
        load_scan("users", replace(environments["staging"], page_size=7))
        assert warehouse.count("user_query") == 40
        assert warehouse.audit.rows_read(BY_NAME["user_query"], loads=1) == [40]
    sizes = {name: {request.query["page_size"] for request in sandboxes[name].requests} for name in NAMES}
    assert "7" in sizes["staging"]
    assert "7" not in sizes["production"]


def test_loads_of_two_environments_run_in_two_threads(sandboxes, environments, users) -> None:
    with ThreadPoolExecutor(2) as pool:
        loads = list(pool.map(lambda settings: load_scan("users", settings), environments.values()))
    assert len({load.load_id for load in loads}) == 2
    assert {name: users(name) for name in NAMES} == {name: set(sandboxes[name].store.users) for name in NAMES}
