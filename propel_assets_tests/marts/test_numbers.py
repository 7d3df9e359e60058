"""Numbers that were wrong, or could mislead, over several simulated days against what happened in the sandbox."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import time_machine
from dlt.common.time import increasing_precise_time

from propel_assets.catalog import BY_NAME
from propel_assets.marts.runner import open_dbt
from propel_assets.privacy.policy_file import load_policy
from propel_assets.reporting.access_review.build import build_review
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import load_settings
from propel_assets.source.stream import ReadOptions
from propel_assets.warehouse.checks import examine
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.query import open_warehouse
from propel_assets_tests.marts.conftest import SEARCH_PATH, Simulation

DAY, HOUR = 86_400, 3_600
MARTS = "propel_auth_marts"
ZONES = ("UTC", "America/Los_Angeles", "Asia/Tokyo")
SCANS = ("users", "orgs", "invites", "end_user_api_keys", "end_user_api_keys_archived")
SINCE_FIRST_LOAD = (
    *("users_history", "memberships_history", "orgs_history", "user_loads"),
    *("fct_user_activity_daily", "fct_org_activity_daily", "fct_user_security_daily", "fct_org_daily"),
    *("fct_role_mix", "fct_org_health", "fct_invite_funnel", "fct_api_keys"),
)
"""The models that only earlier loads can fill."""


def invite(store, org_id: str, email: str, *, hours: int = 5 * 24) -> dict:
    """Send an invitation that expires after ``hours``, and return it as the API sends it."""
    with store.lock:
        store.now += 1
        store.version += 1
        sent = {
            "invitee_email": email,
            "org_id": org_id,
            "org_name": store.orgs[org_id].wire["name"],
            "role_in_org": "Member",
            "additional_roles_in_org": [],
            "created_at": store.now,
            "expires_at": store.now + hours * HOUR,
            "inviter_email": None,
            "inviter_user_id": None,
        }
        store.invites.append(sent)
        return sent


def close(store, sent: dict) -> None:
    """Take an invitation off the list."""
    with store.lock:
        store.version += 1
        store.invites.remove(sent)


def accept(store, sent: dict) -> str:
    """Sign up the invited user, and let the user join."""
    user_id = store.add_user(email=sent["invitee_email"])
    store.add_membership(user_id, sent["org_id"])
    close(store, sent)
    return user_id


@dataclass
class Life:
    """A simulation over several days, the times of its loads, and the ids of the subjects of the tests."""

    file: Path
    store: Any
    ids: dict[str, Any] = field(default_factory=dict)
    loads: list[datetime] = field(default_factory=list)

    def query(self, sql: str, time_zone: str = "America/Los_Angeles") -> list[tuple]:
        with duckdb.connect(str(self.file), read_only=True) as db:
            db.execute(f"SET TimeZone = '{time_zone}'; SET search_path = '{SEARCH_PATH}'")
            return db.execute(sql).fetchall()

    def near(self, found: datetime | None, load: int | None) -> bool:
        """Return whether a time is that of a load; None is no load."""
        if found is None or load is None:
            return found is load
        return abs(found - self.loads[load]) < timedelta(minutes=2)


@pytest.fixture(scope="module")
def invites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """Invitations with different outcomes, over 12 days."""
    file = tmp_path_factory.mktemp("invites") / "propel_auth_pipeline.duckdb"
    with pytest.MonkeyPatch.context() as patch, Sandbox(users=20, orgs=4, seed=3, now=date(2026, 11, 24)) as sandbox:
        patch.setattr(increasing_precise_time, "_last", increasing_precise_time._last)
        patch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(file))
        settings = load_settings({"auth_url": sandbox.url, "api_key": sandbox.api_key})
        simulation = Simulation(sandbox, settings, ("users", "orgs", "invites"), ("+fct_invite_funnel",))
        store = sandbox.store
        life, org_id = Life(file, store), next(iter(store.orgs))

        def load(*scans: str) -> None:
            life.loads.append(simulation.load(*scans))
            life.ids[f"statuses {len(life.loads)}"] = dict(
                life.query("SELECT invitee_email, status FROM fct_invite_funnel")
            )

        revoked = invite(store, org_id, "revoked@x.example")
        expired = invite(store, org_id, "expired@x.example", hours=20)
        twice = invite(store, org_id, "twice@x.example")
        late = invite(store, org_id, "late@x.example", hours=1000)
        seen_late = invite(store, org_id, "seen-late@x.example")
        load()
        for sent in (revoked, twice, late):
            close(store, sent)
        simulation.wait(days=1)
        close(store, expired)
        second = invite(store, org_id, "Twice@x.example")
        load()
        accept(store, seen_late)
        simulation.wait(hours=1)
        load("invites")  # not decided yet: the users are older
        simulation.wait(hours=1)
        accept(store, second)
        load("users")
        store.add_membership(store.add_user(email="late@x.example"), org_id)
        simulation.wait(days=10, hours=7)  # 22:00; by now the revoked one would have expired too
        midnight = invite(store, org_id, "midnight@x.example")
        load()
        simulation.wait(hours=3)
        life.ids["hours"] = (store.now - midnight["created_at"]) / HOUR
        user_id = accept(store, midnight)
        load()
        simulation.wait(days=1)
        store.update_user(user_id, email="moved@x.example")
        load()
        simulation.check()
        yield life


def test_the_outcome_of_an_invite_does_not_change_after_it_is_gone(invites) -> None:
    for load in ("statuses 2", "statuses 6"):
        outcomes = invites.ids[load]
        assert outcomes["revoked@x.example"] == "vanished"
        assert outcomes["expired@x.example"] == "expired"


def test_two_invites_and_one_join_are_one_acceptance(invites) -> None:
    outcomes = invites.ids["statuses 6"]
    assert (outcomes["twice@x.example"], outcomes["Twice@x.example"]) == ("replaced", "accepted")


def test_an_outcome_stays_when_the_address_of_the_user_changes(invites) -> None:
    assert [invites.ids[f"statuses {load}"]["midnight@x.example"] for load in (6, 7)] == ["accepted", "accepted"]


def test_joining_long_after_a_revoked_invite_is_no_acceptance(invites) -> None:
    assert invites.ids["statuses 6"]["late@x.example"] == "vanished"


def test_an_acceptance_is_seen_when_users_are_loaded_after_the_invite_is_gone(invites) -> None:
    outcomes = [invites.ids[f"statuses {load}"]["seen-late@x.example"] for load in (2, 3, 4, 6)]
    assert outcomes == ["pending", "vanished", "accepted", "accepted"]


def test_hours_to_accept_are_bounds_also_across_midnight(invites) -> None:
    [(least, most)] = invites.query(
        "SELECT hours_to_accept_at_least, hours_to_accept_at_most FROM fct_invite_funnel "
        "WHERE invitee_email = 'midnight@x.example'"
    )
    assert least <= invites.ids["hours"] <= most
    assert least == pytest.approx(1 / 6, abs=0.02)
    assert most == pytest.approx(3 + 1 / 6, abs=0.02)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """A tenant over 34 days and five loads. Each test has subjects of its own."""
    file = tmp_path_factory.mktemp("life") / "propel_auth_pipeline.duckdb"
    with pytest.MonkeyPatch.context() as patch, Sandbox(users=80, orgs=10, seed=3, now=date(2026, 11, 24)) as sandbox:
        patch.setattr(increasing_precise_time, "_last", increasing_precise_time._last)
        patch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(file))
        settings = load_settings({"auth_url": sandbox.url, "api_key": sandbox.api_key})
        simulation = Simulation(sandbox, settings, SCANS, (), time_zone="America/Los_Angeles")
        life = Life(file, sandbox.store)
        _live(simulation, life)
        simulation.check()
        life.ids["settings"] = settings
        yield life


def _live(simulation: Simulation, life: Life) -> None:
    """Let the subjects of the tests live, and load on days 0, 1, 2, 29 and 34."""
    store, ids = simulation.store, life.ids

    def load() -> None:
        life.loads.append(simulation.load())

    by_size = sorted(store.of_org, key=lambda org: -len(store.of_org[org]))
    ids["shrinks"], ids["spells"], ids["renamed"], *_ = by_size
    ids["back"], ids["deleted"] = list(store.of_org[ids["spells"]])[1:3]
    ids["removed"] = next(user for user in store.of_org[ids["shrinks"]] if user not in (ids["back"], ids["deleted"]))
    ids["dies"] = next(org for org in reversed(by_size) if store.of_org[org])
    ids["dies_member"] = next(user for user in store.of_org[ids["dies"]] if user != ids["deleted"])
    ids["empty"] = store.add_org(metadata={"plan": "pro"})
    ids["owners"] = next(
        o for o in by_size[3:] if store.orgs[o].role_mapping == "Default" and store.of_org[o] and o != ids["dies"]
    )
    for user_id in list(store.of_org[ids["owners"]]):
        store.change_role(user_id, ids["owners"], "Member")
    ids["owner"] = next(
        u for u in store.of_org[ids["owners"]] if u not in (ids["deleted"], ids["back"], ids["removed"])
    )
    expired, orphan, *_ = [key for key in store.api_keys.values() if key.archived_at is None]
    expired.wire["expires_at_seconds"] = store.now - 3 * HOUR
    orphan.wire |= {"user_id": ids["back"], "org_id": ids["spells"], "expires_at_seconds": None}
    store.update_user(ids["back"], enabled=True)
    ids["expired"], ids["orphan"] = expired.api_key_id, orphan.api_key_id
    domains = {"yahoo.co.uk": "free", "gmx.at": "free", "hey.com": "free", "company-1.example": "corporate"}
    ids["classes"] = {store.add_user(email=f"Someone@{name.upper()}"): kind for name, kind in domains.items()}
    ids["active"], ids["changes"], ids["edited"] = (store.add_user(mfa_enabled=True, enabled=True) for _ in range(3))
    ids["invite"] = invite(store, ids["spells"], "new@x.example")
    used_twice = invite(store, ids["spells"], "used-twice@x.example")
    ids["members"] = {org: len(members) for org, members in store.of_org.items()}
    load()

    simulation.wait(days=1)
    store.update_org(ids["renamed"], name="Renamed", metadata={"other": 1})
    store.remove_membership(ids["back"], ids["spells"])
    store.delete_user(ids["deleted"])
    store.delete_org(ids["dies"])
    store.change_role(ids["owner"], ids["owners"], "Member", "Owner")
    store.update_user(ids["changes"], mfa_enabled=False, enabled=False)
    store.update_user(ids["edited"], first_name="Changed")
    ids["newcomer"] = accept(store, ids["invite"])
    store.update_user(ids["newcomer"], mfa_enabled=False)
    ids["first_of_address"] = accept(store, used_twice)
    load()

    simulation.wait(days=1)
    store.add_membership(ids["back"], ids["spells"])
    store.remove_membership(ids["removed"], ids["shrinks"])
    store.update_user(ids["newcomer"], mfa_enabled=True)
    for user_id in (ids["active"], ids["newcomer"]):
        store.touch_user(user_id)
    store.delete_user(ids["first_of_address"])
    load()
    simulation.wait(days=27)
    ids["second_of_address"] = store.add_user(email="used-twice@x.example")
    load()
    simulation.wait(days=5)
    load()


def test_a_key_that_expired_three_hours_ago_has_a_negative_time_left(life) -> None:
    [first, *_] = life.query(
        f"SELECT status, days_until_expiry FROM fct_api_keys WHERE api_key_id = '{life.ids['expired']}' ORDER BY day"
    )
    assert first == ("expired", pytest.approx(-(3 + 1 / 6) / 24, abs=0.002))


def test_a_key_of_a_user_who_left_the_org_is_an_orphan(life) -> None:
    reasons = life.query(
        f"SELECT orphan_reason FROM fct_api_keys WHERE api_key_id = '{life.ids['orphan']}' ORDER BY day"
    )
    assert reasons[:3] == [(None,), ("owner_left_org",), (None,)]  # the user came back


def test_the_trend_of_an_org_uses_the_latest_load_at_least_28_days_ago(life) -> None:
    trends = life.query(
        f"SELECT trend_days, member_trend FROM fct_org_health WHERE org_id = '{life.ids['shrinks']}' ORDER BY day"
    )
    # On day 29 the load of day 1, on day 34 that of day 2, which is the latest at least 28 days before.
    assert trends == [(None, None)] * 3 + [(28, -1), (32, 0)]


def test_owners_by_additional_role_are_owners(life) -> None:
    org_id = life.ids["owners"]
    flags = life.query(f"SELECT owners, has_no_owner FROM fct_security_posture WHERE org_id = '{org_id}' ORDER BY day")
    assert flags[:2] == [(0, True), (1, False)]
    mix = life.query(f"SELECT members FROM fct_role_mix WHERE org_id = '{org_id}' AND role = 'Owner' ORDER BY day DESC")
    assert mix[0] == (1,)
    changed = life.query(
        f"SELECT change, old_value, new_value FROM fct_user_changes WHERE user_id = '{life.ids['owner']}'"
    )
    assert changed == [("additional_roles_changed", None, '["Owner"]')]


def test_orgs_without_members_are_in_every_mart_of_orgs(life) -> None:
    for mart in ("fct_org_daily", "fct_security_posture", "fct_seat_usage", "fct_org_health"):
        assert life.query(f"SELECT members FROM {mart} WHERE org_id = '{life.ids['empty']}'") == [(0,)] * 5
    members = life.query(
        f"SELECT sum(members), sum(org_members) FROM fct_role_mix WHERE org_id = '{life.ids['empty']}'"
    )
    assert members == [(0, 0)]


def test_a_sign_up_stays_an_active_day_once_the_user_is_active_again(life) -> None:
    first = life.loads[0].date()
    days = life.query(
        f"SELECT day, is_signup_day FROM fct_user_activity_daily WHERE user_id = '{life.ids['active']}' ORDER BY day"
    )
    assert days == [(first, True), (first + timedelta(days=2), False)]


def test_country_domains_of_free_mail_providers_are_free(life) -> None:
    found = dict(life.query("SELECT user_id, email_domain_class FROM dim_user"))
    assert {user_id: found[user_id] for user_id in life.ids["classes"]} == life.ids["classes"]


def test_a_renamed_org_adds_no_version_to_its_memberships(life) -> None:
    org_id = life.ids["renamed"]
    names = life.query(f"SELECT name FROM orgs_history WHERE org_id = '{org_id}' ORDER BY valid_from")
    assert len(names) == 2
    assert names[1] == ("Renamed",)
    others = life.ids["deleted"], life.ids["back"], life.ids["removed"]
    versions = life.query(f"SELECT user_id, count(*) FROM memberships_history WHERE org_id = '{org_id}' GROUP BY 1")
    assert {count for user_id, count in versions if user_id not in others} == {1}


def test_a_user_who_left_and_came_back_has_two_spells_with_bounds_and_reasons(life) -> None:
    columns = "spell, joined_after, joined_seen_at, left_after, left_seen_at, reason, is_current"
    rows = f"SELECT {columns} FROM fct_membership_spells WHERE user_id = '{{}}' AND org_id = '{{}}' ORDER BY spell"
    one, two = life.query(rows.format(life.ids["back"], life.ids["spells"]))
    for found, loads in ((one, (None, 0, 0, 1)), (two, (1, 2, None, None))):
        assert all(life.near(time, load) for time, load in zip(found[1:5], loads, strict=True)), found
    assert (one[0], one[5:]) == (1, ("left", False))
    assert (two[0], two[5:]) == (2, (None, True))
    assert life.query(rows.format(life.ids["deleted"], life.ids["spells"]))[0][5] == "user_deleted"
    assert life.query(rows.format(life.ids["dies_member"], life.ids["dies"]))[0][5] == "org_deleted"


def test_an_acceptance_belongs_to_the_user_who_had_the_address_then(life) -> None:
    hours = dict(life.query("SELECT user_id, hours_to_first_accepted_invite_at_most FROM fct_activation"))
    assert hours[life.ids["first_of_address"]] == pytest.approx(1 / 6, abs=0.03)
    assert hours[life.ids["second_of_address"]] is None


def test_changes_of_a_user_are_one_log_with_bounds(life) -> None:
    sql = "SELECT change, changed_after, seen_at FROM fct_user_changes WHERE user_id = '{}' ORDER BY seen_at, change"
    rows = life.query(sql.format(life.ids["changes"]))
    assert [change for change, *_ in rows] == ["disabled", "mfa_disabled"]
    assert all(life.near(after, 0) and life.near(seen, 1) for _, after, seen in rows)
    newcomer = life.query(sql.format(life.ids["newcomer"]))
    assert [change for change, *_ in newcomer] == ["joined_org", "signed_up", "mfa_enabled"]
    assert [change for change, *_ in life.query(sql.format(life.ids["deleted"]))][:1] == ["deleted"]
    [(first,)] = life.query("SELECT count(*) FROM fct_user_changes WHERE changed_after IS NULL")
    assert first == 0  # the first load shows no change


def test_a_changed_email_address_is_a_change_without_the_address(simulate, query, monkeypatch) -> None:
    life = simulate("+fct_user_changes", "+fct_user_activity_daily", "+dim_user", "orgs_history", "org_loads")
    same, moved, other = sorted(life.store.users)[:3]
    for user_id in (same, moved, other):
        life.store.update_user(user_id, email=f"{user_id}@old.example")
    life.load()
    life.wait(days=1)
    life.store.update_user(same, email="new@old.example")
    life.store.update_user(moved, email="new@New.example")
    life.store.update_user(other, first_name="b")
    life.load()
    changes = f"SELECT user_id, change, old_value, new_value FROM {MARTS}.fct_user_changes ORDER BY user_id, seen_at"
    found = [(same, "email_changed", None, None), (moved, "email_changed", "old.example", "new.example")]
    assert query(changes) == found
    assert query(f"SELECT count(*) FROM {MARTS}.fct_user_changes AS c WHERE CAST(c AS VARCHAR) LIKE '%@%'") == [(0,)]
    target, day = life.settings.target, datetime.fromtimestamp(life.store.now, UTC).date()
    with open_warehouse(target, load_policy(life.settings.privacy_settings)) as warehouse:
        for with_names, domains in ((False, {("", "")}), (True, {("", ""), ("old.example", "new.example")})):
            shown = build_review(warehouse, target, day, with_names=with_names).user_changes
            assert {change.change for change in shown} == {"e-mail address changed"}
            assert {(change.old, change.new) for change in shown} == domains

    # A policy that hashes addresses changes each stored value, and no address.
    monkeypatch.setenv("PROPELAUTH_PRIVACY", "strict")
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "a key of 16 characters")
    life.settings = load_settings({"auth_url": life.sandbox.url, "api_key": life.sandbox.api_key})
    life.wait(days=1)
    life.load()
    assert query(changes) == found
    assert query(f"SELECT DISTINCT email_domain, email_domain_class FROM {MARTS}.dim_user") == [(None, None)]
    life.wait(days=1)
    life.store.update_user(other, email="new@elsewhere.example")
    life.load()
    found.append((other, "email_changed", None, None))
    assert query(changes) == found

    # Another key changes each hash, and no address.
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "another key of 16 characters")
    life.settings = load_settings({"auth_url": life.sandbox.url, "api_key": life.sandbox.api_key})
    life.wait(days=1)
    life.load()
    assert query(changes) == found


@pytest.mark.parametrize("zone", ZONES)
def test_histories_and_marts_have_one_clock_in_every_time_zone(life, zone) -> None:
    late = (
        "SELECT count(*) FROM dim_user WHERE deleted_seen_at > as_of OR first_seen_at > as_of OR last_active_at > as_of"
    )
    assert life.query(late, zone) == [(0,)]
    point = dict(
        life.query(
            "SELECT users.user_id, history.first_name FROM dim_user AS users JOIN users_history AS history "
            "ON history.user_id = users.user_id AND history.valid_from <= users.as_of "
            "AND (history.valid_to IS NULL OR history.valid_to > users.as_of)",
            zone,
        )
    )
    assert point.keys() == life.store.users.keys()
    assert point[life.ids["edited"]] == "Changed"
    joined = "SELECT count(*) FROM users_history h JOIN dim_user u USING (user_id) WHERE h.valid_to = u.deleted_seen_at"
    assert life.query(joined, zone) == [(2,)]


def test_every_time_has_a_time_zone(life) -> None:
    naive = life.query(
        "SELECT table_name, column_name FROM information_schema.columns "
        "WHERE table_schema IN ('propel_auth_marts', 'propel_auth_history') AND data_type = 'TIMESTAMP'"
    )
    assert naive == []


def test_activation_of_a_user_who_signed_up_after_the_first_load(life) -> None:
    columns = (
        "hours_to_first_org_at_most, days_to_first_return_at_most, hours_to_first_accepted_invite_at_most, "
        "hours_to_mfa_at_most"
    )
    [row] = life.query(f"SELECT {columns} FROM fct_activation WHERE user_id = '{life.ids['newcomer']}'")
    assert row == (
        pytest.approx(1 / 6, abs=0.03),
        1,
        pytest.approx(1 / 6, abs=0.03),
        pytest.approx(24 + 1 / 6, abs=0.03),
    )
    [(others,)] = life.query(
        f"SELECT count(*) FROM fct_activation a JOIN dim_user u USING (user_id) WHERE a.created_at <= '{life.loads[0]}'"
    )
    assert others == 0
    flags = f"SELECT is_week_of_first_load, days_observed FROM fct_activation WHERE user_id = '{life.ids['newcomer']}'"
    assert life.query(flags) == [(True, 33)]


def test_stickiness_is_null_where_no_load_on_the_next_day_has_seen_the_whole_day(life) -> None:
    days = life.query("SELECT day FROM fct_engagement_daily WHERE stickiness IS NOT NULL ORDER BY day")
    assert days == [(life.loads[0].date(),), (life.loads[1].date(),)]


def test_an_invitation_from_before_the_first_load_is_flagged(invites) -> None:
    flags = dict(invites.query("SELECT invitee_email, is_before_first_load FROM fct_invite_funnel"))
    assert flags["revoked@x.example"]
    assert not flags["midnight@x.example"]


def test_accounts_without_changes_are_retained(life) -> None:
    store = life.store
    totals = (
        *("accounts_at_start", "new_accounts", "lost_accounts", "accounts_at_end", "expanded_accounts"),
        *("contracted_accounts", "members_at_start", "retained_members"),
    )
    # November ends with the load of day 2, December with that of day 34.
    [row] = life.query(f"SELECT {', '.join(f'sum({name})' for name in totals)} FROM fct_account_growth_monthly")
    at_start = {org: len(members) for org, members in store.of_org.items()}
    assert row == (len(at_start), 0, 0, len(at_start), 0, 0, sum(at_start.values()), sum(at_start.values()))
    plans = life.query("SELECT plan, sum(accounts_at_start) FROM fct_account_growth_monthly GROUP BY plan")
    assert dict(plans)["pro"] >= 1


def test_a_full_refresh_keeps_history(life) -> None:
    before = {model: life.query(f"SELECT count(*) FROM {model}") for model in SINCE_FIRST_LOAD}
    assert all(rows > [(0,)] for rows in before.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(life.file))
        with open_dbt(life.ids["settings"]) as dbt:
            assert dbt.run("build", "--full-refresh").failed == {}
    assert {model: life.query(f"SELECT count(*) FROM {model}") for model in SINCE_FIRST_LOAD} == before


@pytest.mark.slow
def test_an_org_is_dormant_30d_when_no_member_was_active_in_30_days(simulate, query) -> None:
    life = simulate("+fct_org_health")
    store = life.store
    org_id, members = next((o, list(m)) for o, m in store.of_org.items() if m)
    for user_id in members:
        wire = store.users[user_id].wire
        store.update_user(user_id, created_at=min(wire["created_at"], store.now - 40 * DAY), last_active_at=store.now)
    last = max(store.users[user_id].wire["last_active_at"] for user_id in members)
    with store.lock:
        store.now = last + 30 * DAY - 11 * 60  # a load 10 minutes later is still within 30 days
    life.load()
    flags = "active_members_30d > 0, is_dormant_30d"
    row = f"SELECT {flags} FROM {MARTS}.fct_org_health WHERE org_id = '{org_id}' ORDER BY day"
    assert query(row)[-1] == (True, False)
    life.wait(days=1)
    life.load()
    assert query(row)[-1] == (False, True)
    agree = f"SELECT count(*) FROM {MARTS}.fct_org_health WHERE is_dormant_30d AND active_members_30d > 0"
    assert query(agree) == [(0,)]


@pytest.mark.slow
def test_churn_is_not_compared_with_an_old_report_or_for_deleted_users(simulate, small_sandbox, query) -> None:
    life = simulate("+audit_churned_users", scans=("users", "user_reports", "org_reports"))
    rows = f"SELECT user_id, found_by FROM {MARTS}.audit_churned_users WHERE window_days = 7"
    life.load()
    churned = dict(query(rows))
    assert churned
    assert set(churned.values()) == {"both"}
    gone = next(iter(churned))
    life.store.delete_user(gone)
    life.load("users")
    assert dict(query(rows)).keys() == churned.keys() - {gone}
    small_sandbox.faults.parse("insights_off")
    life.wait(days=1)
    life.load()
    assert query(rows) == []


@pytest.mark.slow
def test_days_without_a_load_or_an_event_have_rows_with_a_flag(simulate, query) -> None:
    life = simulate("+fct_signups_daily", "+fct_engagement_daily", scans=("users", "orgs", "chart_metrics"))
    first = life.load().date()
    life.wait(days=4)
    last = life.load().date()
    days = [first + timedelta(days=n) for n in range(5)]
    dates = query(f"SELECT day, has_load FROM {MARTS}.dim_date WHERE day >= DATE '{first}' ORDER BY day")
    assert dates == [(day, day in (first, last)) for day in days]
    signups = query(
        f"SELECT day, signups, is_complete FROM {MARTS}.fct_signups_daily WHERE day >= DATE '{first}' ORDER BY 1"
    )
    assert [day for day, *_ in signups] == days
    assert [complete for *_, complete in signups] == [True] * 4 + [False]
    [(rows, gaps)] = query(f"SELECT count(*), date_diff('day', min(day), max(day)) + 1 FROM {MARTS}.fct_signups_daily")
    assert rows == gaps
    engaged = query(
        f"SELECT day, active_users IS NULL, active_users_7d IS NULL FROM {MARTS}.fct_engagement_daily "
        f"WHERE day >= DATE '{first - timedelta(days=1)}' ORDER BY day"
    )
    assert engaged == [
        (first - timedelta(days=1), True, True),  # before the first load
        *((day, False, day not in (first, last)) for day in days),
    ]


@pytest.mark.slow
def test_open_periods_have_no_churn_and_no_projection(simulate, query) -> None:
    life = simulate("+fct_growth_accounting", "fct_mau_billing", scans=("users", "orgs", "chart_metrics"))
    life.load()  # 24 November
    life.wait(days=7)
    life.load()  # 1 December
    growth = (
        f"SELECT month, churned_users IS NULL, user_quick_ratio IS NULL, is_complete FROM {MARTS}.fct_growth_accounting"
    )
    assert [row[1:] for row in query(f"{growth} ORDER BY month")] == [(True, True, True), (True, True, False)]
    billing = f"SELECT days_counted, projected_mau FROM {MARTS}.fct_mau_billing ORDER BY month DESC LIMIT 1"
    assert query(billing) == [(1, None)]
    life.wait(days=31)
    life.load()  # 1 January: December is over
    assert [row[1] for row in query(f"{growth} ORDER BY month")] == [True, False, True]
    life.wait(days=9)
    life.load()
    [(days, projected)] = query(billing)
    assert days == 10
    assert projected is not None


@pytest.mark.slow
def test_a_time_in_the_data_does_not_move_as_of(simulate, query) -> None:
    """PropelAuth's clock may be ahead of ours, and a time in the data may be wrong."""
    life = simulate(scans=SCANS)
    store, ahead = life.store, life.store.now + 400 * DAY
    user_id = next(user_id for user_id, orgs in sorted(store.of_user.items()) if orgs)
    newcomer = store.add_user(created_at=ahead)
    org_id = next(iter(store.of_user[user_id]))
    store.update_user(user_id, last_active_at=ahead)
    with store.lock:
        store.now += 2 * HOUR
    created, key = store.add_org(), store.add_api_key(user_id=user_id)
    with store.lock:
        store.now -= 2 * HOUR + 60
    for days in (0, 1):
        life.wait(days=days)
        loaded_at = life.load()
        ended = "(SELECT max(finished_at) FROM propel_auth_data.propel_scans WHERE table_name = '{}')"
        for mart, table in {
            "dim_user": "user_query",
            "bridge_membership": "user_query",
            "dim_org": "org_query",
            "fct_org_daily": "user_query",
            "fct_invite_funnel": "pending_org_invites",
            "fct_api_keys": "end_user_api_keys",
        }.items():
            assert query(f"SELECT max(as_of) = {ended.format(table)} FROM {MARTS}.{mart}") == [(True,)], mart
        for mart in ("fct_user_activity_daily", "fct_org_activity_daily"):
            assert query(f"SELECT max(day), max(observed_at) = {ended.format('user_query')} FROM {MARTS}.{mart}") == [
                (loaded_at.date(), True)
            ], mart
        for history in ("user_loads", "org_loads"):
            [(read_at,)] = query(f"SELECT max(read_at) FROM propel_auth_history.{history}")
            assert abs(read_at - loaded_at) < timedelta(minutes=5), history
        assert query(f"SELECT max(day) FROM {MARTS}.dim_date") == [(loaded_at.date(),)]
        late = "last_active_at > as_of OR first_seen_at > as_of OR created_at > as_of"
        assert query(f"SELECT count(*) FROM {MARTS}.dim_user WHERE {late}") == [(0,)]
        assert query(f"SELECT last_active_at = as_of FROM {MARTS}.dim_user WHERE user_id = '{user_id}'") == [(True,)]
        assert query(f"SELECT signup_day FROM {MARTS}.dim_user WHERE user_id = '{newcomer}'") == [(loaded_at.date(),)]
        assert query(f"SELECT created_at <= as_of FROM {MARTS}.dim_org WHERE org_id = '{created}'") == [(True,)]
        assert query(f"SELECT min(age_days) >= 0 FROM {MARTS}.fct_api_keys WHERE api_key_id = '{key}'") == [(True,)]
        health = f"SELECT days_since_activity FROM {MARTS}.fct_org_health WHERE org_id = '{org_id}'"
        assert {row[0] for row in query(health)} == {0}


