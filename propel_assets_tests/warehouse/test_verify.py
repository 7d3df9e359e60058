"""`propel-assets verify`: planted faults are found by id, and changes at PropelAuth are not faults."""

import json
import re
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

import duckdb
import psycopg2
import pytest

from propel_assets.catalog import BY_NAME, TABLES, tables_of
from propel_assets.sandbox.events import WebhookEvent
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import Settings, load_settings
from propel_assets.source.stream import ReadOptions
from propel_assets.warehouse import differences
from propel_assets.warehouse import verify as verify_module
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.verify import Difference, TableComparison, verify_scan
from propel_assets.webhooks.apply import load_events
from propel_assets.webhooks.store import StoredEvent, WebhookStore
from propel_assets_tests.webhooks.conftest import received
from propel_assets_tests.webhooks.test_apply import connected

LIVE_SCANS = (
    "users",
    "orgs",
    "org_details",
    "invites",
    "role_mappings",
    "end_user_api_keys",
    "end_user_api_keys_archived",
    "scim",
)
USERS = ("user_query", "org_membership")


def verify(
    settings: Settings, scan: str = "users", tables: tuple[str, ...] = USERS, **options
) -> list[TableComparison]:
    return verify_scan(scan, tables, settings, **options)


@pytest.fixture(params=["duckdb", "postgres"])
def plant(request, monkeypatch, tmp_path, run_sql) -> Callable[[str], None]:
    """Run a statement on the tables of the destination that the settings name."""
    if request.param == "duckdb":
        return lambda sql: run_sql(f"USE propel_auth_data; {sql}")
    place = request.getfixturevalue("postgres_server").place(tmp_path)
    for variable, value in place.items():
        monkeypatch.setenv(variable, value)

    def run(sql: str) -> None:
        with psycopg2.connect(place["DESTINATION__POSTGRES__CREDENTIALS"]) as db, db.cursor() as cursor:
            cursor.execute(f"SET search_path TO propel_auth_data; {sql}")

    return run


@pytest.mark.slow
def test_a_loaded_warehouse_has_no_differences(plant, small, run_cli) -> None:
    assert run_cli("load").returncode == 0
    found = run_cli("verify")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "12 tables compared, 0 differences." in found.stderr
    assert "not compared: PropelAuth recomputes reports" in found.stdout


def test_planted_faults_are_found_by_id(plant, loaded, run_cli) -> None:
    if load_settings().target.destination != "duckdb":
        assert run_cli("load", *USERS).returncode == 0
    missing, changed, copied, *_ = sorted(loaded.store.users)
    member, org = next((user, org) for user, orgs in sorted(loaded.store.of_user.items()) for org in orgs)
    made_up = "00000000-0000-4000-8000-000000000000"
    plant(f"DELETE FROM user_query WHERE user_id = '{missing}'")
    plant(f"UPDATE user_query SET enabled = NOT enabled, first_name = 'Mallory' WHERE user_id = '{changed}'")
    plant(f"UPDATE org_membership SET user_role = 'Forged' WHERE user_id = '{member}' AND org_id = '{org}'")
    columns = "email, email_confirmed, created_at, last_active_at"
    plant(
        f"INSERT INTO user_query (user_id, {columns}) "
        f"SELECT '{made_up}', {columns} FROM user_query WHERE user_id = '{copied}'"
    )
    before = len(loaded.requests)
    found = run_cli("verify", *USERS)
    assert found.returncode == 3
    lines = [line.split() for line in found.stdout.split("\n\n")[1].splitlines()[1:]]
    assert sorted(lines) == sorted(
        [
            ["user_query", "missing", f"user_id={missing}"],
            ["user_query", "different", f"user_id={changed}", "enabled,", "first_name"],
            ["user_query", "extra", f"user_id={made_up}"],
            ["org_membership", "different", f"user_id={member}", f"org_id={org}", "user_role"],
        ]
    )
    assert "Mallory" not in found.stdout + found.stderr
    single = {request.path.rsplit("/", 1)[1] for request in list(loaded.requests)[before:]} - {"query"}
    assert single == {missing, changed, made_up, member}, "each difference is read once more"
    # Nothing was written: the same faults are found again.
    assert run_cli("verify", *USERS).stdout == found.stdout


