"""Events go from the store into `auth_event`: each once, also after a kill, and none is lost."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from propel_assets.errors import ApiError
from propel_assets.settings import load_settings
from propel_assets.warehouse.load import load_scan
from propel_assets.webhooks import apply
from propel_assets.webhooks.apply import load_events
from propel_assets.webhooks.store import StoredEvent, WebhookStore

SENT = datetime(2026, 11, 1, 12, tzinfo=UTC)
ADDED = {"event_type": "user.added_to_org", "user_id": "u1", "org_id": "o1", "role": "Admin"}
EVENTS = (
    ADDED,
    {"event_type": "user.removed_from_org", "removed_user_id": "u2", "org_id": "o1"},
    {"event_type": "user.role_changed_within_org", "user_id": "u1", "org_id": "o1", "new_role": "Owner"},
    {"event_type": "user.impersonated", "user_id": "u1", "impersonator_user_id": "e1"},
    {"event_type": "org.created", "org_id": "o2", "name": "Ann's 漢字"},
    {"event_type": "user.added_to_org", "user_id": "ü1", "org_id": "o1", "role": "Geschäftsführung\u00a0ÖÄ 漢字"},
    {"event_type": "user.added_to_org", "user_id": "u1", "org_id": "o1", "role": "a\x00b"},
    {"event_type": "user.added_to_org", "user_id": "u1", "org_id": "o1", "role": "\ud800"},
    {"event_type": "user.deleted", "user_id": "ABCDEF03-0000-4000-8000-00000000000A"},
    {"event_type": "user.new_kind", "user_id": 7, "more": {"deep": [1, 1.5, None]}, "nul": "a\x00b", "half": "\ud800"},
)


@pytest.fixture
def store(tmp_path):
    store = WebhookStore(load_settings().webhook_store)
    yield store
    store.close()


def event(number: int, payload: dict) -> StoredEvent:
    at = SENT + timedelta(seconds=number)
    return StoredEvent(
        f"msg_{number}", payload["event_type"], at + timedelta(microseconds=1500), at, json.dumps(payload)
    )


def rows(query) -> list[tuple]:
    columns = "message_id, event_type, user_id, org_id, role, impersonator_user_id"
    return query(f"SELECT {columns} FROM auth_event ORDER BY message_id")


def test_each_event_is_one_row_with_what_it_names(settings, store, query) -> None:
    store.add([event(number, payload) for number, payload in enumerate(EVENTS)])
    assert [load.results[0].rows_read for load in load_events(settings)] == [len(EVENTS)]
    assert rows(query) == [
        ("msg_0", "user.added_to_org", "u1", "o1", "Admin", None),
        ("msg_1", "user.removed_from_org", "u2", "o1", None, None),
        ("msg_2", "user.role_changed_within_org", "u1", "o1", "Owner", None),
        ("msg_3", "user.impersonated", "u1", None, None, "e1"),
        ("msg_4", "org.created", None, "o2", None, None),
        ("msg_5", "user.added_to_org", None, "o1", "Geschäftsführung\u00a0ÖÄ 漢字", None),
        ("msg_6", "user.added_to_org", "u1", "o1", None, None),
        ("msg_7", "user.added_to_org", "u1", "o1", None, None),
        ("msg_8", "user.deleted", "abcdef03-0000-4000-8000-00000000000a", None, None, None),  # as user_query has it
        ("msg_9", "user.new_kind", None, None, None, None),
    ]
    [times] = query("SELECT epoch_us(received_at), epoch_us(attempted_at) FROM auth_event WHERE message_id = 'msg_0'")
    assert times == (int(SENT.timestamp() * 1_000_000) + 1500, int(SENT.timestamp() * 1_000_000))
    payloads = query("SELECT coalesce(payload::TEXT, payload__v_text) FROM auth_event ORDER BY message_id")
    assert [json.loads(text) for (text,) in payloads] == list(EVENTS)
    assert store.status().pending == 0


def test_an_event_that_was_loaded_before_a_kill_is_loaded_again_and_stays_one_row(settings, store, query) -> None:
    store.add([event(0, ADDED), event(1, ADDED)])
    loads = load_events(settings)
    next(loads)
    loads.close()  # the process ended after the load, before the events were removed from the store
    assert len(rows(query)) == store.status().pending == 2
    store.add([event(2, ADDED)])
    list(load_events(settings))
    assert [row[0] for row in rows(query)] == ["msg_0", "msg_1", "msg_2"]
    assert store.status().pending == 0


def test_more_events_than_one_load_takes_are_loaded_in_turn(settings, store, query, monkeypatch) -> None:
    monkeypatch.setattr(apply, "BATCH_EVENTS", 3)
    store.add([event(number, ADDED) for number in range(7)])
    assert [load.results[0].rows_read for load in load_events(settings)] == [3, 3, 1]
    assert len(rows(query)) == 7
    assert next(load_events(settings)).results[0].rows_read == 0
    assert len(rows(query)) == 7


def test_without_a_store_the_table_is_skipped_and_nothing_is_made(small, run_cli, tmp_path) -> None:
    ran = run_cli("load", "auth_event")
    assert ran.returncode == 0, ran.stderr
    assert "auth_event: skipped. No webhook has been received." in ran.stdout + ran.stderr
    assert not (tmp_path / "propel_auth_webhooks.db").exists()


def test_events_of_erased_people_are_left_out_and_removed_from_the_store(loaded, store, run_cli, query, monkeypatch):
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "k" * 32)
    user_id = next(iter(loaded.store.users))
    other = next(reversed(loaded.store.users))
    of_user = {"event_type": "user.login", "user_id": user_id}
    store.add([event(0, of_user), event(1, {"event_type": "user.login", "user_id": other})])
    assert run_cli("load", "auth_event").returncode == 0
    assert len(rows(query)) == 2
    erased = run_cli("erase", user_id)
    assert erased.returncode == 0, erased.stderr
    assert [row[2] for row in rows(query)] == [other]
    named = {"event_type": "user.new_kind", "user_id": other, "friend": user_id}
    store.add([event(2, of_user), event(3, named)])
    assert run_cli("load", "auth_event").returncode == 0
    assert [row[0] for row in rows(query)] == ["msg_1", "msg_3"]
    assert user_id not in str(query("SELECT * FROM auth_event"))
    assert store.status().pending == 0


def test_events_that_no_load_could_apply_for_30_days_are_removed(loaded, store) -> None:
    now, named = datetime.now(UTC), {"event_type": "user.login", "user_id": next(iter(loaded.store.users))}
    store.add([replace(event(n, named), received_at=now - timedelta(days=days)) for n, days in enumerate((31, 29))])
    loaded.faults.set("server_error", 403)
    with pytest.raises(ApiError):
        list(load_events(load_settings()))
    assert [waiting.svix_id for waiting in store.pending(10)] == ["msg_1"]


@pytest.mark.parametrize("table_format", ["parquet", "delta"])
def test_files_keep_the_events_in_the_store_for_30_days(settings, store, tmp_path, monkeypatch, table_format) -> None:
    monkeypatch.setenv("PROPELAUTH_DESTINATION", "filesystem")
    monkeypatch.setenv("PROPELAUTH_TABLE_FORMAT", table_format)
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", (tmp_path / "files").as_uri())
    of_files = load_settings()
    load_scan("users", of_files)
    now = datetime.now(UTC)
    store.add([replace(event(n, ADDED), received_at=now - timedelta(days=days)) for n, days in enumerate((31, 29))])
    for _ in range(2):
        (load,) = load_events(of_files)
        assert load.results[0].skipped
        assert "Only full loads change its tables" in load.results[0].reason
        assert [waiting.svix_id for waiting in store.pending(10)] == ["msg_1"]


def test_a_later_delivery_of_a_loaded_event_does_not_change_its_row(settings, store, query) -> None:
    times = "SELECT received_at, attempted_at FROM auth_event"
    store.add([event(0, ADDED)])
    list(load_events(settings))
    first = query(times)
    store.add([replace(event(9, ADDED), svix_id="msg_0")])
    (load,) = load_events(settings)
    assert load.results[0].rows_read == 0
    assert query(times) == first
    assert store.status().pending == 0