@pytest.mark.slow
def test_retention_cells_are_complete_once_every_user_had_the_week(simulate, query) -> None:
    life = simulate("+fct_retention_weekly", scans=("users",))
    user_id = life.store.add_user()
    after_146_hours = life.store.add_user(created_at=life.store.now - 13 * HOUR)  # at 23:00
    life.load()
    week = "cohort_week = DATE '2026-11-23'"
    columns = "weeks_after, active_at_or_after_users, is_complete"
    rows = f"SELECT {columns} FROM {MARTS}.fct_retention_weekly WHERE {week} ORDER BY 1"
    cohort = query(f"SELECT DISTINCT cohort_users FROM {MARTS}.fct_retention_weekly WHERE {week}")[0][0]
    assert query(rows) == [(0, cohort, False)]
    life.wait(days=8)
    life.store.touch_user(user_id)
    created_at = life.store.users[after_146_hours].wire["created_at"]
    life.store.update_user(after_146_hours, last_active_at=created_at + 146 * HOUR)  # at 01:00, 7 calendar days later
    life.load()
    weeks = query(rows)
    assert weeks[0] == (0, cohort, True)
    assert weeks[1][2] is False
    for deleted in (user_id, after_146_hours):  # count with the last activity that was seen
        life.store.delete_user(deleted)
    life.wait(days=7)
    life.load()
    after = query(rows)
    assert after[1] == (1, weeks[1][1], True)
    assert query(f"SELECT DISTINCT cohort_users FROM {MARTS}.fct_retention_weekly WHERE {week}")[0][0] == cohort