def test_an_extra_row_is_found_beside_a_missing_row_that_counts_as_changed(loaded, run_cli, run_sql) -> None:
    member = next(user for user, orgs in sorted(loaded.store.of_user.items()) if orgs)
    made_up = "00000000-0000-4000-8000-000000000000"
    for table in USERS:
        run_sql(f"UPDATE propel_auth_data.{table} SET user_id = '{made_up}' WHERE user_id = '{member}'")
    loaded.store.touch_user(member)
    found = run_cli("verify", *USERS)
    assert found.returncode == 3
    lines = [line.split() for line in found.stdout.split("\n\n")[1].splitlines()[1:]]
    members = [["org_membership", "extra", f"user_id={made_up}", f"org_id={o}"] for o in loaded.store.of_user[member]]
    assert sorted(lines) == sorted([["user_query", "extra", f"user_id={made_up}"], *members])


def copy_row(table: str, condition: str, **values: str) -> str:
    """Return statements that insert a row again with other values, which are SQL."""
    changes = ", ".join(f"{name} = {value}" for name, value in values.items())
    return (
        f"CREATE TEMPORARY TABLE copied AS SELECT * FROM {table} WHERE {condition} LIMIT 1; "
        f"UPDATE copied SET {changes}; INSERT INTO {table} SELECT * FROM copied; DROP TABLE copied;"
    )


def listed_by(stdout: str) -> list[list[str]]:
    """Return the listed rows."""
    return [line.split() for line in stdout.split("\n\n")[1].splitlines()[1:]]


@pytest.mark.slow
def test_a_time_that_was_planted_explains_nothing(plant, small, run_cli) -> None:
    """Only what PropelAuth returns decides that a row has changed, not the times of the stored row."""
    tables = (*USERS, "org_query", "end_user_api_keys", "pending_org_invites")
    assert run_cli("load", *tables).returncode == 0
    made_up, made_up_key = "00000000-0000-4000-8000-000000000000", "0" * 32
    edited = max(key.api_key_id for key in small.store.api_keys.values() if key.archived_at is None)
    active = min(small.store.users)
    plant(copy_row("user_query", "TRUE", user_id=f"'{made_up}'", created_at="now()"))
    plant(f"UPDATE user_query SET enabled = NOT enabled, last_active_at = now() WHERE user_id = '{active}'")
    plant(copy_row("org_query", "TRUE", org_id=f"'{made_up}'", created_at="now()"))
    plant(copy_row("end_user_api_keys", "TRUE", api_key_id=f"'{made_up_key}'", created_at="now()"))
    plant(f"UPDATE end_user_api_keys SET user_id = '{made_up}', expires_at = now() WHERE api_key_id = '{edited}'")
    plant(copy_row("pending_org_invites", "TRUE", org_id=f"'{made_up}'", expires_at="now()"))
    found = run_cli("verify", *tables)
    assert found.returncode == 3
    assert sorted(listed_by(found.stdout)) == sorted(
        [
            ["user_query", "extra", f"user_id={made_up}"],
            ["user_query", "different", f"user_id={active}", "enabled"],
            ["org_query", "extra", f"org_id={made_up}"],
            ["end_user_api_keys", "extra", f"api_key_id={made_up_key}"],
            ["end_user_api_keys", "different", f"api_key_id={edited}", "expires_at,", "user_id"],
            ["pending_org_invites", "extra", f"org_id={made_up}", "invitee_email=(hidden)"],
        ]
    )


