"""The change log has the interval of each change and deletion, on DuckDB and PostgreSQL."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from propel_assets.privacy.policy_file import load_policy
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import Settings
from propel_assets.warehouse.audit import as_utc
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.query import open_warehouse
from propel_assets.webhooks.apply import load_events
from propel_assets.webhooks.store import WebhookStore
from propel_assets_tests.webhooks.conftest import received, settings_at

Interval = tuple[datetime, datetime]


@pytest.fixture(params=["duckdb", "postgres"])
def settings(request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path) -> Settings:
    return settings_at(request, sandbox, tmp_path)


def timed(change: Callable[..., Any], *arguments: Any, **named: Any) -> Interval:
    began = datetime.now(UTC)
    change(*arguments, **named)
    return began, datetime.now(UTC)


def logged(settings: Settings, change: str) -> list[tuple[str, str, datetime, datetime]]:
    """Return table, user and interval of the rows of a kind of change."""
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        rows = warehouse.rows(
            f"SELECT table_name, user_id, changed_after, changed_before FROM {warehouse.table('propel_changes')} "
            "WHERE change = %s AND user_id IS NOT NULL ORDER BY observed_to",
            change,
        )
    return [(table, user_id, as_utc(after), as_utc(before)) for table, user_id, after, before in rows]


@pytest.mark.slow
def test_the_intervals_of_changes_and_deletions_contain_their_true_times(settings, sandbox) -> None:
    changes: list[tuple[str, Interval]] = []
    deletions: dict[str, Interval] = {}
    for scan in ("users", "orgs"):
        load_scan(scan, settings)
    with_orgs = [user_id for user_id, orgs in sandbox.store.of_user.items() if orgs]
    with closing(WebhookStore(settings.webhook_store)) as store:
        sandbox.store.subscribe(lambda event: store.add([received(event.payload)]))
        for number in range(3):
            changed, deleted = with_orgs[number % 2], with_orgs[10 + number]
            changes.append((changed, timed(sandbox.store.update_user, changed, first_name=f"N{number}")))
            deletions[deleted] = timed(sandbox.store.delete_user, deleted)
            list(load_events(settings))
    found = [row for row in logged(settings, "changed") if row[0] == "user_query"]
    assert [user_id for _, user_id, _, _ in found] == [user_id for user_id, _ in changes]
    for (_, _, after, before), (_, (began, ended)) in zip(found, changes, strict=True):
        assert after <= ended
        assert began <= before
    assert found[2][2] > changes[0][1][0]  # the second change of this user is after a read of the first one
    removed = logged(settings, "deleted")
    assert {table for table, *_ in removed} == {"user_query", "org_membership"}
    assert {user_id for table, user_id, _, _ in removed if table == "user_query"} == deletions.keys()
    for _, user_id, after, before in removed:
        began, ended = deletions[user_id]
        assert after <= ended
        assert began <= before <= ended  # the receipt of the event, not the later read