@pytest.mark.slow
def test_accounts_that_grow_shrink_appear_and_disappear(simulate, query) -> None:
    life = simulate("+fct_account_growth_monthly")
    store = life.store
    grows, shrinks, dies = sorted(store.orgs, key=lambda org: -len(store.of_org[org]))[:3]
    store.update_org(grows, metadata={"plan": "pro"})
    before = {org: len(members) for org, members in store.of_org.items()}
    life.load()
    assert query(f"SELECT count(*) FROM {MARTS}.fct_account_growth_monthly") == [(0,)]
    outsider = store.add_user()
    store.add_membership(outsider, grows)
    store.remove_membership(next(iter(store.of_org[shrinks])), shrinks)
    store.delete_org(dies)
    new = store.add_org()
    life.wait(days=10)
    life.load()
    totals = (
        *("accounts_at_start", "new_accounts", "lost_accounts", "accounts_at_end", "expanded_accounts"),
        *("contracted_accounts", "members_at_start", "retained_members"),
    )
    kept = sum(len(store.of_org[org]) for org in store.orgs if org != new)
    rows = query(f"SELECT {', '.join(f'sum({name})' for name in totals)} FROM {MARTS}.fct_account_growth_monthly")
    assert rows == [(len(before), 1, 1, len(store.orgs), 1, 1, sum(before.values()), kept)]
    pro = query(f"SELECT sum(expanded_accounts) FROM {MARTS}.fct_account_growth_monthly WHERE plan = 'pro'")
    assert pro == [(1,)]
    life.wait(days=28)
    life.load()
    months = query(f"SELECT DISTINCT month, end_day, is_complete FROM {MARTS}.fct_account_growth_monthly ORDER BY 1")
    december, january = date(2026, 12, 1), date(2027, 1, 1)
    assert months == [(december, date(2026, 12, 4), False), (january, january, False)]