def test_an_expired_invite_is_excused_only_as_far_as_the_row_counts_allow(settings, sandbox, run_sql) -> None:
    load_scan("invites", settings)
    sandbox.store.invites.pop()
    sandbox.store.version += 1
    [invites] = verify(settings, "invites", ("pending_org_invites",))
    assert (invites.differences, invites.changed) == ([], 1)
    run_sql("USE propel_auth_data; " + copy_row("pending_org_invites", "TRUE", org_id="'x'", expires_at="now()"))
    [invites] = verify(settings, "invites", ("pending_org_invites",))
    assert [d.kind for d in invites.differences] == ["extra", "extra"]
    assert invites.notes == ["1 of the extra rows were not loaded, the others were deleted at PropelAuth"]


def test_a_key_that_expires_after_the_load_has_moved_to_the_archived_keys(settings, sandbox) -> None:
    for scan in ("end_user_api_keys", "end_user_api_keys_archived"):
        load_scan(scan, settings)
    sandbox.store.delete_api_key(next(k for k, key in sandbox.store.api_keys.items() if key.archived_at is None))
    [active] = verify(settings, "end_user_api_keys", ("end_user_api_keys",))
    assert (active.differences, active.changed) == ([], 1)


def test_a_forged_membership_of_a_user_who_was_active_is_found(loaded_settings, sandbox, run_sql) -> None:
    user_id, orgs = next((user, orgs) for user, orgs in sorted(sandbox.store.of_user.items()) if orgs)
    sandbox.store.touch_user(user_id)
    other = next(org for org in sorted(sandbox.store.orgs) if org not in orgs)
    run_sql("USE propel_auth_data; " + copy_row("org_membership", f"user_id = '{user_id}'", org_id=f"'{other}'"))
    _, members = verify(loaded_settings)
    assert members.differences == [Difference("extra", f"user_id={user_id} org_id={other}")]


def test_a_membership_that_an_active_user_has_left_is_no_difference(loaded_settings, sandbox) -> None:
    user_id, org_id = next((user, min(orgs)) for user, orgs in sorted(sandbox.store.of_user.items()) if orgs)
    sandbox.store.touch_user(user_id)
    sandbox.store.remove_membership(user_id, org_id)
    _, members = verify(loaded_settings)
    assert (members.differences, members.changed) == ([], 1)


@pytest.mark.slow
def test_a_row_that_is_newer_than_the_load_is_extra_unless_an_event_has_added_it(
    loaded_settings, sandbox, run_sql
) -> None:
    made_up, gone = "00000000-0000-4000-8000-000000000000", min(sandbox.store.users)
    with connected(loaded_settings, sandbox) as store:
        added = sandbox.store.add_user()
        list(load_events(loaded_settings))
        sandbox.store.delete_user(added)
        run_sql(f"UPDATE propel_auth_data.user_query SET created_at = now() + INTERVAL 1 DAY WHERE user_id = '{added}'")
        users, _ = verify(loaded_settings, named_by_events=store.ids_named_since)
        assert (users.differences, users.changed) == ([], 1)
    sandbox.store.delete_user(gone)
    run_sql(
        f"UPDATE propel_auth_data.user_query SET user_id = '{made_up}', created_at = now() + INTERVAL 1 DAY "
        f"WHERE user_id = '{gone}'"
    )
    users, _ = verify(loaded_settings)
    assert users.differences == [Difference("extra", f"user_id={made_up}")]


@pytest.mark.slow
def test_a_replaced_row_whose_original_was_deleted_is_found_where_the_ids_of_the_load_are_stored(
    settings, sandbox, run_sql
) -> None:
    made_up = "00000000-0000-4000-8000-000000000000"
    with connected(settings, sandbox) as store:
        sandbox.store.log_in(max(sandbox.store.users))
        list(load_events(settings))
        load_scan("users", settings)
        gone, deleted, *_ = sorted(sandbox.store.users)
        run_sql(f"UPDATE propel_auth_data.user_query SET user_id = '{made_up}' WHERE user_id = '{gone}'")
        sandbox.store.delete_user(gone)
        sandbox.store.delete_user(deleted)
        users, members = verify(settings, named_by_events=store.ids_named_since)
    assert users.differences == [Difference("extra", f"user_id={made_up}")]
    assert users.changed == 1
    assert members.differences == []


