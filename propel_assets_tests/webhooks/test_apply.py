"""Events are applied: the users, memberships and orgs that they name are as PropelAuth has them."""

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from propel_assets.errors import ApiError, LossRefused
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import Settings, load_settings
from propel_assets.warehouse.load import load_scan
from propel_assets.webhooks.apply import load_events
from propel_assets.webhooks.store import EventStore, StoredEvent

LOADED = ("users", "orgs")


@pytest.fixture
def events(settings: Settings, sandbox: Sandbox) -> Iterator[EventStore]:
    """Load users and orgs. From then on the store receives every event of the sandbox."""
    for scan in LOADED:
        load_scan(scan, settings)
    store = EventStore(settings.webhook_store)
    sandbox.store.subscribe(lambda event: store.add([stored(event.payload)]))
    yield store
    store.close()


def stored(payload: dict[str, Any]) -> StoredEvent:
    now = datetime.now(UTC)
    svix_id = f"msg_{uuid.uuid4().hex}"
    return StoredEvent(svix_id, payload["event_type"], now, now.replace(microsecond=0), json.dumps(payload))


def apply(settings: Settings) -> None:
    list(load_events(settings))


def tables(query: Callable) -> dict[str, list[tuple]]:
    """Return the rows of the three tables, without the last activity and what memberships repeat of their org."""
    selects = {
        "user_query": "SELECT * EXCLUDE (last_active_at) FROM user_query ORDER BY user_id",
        "org_membership": "SELECT * EXCLUDE (org_name, org_metadata, url_safe_org_name) FROM org_membership ORDER BY user_id, org_id",
        "org_query": "SELECT * FROM org_query ORDER BY org_id",
    }
    return {name: query(sql) for name, sql in selects.items()}


def test_every_change_of_a_live_day_is_in_the_tables_without_a_scan(settings, sandbox, events, query) -> None:
    for _ in range(150):
        sandbox.live.step()
    apply(settings)
    applied = tables(query)
    for scan in LOADED:
        load_scan(scan, settings)
    assert applied == tables(query)
    assert events.status().pending == 0
