"""The histories: which rows a load has shown, with which values, from when to when."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from propel_assets.errors import UnprovedScan
from propel_assets.marts.runner import open_dbt
from propel_assets.sandbox.roles import MAPPINGS
from propel_assets.warehouse.load import load_scan
from propel_assets_tests.loads import load_scans

HISTORIES = ("users_history", "memberships_history", "orgs_history", "role_mappings_history")
VERSIONS = """
    SELECT first_name, valid_to IS NULL FROM propel_auth_history.users_history
    WHERE user_id = '{}' ORDER BY valid_from
"""


@pytest.fixture
def load(small, build):
    def run(*, run_tests: bool = True) -> None:
        load_scans(small, "users", "orgs", "role_mappings")
        build(small, *HISTORIES, run_tests=run_tests)

    return run


def test_edits_of_two_users_over_five_loads_are_exactly_their_versions(small_sandbox, small, build, query) -> None:
    def load() -> None:
        load_scan("users", small)
        build(small, "users_history")

    store = small_sandbox.store
    one, other, bystander = list(store.users)[:3]
    store.update_user(one, first_name="a")
    store.update_user(other, first_name="a")
    load()
    store.touch_user(one)  # active, not changed: no version
    store.update_user(other, first_name="b")
    load()
    store.update_user(one, first_name="b")
    store.delete_user(other)
    load()
    store.update_user(one, first_name="c")
    store.update_user(one, first_name="d")  # twice between two loads: seen once
    load()
    store.add_user(user_id=other, first_name="b")  # comes back as they were
    load()

    assert query(VERSIONS.format(one)) == [("a", False), ("b", False), ("d", True)]
    assert query(VERSIONS.format(other)) == [("a", False), ("b", False), ("b", True)]
    assert len(query(VERSIONS.format(bystander))) == 1
    assert query("SELECT count(*) FROM propel_auth_history.users_history WHERE valid_to IS NULL") == [(20,)]
    [(gap,)] = query(
        "SELECT b.valid_from > a.valid_to FROM propel_auth_history.users_history a "
        f"JOIN propel_auth_history.users_history b USING (user_id) WHERE user_id = '{other}' "
        "AND a.first_name = 'b' AND a.valid_to IS NOT NULL AND b.valid_to IS NULL"
    )
    assert gap  # away from the third load to the fifth


@pytest.mark.slow
def test_departed_members_and_changed_roles_are_one_query(small_sandbox, load, query) -> None:
    store = small_sandbox.store
    (leaver, left), (climber, org) = [
        (user_id, org_id) for org_id, members in store.of_org.items() for user_id in members if len(members) > 1
    ][:2]
    load(run_tests=False)
    store.remove_membership(leaver, left)
    before = store.of_user[climber][org].role
    after = next(
        role for role in ("Owner", "Admin", "Member", "Manager", "Viewer") if _may_be(store, climber, org, role)
    )
    load()
    assert query(
        "SELECT user_id, org_id FROM propel_auth_history.memberships_history "
        "GROUP BY ALL HAVING count(*) FILTER (valid_to IS NULL) = 0"
    ) == [(leaver, left)]
    assert query(
        "SELECT user_id, a.user_role, b.user_role FROM propel_auth_history.memberships_history a "
        "JOIN propel_auth_history.memberships_history b USING (user_id, org_id) "
        "WHERE a.valid_to = b.valid_from AND a.user_role <> b.user_role"
    ) == [(climber, before, after)]


def _may_be(store, user_id: str, org_id: str, role: str) -> bool:
    """Change the role if the org has such a one and it is another."""
    if store.of_user[user_id][org_id].role == role:
        return False
    try:
        store.change_role(user_id, org_id, role)
    except ValueError:
        return False
    return True


@pytest.mark.slow
def test_an_unproved_scan_ends_no_version(small_sandbox, small, load, build, query) -> None:
    load()
    small_sandbox.faults.set("page_size_cap", 5)
    small_sandbox.faults.set("repeated_page", 1, path="/api/backend/v1/user/query")
    with pytest.raises(UnprovedScan):
        load_scan("users", small)
    build(small, "users_history", "memberships_history")
    assert query("SELECT count(*) FROM propel_auth_history.users_history WHERE valid_to IS NOT NULL") == [(0,)]
    assert query("SELECT count(*) FROM propel_auth_history.users_history") == [(20,)]


def test_a_load_that_was_not_written_to_its_end_is_no_load(small, build, query, run_sql) -> None:
    """The jobs of a load commit separately: its rows of `propel_scans` can be there without its other rows."""
    load_scan("users", small)
    for load_id, verdict in (("failed", "proved"), ("killed", "skipped")):
        run_sql(
            f"INSERT INTO propel_auth_data.propel_scans SELECT s.* REPLACE ('{load_id}' AS load_id, "
            f"'{verdict}' AS verdict, finished_at + INTERVAL 1 HOUR AS finished_at, started_at + INTERVAL 1 HOUR AS "
            """started_at, '{"x": "unexpected"}'::JSON AS unknown_fields) """
            "FROM propel_auth_data.propel_scans s WHERE load_id NOT IN ('failed', 'killed')"
        )
    audit = ("audit_loads", "audit_requests", "audit_schema_changes")
    build(small, *HISTORIES, "user_loads", "dim_date", "fct_user_changes", *audit)
    [(load_id, started_at, finished_at)] = query(
        "SELECT DISTINCT load_id, started_at, finished_at FROM propel_auth_data.propel_scans "
        "WHERE load_id NOT IN ('failed', 'killed')"
    )
    assert query("SELECT read_at, full_load_started_at FROM propel_auth_history.user_loads") == [
        (finished_at, started_at)
    ]
    assert query("SELECT DISTINCT valid_from, changed_before FROM propel_auth_history.users_history") == [
        (finished_at, finished_at)
    ]
    for mart in audit[:2]:
        assert query(f"SELECT DISTINCT load_id FROM propel_auth_marts.{mart}") == [(load_id,)]
    assert query("SELECT count(*) FROM propel_auth_marts.audit_schema_changes") == [(0,)]


def test_a_role_that_is_redefined_is_a_change_of_its_members(
    small_sandbox, load, build, small, query, monkeypatch
) -> None:
    store = small_sandbox.store
    org_id = next(
        org_id for org_id, org in store.orgs.items() if org.role_mapping == "Default" and store.of_org[org_id]
    )
    members = {user_id: membership.role for user_id, membership in store.of_org[org_id].items()}
    load(run_tests=False)
    default = MAPPINGS["Default"]
    order = ("Owner", "Member", "Admin")
    monkeypatch.setitem(MAPPINGS, "Default", replace(default, permissions={n: default.permissions[n] for n in order}))
    with store.lock:
        store.version += 1
    load()
    build(small, "user_loads", "dim_date", "fct_user_changes")
    changes = query(
        "SELECT user_id, change, old_value, new_value FROM propel_auth_marts.fct_user_changes "
        f"WHERE org_id = '{org_id}' ORDER BY user_id"
    )
    included = {
        "Member": ("included_roles_changed", ["Member"], ["Member", "Admin"]),
        "Admin": ("included_roles_changed", ["Admin", "Member"], ["Admin"]),
        "Owner": ("included_roles_changed", ["Owner", "Admin", "Member"], ["Owner", "Member", "Admin"]),
    }
    assert {user_id: (change, json.loads(old), json.loads(new)) for user_id, change, old, new in changes} == {
        user_id: included[role] for user_id, role in members.items()
    }


def test_figures_of_columns_that_the_privacy_policy_drops_are_null(small, build, query, tmp_path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        '[user_query]\nenabled = "drop"\nmfa_enabled = "drop"\nlocked = "drop"\nlast_active_at = "drop"\n'
    )
    settings = replace(small, privacy=str(policy))
    for scan in ("users", "orgs"):
        load_scan(scan, settings)
    build(settings, "+fct_org_health", "+fct_user_security_daily", "fct_seat_usage", "fct_security_posture")
    assert query(
        "SELECT DISTINCT enabled_users, users_with_mfa, mfa_adoption, disabled_users, locked_users, dormant_users_90d, "
        "unconfirmed_users IS NULL FROM propel_auth_marts.fct_user_security_daily"
    ) == [(None,) * 6 + (False,)]
    assert query(
        "SELECT DISTINCT active_members_30d, idle_members_30d, idle_members_90d, enabled_members, members_with_mfa, "
        "mfa_adoption, disabled_members, locked_members, dormant_members_90d, unconfirmed_members IS NULL "
        "FROM propel_auth_marts.fct_org_daily"
    ) == [(None,) * 9 + (False,)]
    assert query("SELECT DISTINCT is_dormant_30d, score FROM propel_auth_marts.fct_org_health WHERE members > 0") == [
        (None, None)
    ]


@pytest.mark.slow
def test_a_raw_table_that_was_dropped_ends_no_version(small, load, query, tmp_path) -> None:
    import duckdb

    load()
    with duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb")) as db:
        db.execute("DROP TABLE propel_auth_data.user_query")
    with open_dbt(small) as dbt:
        failed = dbt.run("build", "--select", "users_history").failed
    assert "does not exist, but has a history" in failed["users_history"]
    assert query("SELECT count(*) FROM propel_auth_history.users_history WHERE valid_to IS NOT NULL") == [(0,)]


@pytest.mark.slow
def test_growth_of_users_and_orgs_over_three_months(simulate, query) -> None:
    life = simulate("+fct_growth_accounting", scans=("users", "orgs", "org_details"))
    store = life.store
    active: list[dict[str, set[str]]] = []

    def load() -> None:
        at = life.load()
        since = datetime(at.year, at.month, 1, tzinfo=UTC).timestamp()
        users = {user_id for user_id, user in store.users.items() if user.wire["last_active_at"] >= since}
        orgs = {org_id for org_id, members in store.of_org.items() if not users.isdisjoint(members)}
        active.append({"users": users, "orgs": orgs})

    load()
    life.wait(days=30)
    org, gone = sorted(active[0]["orgs"])[:2]
    quiet = next(user_id for user_id in store.users if user_id not in active[0]["users"])
    stays = next(user_id for user_id in store.of_org[org] if user_id in active[0]["users"])
    store.touch_user(stays)
    store.touch_user(quiet)
    newcomer, new_org = store.add_user(), store.add_org()
    store.add_membership(newcomer, new_org, "Owner")
    store.touch_user(newcomer)  # activity before the org existed does not count for it
    load()
    life.wait(days=10)
    load()  # January: December is over

    before, after, _ = active
    for kind, created in (("users", newcomer), ("orgs", new_org)):
        columns = ", ".join(f"{name}_{kind}" for name in ("active", "new", "retained", "resurrected", "churned"))
        first, second, third = query(f"SELECT {columns} FROM propel_auth_marts.fct_growth_accounting ORDER BY month")
        assert first[0] == len(before[kind])
        assert first[2:] == (None, None, None)
        assert created in after[kind]
        back = len(after[kind] - before[kind] - {created})
        assert second == (len(after[kind]), 1, len(after[kind] & before[kind]), back, len(before[kind] - after[kind]))
        assert third == (0, 0, 0, 0, None)  # open
    assert gone not in after["orgs"]
