"""The marts compared with the sandbox, whose store is the truth."""

from calendar import monthrange
from collections import Counter
from datetime import UTC, datetime

import pytest

from propel_assets_tests.marts.conftest import DESCRIPTIONS

DAY = 86_400
NUMBERS = ("BIGINT", "INTEGER", "DOUBLE", "HUGEINT", "DECIMAL")


def day(seconds: int):
    return datetime.fromtimestamp(seconds, UTC).date()


@pytest.fixture
def store(loaded):
    return loaded.sandbox.store


@pytest.mark.parametrize("model", DESCRIPTIONS)
def test_each_mart_has_a_grain_a_use_a_query_that_runs_and_described_columns(loaded, model) -> None:
    description = DESCRIPTIONS[model]
    columns = description["columns"]
    found = loaded.query(f"SELECT column_name, column_type FROM (DESCRIBE {model})")
    assert [name for name, _ in found] == [column["name"] for column in columns]
    assert all(column["description"].strip().endswith(".") for column in columns)
    units = {column["name"] for column in columns if column.get("config", {}).get("meta", {}).get("unit")}
    assert units == {name for name, kind in found if kind.startswith(NUMBERS)}
    meta = description["config"]["meta"]
    grains = [test["is_grain"]["arguments"]["columns"] for test in description["data_tests"] if "is_grain" in test]
    assert [", ".join(columns) for columns in grains] == [meta["grain"]]
    assert meta["use"].endswith(".")
    assert loaded.query(meta["query"]) is not None
    tests = [dict(test) for test in description["data_tests"]]
    assert all(next(iter(test.values()))["description"].strip() for test in tests)


def test_signups_per_day(loaded, store) -> None:
    present = Counter(day(user.wire["created_at"]) for user in store.users.values())
    ever = Counter(day(user.wire["created_at"]) for user in store.all_users.values())
    rows = loaded.query("SELECT day, signups, provider_signups FROM fct_signups_daily")
    assert {d: n for d, n, _ in rows if n} == present
    assert {d: n for d, _, n in rows if n} == ever


def test_orgs_created_per_day(loaded, store) -> None:
    present = Counter(day(org.created_at) for org in store.orgs.values())
    rows = loaded.query("SELECT day, orgs_created FROM fct_orgs_created_daily WHERE orgs_created > 0")
    assert dict(rows) == present


def test_members_and_roles_per_org(loaded, store) -> None:
    members = {org_id: len(them) for org_id, them in store.of_org.items()}
    assert dict(loaded.query("SELECT org_id, members FROM fct_seat_usage")) == members
    roles = Counter(
        (m.org_id, role)
        for them in store.of_org.values()
        for m in them.values()
        for role in {m.role, *m.additional_roles}
    )
    found = loaded.query("SELECT org_id, role, members FROM fct_role_mix WHERE members > 0")
    assert {(org_id, role): n for org_id, role, n in found} == roles


def test_active_and_idle_members(loaded, store) -> None:
    [(as_of,)] = loaded.query("SELECT DISTINCT as_of FROM bridge_membership")
    since = as_of.timestamp() - 30 * DAY
    truth = {
        org_id: sum(store.users[user_id].wire["last_active_at"] >= since for user_id in them)
        for org_id, them in store.of_org.items()
    }
    assert dict(loaded.query("SELECT org_id, active_members_30d FROM fct_seat_usage")) == truth
    assert loaded.query("SELECT sum(members - active_members_30d - idle_members_30d) FROM fct_seat_usage") == [(0,)]


def test_mfa_adoption(loaded, store) -> None:
    enabled = [user.wire["mfa_enabled"] for user in store.users.values() if user.wire["enabled"]]
    [(adoption,)] = loaded.query("SELECT mfa_adoption FROM fct_user_security_daily")
    assert adoption == pytest.approx(sum(enabled) / len(enabled))


@pytest.mark.parametrize("days", [7, 14, 30])
def test_churned_users_are_those_of_the_report(loaded, store, days) -> None:
    gone = {u for u, user in store.users.items() if user.wire["last_active_at"] <= store.now - days * DAY}
    found = loaded.query(f"SELECT user_id, found_by FROM audit_churned_users WHERE window_days = {days}")
    assert dict(found) == dict.fromkeys(gone, "both")


