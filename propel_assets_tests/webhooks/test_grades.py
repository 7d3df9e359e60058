"""The grade of the webhooks is the truth: the sandbox decides which events are lost."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from propel_assets.catalog import BY_NAME
from propel_assets.privacy.policy_file import load_policy
from propel_assets.sandbox.roles import MAPPINGS
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import Settings, load_settings
from propel_assets.warehouse import checks, grades
from propel_assets.warehouse.checks import examine
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.query import open_warehouse
from propel_assets.webhooks.apply import load_events
from propel_assets.webhooks.store import StoredEvent, WebhookStore
from propel_assets_tests.webhooks.conftest import received, settings_at


@pytest.fixture(params=["duckdb", "postgres"])
def settings(request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path) -> Settings:
    return settings_at(request, sandbox, tmp_path)


class World:
    """A sandbox whose events are received, or lost while ``loses`` is set, and the truth about both."""

    def __init__(self, sandbox: Sandbox, settings: Settings) -> None:
        self.settings, self.store, self.events = settings, sandbox.store, WebhookStore(settings.webhook_store)
        self.loses = False
        self.scans = ("orgs", "users")
        self.late: dict[str, list[float]] = {}
        self.changes: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        sandbox.store.subscribe(self._receive)

    def _receive(self, event: Any) -> None:
        self.changes[event.event_type] += 1
        if self.loses:
            self.missed[event.event_type] += 1
        else:
            stored = received(event.payload)
            self.events.add([stored])
            self._note_lateness(stored)

    def _note_lateness(self, event: StoredEvent) -> None:
        """Note the time from the creation of a user or an org to the receipt of its event."""
        payload = json.loads(event.payload)
        if event.event_type == "user.created":
            created_at = self.store.users[payload["user_id"]].wire["created_at"]
        elif event.event_type == "org.created":
            created_at = self.store.orgs[payload["org_id"]].created_at
        else:
            return
        self.late.setdefault(event.event_type, []).append(event.received_at.timestamp() - created_at)

    def connect(self) -> None:
        """Receive and load the first event."""
        self.store.log_in(next(iter(self.store.users)))
        self.apply()

    def apply(self) -> None:
        list(load_events(self.settings))

    def scan(self) -> None:
        for scan in self.scans:
            load_scan(scan, self.settings)

    def grades(self) -> dict[str, tuple[int, int]]:
        """Return changes and missed ones of the last grade, by event type."""
        with self._open() as warehouse:
            found = grades.latest_grades(warehouse, grades.GRADED)
        return {grade.event_type: (grade.changes, grade.missed) for grade in found}

    def truth(self) -> dict[str, tuple[int, int]]:
        types = [change.event_type for change in grades.REPORTED_CHANGES]
        return {name: (self.changes[name], self.missed[name]) for name in types}

    def check(self, name: str) -> tuple[bool, str, str]:
        with self._open() as warehouse:
            [finding] = examine(warehouse, BY_NAME[name], ["events_received"])
        return finding.passed, finding.severity, finding.summary

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._open() as warehouse:
            names = ("propel_event_grades", "propel_scan_state", "user_query")
            return warehouse.rows(sql.format(**{name: warehouse.table(name) for name in names}))

    def _open(self) -> Any:
        return open_warehouse(self.settings.target, load_policy(self.settings.privacy_settings))


ORDERS = pytest.mark.parametrize("scans", [("orgs", "users"), ("users", "orgs")])


@pytest.fixture
def world(sandbox: Sandbox, settings: Settings) -> Iterator[World]:
    world = World(sandbox, settings)
    yield world
    world.events.close()


def change_everything(world: World, first: int) -> None:
    """Make each kind of change that a grade counts, with users and orgs that no other call changes."""
    store, users, orgs = world.store, list(world.store.users), list(world.store.orgs)
    some = users[first : first + 8]
    store.delete_user(some[0])
    store.update_user(some[1], enabled=not store.users[some[1]].wire["enabled"])
    store.update_user(some[2], locked=not store.users[some[2]].wire["locked"])
    store.add_membership(store.add_user(), store.add_org())
    store.delete_org(orgs[first // 10])
    joined = next(org for org in store.orgs if org not in store.of_user[some[3]])
    store.add_membership(some[3], joined)
    member, org = next((user, org) for user in users[first + 8 :] for org in store.of_user.get(user, ()))
    store.remove_membership(member, org)
    last = list(reversed(users))[first:]
    member, org = next((user, org) for user in last for org in store.of_user.get(user, ()))
    roles = MAPPINGS[store.orgs[org].role_mapping].roles
    store.change_role(member, org, next(role for role in roles if role != store.of_user[member][org].role))


@pytest.mark.slow
@ORDERS
def test_the_grade_is_the_truth(world, scans, monkeypatch) -> None:
    monkeypatch.setattr(grades, "SETTLE_DELAY", timedelta(0))
    world.scans = scans
    world.connect()
    world.scan()
    world.changes.clear()
    change_everything(world, 0)
    world.store.add_user()
    world.store.add_user()
    world.apply()  # corrects the tables: they cannot serve as the comparison
    world.loses = True
    change_everything(world, 20)
    world.loses = False
    login = next(reversed(world.store.users))
    world.store.log_in(login)  # events of other types about the same users are no excuse
    world.apply()
    world.scan()
    assert world.grades() == world.truth()
    assert sum(world.missed.values()) >= 8
    passed, severity, summary = world.check("user_query")
    assert (passed, severity) == (False, "WARN")
    assert f"`user.deleted` 1 of {world.changes['user.deleted']}" in summary
    assert set(world.late) == {"user.created", "org.created"}
    found = world.rows(
        "SELECT event_type, late_seconds_median, late_seconds_max FROM {propel_event_grades} "
        "WHERE event_type IN ('user.created', 'org.created')"
    )
    for event_type, middle, longest in found:
        assert middle == pytest.approx(median(world.late[event_type]), abs=0.002)
        assert longest == pytest.approx(max(world.late[event_type]), abs=0.002)
    assert len(found) == 2
    assert world.rows(
        "SELECT count(*) FROM {propel_event_grades} WHERE late_seconds_max IS NOT NULL "
        "AND event_type NOT IN ('user.created', 'org.created')"
    ) == [(0,)]
    world.changes.clear()
    world.missed.clear()
    change_everything(world, 40)
    world.apply()
    world.scan()
    assert world.grades() == world.truth()
    assert world.check("user_query")[0]
    users = "FROM {propel_scan_state} WHERE table_name = 'user_query'"
    assert world.rows(f"SELECT count(*) {users} AND user_id IS NULL") == [(2,)]
    kept = world.rows(f"SELECT user_id, count(*) {users} AND user_id IS NOT NULL GROUP BY user_id")
    assert {user_id for user_id, _ in kept} > world.store.users.keys()
    assert max(number for _, number in kept) == 2


@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_a_change_that_an_event_of_another_kind_has_corrected_is_missed(world, monkeypatch) -> None:
    monkeypatch.setattr(grades, "SETTLE_DELAY", timedelta(0))
    world.connect()
    world.scan()
    user_id = next(user for user, found in world.store.users.items() if found.wire["enabled"])
    world.loses = True
    world.store.update_user(user_id, enabled=False)
    world.loses = False
    world.store.log_in(user_id)
    world.apply()
    assert world.rows("SELECT count(*) FROM {user_query} WHERE NOT enabled AND user_id = '" + user_id + "'") == [(1,)]
    world.scan()
    assert world.grades()["user.disabled"] == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_a_member_who_returns_with_another_role_is_not_a_missed_change_of_the_role(world, monkeypatch) -> None:
    monkeypatch.setattr(grades, "SETTLE_DELAY", timedelta(0))
    world.connect()
    world.scan()
    user_id, org_id = next((user, org) for user, orgs in world.store.of_user.items() for org in orgs)
    role = world.store.of_user[user_id][org_id].role
    roles = MAPPINGS[world.store.orgs[org_id].role_mapping].roles
    world.store.remove_membership(user_id, org_id)
    world.store.add_membership(user_id, org_id, next(other for other in roles if other != role))
    world.apply()
    world.scan()
    assert world.grades()["user.role_changed_within_org"] == (1, 0)
    assert world.check("org_membership")[0]


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
@pytest.mark.parametrize("event", ["lost", "pending"])
@ORDERS
def test_members_of_a_deleted_org_are_not_missed_removals_in_any_order_of_scans(
    world, scans, event, monkeypatch
) -> None:
    world.connect()
    world.scan()
    org_id = sorted(world.store.orgs, key=lambda org: len(world.store.of_org[org]))[len(world.store.orgs) // 2]
    assert len(world.store.of_org[org_id]) > 1
    if scans[0] == "orgs":  # the org exists when the orgs are scanned, and is deleted before the users are
        load_scan("orgs", world.settings)
    world.loses = event == "lost"
    world.store.delete_org(org_id)
    for scan in ("users", "orgs"):
        load_scan(scan, world.settings)
        assert world.grades()["user.removed_from_org"] == (0, 0)
    monkeypatch.setattr(grades, "SETTLE_DELAY", timedelta(0))
    world.apply()
    assert world.grades()["org.deleted"] == (1, int(event == "lost"))
    assert world.check("org_membership")[0]


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_the_removal_of_the_last_member_is_missed_once_the_orgs_are_scanned(world, monkeypatch) -> None:
    monkeypatch.setattr(grades, "SETTLE_DELAY", timedelta(0))
    world.connect()
    org_id, user_id = world.store.add_org(), world.store.add_user()
    world.store.add_membership(user_id, org_id)
    world.scan()
    world.loses = True
    world.store.remove_membership(user_id, org_id)
    load_scan("users", world.settings)
    assert world.grades()["user.removed_from_org"] == (0, 0)  # or the org was deleted
    load_scan("orgs", world.settings)
    assert world.grades()["user.removed_from_org"] == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
@pytest.mark.parametrize("has_table", [False, True])
def test_webhooks_that_never_arrive_are_a_warning_that_names_the_cause(world, monkeypatch, has_table) -> None:
    world.loses = True
    world.scan()
    world.store.add_user()
    world.scan()
    assert world.check("user_query")[0]  # no webhook is expected
    monkeypatch.setenv("PROPELAUTH_WEBHOOK_SECRET", "whsec_c2FuZGJveC13ZWJob29rLXNlY3JldA==")
    world.settings = load_settings()
    if has_table:
        world.apply()
    world.scan()
    assert world.check("user_query")[0]  # the first scan since then
    world.scan()
    assert world.check("user_query")[0]  # no change
    world.store.add_user()
    world.scan()
    for name in ("user_query", "auth_event"):
        passed, severity, summary = world.check(name)
        assert (passed, severity) == (False, "WARN")
        assert "No webhook was ever loaded, and the last two full loads differ by 1 changes." in summary
        assert "401, the receiver does not have the signing secret" in summary
        assert "URL" in summary
    assert world.check("org_query")[0]
    monkeypatch.delenv("PROPELAUTH_WEBHOOK_SECRET")
    world.settings = load_settings()
    if not has_table:
        world.scan()
        assert world.check("user_query")[0]  # webhooks are not configured any more


@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_the_first_connection_has_no_grade_and_says_so(world) -> None:
    world.scan()
    assert world.check("user_query")[2] == "No webhook has been loaded, so there is nothing to compare."
    world.connect()
    world.scan()
    assert world.grades() == {}
    assert "this needs two proved full loads after the first webhook" in world.check("user_query")[2]
    world.scan()
    assert {missed for _, missed in world.grades().values()} == {0}


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_events_that_arrive_after_the_scan_are_not_missed_once_it_is_settled(world, monkeypatch) -> None:
    world.connect()
    world.scan()
    world.store.delete_user(next(iter(world.store.users)))  # received, and not loaded yet
    world.scan()
    assert world.grades()["user.deleted"] == (1, 1)
    assert world.check("user_query")[:1] == (True,)
    monkeypatch.setattr(grades, "SETTLE_DELAY", timedelta(0))
    world.apply()
    assert world.grades()["user.deleted"] == (1, 0)
    assert world.check("auth_event")[:1] == (True,)


@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_a_settled_grade_is_found_behind_many_that_are_not(world) -> None:
    world.scans = ("users",)
    world.connect()
    world.scan()
    world.loses = True
    world.store.delete_user(next(iter(world.store.users)))
    world.scan()
    with world._open() as warehouse:
        table = warehouse.table("propel_event_grades")
        warehouse.execute(
            f"INSERT INTO {table} SELECT g.* REPLACE (g.compared_to + to_seconds(later) AS compared_to) "
            f"FROM {table} g, range(1, 10) seconds(later)"
        )
        warehouse.execute(
            f"UPDATE {table} SET is_settled = true WHERE compared_to = (SELECT min(compared_to) FROM {table})"
        )
        assert not any(grade.is_settled for grade in grades.latest_grades(warehouse, ["user_query"]))
        settled = grades.latest_grades(warehouse, ["user_query"], settled=True)
    assert {grade.event_type: grade.missed for grade in settled}["user.deleted"] == 1
    assert not world.check("user_query")[0]


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_silence_while_scans_find_changes_is_a_warning(world, monkeypatch) -> None:
    world.connect()
    world.scan()
    world.loses = True
    world.scan()
    monkeypatch.setattr(checks, "MAX_SILENCE", timedelta(0))
    assert world.check("user_query")[0]  # no change: silence is no sign
    world.store.add_user()
    world.scan()
    passed, severity, summary = world.check("user_query")
    assert (passed, severity) == (False, "WARN")
    assert "which found 1 changes" in summary
    assert "the endpoint is enabled in the PropelAuth dashboard" in summary


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_hashed_ids_are_compared(world, monkeypatch) -> None:
    monkeypatch.setattr(grades, "SETTLE_DELAY", timedelta(0))
    monkeypatch.setenv("PROPELAUTH_PRIVACY", "strict")
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "k" * 32)
    world.settings = load_settings()
    world.connect()
    world.scan()
    world.changes.clear()
    change_everything(world, 0)
    world.loses = True
    change_everything(world, 20)
    world.loses = False
    world.apply()
    world.scan()
    assert world.grades() == world.truth()


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_a_changed_privacy_policy_is_not_compared(world, monkeypatch) -> None:
    world.connect()
    world.scan()
    monkeypatch.setenv("PROPELAUTH_PRIVACY", "strict")
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "k" * 32)
    world.settings = load_settings()
    world.scan()
    assert world.grades() == {}


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["duckdb"], indirect=True)
def test_an_erased_user_leaves_the_state_and_is_not_missed(world, monkeypatch, run_cli) -> None:
    monkeypatch.setattr(grades, "SETTLE_DELAY", timedelta(0))
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "k" * 32)
    world.settings = load_settings()
    world.connect()
    world.scan()
    user_id = next(reversed(world.store.users))
    done = run_cli("erase", user_id)
    assert done.returncode == 0, done.stderr
    assert user_id not in str(world.rows("SELECT * FROM {propel_scan_state}"))
    world.scan()
    assert {missed for _, missed in world.grades().values()} == {0}
