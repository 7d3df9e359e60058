"""The webhook store, on SQLite and on a real PostgreSQL."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from sqlalchemy.engine import Connection
from sqlalchemy.event import listen
from sqlalchemy.exc import ProgrammingError

from propel_assets.errors import SettingsError, WebhookStoreError, WebhookStoreFull
from propel_assets.webhooks.store import MAX_EVENTS, StoredEvent, StoreStatus, WebhookStore, metadata

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def event(svix_id: str, *, received_at: datetime = NOW, payload: str = '{"event_type": "user.updated"}') -> StoredEvent:
    return StoredEvent(svix_id, "user.updated", received_at, NOW, payload)


def test_an_event_is_stored_once_whatever_is_repeated(store_url) -> None:
    store = WebhookStore(store_url)
    assert store.add([event("a"), event("b"), event("a")]) == {"a", "b"}
    assert store.add([event("b"), event("c")]) == {"c"}
    assert [e.svix_id for e in store.pending(10)] == ["a", "b", "c"]
    assert store.pending(1) == [event("a")]


def test_the_first_receipt_of_a_repeated_event_counts(store_url) -> None:
    store = WebhookStore(store_url)
    store.add([event("a")])
    store.add([event("a", received_at=NOW + timedelta(hours=1))])
    assert store.pending(10) == [event("a")]


def test_removed_events_are_gone_and_others_stay(store_url) -> None:
    store = WebhookStore(store_url)
    store.add([event(str(n)) for n in range(2_500)])
    statements: list[str] = []
    listen(store._engine, "before_cursor_execute", lambda *about: statements.append(about[2]))
    listen(store._engine, "before_cursor_execute", lambda *about: about[-1] and pytest.fail("one by one"))
    store.remove([str(n) for n in range(2_499)])
    assert len([statement for statement in statements if statement.startswith("DELETE")]) == 5
    store.remove([])
    assert [e.svix_id for e in store.pending(10)] == ["2499"]


def test_no_byte_of_a_removed_event_is_left_in_the_files(tmp_path) -> None:
    store = WebhookStore(f"sqlite:///{tmp_path}/events.db")

    def files() -> bytes:
        return b"".join(file.read_bytes() for file in tmp_path.iterdir())

    payloads = {str(n): f'{{"email": "canary-{n}@example.com", "more": "{"y" * (n % 5_000)}"}}' for n in range(300)}
    for id_, payload in payloads.items():
        store.add([event(id_, payload=payload)])
    assert b"canary-7@" in files()
    store.remove([id_ for id_ in payloads if id_ != "299"])
    assert {b"canary-%d@" % n in files() for n in range(299)} == {False}
    assert b"canary-299@" in files()
    store.max_age = timedelta(0)
    store.add([event("newer", received_at=datetime.now(UTC) + timedelta(hours=1))])
    assert store.purge() == 1
    assert b"canary" not in files()


def test_events_are_returned_in_the_order_of_their_receipt(store_url) -> None:
    store = WebhookStore(store_url)
    store.add([event("late", received_at=NOW + timedelta(seconds=1)), event("early")])
    assert [e.svix_id for e in store.pending(10)] == ["early", "late"]


def test_a_full_store_refuses_events_until_some_are_removed(store_url) -> None:
    store = WebhookStore(store_url, max_events=3)
    store.add([event("a"), event("b")])
    with pytest.raises(WebhookStoreFull, match=r"holds 2 events .* Run the job whose name ends in `_apply_events`"):
        store.add([event("c"), event("d")])
    store.remove(["a"])
    assert store.add([event("c"), event("d")]) == {"c", "d"}
    assert store.status().pending == 3


@pytest.mark.parametrize(("max_events", "at_most"), [(10, 10), (1_000, 1_020)])
def test_two_receivers_share_the_limit(store_url, max_events, at_most) -> None:
    stores = [WebhookStore(store_url, max_events=max_events) for _ in range(2)]
    refused, number = [False, False], 0
    while not all(refused):
        for index, store in enumerate(stores):
            number += 1
            try:
                store.add([event(f"{number}-{n}") for n in range(1 if max_events == 10 else 5)])
            except WebhookStoreFull:
                refused[index] = True
    assert stores[0].status().share_used > 0.9
    assert stores[0].status().pending <= at_most


def test_the_size_of_the_store_is_limited_too(store_url) -> None:
    store = WebhookStore(store_url, max_bytes=100)
    store.add([event("a", payload="x" * 60)])
    with pytest.raises(WebhookStoreFull, match="60 bytes"):
        store.add([event("b", payload="x" * 60)])
    with pytest.raises(WebhookStoreFull, match="60 bytes"):
        store.add([event("b", payload="漢" * 14)])
    store.add([event("b", payload="漢" * 13)])
    assert store.status().pending_bytes == 99


def test_events_older_than_the_limit_are_purged(store_url) -> None:
    store = WebhookStore(store_url, max_age=timedelta(days=2))
    now = datetime.now(UTC)
    store.add([event("old", received_at=now - timedelta(days=3)), event("new", received_at=now)])
    assert store.purge() == 1
    assert store.status() == StoreStatus(1, len(event("x").payload), store.pending(1)[0].received_at, 1 / MAX_EVENTS)


def test_a_clock_that_is_wrong_for_a_moment_purges_nothing(store_url) -> None:
    store = WebhookStore(store_url)
    store.add([event("a", received_at=datetime.now(UTC))])
    with time_machine.travel(datetime.now(UTC) + timedelta(days=365)):
        assert store.purge() == 0
    assert store.status().pending == 1


def test_a_table_that_another_process_creates_at_the_same_time_is_used(store_url, monkeypatch) -> None:
    create_all, calls = metadata.create_all, []

    def create(connection: Connection) -> None:
        create_all(connection)
        calls.append(1)
        if len(calls) == 1:
            raise ProgrammingError("CREATE TABLE", {}, Exception("relation already exists"))

    monkeypatch.setattr(metadata, "create_all", create)
    assert WebhookStore(store_url).status().pending == 0


def test_the_driver_of_postgresql_is_the_one_with_time_limits(store_url) -> None:
    if store_url.startswith("postgresql"):
        store = WebhookStore(store_url.replace("postgresql+psycopg2:", "postgresql:"))
        assert store.add([event("a")]) == {"a"}


def test_a_full_store_returns_nothing_new_for_repetitions_and_names_them(store_url) -> None:
    store = WebhookStore(store_url, max_events=2)
    store.add([event("a"), event("b")])
    assert store.add([event("a"), event("b")]) == set()
    with pytest.raises(WebhookStoreFull) as failed:
        store.add([event("b"), event("c")])
    assert failed.value.stored == {"b"}
    assert store.status().pending == 2


def test_only_this_user_can_read_the_files(tmp_path) -> None:
    store = WebhookStore(f"sqlite:///{tmp_path}/events.db")
    store.add([event("a")])
    assert {oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()} == {"0o600"}
    assert len([*tmp_path.iterdir()]) > 1  # with the write-ahead log
    store.close()


def test_two_receivers_may_store_the_same_events_at_the_same_time(store_url) -> None:
    stores = [WebhookStore(store_url), WebhookStore(store_url)]
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda n: stores[n % 2].add([event(f"{n // 4}")]), range(200)))
    assert sum(map(len, added)) == 50
    assert stores[0].status().pending == 50


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("not a url", "has no database URL"),
        ("mysql://localhost/events", "dialect 'mysql'"),
        ("postgres://localhost/events", r"Write postgresql\+psycopg2:// in PROPELAUTH_WEBHOOK_STORE"),
        (
            "postgresql+psycopg://localhost/events",
            r"no time limit. Write postgresql\+psycopg2:// in PROPELAUTH_WEBHOOK_STORE",
        ),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url, message) -> None:
    with pytest.raises(SettingsError, match=message):
        WebhookStore(url)


def test_an_error_of_the_database_is_reported_by_its_class_alone(tmp_path) -> None:
    with pytest.raises(WebhookStoreError, match=r"cannot be used \(OperationalError\)") as failed:
        WebhookStore(f"sqlite:///{tmp_path}/missing/secret-name.db")
    assert "secret-name" not in str(failed.value)


def test_ids_that_events_name_are_texts(store_url) -> None:
    store = WebhookStore(store_url)
    payloads = (
        {"user_id": ["a"], "org_id": "o1"},
        {"user_id": "u1", "org_id": "o2", "scim_group_id": "g1"},
        {"user_id": {}, "api_key_id": 5, "org_id": None},
    )
    store.add([event(str(n), payload=json.dumps(payload)) for n, payload in enumerate(payloads)])
    assert store.ids_named_since(NOW) == {"o1", "u1", "g1"}
    assert store.ids_named_since(NOW + timedelta(seconds=1)) == set()
