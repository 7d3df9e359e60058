"""From an event to its row: sandbox, receiver, store, `dagster dev` and the sensor, on each destination."""

import importlib
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import propel_assets
from propel_assets.privacy.policy_file import load_policy
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import load_settings
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.query import open_warehouse
from propel_assets_tests.cli.test_dev import REPOSITORY, START_SENSOR, Dev
from propel_assets_tests.processes import free_port
from propel_assets_tests.webhooks.conftest import serving

EVENTS = 4
MEDIAN_SECONDS = 90


@pytest.fixture(params=["duckdb", "postgres"])
def destination(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Configure a destination: DuckDB, then PostgreSQL."""
    if request.param == "duckdb":
        yield request.param
        return
    with importlib.import_module("propel_assets_tests.destinations.standins.postgres").Postgres() as server:
        for name, value in server.place(tmp_path).items():
            monkeypatch.setenv(name, value)
        yield request.param


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_median_from_event_to_row_is_below_90_seconds(destination, tmp_path, monkeypatch, record_property) -> None:
    store_url, port = f"sqlite:///{tmp_path}/events.db", free_port()
    with (
        serving(store_url, tmp_path, port=port) as receiver,
        Sandbox(users=60, orgs=6, seed=7, webhook_url=f"{receiver.url}/webhooks/propelauth") as sandbox,
    ):
        monkeypatch.setenv("PROPELAUTH_AUTH_URL", sandbox.url)
        monkeypatch.setenv("PROPELAUTH_API_KEY", sandbox.api_key)
        monkeypatch.setenv("PROPELAUTH_WEBHOOK_STORE", store_url)
        settings = load_settings()
        for scan in ("users", "orgs"):
            load_scan(scan, settings)
        home = tmp_path / "dagster_home"
        home.mkdir()
        shutil.copy(Path(propel_assets.__file__).parent / "cli" / "dagster.yaml", home)
        dev = Dev(home, free_port(), tmp_path / "dagster-dev.log")
        try:
            dev.wait(dev.answers, "dagster dev serves the code location", 200)
            sensor = {**REPOSITORY, "sensorName": "propel_auth_events"}
            assert dev.ask(START_SENSOR, selector=sensor)["sensorState"]["status"] == "RUNNING"
            seconds = [measure(sandbox, settings, dev, user_id) for user_id in list(sandbox.store.users)[:EVENTS]]
        finally:
            for process in dev.processes():
                process.kill()
            dev.process.wait()
            print(dev.log.read_text()[-4000:])
    record_property("seconds", [round(value, 1) for value in seconds])
    print(destination, "seconds from event to row:", [round(value, 1) for value in seconds], os.getloadavg())
    assert statistics.median(seconds) < MEDIAN_SECONDS


def measure(sandbox: Sandbox, settings: Any, dev: Dev, user_id: str) -> float:
    """Change a user and return how long it takes until the row has the change."""
    name = f"Changed {user_id[:8]}"
    sandbox.store.update_user(user_id, first_name=name)
    happened_at = sandbox.store.events[-1].happened_at

    def is_applied() -> bool:
        with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
            sql = f"SELECT first_name FROM {warehouse.table('user_query')} WHERE user_id = %s"
            return warehouse.rows(sql, user_id) == [(name,)]

    dev.wait(is_applied, "the change is in the table", 200)
    return time.time() - happened_at