@pytest.mark.slow
def test_figures_are_compared_once_both_sides_had_the_whole_period(simulate, query) -> None:
    life = simulate("+audit_metric_reconciliation", scans=("users", "orgs", "chart_metrics"))
    compared = f"SELECT metric, last_period FROM {MARTS}.audit_metric_reconciliation ORDER BY metric"
    complete = f"SELECT max(day) FROM {MARTS}.{{}} WHERE is_complete"
    first = life.load().date()
    life.wait(days=8)  # the month is over too
    last = life.load("users").date()
    assert query(complete.format("fct_signups_daily")) == [(last - timedelta(days=1),)]
    assert query(complete.format("fct_orgs_created_daily")) == [(first - timedelta(days=1),)]
    life.load("orgs")
    assert query(complete.format("fct_orgs_created_daily")) == [(last - timedelta(days=1),)]
    assert query(compared) == []  # PropelAuth's figures are of the first day
    life.load("chart_metrics")
    month, day = date(2026, 11, 1), last - timedelta(days=1)
    assert query(compared) == [("active_orgs", month), ("active_users", month), ("orgs_created", day), ("signups", day)]


@pytest.mark.slow
def test_the_usage_of_a_key_is_complete_once_the_key_was_read_after_the_day(simulate, query) -> None:
    life = simulate("fct_api_key_usage_daily", scans=("api_key_usage",))

    def load_per_key() -> datetime:
        with time_machine.travel(datetime.fromtimestamp(life.store.now, UTC) + timedelta(minutes=10)):
            load_scan("api_key_usage", life.settings, options=ReadOptions(usage_per_key=True))
        return life.load()

    first = load_per_key().date()
    complete = f"SELECT api_key_id, is_complete FROM {MARTS}.fct_api_key_usage_daily WHERE day = DATE '{first}'"
    keys = dict(query(complete))
    assert set(keys.values()) == {False}
    life.wait(days=2)
    life.load()  # of all keys together only
    assert dict(query(complete)) == keys
    with life.store.lock:
        archived = next(key for key in life.store.api_keys.values() if key.api_key_id in keys)
        archived.archived_at = life.store.now
    load_per_key()
    assert dict(query(complete)) == {key: key != archived.api_key_id for key in keys}


