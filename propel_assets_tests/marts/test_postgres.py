"""The same marts on PostgreSQL: row by row what DuckDB has."""

import importlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import duckdb
import psycopg2
import pytest
import yaml

from propel_assets.marts.runner import PROJECT, connected_dbt
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import load_settings
from propel_assets.warehouse.load import load_scan
from propel_assets_tests.marts.conftest import SCANS

MODELS = yaml.safe_load((PROJECT / "models" / "marts.yml").read_text())["models"]
# When and by which load something was seen: of each warehouse its own.
OWN = {"first_seen_at", "deleted_seen_at", "first_found_at", "last_found_at", "started_at", "finished_at"}
OWN |= {"load_id", "waited_seconds", "concurrency"}
JSON = {"properties", "metadata", "additional_roles", "inherited_roles", "permissions"}
AS_OF = "{propel_auth_as_of: '2026-11-24 12:00:00+00:00'}"
pytestmark = pytest.mark.timeout(900)  # two warehouses, loaded and built twice
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rows, Rows]]:
    """The rows of every mart, on DuckDB and on PostgreSQL, after the same two loads."""
    file = tmp_path_factory.mktemp("both") / "propel_auth_pipeline.duckdb"
    standins = importlib.import_module("propel_assets_tests.destinations.standins.postgres")
    with (
        standins.Postgres() as server,
        Sandbox(users=60, orgs=6, seed=7, now=datetime(2026, 11, 24, tzinfo=UTC).date()) as sandbox,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in [n for n in os.environ if n.startswith("PROPEL")]:
            patch.delenv(name)
        place = server.place(file.parent)
        credentials = place["DESTINATION__POSTGRES__CREDENTIALS"]
        patch.setenv("DESTINATION__POSTGRES__CREDENTIALS", credentials)
        patch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(file))
        known = {"auth_url": sandbox.url, "api_key": sandbox.api_key}

        def load(*scans: str) -> None:
            for destination in ("duckdb", "postgres"):
                settings = load_settings({**known, "destination": destination})
                for scan in scans:
                    load_scan(scan, settings)
                with connected_dbt(settings) as dbt:
                    assert dbt.run("build", "--vars", AS_OF).broken == {}

        load(*SCANS)
        first, other, *_ = sandbox.store.users
        sandbox.store.delete_user(first)
        sandbox.store.update_user(other, properties={"select": "'; --", "a.b": {"c": ["ü"]}})
        sandbox.faults.set("unknown_field", "users")
        load("users", "invites")
        with duckdb.connect(str(file), read_only=True) as db, psycopg2.connect(credentials) as pg:
            yield _rows(db), _rows(pg.cursor())


def _rows(connection: Any) -> Rows:
    found = {}
    for model in MODELS:
        names = [c["name"] for c in model["columns"] if c["name"] not in OWN]
        rows = connection.execute(f"SELECT {', '.join(names)} FROM propel_auth_marts.{model['name']}")
        rows = (rows or connection).fetchall()
        listed = [
            dict(zip(names, (_plain(n, v) for n, v in zip(names, row, strict=True)), strict=True)) for row in rows
        ]
        found[model["name"]] = sorted(listed, key=lambda row: json.dumps(row, sort_keys=True, default=str))
    return found


def _plain(name: str, value: Any) -> Any:
    """Return the value in one way of many: numbers, times and JSON text differ by driver."""
    if name in JSON:
        return json.loads(value) if value else value
    if isinstance(value, float | Decimal):
        return round(float(value), 9)
    return value.astimezone(UTC) if isinstance(value, datetime) else value


@pytest.mark.parametrize("model", [model["name"] for model in MODELS])
def test_postgres_has_the_rows_that_duckdb_has(both, model) -> None:
    ours, theirs = both
    assert theirs[model] == ours[model]
    assert ours[model]
