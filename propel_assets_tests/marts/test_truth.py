"""The marts against the sandbox, which knows what really happened."""

from calendar import monthrange
from collections import Counter
from datetime import UTC, datetime

import pytest
import yaml

from propel_assets.marts.runner import PROJECT
from propel_assets.warehouse.load import load_scan

DAY = 86_400
FOUND_BY = "SELECT DISTINCT found_by FROM propel_auth_marts.fct_reengagement"
MODELS = {
    model["name"]: [column["name"] for column in model["columns"]]
    for model in yaml.safe_load((PROJECT / "models" / "marts.yml").read_text())["models"]
}


def day(seconds: int):
    return datetime.fromtimestamp(seconds, UTC).date()


@pytest.fixture
def store(loaded):
    return loaded.sandbox.store


@pytest.mark.parametrize("model", MODELS)
def test_each_column_is_described_and_there(loaded, model) -> None:
    found = loaded.ask(f"SELECT column_name FROM (DESCRIBE {model})")
    assert [name for (name,) in found] == MODELS[model]


def test_signups_per_day(loaded, store) -> None:
    present = Counter(day(user.wire["created_at"]) for user in store.users.values())
    ever = Counter(day(user.wire["created_at"]) for user in store.all_users.values())
    rows = loaded.ask("SELECT day, signups, provider_signups FROM fct_signups_daily")
    assert {d: n for d, n, _ in rows if n} == present
    assert {d: n for d, _, n in rows if n} == ever


def test_orgs_created_per_day(loaded, store) -> None:
    present = Counter(day(org.created_at) for org in store.orgs.values())
    rows = loaded.ask("SELECT day, orgs_created FROM fct_orgs_created_daily WHERE orgs_created > 0")
    assert dict(rows) == present


def test_members_and_roles_per_org(loaded, store) -> None:
    members = {org_id: len(them) for org_id, them in store.of_org.items()}
    assert dict(loaded.ask("SELECT org_id, members FROM fct_seat_usage")) == members
    roles = Counter((m.org_id, m.role) for them in store.of_org.values() for m in them.values())
    found = loaded.ask("SELECT org_id, user_role, members FROM fct_role_mix")
    assert {(org_id, role): n for org_id, role, n in found} == roles


def test_active_and_idle_members(loaded, store) -> None:
    [(as_of,)] = loaded.ask("SELECT DISTINCT as_of FROM bridge_membership")
    since = as_of.timestamp() - 30 * DAY
    truth = {
        org_id: sum(store.users[user_id].wire["last_active_at"] >= since for user_id in them)
        for org_id, them in store.of_org.items()
    }
    assert dict(loaded.ask("SELECT org_id, active_members_30d FROM fct_seat_usage")) == truth
    assert loaded.ask("SELECT sum(members - active_members_30d - idle_seats_30d) FROM fct_seat_usage") == [(0,)]


def test_mfa_adoption(loaded, store) -> None:
    enabled = [user.wire["mfa_enabled"] for user in store.users.values() if user.wire["enabled"]]
    [(adoption,)] = loaded.ask("SELECT mfa_adoption FROM fct_security_posture WHERE org_id = 'all'")
    assert adoption == pytest.approx(sum(enabled) / len(enabled))


@pytest.mark.parametrize("days", [7, 14, 30])
def test_churned_users_are_those_of_the_report(loaded, store, days) -> None:
    gone = {u for u, user in store.users.items() if user.wire["last_active_at"] <= store.now - days * DAY}
    found = loaded.ask(
        f"SELECT subject_id, found_by FROM fct_churn_state WHERE subject = 'user' AND window_days = {days}"
    )
    assert dict(found) == dict.fromkeys(gone, "both")


def test_active_users_of_the_day_of_the_reading_are_exact(loaded, store) -> None:
    today = day(store.now)
    truth = sum(day(user.wire["last_active_at"]) == today for user in store.users.values())
    row = loaded.ask(
        "SELECT active_users, is_lower_bound FROM fct_active_users "
        f"WHERE source = 'derived' AND cadence = 'Daily' AND period_start = DATE '{today}'"
    )
    assert row == [(truth, False)]