@pytest.mark.slow
def test_a_key_whose_owner_is_newer_than_the_load_of_users_is_no_orphan(simulate, query) -> None:
    life = simulate("+fct_api_keys", scans=("users", "end_user_api_keys", "end_user_api_keys_archived"))
    store = life.store
    life.load()
    life.wait(hours=1)
    org_id = next(iter(store.orgs))
    user_id = store.add_user()
    member = next(user_id for user_id in store.users if org_id not in store.of_user[user_id])
    store.update_user(member, enabled=True)
    life.load("users")
    life.wait(hours=1)
    newcomer = store.add_user()
    store.add_membership(member, org_id)
    keys = [store.add_api_key(user_id=owner) for owner in (user_id, newcomer)]
    keys.append(store.add_api_key(user_id=member, org_id=org_id))
    life.load("end_user_api_keys")
    reasons = f"SELECT api_key_id, orphan_reason FROM {MARTS}.fct_api_keys ORDER BY day"

    def found() -> list[str | None]:
        return [dict(query(reasons))[key] for key in keys]

    assert found() == [None, None, None]
    store.delete_user(user_id)
    life.load("users")
    assert found() == ["owner_deleted", None, None]
    store.delete_user(newcomer)
    store.remove_membership(member, org_id)
    life.wait(hours=1)
    life.load("users")
    assert found() == ["owner_deleted", "owner_deleted", "owner_left_org"]


