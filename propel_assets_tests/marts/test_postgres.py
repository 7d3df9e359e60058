"""The same marts on PostgreSQL: row by row what DuckDB has."""

import csv
import importlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import psycopg2
import pytest

from propel_assets.marts.runner import open_dbt
from propel_assets.privacy.policy_file import load_policy
from propel_assets.reporting.access_review.build import build_review
from propel_assets.reporting.access_review.files import CHANGED, MEMBERS, PAGE, render_files
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import Settings, load_settings
from propel_assets.source.stream import ReadOptions
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.query import open_warehouse
from propel_assets.webhooks.apply import load_events
from propel_assets.webhooks.store import StoredEvent, WebhookStore
from propel_assets_tests.marts.conftest import DESCRIPTIONS, SCANS

# Times and ids of the loads, which differ between the two warehouses.
OWN = {"started_at", "finished_at", "first_found_at", "last_found_at", "load_id", "waited_seconds", "concurrency"}
OWN |= {"changed_after", "changed_before", "full_load_started_at", "joined_after", "left_after"}
OWN |= {"compared_from", "compared_to", "late_seconds_median", "late_seconds_max"}
JSON = {"properties", "metadata", "permissions", "inherited_user_roles_plus_current_role", "user_permissions"}
JSON |= {"additional_roles", "last_additional_roles", "inherited_roles"}
AS_OF = ("2026-11-24 12:30:00+00:00", "2026-12-26 12:30:00+00:00")
pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]  # two warehouses, loaded and built twice
REVIEW = "access review"
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
        events: list[StoredEvent] = []
        sandbox.store.subscribe(lambda event: events.append(_received(len(events), event.payload)))

        def load(as_of: str, *scans: str) -> None:
            for destination in ("duckdb", "postgres"):
                store = f"sqlite:///{file.parent}/{destination}.db"
                settings = load_settings({**known, "destination": destination, "webhook_store": store})
                with closing(WebhookStore(store)) as received:
                    received.add(events)
                list(load_events(settings))
                for scan in scans:
                    load_scan(scan, settings, options=ReadOptions(usage_per_key=True))
                with open_dbt(settings) as dbt:
                    assert dbt.run("build", propel_auth_as_of=as_of).failed == {}

        first, other, *_ = sandbox.store.users
        sandbox.store.log_in(first)
        load(AS_OF[0], *SCANS)
        for _ in range(150):
            sandbox.live.step()
        sandbox.store.advance(32)
        sandbox.store.delete_user(first)
        sandbox.store.add_membership(sandbox.store.add_user(), next(iter(sandbox.store.orgs)))
        sandbox.store.touch_user(other)
        sandbox.store.update_user(other, properties={"select": "'; --", "a.b": {"c": ["ü"]}})
        sandbox.faults.set("unknown_field", "users")
        load(AS_OF[1], "users", "invites", "orgs", "user_reports", "org_reports", "chart_metrics")
        reviews = [_review(load_settings({**known, "destination": name})) for name in ("duckdb", "postgres")]
        with duckdb.connect(str(file), read_only=True) as db, psycopg2.connect(credentials) as pg:
            yield _rows(db) | {REVIEW: reviews[:1]}, _rows(pg.cursor()) | {REVIEW: reviews[1:]}


def _received(number: int, payload: dict[str, Any]) -> StoredEvent:
    at = datetime(2026, 10, 15, 13, tzinfo=UTC) + timedelta(hours=4) * number
    return StoredEvent(f"msg_{number}", payload["event_type"], at, at, json.dumps(payload))


def _review(settings: Settings) -> dict[str, list[dict[str, str]]]:
    """Return the tables of the access review, without the times of the loads."""
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        files = render_files(build_review(warehouse, settings.target, date(2026, 12, 26), date(2026, 11, 24)))
    return {
        name: [
            {column: text for column, text in row.items() if not column.endswith(("_after", "_before"))}
            for row in csv.DictReader(io.StringIO(content.decode(), newline=""))
        ]
        for name, content in files.items()
        if name != PAGE
    }


def _rows(connection: Any) -> Rows:
    found = {}
    for model, description in DESCRIPTIONS.items():
        names = [c["name"] for c in description["columns"] if c["name"] not in OWN]
        schema = (
            "propel_auth_history"
            if model.endswith("_history") or model in ("user_loads", "org_loads")
            else "propel_auth_marts"
        )
        rows = connection.execute(f"SELECT {', '.join(names)} FROM {schema}.{model}")
        rows = (rows or connection).fetchall()
        listed = [
            dict(zip(names, (_plain(n, v) for n, v in zip(names, row, strict=True)), strict=True)) for row in rows
        ]
        found[model] = sorted(listed, key=lambda row: json.dumps(row, sort_keys=True, default=str))
    return found


def _plain(name: str, value: Any) -> Any:
    """Return the value in one way of many: numbers, times and JSON text differ by driver."""
    if name in JSON:
        return json.loads(value) if value else value
    if isinstance(value, float | Decimal):
        return round(float(value), 9)
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def test_postgres_has_the_access_review_that_duckdb_has(both) -> None:
    ours, theirs = both
    assert theirs[REVIEW] == ours[REVIEW]
    assert len(ours[REVIEW][0][MEMBERS]) > 20
    assert len(ours[REVIEW][0][CHANGED]) > 3


@pytest.mark.parametrize("model", DESCRIPTIONS)
def test_postgres_has_the_rows_that_duckdb_has(both, model) -> None:
    ours, theirs = both
    assert theirs[model] == ours[model]
    assert ours[model]