def test_active_users_of_the_month_of_the_load_are_exact(loaded, store) -> None:
    month = day(loaded.query("SELECT max(as_of) FROM dim_user")[0][0].timestamp()).replace(day=1)
    truth = sum(day(user.wire["last_active_at"]) >= month for user in store.users.values())
    truth_orgs = sum(
        any(day(store.users[user_id].wire["last_active_at"]) >= month for user_id in members)
        for members in store.of_org.values()
    )
    rows = loaded.query(
        "SELECT active_users, active_orgs, is_lower_bound, is_complete FROM fct_engagement_monthly "
        f"WHERE month_start = DATE '{month}'"
    )
    assert rows == [(truth, truth_orgs, False, False)]


def test_monthly_active_users_are_the_providers_and_projected_to_the_months_end(loaded, store) -> None:
    today = day(store.now)
    month, in_month = today.replace(day=1), monthrange(today.year, today.month)[1]
    mau = sum(bool(user.activity >> (month - day(store.first_day * DAY)).days) for user in store.all_users.values())
    [row] = loaded.query(f"SELECT mau, days_counted, projected_mau FROM fct_mau_billing WHERE month = DATE '{month}'")
    counted = (loaded.query("SELECT max(finished_at) FROM propel_scans")[0][0].date() - month).days + 1
    counted = min(counted, in_month)
    assert row == (mau, counted, int(mau * in_month / counted + 0.5) if counted >= 7 else None)


def test_our_activity_never_exceeds_propel_auths(loaded) -> None:
    [(compared, above)] = loaded.query(
        "SELECT count(active_users), count(*) FILTER (active_users > provider_active_users) FROM fct_engagement_weekly "
        "WHERE provider_active_users IS NOT NULL"
    )
    assert compared == 1
    assert above == 0


def test_retention(loaded, store) -> None:
    [(week, k, active)] = loaded.query(
        "SELECT cohort_week, weeks_after, active_at_or_after_users FROM fct_retention_weekly "
        "WHERE weeks_after = 4 AND is_complete ORDER BY cohort_users DESC, cohort_week LIMIT 1"
    )
    cohort = [u.wire for u in store.users.values() if 0 <= (day(u.wire["created_at"]) - week).days < 7]
    assert active == sum(w["last_active_at"] - w["created_at"] >= k * 7 * DAY for w in cohort)
    assert loaded.query("""
        SELECT count(*) FROM fct_retention_weekly a JOIN fct_retention_weekly b USING (cohort_week)
        WHERE b.weeks_after > a.weeks_after AND b.active_at_or_after_users > a.active_at_or_after_users
    """) == [(0,)]


def test_orphaned_api_keys(loaded, store) -> None:
    [(found,)] = loaded.query("SELECT count(*) FROM fct_api_keys WHERE is_orphan")
    keys = loaded.query("SELECT user_id, org_id FROM fct_api_keys WHERE user_id IS NOT NULL")
    assert keys
    assert found == sum(
        user not in store.users
        or not store.users[user].wire["enabled"]
        or (org is not None and org not in store.of_user[user])
        for user, org in keys
    )


def test_reconciliation_finds_no_difference(loaded) -> None:
    rows = loaded.query("SELECT table_name, difference FROM audit_loads WHERE table_name = 'user_query'")
    assert rows == [("user_query", 0)]


@pytest.mark.slow
def test_re_engaged_users_are_those_of_the_report(simulate, query) -> None:
    life = simulate("+audit_reengaged_users", "+audit_reengaged_orgs", scans=("users", "user_reports", "org_reports"))
    store = life.store
    life.load()
    assert query("SELECT count(*) FROM propel_auth_marts.audit_reengaged_users") == [(0,)]  # no history of quiet days
    life.wait(days=20)
    life.load()
    life.wait(days=2)
    users = list(store.users)[:3]
    for user_id in users:
        store.touch_user(user_id)
    life.load()
    orgs = {org for user in users for org in store.of_user[user]}
    for kind, truth in (("user", users), ("org", orgs)):
        rows = f"SELECT {kind}_id, found_by FROM propel_auth_marts.audit_reengaged_{kind}s WHERE cadence = 'Weekly'"
        assert dict(query(rows)) == dict.fromkeys(truth, "both")