def test_events_that_arrive_late_are_waited_for(loaded_settings, sandbox) -> None:
    changed = sorted(sandbox.store.users)[:3]
    messages: list[str] = []
    with closing(WebhookStore(loaded_settings.webhook_store)) as store:

        def deliver() -> None:
            store.add([received({"event_type": "user.updated", "user_id": user_id}) for user_id in changed])

        def deliver_later(message: str) -> None:
            messages.append(message)
            threading.Timer(0.5, deliver).start()

        for user_id in changed:
            sandbox.store.update_user(user_id, first_name="Nour")
        users, _ = verify(loaded_settings, named_by_events=store.ids_named_since, log=deliver_later)
    assert messages == ["users: 3 rows differ. Waiting up to 30 s for webhook events that report their changes."]
    assert (users.differences, users.changed) == ([], 3)


def test_waiting_for_events_ends(loaded_settings, sandbox, monkeypatch) -> None:
    monkeypatch.setattr(verify_module, "EVENT_GRACE_SECONDS", 1.0)
    monkeypatch.setattr(verify_module, "POLL_SECONDS", 0.05)
    silent, reported, *_ = sorted(sandbox.store.users)
    polls: list[datetime] = []

    def named(since: datetime) -> set[str]:
        polls.append(since)
        return {reported} if len(polls) > 3 else set()

    for user_id in (silent, reported):
        sandbox.store.update_user(user_id, first_name="Nour")
    users, _ = verify(loaded_settings, named_by_events=named)
    assert users.differences == [Difference("different", f"user_id={silent}", ("first_name",))]
    assert len(polls) > 3


