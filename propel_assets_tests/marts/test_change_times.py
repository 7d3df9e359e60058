"""The true time of the last change of each version lies between `changed_after` and `changed_before`."""

import json
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from propel_assets.catalog import ORG_MEMBERSHIP, ORG_QUERY, USER_QUERY, Table
from propel_assets.marts.runner import open_dbt
from propel_assets.marts.sources import PROJECT
from propel_assets.settings import Settings
from propel_assets.source.stream import ReadOptions
from propel_assets.warehouse.load import load_scan
from propel_assets.webhooks.apply import load_events
from propel_assets.webhooks.store import StoredEvent, WebhookStore

HISTORIES = {"users_history": USER_QUERY, "memberships_history": ORG_MEMBERSHIP, "orgs_history": ORG_QUERY}
Key = tuple[str, ...]


def tracked(table: Table, wire: dict[str, Any]) -> str:
    names = [column.name for column in table.columns if column.tracked and column.name not in table.key]
    return json.dumps({name: wire.get(name) for name in names}, sort_keys=True)


class Truth:
    """The present content of each row, and between which two times each row took on each content it has had."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.rows = self.initial = dict(self._read())
        self.changed: dict[tuple[str, Key, str], list[tuple[float, float]]] = defaultdict(list)

    def _read(self) -> Iterator[tuple[tuple[str, Key], str]]:
        for user_id in self.store.users:
            user = self.store.user_object(user_id, include_orgs=True)
            yield ("users_history", (user_id,)), tracked(USER_QUERY, user)
            for org_id, membership in user["org_id_to_org_info"].items():
                yield ("memberships_history", (user_id, org_id)), tracked(ORG_MEMBERSHIP, membership)
        for org_id, org in self.store.orgs.items():
            yield ("orgs_history", (org_id,)), tracked(ORG_QUERY, {"created_at": org.created_at, **org.wire})

    def step(self, change: Any) -> None:
        began = time.time()
        change()
        now = dict(self._read())
        ended = time.time()
        for key, row in now.items():
            if self.rows.get(key) != row:
                self.changed[*key, row].append((began, ended))
        self.rows = now


def test_the_histories_have_the_tracked_columns() -> None:
    """The change log and the histories must agree on what a new version is."""
    for name, table in HISTORIES.items():
        (file,) = (PROJECT / "models" / "history").rglob(f"{name}.sql")
        sql = file.read_text(encoding="utf-8")
        for column in table.columns:
            if column.name not in table.key:
                assert (f"'{column.name}'" in sql) == column.tracked, f"{name}: {column.name}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_the_true_time_of_each_change_lies_within(small_sandbox, small, query, seed) -> None:
    rng, truth = Random(seed), Truth(small_sandbox.store)
    events = WebhookStore(small.webhook_store)
    small_sandbox.store.subscribe(lambda event: rng.random() < 0.7 and events.add([received(event.payload)]))
    actions = {
        "change": lambda: truth.step(small_sandbox.live.step),
        "apply": lambda: list(load_events(small)),
        "users": lambda: load_scan("users", small),
        "orgs": lambda: load_scan("orgs", small),
        "recent": lambda: load_scan("users", small, options=ReadOptions(recent=True)),
    }
    checked = 0
    for round_ in range(5):
        for name in ("users", "orgs") if not round_ else rng.choices([*actions], [12, 3, 1, 1, 1], k=25):
            actions[name]()
        if rng.random() < 0.5:
            actions["users"]()
            actions["orgs"]()
        run_histories(small)
        checked += check(truth, query)
    events.close()
    assert checked > 20


def run_histories(settings: Settings) -> None:
    with open_dbt(settings) as dbt:
        assert dbt.run("run", "--select", *HISTORIES, "user_loads", "org_loads").failed == {}


def received(payload: dict[str, Any]) -> StoredEvent:
    now = datetime.now(UTC)
    svix_id = f"msg_{uuid.uuid4().hex}"
    return StoredEvent(svix_id, payload["event_type"], now, now.replace(microsecond=0), json.dumps(payload))


def check(truth: Truth, query: Any) -> int:
    """Check the present versions, and return how many of them began after the start.

    A row that has changed and changed back between two reads has one version, which began the first time.
    """
    checked = 0
    for name, table in HISTORIES.items():
        names = [column.name for column in table.columns if column.tracked and column.name not in table.key]
        sql = f"SELECT {', '.join([*table.key, *names])}, epoch(changed_after), epoch(changed_before) "
        for *values, after, before in query(f"{sql} FROM propel_auth_history.{name} WHERE valid_to IS NULL"):
            key, row = tuple(values[: len(table.key)]), dict(zip(names, values[len(table.key) :], strict=True))
            times = truth.changed.get((name, key, content(table, row)), [])
            is_initial = not times or before < times[0][0]
            if not (is_initial and (name, key) in truth.initial and truth.initial[name, key] == content(table, row)):
                within = any(began <= before and (after is None or after <= ended) for began, ended in times)
                assert within, (name, key, after, before, times)
                checked += 1
    return checked


def content(table: Table, row: dict[str, Any]) -> str:
    """Return a version as `tracked` returns a row of the sandbox."""
    kinds = {column.name: column.type for column in table.columns}
    shown = {
        name: json.loads(value)
        if kinds[name] == "json" and value is not None
        else int(value.timestamp())
        if isinstance(value, datetime)
        else value
        for name, value in row.items()
    }
    return json.dumps(shown, sort_keys=True)


@pytest.mark.slow
def test_an_event_narrows_the_interval_to_its_reads(small_sandbox, small, query) -> None:
    events = WebhookStore(small.webhook_store)
    small_sandbox.store.subscribe(lambda event: events.add([received(event.payload)]))
    user_id = next(iter(small_sandbox.store.users))
    for scan in ("users", "orgs"):
        load_scan(scan, small)
    run_histories(small)
    small_sandbox.store.log_in(user_id)
    list(load_events(small))
    read_at = time.time()
    small_sandbox.store.update_user(user_id, first_name="New")
    list(load_events(small))
    read_again_at = time.time()
    load_scan("users", small)
    run_histories(small)
    events.close()
    [(after, before)] = query(
        "SELECT epoch(changed_after), epoch(changed_before) FROM propel_auth_history.users_history "
        f"WHERE user_id = '{user_id}' AND valid_to IS NULL"
    )
    [(log_in_read_from,)] = query(
        "SELECT epoch(min(observed_from)) FROM propel_auth_data.propel_changes WHERE table_name = 'user_query'"
    )
    assert after == log_in_read_from < read_at < before < read_again_at