def test_active_orgs_of_the_day_of_the_reading_are_those_with_an_active_member(loaded, store) -> None:
    today = day(store.now)
    active = {u for u, user in store.users.items() if day(user.wire["last_active_at"]) == today}
    truth = sum(not active.isdisjoint(members) for members in store.of_org.values())
    rows = loaded.ask(
        "SELECT source, active_orgs, is_lower_bound FROM fct_active_orgs "
        f"WHERE cadence = 'Daily' AND period_start = DATE '{today}' ORDER BY source"
    )
    assert rows == [("derived", truth, False), ("provider", truth, False)]


def test_monthly_active_users_are_the_providers_and_projected_to_the_months_end(loaded, store) -> None:
    today = day(store.now)
    month, in_month = today.replace(day=1), monthrange(today.year, today.month)[1]
    mau = sum(bool(user.activity >> (month - day(store.first_day * DAY)).days) for user in store.all_users.values())
    [row] = loaded.ask(
        "SELECT mau, days_counted, projected_mau, included_mau, price FROM fct_mau_billing "
        f"WHERE month = DATE '{month}'"
    )
    assert row == (mau, today.day, int(mau * in_month / today.day + 0.5), None, None)


def test_derived_activity_never_exceeds_the_providers(loaded) -> None:
    rows = "FROM fct_active_users WHERE source = 'derived' AND provider_active_users IS NOT NULL"
    [(compared, above)] = loaded.ask(f"SELECT count(*), count(*) FILTER (difference > 0) {rows}")
    assert compared > 100
    assert above == 0


def test_rolling_retention(loaded, store) -> None:
    [(week, k, retained)] = loaded.ask(
        "SELECT cohort_week, weeks_after, retained_users FROM fct_retention_cohort "
        "WHERE weeks_after = 4 ORDER BY cohort_users DESC, cohort_week LIMIT 1"
    )
    cohort = [u.wire for u in store.users.values() if 0 <= (day(u.wire["created_at"]) - week).days < 7]
    assert retained == sum(w["last_active_at"] - w["created_at"] >= k * 7 * DAY for w in cohort)
    assert loaded.ask("""
        SELECT count(*) FROM fct_retention_cohort a JOIN fct_retention_cohort b USING (cohort_week)
        WHERE b.weeks_after > a.weeks_after AND b.retained_users > a.retained_users
    """) == [(0,)]


def test_orphaned_api_keys(loaded, store) -> None:
    [(found,)] = loaded.ask("SELECT count(*) FROM fct_api_keys WHERE is_orphan")
    owners = [user_id for (user_id,) in loaded.ask("SELECT user_id FROM fct_api_keys WHERE user_id IS NOT NULL")]
    assert len(owners) > 0
    assert found == sum(u not in store.users or not store.users[u].wire["enabled"] for u in owners)


def test_reconciliation_finds_no_difference(loaded) -> None:
    rows = loaded.ask("SELECT table_name, difference FROM ops_reconciliation WHERE table_name = 'user_query'")
    assert rows == [("user_query", 0)]


def test_who_came_back_is_who_the_report_names(small_sandbox, small, build, query) -> None:
    store = small_sandbox.store

    def load() -> None:
        for scan in ("users", "user_reports", "org_reports"):
            load_scan(scan, small)
        build(small, "fct_user_activity_daily", "fct_org_activity_daily", "fct_reengagement")

    load()
    # Of one reading nobody can tell who was quiet; a report that names nobody has no time.
    assert set(query(FOUND_BY)) <= {("no_history",), ("no_report",)}
    store.advance(20)
    load()
    store.advance(2)
    back = list(store.users)[:3]
    for user_id in back:
        store.touch_user(user_id)
    load()
    named = query("SELECT subject_id, found_by FROM propel_auth_marts.fct_reengagement WHERE cadence = 'Weekly'")
    assert dict(named) == dict.fromkeys([*back, *{org for user in back for org in store.of_user[user]}], "both")
