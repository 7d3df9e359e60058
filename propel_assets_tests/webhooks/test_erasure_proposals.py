"""A deletion that the API confirms proposes an erasure. A forged or mistaken event has no effect."""

import errno
import json
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta

import dlt
import pytest
from dlt.common.versioned_state import decompress_state

from propel_assets.errors import ErasureIncomplete, TransientApiError, UnexpectedError, WarehouseBusy, WarehouseError
from propel_assets.privacy.erasure_list import names_people
from propel_assets.settings import load_settings
from propel_assets.warehouse.destinations.duckdb_file import needs_compaction
from propel_assets.warehouse.dlt_compat import local_state_folder
from propel_assets.warehouse.erasure import proposals as proposals_module
from propel_assets.warehouse.erasure import run as run_module
from propel_assets.warehouse.load import load_scan
from propel_assets.webhooks import apply as apply_module
from propel_assets.webhooks.apply import load_events
from propel_assets.webhooks.store import StoredEvent, WebhookStore
from propel_assets_tests.webhooks.conftest import received


@pytest.fixture
def settings(loaded, monkeypatch):
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "k" * 32)
    return load_settings()


def deleted_user(small, settings) -> str:
    """Delete a user, deliver the event as if 31 days ago, and return the id."""
    user_id = next(iter(small.store.users))
    small.store.delete_user(user_id)
    deliver(settings, user_id, days_ago=31)
    return user_id


def deliver(settings, user_id: str, *, days_ago: int) -> None:
    at = datetime.now(UTC) - timedelta(days=days_ago)
    store = WebhookStore(settings.webhook_store, max_age=timedelta(days=10_000))
    payload = f'{{"event_type": "user.deleted", "user_id": "{user_id}"}}'
    store.add([StoredEvent(f"msg_{user_id}_{days_ago}", "user.deleted", at, at.replace(microsecond=0), payload)])
    store.close()


def test_a_confirmed_deletion_is_listed_and_erased_when_it_is_due(small, settings, run_cli, query) -> None:
    recent, due, forged = list(small.store.users)[:3]
    for user_id in (recent, due):
        small.store.delete_user(user_id)
    deliver(settings, recent, days_ago=1)
    deliver(settings, due, days_ago=31)
    deliver(settings, forged, days_ago=31)
    assert "No erasure is proposed." in run_cli("erasures").stdout
    list(load_events(settings))
    listed = run_cli("erasures").stdout
    assert due in listed
    assert recent in listed
    assert listed.index(due) < listed.index(recent)
    assert forged not in listed
    ran = run_cli("erasures", "--run")
    assert ran.returncode == 0, ran.stderr
    assert f"Erased: {due}." in ran.stderr
    assert due not in ran.stdout
    assert recent in ran.stdout
    assert query(f"SELECT count(*) FROM user_query WHERE user_id = '{forged}'") == [(1,)]
    assert [row for row in query("SELECT user_id FROM auth_event") if row[0] == due] == []
    assert [row for row in query("SELECT user_id FROM propel_changes") if row[0] == due] == []


@pytest.mark.slow
def test_only_users_that_the_warehouse_has_had_are_proposed(small, settings, run_cli, query, monkeypatch) -> None:
    never, existing = str(uuid.uuid4()), next(iter(small.store.users))
    for user_id in (never, existing.upper()):
        deliver(settings, user_id, days_ago=31)
    monkeypatch.setenv("PROPELAUTH_ERASE_DELETED", "true")
    list(load_events(load_settings()))
    assert "No erasure is proposed." in run_cli("erasures").stdout
    assert query("SELECT count(*) FROM auth_event") == [(2,)]  # an erasure would have deleted them


@pytest.mark.slow
def test_a_user_that_a_full_load_removed_before_the_event_is_proposed(small, settings, run_cli) -> None:
    """The last scans show that the user existed, and later ones do not end the proposal."""
    other, gone = list(small.store.users)[:2]
    deliver(settings, other, days_ago=1)
    list(load_events(settings))
    load_scan("users", settings)
    small.store.delete_user(gone)
    load_scan("users", settings)
    deliver(settings, gone, days_ago=1)
    list(load_events(settings))
    for _ in range(3):
        assert gone in run_cli("erasures").stdout
        load_scan("users", settings)
    assert gone in run_cli("erasures").stdout