@pytest.mark.slow
def test_a_member_who_left_before_the_org_was_deleted_has_left(simulate, query) -> None:
    life = simulate("+fct_membership_spells")
    org_id, leaver, stays = life.store.add_org(), life.store.add_user(), life.store.add_user()
    for user_id in (leaver, stays):
        life.store.add_membership(user_id, org_id)
    life.load()
    life.store.remove_membership(leaver, org_id)
    life.wait(hours=1)
    life.load("users")
    life.store.delete_org(org_id)
    life.wait(hours=1)
    life.load("orgs", "users")
    reasons = query(f"SELECT user_id, reason FROM {MARTS}.fct_membership_spells WHERE org_id = '{org_id}'")
    assert dict(reasons) == {leaver: "left", stays: "org_deleted"}


@pytest.mark.slow
def test_members_of_an_org_whose_deletion_is_loaded_after_that_of_its_members_have_not_left(simulate, query) -> None:
    life = simulate("+fct_membership_spells")
    org_id, member = life.store.add_org(), life.store.add_user()
    life.store.add_membership(member, org_id)
    life.load()
    life.store.delete_org(org_id)
    life.wait(days=1)
    life.load("users")  # the load of orgs failed
    life.wait(days=1)
    life.load("users", "orgs")
    assert query(f"SELECT reason FROM {MARTS}.fct_membership_spells WHERE org_id = '{org_id}'") == [("org_deleted",)]


