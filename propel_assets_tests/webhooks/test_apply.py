"""Events are applied: the users, memberships and orgs that they name are as PropelAuth has them."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dlt
import pytest
from dlt.destinations.exceptions import DatabaseTerminalException

from propel_assets.catalog import AUTH_EVENT, BY_NAME, TABLES
from propel_assets.errors import (
    ApiError,
    LossRefused,
    TransientApiError,
    WarehouseBusy,
    WarehouseError,
    WriteLockLost,
)
from propel_assets.privacy.policy_file import load_policy
from propel_assets.sandbox.events import WebhookEvent
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import Settings, load_settings
from propel_assets.source.readers import named as reader
from propel_assets.source.stream import ReadOptions
from propel_assets.warehouse import audit, query, retention
from propel_assets.warehouse import load as load_module
from propel_assets.warehouse.change_log import StoredRows
from propel_assets.warehouse.checks import checks_of, examine, last_results
from propel_assets.warehouse.destinations.postgres import CopyCsv
from propel_assets.warehouse.folders import working_folder
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.pipeline import build_pipeline, write_lock
from propel_assets.warehouse.query import connect, open_warehouse
from propel_assets.warehouse.session import LoadSession
from propel_assets.webhooks import apply as apply_module
from propel_assets.webhooks.apply import load_events
from propel_assets.webhooks.store import WebhookStore
from propel_assets_tests.processes import wait_until
from propel_assets_tests.webhooks.conftest import received, settings_at

SCANS = ("users", "orgs")
API = "/api/backend/v1"
IGNORED = {"last_active_at", "org_name", "org_metadata", "url_safe_org_name"}
"""The last activity, which changes without an event, and what memberships repeat of their org."""


@pytest.fixture(params=["duckdb", "postgres"])
def settings(request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path) -> Settings:
    return settings_at(request, sandbox, tmp_path)


@pytest.fixture
def store(settings: Settings, sandbox: Sandbox, database_of_sandbox: Path, tmp_path: Path) -> Iterator[WebhookStore]:
    """The webhook store. From the first load of users and orgs on, it receives every event of the sandbox."""
    if settings.target.destination == "duckdb":
        shutil.copy(database_of_sandbox, tmp_path / "propel_auth_pipeline.duckdb")
    else:
        for scan in SCANS:
            load_scan(scan, settings)
    with connected(settings, sandbox) as store:
        yield store


@contextmanager
def connected(settings: Settings, sandbox: Sandbox) -> Iterator[WebhookStore]:
    """The webhook store, which receives every event of the sandbox from now on."""
    store = WebhookStore(settings.webhook_store)

    def receive(event: WebhookEvent) -> None:
        store.add([received(event.payload)])

    sandbox.store.subscribe(receive)
    yield store
    store.close()


def apply(settings: Settings) -> list[Any]:
    return [result for load in load_events(settings) for result in load.results]


def rows(settings: Settings, name: str) -> list[dict[str, Any]]:
    """Return the rows of a table, in order of their keys."""
    return tables(settings, name)[name]


def tables(settings: Settings, *names: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of tables, by default those that events change, in order of their keys."""
    found = {}
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        for name in names or ("user_query", "org_membership", "org_query"):
            columns = [column for column in warehouse.columns_of(name) if column not in IGNORED]
            sql = f"SELECT {', '.join(map(warehouse.column, columns))} FROM {warehouse.table(name)}"
            listed = [dict(zip(columns, row, strict=True)) for row in warehouse.rows(sql)]
            found[name] = sorted(listed, key=lambda row: [row[key] for key in BY_NAME[name].key])
    return found


def failed_checks(settings: Settings) -> list[str]:
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        names = ("user_query", "org_membership", "org_query", "auth_event")
        findings = [finding for name in names for finding in examine(warehouse, BY_NAME[name])]
    return [f"{finding.table}: {finding.summary}" for finding in findings if not finding.passed]


@pytest.mark.slow
def test_a_live_day_is_in_the_tables_without_a_scan(settings, sandbox, store) -> None:
    for _ in range(120):
        sandbox.live.step()
    sandbox.store.delete_org(next(iter(sandbox.store.orgs)))
    apply(settings)
    assert store.status().pending == 0
    assert failed_checks(settings) == []
    applied = tables(settings)
    for scan in SCANS:
        load_scan(scan, settings)
    assert applied == tables(settings)
    assert len(rows(settings, "auth_event")) == len(sandbox.store.events)


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_order_and_repetition_do_not_matter(settings, sandbox, store) -> None:
    for _ in range(60):
        sandbox.live.step()
    events = store.pending(10_000)
    apply(settings)
    applied = tables(settings)
    count = len(rows(settings, "auth_event"))
    store.add(list(reversed(events)))
    apply(settings)
    assert tables(settings) == applied
    assert len(rows(settings, "auth_event")) == count


@pytest.mark.slow
def test_a_forged_or_mistaken_event_changes_nothing(settings, sandbox, store) -> None:
    before = tables(settings)
    users, orgs = list(sandbox.store.users), list(sandbox.store.orgs)
    store.add([received({"event_type": "user.deleted", "user_id": user_id}) for user_id in users[:70]])
    store.add([received({"event_type": "org.deleted", "org_id": org_id}) for org_id in orgs])
    others = (str(uuid.uuid4()), "../user/query", "", 7, None, {"user_id": users[0]})
    store.add([received({"event_type": "user.deleted", "user_id": other}) for other in others])
    apply(settings)
    assert tables(settings) == before
    assert store.status().pending == 0