@pytest.mark.slow
def test_a_user_that_an_event_removed_stays_proposed_after_full_loads(small, settings, run_cli) -> None:
    user_id = next(iter(small.store.users))
    small.store.delete_user(user_id)
    deliver(settings, user_id, days_ago=1)
    list(load_events(settings))
    for _ in range(3):
        load_scan("users", settings)
    assert user_id in run_cli("erasures").stdout


@pytest.mark.slow
def test_a_user_who_exists_after_all_is_not_erased(small, settings, run_cli, run_sql, query) -> None:
    user_id = next(iter(small.store.users))
    deliver(settings, user_id, days_ago=31)
    list(load_events(settings))
    run_sql(f"DELETE FROM propel_auth_data.user_query WHERE user_id = '{user_id}'")  # a wrong proposal
    assert user_id in run_cli("erasures").stdout
    ran = run_cli("erasures", "--run")
    assert ran.returncode == 0, ran.stderr
    assert f"User {user_id} exists at PropelAuth and is not erased." in ran.stderr
    assert query(f"SELECT count(*) FROM auth_event WHERE user_id = '{user_id}'") == [(1,)]
    small.faults.set("server_error", 403, path="/api/backend/v1/user")
    assert run_cli("erasures", "--run").returncode == 1
    assert query(f"SELECT count(*) FROM auth_event WHERE user_id = '{user_id}'") == [(1,)]


@pytest.mark.slow
def test_applying_events_erases_only_where_it_is_configured(small, settings, query, monkeypatch) -> None:
    user_id = deleted_user(small, settings)
    list(load_events(settings))
    assert query(f"SELECT count(*) FROM auth_event WHERE user_id = '{user_id}'") == [(1,)]
    monkeypatch.setenv("PROPELAUTH_ERASE_DELETED", "true")
    list(load_events(load_settings()))
    assert query(f"SELECT count(*) FROM auth_event WHERE user_id = '{user_id}'") == [(0,)]