def test_a_repeated_check_counts_once_with_its_newest_result(small, build, query) -> None:
    load_scan("users", small)
    with open_warehouse(small.target, load_policy(small.privacy_settings)) as warehouse:
        checks = len(examine(warehouse, BY_NAME["user_query"]))
        warehouse.execute(
            f"UPDATE {warehouse.table('propel_checks')} SET passed = false WHERE check_name = 'row_count'"
        )
        examine(warehouse, BY_NAME["user_query"])
    build(small, "audit_loads")
    sql = f"SELECT checks, checks_passed, checks_failed FROM {MARTS}.audit_loads WHERE table_name = 'user_query'"
    assert query(sql) == [(checks, checks, 0)]


@pytest.mark.slow
def test_an_org_has_no_api_keys_once_a_load_has_read_none(simulate, query) -> None:
    life = simulate("+fct_org_daily", scans=("users", "orgs", "end_user_api_keys", "end_user_api_keys_archived"))
    org_id = life.store.add_org()
    life.store.add_api_key(org_id=org_id)
    life.load()
    life.store.api_keys.clear()  # the archived keys too
    life.wait(days=1)
    life.load()
    sql = f"SELECT active_api_keys FROM {MARTS}.fct_org_daily WHERE org_id = '{org_id}' ORDER BY day"
    assert query(sql) == [(1,), (0,)]