def test_a_missing_column_is_a_difference(small, run_cli, run_sql, tmp_path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[user_query]\nlast_name = "drop"')
    user = small.store.users[min(small.store.users)]
    user.wire |= {"nickname": "Jo", "username": 5}
    assert run_cli("load", *USERS, PROPELAUTH_PRIVACY=str(policy)).returncode == 3, "the username is not a text"
    for column in ("email", "first_name", "last_name", "last_active_at", "nickname", "username__v_text"):
        run_sql(f"ALTER TABLE propel_auth_data.user_query DROP COLUMN {column}")
    user.wire["title"] = "Dr."
    small.store.version += 1
    found = run_cli("verify", "user_query", PROPELAUTH_PRIVACY=str(policy))
    assert found.returncode == 3
    assert "fields that are new since the load: title\n" in re.sub(" +\n", "\n", found.stdout)
    lines = [line.split() for line in found.stdout.split("\n\n")[1].splitlines()[1:]]
    missing = ("email", "first_name", "last_active_at", "nickname", "username__v_text")
    assert lines == [["user_query", "missing", "column", name] for name in missing]


def test_a_table_without_its_key_is_not_compared(loaded, run_cli, run_sql) -> None:
    run_sql("ALTER TABLE propel_auth_data.user_query DROP COLUMN user_id")
    run_sql("ALTER TABLE propel_auth_data.org_query DROP COLUMN org_id")
    found = run_cli("verify", *USERS, "org_query")
    assert found.returncode == 1
    errors = found.stderr.splitlines()
    assert [line.split(":")[0] for line in errors if "has no column" in line] == [", ".join(USERS), "org_query"]
    assert errors[-1] == "Error: Not compared: user_query, org_membership, org_query. The reasons are above."


@pytest.mark.slow
def test_without_arguments_every_loaded_table_is_compared(small, run_cli, run_sql) -> None:
    email = small.store.users[min(small.store.users)].wire["email"]
    assert run_cli("load", "user_query", "user_mfa", "user_by_email", "--email", email).returncode == 0
    run_sql(f"DELETE FROM propel_auth_data.user_mfa WHERE user_id = '{min(small.store.users)}'")
    found = run_cli("verify")
    assert found.returncode == 3
    assert f"user_mfa  missing  user_id={min(small.store.users)}" in found.stdout
    assert "3 tables compared, 1 difference." in found.stderr
    assert re.search("user_by_email .*its rows come from the configuration", found.stdout)


@pytest.mark.slow
def test_rows_that_an_applied_event_names_have_changed(loaded_settings, sandbox) -> None:
    org = max(sandbox.store.orgs, key=lambda org: sum(org in orgs for orgs in sandbox.store.of_user.values()))
    with connected(loaded_settings, sandbox):
        sandbox.store.update_org(org, name="Renamed")
        list(load_events(loaded_settings))
        _, members = verify(loaded_settings)
    assert members.differences == []
    assert members.changed == sum(org in orgs for orgs in sandbox.store.of_user.values()) > 0


@pytest.mark.slow
def test_an_event_that_is_applied_during_verify_is_known(loaded_settings, sandbox) -> None:
    user_id = min(sandbox.store.users)
    sandbox.store.update_user(user_id, first_name="Nour")
    with connected(loaded_settings, sandbox) as store:

        def apply(*_) -> None:
            if not applied:
                applied.append(store.add([received({"event_type": "user.updated", "user_id": user_id})]))
                list(load_events(loaded_settings))

        applied: list[set[str]] = []
        users, _ = verify(loaded_settings, progress=apply, named_by_events=store.ids_named_since)
        assert applied
        assert store.pending(10) == []
    assert (users.differences, users.changed) == ([], 1)


def test_a_duplicated_row_is_found(loaded, run_cli, run_sql) -> None:
    org = min(loaded.store.orgs)
    run_sql(f"INSERT INTO propel_auth_data.org_query SELECT * FROM propel_auth_data.org_query WHERE org_id = '{org}'")
    found = run_cli("verify", "org_query")
    assert found.returncode == 3
    assert f"org_id={org}  number of rows with this key" in found.stdout


@pytest.mark.slow
def test_a_tenant_that_changes_during_verify_reports_only_planted_faults(plant, monkeypatch, tmp_path) -> None:
    """Users sign up, log in, change and leave before and while the tables are compared; events report the changes."""
    monkeypatch.setattr(verify_module, "EVENT_GRACE_SECONDS", 0)  # events arrive at once
    with Sandbox(users=300, orgs=24, seed=7, live=True) as sandbox:
        monkeypatch.setenv("PROPELAUTH_AUTH_URL", sandbox.url)
        monkeypatch.setenv("PROPELAUTH_API_KEY", sandbox.api_key)
        monkeypatch.setenv("PROPELAUTH_PAGE_SIZE", "20")
        settings = load_settings()
        named: set[str] = set()
        for scan in LIVE_SCANS:
            load_scan(scan, settings)
        events = WebhookStore(f"sqlite:///{tmp_path}/events.db")
        sandbox.store.subscribe(lambda event: _receive(events, event))
        ids = sorted(sandbox.store.users)
        missing, changed = set(ids[:10]), set(ids[10:20])
        plant(f"DELETE FROM user_query WHERE user_id IN ({_listed(missing)})")
        plant(f"UPDATE user_query SET locked = NOT locked WHERE user_id IN ({_listed(changed)})")
        for _ in range(60):
            sandbox.live.step()
        stop = threading.Event()
        known: list[set[str]] = []

        def read_events(since: datetime) -> set[str]:
            known.append(events.ids_named_since(since))
            return known[-1]

        def change() -> None:
            while not stop.wait(0.01):
                sandbox.live.step()

        changes = threading.Thread(target=change)
        changes.start()
        try:
            found: dict[str, TableComparison] = {}
            for scan in LIVE_SCANS:
                tables = tuple(table.name for table in tables_of(scan))
                compared = verify(settings, scan, tables, named_by_events=read_events)
                found |= {comparison.table: comparison for comparison in compared}
                if scan == "users":
                    named = known[-1]
        finally:
            stop.set()
            changes.join()
        events.close()
    expected = {Difference("missing", f"user_id={user_id}") for user_id in missing - named}
    expected |= {Difference("different", f"user_id={user_id}", ("locked",)) for user_id in changed - named}
    assert set(found["user_query"].differences) == expected
    assert len(expected) >= 5, "live mode touched almost every planted user"
    assert found["user_query"].changed > 10
    assert {name: c.differences for name, c in found.items() if c.differences and name != "user_query"} == {}
    assert sum(comparison.changed for comparison in found.values()) > 50


def _listed(ids: set[str]) -> str:
    return ", ".join(f"'{id_}'" for id_ in sorted(ids))


def _receive(store: WebhookStore, event: WebhookEvent) -> None:
    """Store an event as the webhook receiver does."""
    now = datetime.now(UTC)
    store.add([StoredEvent(f"msg_{event.number}", event.event_type, now, now, json.dumps(event.payload))])


def test_users_deleted_since_the_load_are_no_differences_without_events(loaded_settings, sandbox, run_sql) -> None:
    gone = sorted(sandbox.store.users)[:3]
    for user_id in gone:
        sandbox.store.delete_user(user_id)
    users, members = verify(loaded_settings)
    assert (users.differences, users.changed) == ([], 3)
    assert members.differences == []
    # Where other rows were added, it is not known which ones PropelAuth never had.
    made_up = "00000000-0000-4000-8000-000000000000"
    run_sql(
        "INSERT INTO propel_auth_data.user_query "
        f"SELECT * REPLACE ('{made_up}' AS user_id) FROM propel_auth_data.user_query WHERE user_id = '{gone[0]}'"
    )
    users, _ = verify(loaded_settings)
    assert {difference.key for difference in users.differences} == {f"user_id={id_}" for id_ in [*gone, made_up]}
    assert users.notes == ["1 of the extra rows were not loaded, the others were deleted at PropelAuth"]


def test_a_note_explains_why_deleted_users_are_extra_after_a_load_of_recent_changes(loaded_settings, sandbox) -> None:
    load_scan("users", loaded_settings, options=ReadOptions(recent=True))
    gone = min(sandbox.store.users)
    sandbox.store.delete_user(gone)
    users, _ = verify(loaded_settings)
    assert users.differences == [Difference("extra", f"user_id={gone}")]
    assert users.notes == [
        "the last load read only recent changes: rows that PropelAuth has deleted since the last full load are extra"
    ]


def test_users_who_signed_up_or_were_active_since_the_load_only_count(loaded_settings, sandbox) -> None:
    active, silent, *_ = sorted(sandbox.store.users)
    sandbox.store.add_user()
    sandbox.store.update_user(active, first_name="Nour", last_active_at=sandbox.store.now + 10)
    sandbox.store.update_user(silent, first_name="Nour")
    users, _ = verify(loaded_settings)
    assert users.changed == 2
    # Without an event, an edit at PropelAuth cannot be distinguished from corruption.
    assert users.differences == [Difference("different", f"user_id={silent}", ("first_name",))]


def test_isolated_orgs_that_the_load_had_are_not_noted_as_new(settings, sandbox) -> None:
    isolated, failing = list(sandbox.store.orgs)[:2]
    sandbox.store.update_org(isolated, isolated=True)
    load_scan("org_details", settings)
    sandbox.faults.parse(f"server_error=404,path=/api/backend/v1/org/{failing}")
    [comparison] = verify(settings, "org_details", ("org_by_id",))
    assert "the scan is not proved: Rows that org_query lists" in str(comparison.notes)
    assert "new isolated orgs" not in str(comparison.notes)


def test_the_reason_why_its_own_scan_is_not_proved_is_a_note(settings, sandbox, monkeypatch) -> None:
    isolated = max(sandbox.store.orgs, key=lambda org: sum(org in orgs for orgs in sandbox.store.of_user.values()))
    sandbox.store.update_org(isolated, isolated=True)
    load_scan("org_details", settings)
    members = {user for user, orgs in sandbox.store.of_user.items() if isolated in orgs}
    listed = sandbox.store.sorted_users
    monkeypatch.setattr(
        sandbox.store, "sorted_users", lambda order: [user for user in listed(order) if user.user_id not in members]
    )
    load_scan("users", settings)
    for comparison in verify(settings):
        assert comparison.differences == []
        [note] = comparison.notes
        assert note.startswith("the scan is not proved: ")
        assert note.endswith(f"that the list of all users does not have: {len(members)}, in 1 orgs")


def test_privacy_and_erasure_apply_to_both_sides(settings, sandbox, run_cli, run_sql, monkeypatch, tmp_path) -> None:
    policy = tmp_path / "policy.toml"
    people = "\n".join(
        f'[{table.name}]\nuser_id = "hash"'
        for table in TABLES
        if any(column.name == "user_id" for column in table.columns)
    )
    policy.write_text(f'preset = "strict"\n{people}')
    monkeypatch.setenv("PROPELAUTH_PRIVACY", str(policy))
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "a key of at least 16 characters")
    erased = min(sandbox.store.users)
    assert run_cli("load", *USERS).returncode == 0
    assert run_cli("erase", erased).returncode == 0
    found = run_cli("verify", *USERS)
    assert found.returncode == 0, found.stdout + found.stderr
    run_sql(
        "UPDATE propel_auth_data.user_query SET enabled = NOT enabled WHERE user_id = "
        "(SELECT min(user_id) FROM propel_auth_data.user_query)"
    )
    found = run_cli("verify", "user_query")
    assert found.returncode == 3
    assert found.stdout.rstrip().endswith("enabled")
    assert not set(sandbox.store.users) & set(re.findall(r"user_id=(\S+)", found.stdout)), "ids are shown as stored"