def test_events_erase_once_a_day_where_loads_can_be_reading_meanwhile(small, settings, query, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_ERASE_DELETED", "true")
    monkeypatch.setenv("PROPELAUTH_ERASURE_DAYS", "0")
    monkeypatch.setattr(apply_module, "has_write_lock", lambda _: True)  # PostgreSQL
    _, failing = deleted_user(small, settings), deleted_user(small, settings)
    list(load_events(settings))
    small.faults.set("server_error", 500, path=f"/api/backend/v1/user/{failing}")
    with pytest.raises(ErasureIncomplete, match=f"The erasure of {failing} failed"):
        list(load_events(load_settings()))
    small.faults.clear()
    second = next(iter(small.store.users))
    small.store.delete_user(second)
    deliver(settings, second, days_ago=0)  # due at once, after the last erasure
    list(load_events(load_settings()))
    assert [user_id for (user_id,) in query("SELECT user_id FROM auth_event")] == [second]
    monkeypatch.setattr(proposals_module, "ERASE_EVERY", timedelta(0))  # a day later
    list(load_events(load_settings()))
    assert query("SELECT count(*) FROM auth_event") == [(0,)]


@pytest.mark.slow
def test_an_automatic_erasure_that_is_not_complete_fails_and_says_what_to_do(
    small, settings, run_sql, query, monkeypatch, run_cli
) -> None:
    user_id = deleted_user(small, settings)
    run_sql(f"CREATE VIEW propel_auth_data.selected_user AS SELECT '{user_id}' AS user_id")
    monkeypatch.setenv("PROPELAUTH_ERASE_DELETED", "true")
    for _ in range(2):
        with pytest.raises(
            ErasureIncomplete, match=f"The erasure of {user_id} is not complete: .* Run propel-assets erase"
        ):
            list(load_events(load_settings()))
        assert query("SELECT count(*) FROM auth_event") == [(0,)]  # it is erased as far as it can be
    assert f"Not complete: the erasure of {user_id}." in run_cli("erasures").stderr
    assert not names_people(dlt.attach("propel_auth_pipeline").state)
    assert run_cli("erase", user_id).returncode == 1
    list(load_events(load_settings()))
    # The command prints the results of the load and of its checks first.
    other_id = deleted_user(small, settings)
    run_sql(f"CREATE OR REPLACE VIEW propel_auth_data.selected_user AS SELECT '{other_id}' AS user_id")
    ran = run_cli("load", "auth_event")
    assert ran.returncode == 1
    lines = ran.stderr.splitlines()
    assert lines[-1] == "Error: Not complete: auth_event. The reasons are above."
    order = [
        next(n for n, line in enumerate(lines) if line == "auth_event: 1 row, proved"),
        next(n for n, line in enumerate(lines) if line.startswith("auth_event: not complete. The erasure of ")),
        next(n for n, line in enumerate(lines) if " checks passed" in line),
    ]
    assert order == sorted(order)


@pytest.mark.parametrize("stopped_at", ["search", "deletion of old states", "compaction"])
def test_an_automatic_erasure_that_is_stopped_after_its_commit_is_repeated(
    small, settings, query, monkeypatch, tmp_path, run_cli, stopped_at
) -> None:
    user_id = deleted_user(small, settings)
    monkeypatch.setenv("PROPELAUTH_ERASE_DELETED", "true")
    file = tmp_path / "propel_auth_pipeline.duckdb"

    def states() -> list[dict]:
        return [decompress_state(state) for (state,) in query("SELECT state FROM _dlt_pipeline_state")]

    def fail(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patches:

        def fail_from_now_on(*_) -> None:
            patches.setattr(run_module, "warehouse_client", fail)

        if stopped_at == "search":
            patches.setattr(run_module._Run, "_receipt", fail)
        elif stopped_at == "compaction":
            patches.setattr(run_module, "_compact", fail)
        else:
            replace_note = run_module._Run._replace_note
            patches.setattr(
                run_module._Run, "_replace_note", lambda *args: [replace_note(*args), fail_from_now_on()][0]
            )
        with pytest.raises(ErasureIncomplete, match=f"The erasure of {user_id} failed.*Free disk space"):
            list(load_events(load_settings()))
    assert query("SELECT count(*) FROM auth_event") == [(0,)]  # it was committed
    assert (user_id in str(states())) == (stopped_at != "compaction")
    assert "Not complete: " in run_cli("erasures").stderr
    load_scan("orgs", settings)
    files = [file for file in local_state_folder("propel_auth_pipeline").rglob("*") if file.is_file()]
    assert not [file for file in files if user_id.encode() in file.read_bytes()]
    not_compacted = file.stat().st_ino
    list(load_events(load_settings()))
    assert user_id not in str(states())
    assert file.stat().st_ino != not_compacted
    assert not needs_compaction(file)
    assert "Not complete: " not in run_cli("erasures").stderr
    compacted = file.stat().st_ino
    list(load_events(load_settings()))
    assert file.stat().st_ino == compacted


@pytest.mark.parametrize(
    ("stopped_at", "error", "message"),
    [
        ("load_lock", WarehouseBusy("Waited 1 s."), r"Waited 1 s\. Nothing was erased\."),
        ("database_file", OSError(), r"Erasing from duckdb failed: OSError\. Nothing was erased\."),
        ("remove_staged_files", WarehouseBusy("Waited 1 s."), "Rows of the person can have been deleted; the erasure"),
        (
            "_compact",
            OSError(),
            r"Erasing from duckdb failed: OSError\. The rows of the person were deleted; identifiers",
        ),
        ("remove_staged_files", KeyError(), r"Unexpected KeyError at .*run\.py:\d+.* This is a defect"),
    ],
)
def test_an_error_of_an_erasure_says_what_the_tables_have(
    small, settings, monkeypatch, stopped_at, error, message
) -> None:
    def fail(*_) -> None:
        raise error

    monkeypatch.setattr(run_module, stopped_at, fail)
    with pytest.raises(UnexpectedError if isinstance(error, KeyError) else WarehouseError, match=message) as raised:
        run_module.erase(settings.target, settings.privacy_settings, next(iter(small.store.users)))
    assert isinstance(error, WarehouseBusy) == isinstance(raised.value, WarehouseBusy)


def test_an_erasure_that_fails_hides_no_other_that_is_not_complete(small, settings, run_sql, monkeypatch) -> None:
    incomplete, failing, last = list(small.store.users)[:3]
    for days, user_id in ((33, incomplete), (32, failing), (31, last)):
        small.store.delete_user(user_id)
        deliver(settings, user_id, days_ago=days)
    list(load_events(settings))
    run_sql(f"CREATE VIEW propel_auth_data.selected_user AS SELECT '{incomplete}' AS user_id")
    monkeypatch.setenv("PROPELAUTH_ERASE_DELETED", "true")
    small.faults.set("server_error", 500, path=f"/api/backend/v1/user/{failing}")
    messages: list[str] = []
    with pytest.raises(ErasureIncomplete) as error:
        list(load_events(load_settings(), log=messages.append))
    assert f"The erasure of {failing} failed." in str(error.value)
    assert f"The erasure of {incomplete} is not complete" in str(error.value)
    assert f"Erased: {last}." in messages


@pytest.mark.parametrize("is_known_by", ["an invite of theirs", "the event of their sign-up", "nothing"])
def test_the_address_of_a_deleted_user_is_erased_or_reported_as_unknown(
    small, settings, run_cli, run_sql, query, is_known_by
) -> None:
    run_sql("DELETE FROM propel_auth_data.user_report")  # it has the addresses of users
    inviters = {invite["inviter_user_id"] for invite in small.store.invites}
    user_id = next(user_id for user_id in small.store.users if user_id not in inviters)
    email = small.store.users[user_id].wire["email"]
    small.store.invites[-1]["invitee_email"] = email
    inviter = {"inviter_user_id": user_id, "inviter_email": email} if is_known_by == "an invite of theirs" else {}
    small.store.invites[0] |= inviter
    load_scan("invites", settings)
    if is_known_by == "the event of their sign-up":
        at = datetime.now(UTC)
        payload = json.dumps({"event_type": "user.created", "user_id": user_id, "email": email})
        with closing(WebhookStore(settings.webhook_store)) as store:
            store.add([StoredEvent("created", "user.created", at, at, payload)])
    small.store.delete_user(user_id)
    deliver(settings, user_id, days_ago=31)
    list(load_events(settings))
    addresses = f"SELECT count(*) FROM pending_org_invites WHERE '{email}' IN (invitee_email, inviter_email)"
    assert query(addresses)[0][0] > 0
    done = run_cli("erase", user_id)
    if is_known_by == "nothing":
        assert done.returncode == 1
        assert "propel_auth_data.pending_org_invites.invitee_email" in done.stdout
        assert "no e-mail address of this person is known" in done.stdout
        done = run_cli("erase", user_id, "--email", email)
    assert done.returncode == 0, done.stdout + done.stderr
    assert query(addresses) == [(0,)]


def test_an_id_that_returns_errors_stops_neither_later_events_nor_erasures(small, settings, query, monkeypatch) -> None:
    monkeypatch.setattr(apply_module, "BATCH_EVENTS", 2)
    monkeypatch.setenv("PROPELAUTH_ERASE_DELETED", "true")
    due, failing, *others = list(small.store.users)[:5]
    small.store.delete_user(due)
    deliver(settings, due, days_ago=31)
    with closing(WebhookStore(settings.webhook_store)) as store:
        for user_id in (failing, *others):
            small.store.update_user(user_id, first_name="New")
            store.add([received({"event_type": "user.updated", "user_id": user_id})])
        small.faults.set("server_error", 500, path=f"/api/backend/v1/user/{failing}")
        with pytest.raises(TransientApiError, match=r"an error for 1 users .* 1 events stay in the store"):
            list(load_events(load_settings()))
        assert store.status().pending == 1
        with monkeypatch.context() as patches:
            patches.setattr(
                apply_module, "run_due_erasures", lambda *_, **__: (_ for _ in ()).throw(ErasureIncomplete("No."))
            )
            with pytest.raises(
                ErasureIncomplete, match=r"No\. PropelAuth returned an error for 1 users .* 1 events stay"
            ):
                list(load_events(load_settings()))
    changed = query("SELECT user_id FROM user_query WHERE first_name = 'New'")
    assert {user_id for (user_id,) in changed} == {*others}
    assert query(f"SELECT count(*) FROM auth_event WHERE user_id = '{due}'") == [(0,)]