ANSWERS = {
    "401": ("server_error", 401),
    "403": ("server_error", 403),
    "500": ("server_error", 500),
    "an empty object": ("wrong_json", {}),
    "an empty list": ("wrong_json", []),
    "null": ("wrong_json", None),
    "an empty page": ("html", 200),
    "a page that says 404 to everything": ("html", 404),
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
@pytest.mark.parametrize("answer", ANSWERS)
def test_nothing_is_deleted_unless_the_api_says_that_the_id_does_not_exist(settings, sandbox, store, answer) -> None:
    before = tables(settings)
    sandbox.store.delete_user(next(iter(sandbox.store.users)))
    pending = store.status().pending
    name, value = ANSWERS[answer]
    sandbox.faults.set(name, value, path=f"{API}/user")
    with pytest.raises(ApiError):
        apply(settings)
    assert tables(settings) == before
    assert store.status().pending == pending
    sandbox.faults.clear()
    apply(settings)
    assert len(tables(settings)["user_query"]) == len(before["user_query"]) - 1


@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_a_repeated_event_has_what_it_names_read_again(settings, sandbox, store) -> None:
    user_id = next(iter(sandbox.store.users))
    sandbox.store.update_user(user_id, first_name="Old")
    [event] = store.pending(10)
    apply(settings)
    sandbox.store.update_user(user_id, first_name="New")
    store.remove([other.svix_id for other in store.pending(10)])
    store.add([event])
    apply(settings)
    assert {row["first_name"] for row in rows(settings, "user_query") if row["user_id"] == user_id} == {"New"}


@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
@pytest.mark.parametrize("kind", ["user", "org"])
def test_an_id_that_the_api_refuses_deletes_nothing_and_stops_no_other_event(settings, sandbox, store, kind) -> None:
    before = tables(settings)
    user_id, other = list(sandbox.store.users)[:2]
    refused = user_id if kind == "user" else next(iter(sandbox.store.orgs))
    sandbox.faults.set("server_error", 400, path=f"{API}/{kind}/{refused}")
    store.add([received({"event_type": f"{kind}.updated", f"{kind}_id": refused})])
    sandbox.store.update_user(other, first_name="New")
    reasons = {result.table_name: result.reason for result in apply(settings)}
    assert reasons[f"{kind}_query"] == f"the API refused 1 ids of {kind}s with status 400; they were ignored"
    assert store.status().pending == 0
    after = tables(settings)
    assert {row["first_name"] for row in after["user_query"] if row["user_id"] == other} == {"New"}
    assert [len(after[name]) for name in after] == [len(before[name]) for name in before]


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
@pytest.mark.parametrize("kind", ["user", "org"])
def test_an_id_that_returns_errors_keeps_its_events_and_stops_no_other(settings, sandbox, store, kind) -> None:
    users, orgs = list(sandbox.store.users), list(sandbox.store.orgs)
    failing = users[0] if kind == "user" else orgs[0]
    sandbox.faults.set("server_error", 500, path=f"{API}/{kind}/{failing}")
    store.add([received({"event_type": f"{kind}.updated", f"{kind}_id": failing.upper()})])
    sandbox.store.update_user(users[1], first_name="New")
    sandbox.store.delete_user(users[2])
    for _ in range(2):
        with pytest.raises(TransientApiError, match=f"an error for 1 {kind}s .* 1 events stay in the store") as failed:
            apply(settings)
        assert failing not in str(failed.value)
        assert store.status().pending == 1
    names = {row["user_id"]: row["first_name"] for row in rows(settings, "user_query")}
    assert names[users[1]] == "New"
    assert names.keys() == sandbox.store.users.keys()
    sandbox.faults.clear()
    if kind == "user":
        sandbox.store.users[failing].wire["first_name"] = "Later"
    apply(settings)
    assert store.status().pending == 0
    if kind == "user":
        assert {row["first_name"] for row in rows(settings, "user_query") if row["user_id"] == failing} == {"Later"}


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_orgs_are_applied_if_the_server_refuses_large_pages(settings, sandbox, store) -> None:
    org_id = next(iter(sandbox.store.orgs))
    sandbox.store.update_org(org_id, max_users=77)
    sandbox.faults.update({"page_size_cap": 50, "page_size_refused": True})
    apply(settings)
    assert store.status().pending == 0
    assert {row["max_users"] for row in rows(settings, "org_query") if row["org_id"] == org_id} == {77}


@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_users_are_applied_if_the_key_may_not_read_orgs_and_never_could(settings, sandbox) -> None:
    load_scan("users", settings)
    user_id = next(user_id for user_id, orgs in sandbox.store.of_user.items() if orgs)
    with connected(settings, sandbox) as store:
        sandbox.store.update_user(user_id, first_name="New")
        sandbox.store.remove_membership(user_id, next(iter(sandbox.store.of_user[user_id])))
        sandbox.faults.set("server_error", 403, path=f"{API}/org/")
        apply(settings)
        assert store.status().pending == 0
    assert {row["first_name"] for row in rows(settings, "user_query") if row["user_id"] == user_id} == {"New"}
    members = [row["org_id"] for row in rows(settings, "org_membership") if row["user_id"] == user_id]
    assert set(members) == {*sandbox.store.of_user[user_id]}


@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_errors_for_many_ids_are_an_outage_and_nothing_is_applied(settings, sandbox, store, monkeypatch) -> None:
    monkeypatch.setattr(reader, "MAX_UNREAD", 2)
    before = tables(settings)
    for user_id in list(sandbox.store.users)[:5]:
        sandbox.store.update_user(user_id, first_name="New")
    sandbox.faults.set("server_error", 500, path=f"{API}/user/")
    with pytest.raises(TransientApiError):
        apply(settings)
    assert tables(settings) == before
    assert store.status().pending == 5


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_ids_in_upper_case_are_those_of_the_tables(settings, sandbox, store) -> None:
    user_id, deleted = list(sandbox.store.users)[:2]
    org_id = next(iter(sandbox.store.orgs))
    sandbox.store.update_user(user_id, first_name="New")
    sandbox.store.update_org(org_id, max_users=77)
    sandbox.store.delete_user(deleted)
    store.remove([event.svix_id for event in store.pending(10)])
    store.add([received({"event_type": "user.updated", "user_id": id_.upper()}) for id_ in (user_id, deleted)])
    store.add([received({"event_type": "org.updated", "org_id": org_id.upper()})])
    apply(settings)
    applied = tables(settings)
    for scan in SCANS:
        load_scan(scan, settings)
    assert applied == tables(settings)


def exact(number: str) -> float | int:
    return float(number) if float(number) < float("inf") else int(Decimal(number))


@pytest.mark.slow
def test_a_payload_that_is_hard_to_store_is_kept_and_stops_no_other_event(settings, sandbox, store) -> None:
    texts = ["1.10", "1e400", "1e200000", '"a\\u0000b"', '"\\ud800"', '{"a":1,"a":2}', '"é"', "[" * 98 + "]" * 98]
    hard = [f'{{"event_type":"user.updated","n":{text}}}' for text in texts]
    events = [received({"event_type": "user.updated"}) for _ in hard]
    store.add([replace(event, payload=payload) for event, payload in zip(events, hard, strict=True)])
    apply(settings)
    assert store.status().pending == 0
    stored = rows(settings, "auth_event")
    kept = {row["message_id"]: row.get("payload__v_text") or row["payload"] for row in stored}
    assert len(kept) == len(hard)
    for event, payload in zip(events, hard, strict=True):
        found = kept[event.svix_id]  # psycopg2 decodes JSON
        found = json.loads(found, parse_float=exact) if isinstance(found, str) else found
        assert found == json.loads(payload, parse_float=exact)
    if settings.destination == "duckdb":
        assert kept[events[0].svix_id] == hard[0]


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_the_reason_of_a_variant_is_known_after_many_loads_of_events(settings, sandbox, store, monkeypatch) -> None:
    monkeypatch.setattr(audit, "MAX_LOADS", 2)
    first, second, other = list(sandbox.store.users)[:3]
    sandbox.store.update_user(first, first_name="\ud800")
    load_scan("users", settings)
    sandbox.store.update_user(second, last_name="\ud800")
    for _ in range(4):
        sandbox.store.log_in(other)
        apply(settings)
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        [finding] = examine(warehouse, BY_NAME["user_query"], ["schema"])
    assert (finding.passed, finding.severity) == (False, "WARN")
    assert "`first_name`" in finding.summary
    assert "`last_name`" in finding.summary


@pytest.mark.slow
def test_audit_rows_of_events_are_removed_once_two_full_loads_have_begun_since(
    settings, sandbox, store, monkeypatch
) -> None:
    monkeypatch.setattr(audit, "MAX_LOADS", 3)
    monkeypatch.setattr(retention, "MAX_LOADS", 3)

    def counts() -> list[int]:
        with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
            scans = f"SELECT count(*) FROM {warehouse.table('propel_scans')} WHERE"
            conditions = (
                "mode = 'events'",
                "table_name = 'auth_event'",
                "mode = 'full' AND table_name <> 'auth_event'",
            )
            numbers = [warehouse.number(f"{scans} {condition}") for condition in conditions]
            return [warehouse.count("propel_changes"), *numbers]

    def checks_of_events() -> list[int]:
        """Return how many evaluations of `row_count` are stored for three tables."""
        with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
            sql = (
                f"SELECT count(*) FROM {warehouse.table('propel_checks')} "
                "WHERE table_name = %s AND check_name = 'row_count'"
            )
            return [warehouse.rows(sql, name)[0][0] for name in ("user_query", "org_query", "auth_event")]

    for org_id, user_id in zip(list(sandbox.store.orgs)[:4], list(sandbox.store.users)[:4], strict=True):
        sandbox.store.update_org(org_id, max_users=77)
        sandbox.store.update_user(user_id, first_name="New")
        apply(settings)
        assert failed_checks(settings) == []
    written = counts()
    assert checks_of_events() == [4, 4, 4]
    assert written[1:3] == [12, 4]
    for scan in SCANS:
        load_scan(scan, settings)
    assert counts()[:3] == written[:3]  # the histories may not have them yet
    for scan in SCANS:
        load_scan(scan, settings)
    assert counts() == [0, 0, 3, 3 * written[3]]
    assert checks_of_events() == [1, 1, 3]  # the last one of each full load, and those of the loads of events above
    apply(settings)
    assert failed_checks(settings) == []
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        assert {finding.check for finding in last_results(warehouse, AUTH_EVENT)} == {*checks_of(AUTH_EVENT)}


@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
def test_checks_do_not_fail_while_a_load_of_events_writes(settings, sandbox) -> None:
    for scan in SCANS:
        load_scan(scan, settings)
    has_deleted = threading.Event()

    def delete_and_restore() -> None:
        """Change rows under the write lock, as a load of events that is not complete yet."""
        policy = load_policy(settings.privacy_settings)
        with working_folder() as folder:
            pipeline = build_pipeline(settings.target, folder)
            with (
                write_lock(settings.target, pipeline, lambda _: None),
                connect(pipeline, settings.target, policy) as warehouse,
            ):
                name = warehouse.table("user_query")
                warehouse.execute(f'CREATE TABLE {name[:-1]}_deleted" AS SELECT * FROM {name}')
                warehouse.execute(f"DELETE FROM {name}")
                has_deleted.set()
                time.sleep(1.5)
                warehouse.execute(f'INSERT INTO {name} SELECT * FROM {name[:-1]}_deleted"')

    events = threading.Thread(target=delete_and_restore)
    events.start()
    assert has_deleted.wait(60)
    found = failed_checks(settings)
    events.join()
    assert found == []


@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_more_deletions_than_a_load_may_lose_are_refused(settings, sandbox, store, monkeypatch) -> None:
    before = tables(settings)
    for user_id in list(sandbox.store.users)[:61]:
        sandbox.store.delete_user(user_id)
    with pytest.raises(LossRefused, match="61 rows of user_query"):
        apply(settings)
    assert tables(settings) == before
    monkeypatch.setenv("PROPELAUTH_ALLOW_LOSS", "true")
    apply(load_settings())
    assert len(rows(settings, "user_query")) == len(before["user_query"]) - 61


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_deletions_of_several_runs_are_counted_until_the_next_full_load(settings, sandbox, store) -> None:
    users = list(sandbox.store.users)
    assert len(users) == 300
    apply(settings)
    for user_id in users[:50]:
        sandbox.store.delete_user(user_id)
    apply(settings)
    assert len(rows(settings, "user_query")) == 250
    for run in range(1, 5):
        for user_id in users[run * 50 : run * 50 + 50]:
            sandbox.store.delete_user(user_id)
        with pytest.raises(LossRefused, match=f"{run * 50} rows of user_query .* 300 rows, and 50 were deleted since"):
            apply(settings)
        assert len(rows(settings, "user_query")) == 250
    load_scan("users", replace(settings, allow_loss=True))
    apply(settings)
    sandbox.store.delete_user(users[-1])
    apply(settings)
    assert {row["user_id"] for row in rows(settings, "user_query")} == sandbox.store.users.keys()


@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_deletions_of_a_load_whose_write_failed_are_counted(settings, sandbox, store, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    apply(settings)
    users = list(sandbox.store.users)
    for user_id in users[:50]:
        sandbox.store.delete_user(user_id)
    with monkeypatch.context() as patches:
        patches.setattr(dlt.Pipeline, "load", fail)
        with pytest.raises(WarehouseError, match="Some tables can have been changed"):
            apply(settings)
    assert len(rows(settings, "user_query")) == 250
    for user_id in users[50:61]:
        sandbox.store.delete_user(user_id)
    with pytest.raises(LossRefused, match=r"11 rows of user_query .* and 50 were deleted since"):
        apply(settings)


@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_memberships_of_a_deleted_user_are_deleted_after_a_load_that_stopped_between_both(
    settings, sandbox, store, monkeypatch
) -> None:
    deleted = next(user_id for user_id, orgs in sandbox.store.of_user.items() if orgs)
    sandbox.store.delete_user(deleted)
    delete_rows = load_module._delete_rows

    def delete_users_only(pipeline: dlt.Pipeline, result: Any) -> None:
        if result.table_name == "org_membership":
            raise WarehouseBusy("Waited 1 s.")
        delete_rows(pipeline, result)

    with monkeypatch.context() as patches:
        patches.setattr(load_module, "_delete_rows", delete_users_only)
        with pytest.raises(WarehouseBusy, match=r"Waited 1 s\. Some tables can have been changed\."):
            apply(settings)
    assert [
        deleted in {row["user_id"] for row in rows(settings, name)} for name in ("user_query", "org_membership")
    ] == [
        False,
        True,
    ]
    apply(settings)
    assert store.status().pending == 0
    assert deleted not in {row["user_id"] for row in rows(settings, "org_membership")}
    assert failed_checks(settings) == []


@pytest.mark.slow
def test_memberships_that_ended_in_earlier_runs_are_counted(settings, sandbox, store, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_MAX_LOSS", "0")  # 50 rows
    pairs = [(user_id, org_id) for user_id, orgs in sandbox.store.of_user.items() for org_id in orgs][:51]
    for pair in pairs[:50]:
        sandbox.store.remove_membership(*pair)
    apply(load_settings())
    sandbox.store.remove_membership(*pairs[50])
    with pytest.raises(LossRefused, match=r"1 rows of org_membership .* and 50 were deleted since"):
        apply(load_settings())
    load_scan("users", settings)
    apply(load_settings())
    assert store.status().pending == 0


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
@pytest.mark.parametrize("kind", ["user", "org"])
def test_nothing_is_deleted_while_the_request_by_id_finds_nothing(settings, sandbox, store, kind, monkeypatch) -> None:
    before = tables(settings)
    match_request = sandbox.faults.match_request

    def match_ids(path: str) -> dict[str, Any]:
        is_by_id = re.fullmatch(f"{API}/{kind}/[0-9a-f-]{{36}}", path)
        return {"html": 404} if is_by_id else match_request(path)

    ids = list(sandbox.store.users if kind == "user" else sandbox.store.orgs)
    (sandbox.store.delete_user if kind == "user" else sandbox.store.delete_org)(ids[0])
    pending = store.status().pending
    with monkeypatch.context() as patch:
        patch.setattr(sandbox.faults, "match_request", match_ids)
        with pytest.raises(ApiError, match=r"does not prove a deletion\. Nothing was changed, and the events stay"):
            apply(settings)
        assert tables(settings) == before
        assert store.status().pending == pending
    apply(settings)
    assert len(tables(settings)[f"{kind}_query"]) == len(before[f"{kind}_query"]) - 1


@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
@pytest.mark.parametrize("kind", ["user", "org"])
def test_a_single_wrong_404_deletes_nothing_and_the_change_is_applied(settings, sandbox, store, kind) -> None:
    before = tables(settings)
    if kind == "user":
        named = next(iter(sandbox.store.users))
        sandbox.store.update_user(named, first_name="New")
    else:
        named = next(iter(sandbox.store.orgs))
        sandbox.store.update_org(named, max_users=77)
    sandbox.faults.set("html", 404, path=f"{API}/{kind}/{named}", requests=1)
    apply(settings)
    assert sandbox.faults.hits["html"] == 1
    assert store.status().pending == 0
    after = tables(settings)
    assert [len(after[name]) for name in after] == [len(before[name]) for name in before]
    column, value = ("first_name", "New") if kind == "user" else ("max_users", 77)
    assert [row[column] for row in after[f"{kind}_query"] if row[f"{kind}_id"] == named] == [value]


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
@pytest.mark.parametrize("cause", ["members were removed", "orgs were deleted"])
def test_more_ended_memberships_than_a_load_may_lose_are_refused(settings, sandbox, store, cause) -> None:
    before = tables(settings)
    pairs = [(user_id, org_id) for user_id, orgs in sandbox.store.of_user.items() for org_id in orgs]
    most = len(pairs) // 4 + 51
    if cause == "members were removed":
        for pair in pairs[:most]:
            sandbox.store.remove_membership(*pair)
    else:
        orgs = Counter(org_id for _, org_id in pairs)
        while orgs and len(pairs) - sum(map(len, sandbox.store.of_user.values())) < most:
            sandbox.store.delete_org(orgs.most_common(1)[0][0])
            del orgs[orgs.most_common(1)[0][0]]
        assert len(before["org_query"]) - len(sandbox.store.orgs) < 50  # so few orgs may be lost
    with pytest.raises(LossRefused, match="rows of org_membership"):
        apply(settings)
    assert tables(settings) == before


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
@pytest.mark.parametrize("fault", ["orgs_off", "include_orgs_off"])
def test_users_are_still_applied_once_orgs_are_disabled(settings, sandbox, store, fault) -> None:
    before = tables(settings)
    user_id = next(iter(sandbox.store.users))
    sandbox.store.update_user(user_id, first_name="New")
    sandbox.store.update_org(next(iter(sandbox.store.orgs)), max_users=77)
    sandbox.faults.set(fault)
    apply(settings)
    assert store.status().pending == 0
    after = tables(settings)
    assert next(row for row in after["user_query"] if row["user_id"] == user_id)["first_name"] == "New"
    assert after["org_membership"] == before["org_membership"]
    assert len(after["org_query"]) == len(before["org_query"])


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_many_ids_are_read_from_lists_and_their_absence_singly(settings, sandbox, store, monkeypatch) -> None:
    monkeypatch.setattr(reader, "MAX_SINGLE_READS", 3)
    users, orgs = list(sandbox.store.users), list(sandbox.store.orgs)
    gone = users[:4]
    for user_id in gone:
        sandbox.store.delete_user(user_id)
    for user_id in users[10:40]:
        sandbox.store.update_user(user_id, first_name="New")
    for org_id in orgs[:8]:
        sandbox.store.update_org(org_id, max_users=77)
    sandbox.store.delete_org(orgs[-1])
    sandbox.requests.clear()
    apply(settings)
    single = [request.path for request in sandbox.requests if request.path == f"{API}/user/{users[0]}"]
    assert len(single) == 2
    by_id = [r for r in sandbox.requests if r.path.startswith(f"{API}/user/") and "query" not in r.path]
    assert len(by_id) == 2 * len(gone) + 1  # and one of a user that the list has
    applied = tables(settings)
    for scan in SCANS:
        load_scan(scan, settings)
    assert applied == tables(settings)


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_tables_that_are_not_loaded_stay_so(sandbox, settings) -> None:
    store = WebhookStore(settings.webhook_store)
    store.add([received({"event_type": "user.login", "user_id": next(iter(sandbox.store.users))})])
    store.close()
    assert [result.table_name for result in apply(settings)] == ["auth_event"]
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        assert warehouse.count("user_query") == 0


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_a_changed_privacy_policy_waits_for_the_next_full_load(settings, sandbox, store, monkeypatch) -> None:
    before = tables(settings)
    sandbox.store.update_user(next(iter(sandbox.store.users)), first_name="New")
    monkeypatch.setenv("PROPELAUTH_PRIVACY", "strict")
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "k" * 32)
    strict = load_settings()
    apply(strict)
    assert tables(settings) == before
    for scan in SCANS:
        load_scan(scan, strict)
    sandbox.store.delete_user(next(iter(sandbox.store.users)))
    sandbox.store.update_user(next(iter(sandbox.store.users)), email="other@example.org")
    apply(strict)
    applied = tables(strict)
    for scan in SCANS:
        load_scan(scan, strict)
    assert applied == tables(strict)


def has_file(folder: Path, part: str, prefix: str = "") -> bool:
    """Whether a process has a file of this name in a folder of this name. Its folders come and go."""
    return any(part in path and any(name.startswith(prefix) for name in files) for path, _, files in os.walk(folder))


MOMENTS: dict[str, Callable[[Sandbox, Path], Any]] = {
    "reading": lambda sandbox, _: sandbox.requests,
    "events are extracted": lambda _, folder: has_file(folder, "new_jobs", "auth_event"),
    "loading": lambda _, folder: has_file(folder, "started_jobs"),
    "users are loaded": lambda _, folder: has_file(folder, "completed_jobs", "user_query"),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_after_a_kill_the_next_load_gives_the_same_tables(
    settings, sandbox, store, moment, tmp_path, monkeypatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    for _ in range(60):
        sandbox.live.step()
    sandbox.requests.clear()
    command = [sys.executable, "-m", "propel_assets.cli", "load", "auth_event"]
    with subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: MOMENTS[moment](sandbox, temporary), process, moment, every=0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    apply(settings)
    assert store.status().pending == 0
    events = [row["message_id"] for row in rows(settings, "auth_event")]
    assert len(events) == len(set(events)) == len(sandbox.store.events)
    applied = tables(settings)
    for scan in SCANS:
        load_scan(scan, settings)
    assert applied == tables(settings)


@pytest.mark.slow
def test_events_that_are_applied_during_a_full_load_are_in_the_tables_after_it(settings, sandbox, store) -> None:
    """On PostgreSQL the events are applied beside the load, which has read older rows; on DuckDB after it."""
    sandbox.faults.set("latency_ms", 700, path=f"{API}/user/query")
    slow = {"PROPELAUTH_PAGE_SIZE": "10", "PROPELAUTH_MAX_CONCURRENCY": "1"}
    sandbox.requests.clear()
    command = [sys.executable, "-m", "propel_assets.cli", "load", "user_query"]
    users = list(sandbox.store.users)
    with subprocess.Popen(command, env={**os.environ, **slow}) as process:
        wait_until(lambda: len(sandbox.requests) > 12, process, "the load reads")
        for user_id in users[::20]:
            sandbox.store.update_user(user_id, first_name="During")
        sandbox.store.delete_user(users[1])
        sandbox.store.delete_user(users[-1])
        apply(settings)
        is_beside = process.poll() is None
        assert process.wait(120) == 0
    assert is_beside or settings.destination == "duckdb"
    names = {row["user_id"]: row["first_name"] for row in rows(settings, "user_query")}
    assert names.keys() == sandbox.store.users.keys()
    assert {names[user_id] for user_id in users[::20]} == {"During"}
    assert failed_checks(settings) == []


def apply_in_another_process(seconds_ahead: float = 0) -> None:
    """Load the events in a process whose clock is ahead."""
    program = (
        "import time, time_machine\n"
        "from propel_assets.cli.main import main\n"
        f"with time_machine.travel(time.time() + {seconds_ahead}):\n"
        "    main(['load', 'auth_event'])\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=120)


def load_around(
    during: Callable[[], None], scan: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, *, recent: bool = False
) -> list[str]:
    """Load ``scan`` into PostgreSQL and return what is logged. ``during`` runs between its reads and its writes."""
    messages: list[str] = []
    lock = load_module.write_lock

    @contextmanager
    def write_lock(*arguments: Any) -> Iterator[None]:
        monkeypatch.setattr(load_module, "write_lock", lock)
        during()
        with lock(*arguments):
            yield

    monkeypatch.setattr(load_module, "write_lock", write_lock)
    load_scan(scan, settings, options=ReadOptions(recent=recent), log=messages.append)
    return messages


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
@pytest.mark.parametrize(("mode", "seconds_ahead"), [("first", 0), ("full", 90), ("recent", -90)])
def test_rows_that_events_named_during_a_load_are_read_again_after_it(
    settings, sandbox, mode, seconds_ahead, monkeypatch
) -> None:
    for scan in SCANS if mode != "first" else ():
        load_scan(scan, settings)
    changed, deleted, *others = [user_id for user_id, orgs in sandbox.store.of_user.items() if orgs]
    org_id = next(iter(sandbox.store.of_user[others[0]]))
    with connected(settings, sandbox):
        never_stored = sandbox.store.add_user()
        for user_id in (changed, deleted, others[0]):
            sandbox.store.touch_user(user_id)  # else a recent load does not read the user

        def during() -> None:
            sandbox.store.update_user(changed, first_name="During")
            sandbox.store.delete_user(deleted)
            sandbox.store.delete_user(never_stored)
            sandbox.store.delete_org(org_id)
            apply_in_another_process(seconds_ahead)

        load_around(during, "users", settings, monkeypatch, recent=mode == "recent")
        applied = {row["user_id"]: row["first_name"] for row in rows(settings, "user_query")}
        assert applied[changed] == "During"
        assert applied.keys() == sandbox.store.users.keys()
        assert org_id not in {row["org_id"] for row in rows(settings, "org_membership")}
        # What the load had restored was deleted twice, and counts once.
        sandbox.store.delete_user(others[-1])
        apply(settings)
        assert others[-1] not in {row["user_id"] for row in rows(settings, "user_query")}


@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
@pytest.mark.parametrize("later", ["it can be read", "a full load has the row"])
def test_a_user_who_cannot_be_read_again_stops_no_event_and_is_read_later(
    settings, sandbox, later, monkeypatch
) -> None:
    load_scan("users", settings)
    failing, other = list(sandbox.store.users)[:2]

    def names() -> dict[str, str]:
        return {row["user_id"]: row["first_name"] for row in rows(settings, "user_query")}

    def requested() -> set[str]:
        return {r.path for r in sandbox.requests if r.path.startswith(f"{API}/user/") and "query" not in r.path}

    def during() -> None:
        sandbox.store.update_user(failing, first_name="During")
        apply(settings)
        sandbox.faults.set("server_error", 500, path=f"{API}/user/{failing}")

    with connected(settings, sandbox):
        messages = load_around(during, "users", settings, monkeypatch)
        assert "could not be read again" in messages[-1]
        assert names()[failing] != "During"  # the full load has replaced it by an older version
        sandbox.store.update_user(other, first_name="Later")
        with pytest.raises(TransientApiError, match="an error for 1 users"):
            apply(settings)
        assert names()[other] == "Later"
        for _ in range(2):  # only the one that could not be read is requested again
            sandbox.requests.clear()
            with pytest.raises(
                TransientApiError, match=r"an error for 1 users.* until a full load has their rows"
            ) as failed:
                apply(settings)
            assert "stay in the store" not in str(failed.value)
            assert requested() == {f"{API}/user/{failing}"}
        if later == "it can be read":
            sandbox.faults.clear()
            apply(settings)
        else:
            messages = load_around(lambda: raises_for_one_user(settings), "users", settings, monkeypatch)
            assert "could not be read again" not in str(messages)
        assert names()[failing] == "During"
        sandbox.requests.clear()
        apply(settings)
        assert requested() == set()


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
def test_a_deleted_org_that_could_not_be_read_again_is_not_forgotten_by_a_load_of_orgs(
    settings, sandbox, monkeypatch
) -> None:
    for scan in ("users", "orgs"):
        load_scan(scan, settings)
    deleted = Counter(row["org_id"] for row in rows(settings, "org_membership")).most_common()[-1][0]

    def members() -> list[str]:
        return [row["user_id"] for row in rows(settings, "org_membership") if row["org_id"] == deleted]

    def during() -> None:
        sandbox.store.delete_org(deleted)
        apply(settings)
        sandbox.faults.set("server_error", 500, path=f"{API}/org/{deleted}")

    with connected(settings, sandbox):
        load_around(during, "users", settings, monkeypatch)
        assert members()  # the full load has restored them
        load_scan("orgs", settings)
        sandbox.faults.clear()
        apply(settings)
        assert not members()


def raises_for_one_user(settings: Settings) -> None:
    with pytest.raises(TransientApiError, match="an error for 1 users"):
        apply(settings)


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
def test_a_user_whom_a_load_restored_before_its_write_failed_is_deleted_by_the_next_load_of_events(
    settings, sandbox, store, monkeypatch
) -> None:
    deleted, run = next(iter(sandbox.store.users)), CopyCsv.run

    def is_stored() -> bool:
        return deleted in {row["user_id"] for row in rows(settings, "user_query")}

    def during() -> None:
        sandbox.store.delete_user(deleted)
        apply_in_another_process()
        assert not is_stored()
        monkeypatch.setattr(CopyCsv, "run", fail_after_users)

    def fail_after_users(job: CopyCsv) -> None:
        if job.load_table_name == "propel_scans":
            while not is_stored():
                time.sleep(0.05)
            raise DatabaseTerminalException(OSError())
        run(job)

    with pytest.raises(WarehouseError, match="Some tables can have been changed"):
        load_around(during, "users", settings, monkeypatch)
    monkeypatch.setattr(CopyCsv, "run", run)
    assert is_stored()
    assert store.status().pending == 0
    apply(settings)
    assert not is_stored()
    sandbox.requests.clear()
    apply(settings)
    assert not sandbox.requests
    load_scan("users", settings)
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        sql = f"SELECT reason FROM {warehouse.table('propel_scans')} WHERE table_name = 'user_query' AND mode = 'full'"
        assert sorted(warehouse.rows(sql), key=str) == [("the write of this load has not ended",), (None,), (None,)]


@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
@pytest.mark.parametrize("is_delivered_again", [False, True])
def test_what_an_old_event_names_is_read_again_after_a_load(settings, sandbox, is_delivered_again, monkeypatch) -> None:
    for scan in SCANS:
        load_scan(scan, settings)
    user_id, at = next(iter(sandbox.store.users)), datetime.now(UTC) - timedelta(hours=1)
    waiting = replace(received({"event_type": "user.updated", "user_id": user_id}), received_at=at, sent_at=at)
    with closing(WebhookStore(settings.webhook_store)) as store:
        store.add([waiting])
        if is_delivered_again:
            apply(settings)
            store.add([replace(waiting, received_at=datetime.now(UTC))])

        def during() -> None:
            sandbox.store.delete_user(user_id)  # its own event is lost
            apply_in_another_process()
            assert user_id not in {row["user_id"] for row in rows(settings, "user_query")}

        load_around(during, "users", settings, monkeypatch)
    assert user_id not in {row["user_id"] for row in rows(settings, "user_query")}


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
def test_the_interval_of_a_change_contains_it_after_a_load_that_had_read_before(
    settings, sandbox, store, monkeypatch
) -> None:
    user_id, times = next(iter(sandbox.store.users)), []

    def during() -> None:
        times.append(datetime.now(UTC))
        sandbox.store.update_user(user_id, first_name="During")
        times.append(datetime.now(UTC))
        apply_in_another_process()

    load_around(during, "users", settings, monkeypatch)
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        [(after, before)] = warehouse.rows(
            f"SELECT changed_after, changed_before FROM {warehouse.table('propel_changes')} "
            "WHERE user_id = %s AND table_name = 'user_query' AND change = 'changed' ORDER BY observed_to DESC",
            user_id,
            limit=1,
        )
    assert after <= times[0]
    assert times[1] <= before


@pytest.mark.slow
def test_a_load_by_a_clock_that_was_ahead_is_no_start_of_an_interval(settings, sandbox, travel) -> None:
    with travel(730):
        for scan in SCANS:
            load_scan(scan, settings)
    read_at = datetime.now(UTC)
    for scan in SCANS:
        load_scan(scan, settings)
    first, second, *_ = sandbox.store.users
    with connected(settings, sandbox):
        with travel(365):
            sandbox.store.update_user(first, first_name="First")
            apply(settings)
        sandbox.store.update_user(first, first_name="Second")
        sandbox.store.update_user(second, first_name="Second")
        apply(settings)
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        sql = f"SELECT changed_after, changed_before FROM {warehouse.table('propel_changes')} WHERE change = 'changed'"
        changes = warehouse.rows(sql)
    assert len(changes) == 3
    assert all(read_at <= after < before for after, before in changes), changes


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
def test_a_failed_repair_leaves_the_load_complete_and_is_repeated(settings, sandbox, store, monkeypatch) -> None:
    user_id = next(iter(sandbox.store.users))

    def during() -> None:
        sandbox.store.update_user(user_id, first_name="During")
        apply_in_another_process()
        sandbox.faults.set("server_error", 500, path=f"{API}/user")

    messages = load_around(during, "users", settings, monkeypatch)
    assert "could not be read again" in messages[-1]
    assert "propel-assets load auth_event" in messages[-1]
    names = {row["user_id"]: row["first_name"] for row in rows(settings, "user_query")}
    assert names[user_id] != "During"
    sandbox.faults.clear()
    apply(settings)
    names = {row["user_id"]: row["first_name"] for row in rows(settings, "user_query")}
    assert names[user_id] == "During"
    sandbox.requests.clear()
    apply(settings)
    assert not sandbox.requests


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_an_error_after_the_commit_does_not_fail_the_load(settings, store, monkeypatch) -> None:
    def fail(_: StoredRows) -> None:
        raise RuntimeError("the connection was closed")

    monkeypatch.setattr(StoredRows, "rows_to_read_again", fail)
    messages: list[str] = []
    load = load_scan("users", settings, log=messages.append)
    assert {result.verdict for result in load.results} == {"proved"}
    assert "the load of users is complete" in messages[-1]


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
def test_a_load_whose_lock_has_ended_while_it_read_does_not_write(settings, sandbox, store, monkeypatch) -> None:
    before, normalize = tables(settings), dlt.Pipeline.normalize

    def close_lock(*arguments: Any, **options: Any) -> Any:
        locks = "pg_locks JOIN pg_database d ON d.oid = database AND d.datname = current_database()"
        with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
            sql = f"SELECT pg_terminate_backend(pid) FROM {locks} WHERE locktype = 'advisory'"
            assert warehouse.rows(sql) == [(True,)]
        return normalize(*arguments, **options)

    sandbox.store.update_user(next(iter(sandbox.store.users)), first_name="New")
    monkeypatch.setattr(dlt.Pipeline, "normalize", close_lock)
    with pytest.raises(WriteLockLost, match=r"while this load was reading\. The previous data is kept\."):
        apply(settings)
    monkeypatch.setattr(dlt.Pipeline, "normalize", normalize)
    assert tables(settings) == before
    apply(settings)
    assert tables(settings) != before
    assert store.status().pending == 0


@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
def test_events_wait_for_a_load_if_their_ids_are_hashed(settings, sandbox, monkeypatch, tmp_path) -> None:
    policy = tmp_path / "policy.toml"
    with_users = [table.name for table in TABLES if any(column.name == "user_id" for column in table.columns)]
    policy.write_text("".join(f'[{name}]\nuser_id = "hash"\n' for name in with_users))
    monkeypatch.setenv("PROPELAUTH_PRIVACY", str(policy))
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "k" * 32)
    hashed = load_settings()
    for scan in SCANS:
        load_scan(scan, hashed)
    changed, deleted = list(sandbox.store.users)[:2]
    with connected(hashed, sandbox):
        sandbox.faults.set("latency_ms", 300, path=f"{API}/user/query")
        slow = {"PROPELAUTH_PAGE_SIZE": "20", "PROPELAUTH_MAX_CONCURRENCY": "1"}
        sandbox.requests.clear()
        command = [sys.executable, "-m", "propel_assets.cli", "load", "user_query"]
        with subprocess.Popen(command, env={**os.environ, **slow}) as process:
            wait_until(lambda: len(sandbox.requests) > 6, process, "the load reads")
            sandbox.store.update_user(changed, first_name="During")
            sandbox.store.delete_user(deleted)
            apply(hashed)
            assert process.wait(120) == 0
    names = [row["first_name"] for row in rows(hashed, "user_query")]
    assert names.count("During") == 1
    assert len(names) == len(sandbox.store.users)


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_users_who_never_had_an_org_are_not_lost_memberships(settings, sandbox, store, monkeypatch) -> None:
    monkeypatch.setattr(apply_module, "BATCH_EVENTS", 60)
    monkeypatch.setenv("PROPELAUTH_MAX_LOSS", "0")  # 50 rows
    for _ in range(60):
        sandbox.store.add_user()
    user_id, orgs = next((user_id, orgs) for user_id, orgs in sandbox.store.of_user.items() if orgs)
    sandbox.store.remove_membership(user_id, next(iter(orgs)))
    apply(load_settings())
    assert store.status().pending == 0
    applied = tables(settings)
    for scan in SCANS:
        load_scan(scan, settings)
    assert applied == tables(settings)


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_without_webhooks_nothing_is_queried_after_the_commit(settings, monkeypatch) -> None:
    calls: list[str] = []
    finish, connect = LoadSession.finish, query.warehouse_client
    monkeypatch.setattr(LoadSession, "finish", lambda *arguments: (calls.append("finished"), finish(*arguments)))
    monkeypatch.setattr(query, "warehouse_client", lambda *arguments: (calls.append("query"), connect(*arguments))[1])
    load_scan("users", settings)
    assert calls[-1] == "finished"
    assert "query" in calls