def test_addresses_of_invitees_are_never_printed(small, run_cli, run_sql) -> None:
    assert run_cli("load", "pending_org_invites").returncode == 0
    run_sql("UPDATE propel_auth_data.pending_org_invites SET role_in_org = 'Forged'")
    found = run_cli("verify", "pending_org_invites", "--limit", "1")
    assert found.returncode == 3
    assert "invitee_email=(hidden)" in found.stdout
    assert "more. Raise --limit" in found.stderr
    assert "@" not in found.stdout + found.stderr


def test_a_database_without_any_load_has_nothing_to_compare(small, run_cli, tmp_path) -> None:
    duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb")).close()
    found = run_cli("verify", "user_query")
    assert "the table was never loaded" in found.stdout, found.stderr
    assert "defect" not in found.stderr


def test_a_table_that_was_never_loaded_or_is_not_enabled_is_not_compared(loaded, run_cli) -> None:
    found = run_cli("verify", "pending_org_invites")
    assert found.returncode == 1
    assert "the table was never loaded" in found.stdout
    loaded.faults.set("orgs_off", True)
    found = run_cli("verify", "org_query")
    assert found.returncode == 1
    assert "not compared: Feature not enabled" in found.stdout


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("auth_event", "its rows are webhook events, which PropelAuth does not list"),
        ("user_by_id", "its rows come from the configuration of each run"),
        ("end_user_api_key_usage", "its rows are merged, and PropelAuth's figures change later"),
    ],
)
def test_a_table_that_cannot_be_compared_has_its_own_reason(table, reason, settings) -> None:
    [comparison] = verify(settings, BY_NAME[table].scan, (table,))
    assert (comparison.notes, comparison.is_compared) == ((f"not compared: {reason}",), False)


def test_many_differences_are_bounded(loaded_settings, sandbox, run_sql, monkeypatch) -> None:
    monkeypatch.setattr(differences, "MAX_DIFFERENCES", 20)
    run_sql("UPDATE propel_auth_data.user_query SET enabled = NOT enabled")
    before = len(sandbox.requests)
    users, _ = verify(loaded_settings)
    assert (len(users.differences), users.different) == (20, 300)
    assert users.notes == ["more than 20 rows differ. They were not read again"]
    assert len(sandbox.requests) - before < 20
