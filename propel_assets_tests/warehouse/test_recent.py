"""What changed, merged into what is there: the same rows as a full reading gives, deletions and edits aside."""

from dataclasses import replace
from random import Random

import duckdb
import pytest

from propel_assets.catalog import BY_NAME, tables_of
from propel_assets.errors import LossRefused, OtherEnvironment, WarehouseError
from propel_assets.privacy.policy_file import load_policy
from propel_assets.sandbox.running import Sandbox
from propel_assets.source.client import Client
from propel_assets.source.stream import ReadOptions
from propel_assets.warehouse.checks import examine
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.query import open_warehouse

RECENT = ReadOptions(recent=True)
USERS = "SELECT * FROM user_query ORDER BY user_id"
MEMBERSHIPS = "SELECT * FROM org_membership ORDER BY user_id, org_id"


def some_life(store, rng: Random) -> None:
    """Sign-ups, activity, and members who come, go and change roles and are active, which a recent load can see."""
    orgs = list(store.orgs)
    for _ in range(rng.randint(0, 4)):
        user = store.add_user()
        if rng.random() < 0.7:
            store.add_membership(user, rng.choice(orgs))
    for user in rng.sample(list(store.users), rng.randint(0, 12)):
        of_user = list(store.of_user.get(user, ()))
        if of_user and rng.random() < 0.5:
            store.remove_membership(user, rng.choice(of_user))
        elif rng.random() < 0.5:
            store.add_membership(user, rng.choice([org for org in orgs if org not in of_user]))
        store.touch_user(user)
    store.advance(rng.choice([0, 1, 3600]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_full_and_recent_loads_in_any_order_end_as_one_full_load(seed, settings, sandbox, query) -> None:
    rng = Random(seed)
    for _ in range(4):
        load_scan("users", settings, options=RECENT if rng.random() < 0.7 else None)
        some_life(sandbox.store, rng)
    load_scan("users", settings, options=RECENT)
    merged = query(USERS), query(MEMBERSHIPS)
    load_scan("users", settings)
    assert merged == (query(USERS), query(MEMBERSHIPS))
    assert len(merged[0]) == len(sandbox.store.users)


def test_a_recent_load_without_a_full_one_before_it_reads_everything(settings, sandbox, query) -> None:
    reports = load_scan("users", settings, options=RECENT).results
    assert {report.mode for report in reports} == {"full"}
    assert query("SELECT count(*) FROM user_query") == [(len(sandbox.store.users),)]


def test_a_recent_load_asks_little_and_leaves_no_person_in_the_staging_tables(settings, sandbox, query) -> None:
    load_scan("users", settings)
    before = len(sandbox.requests)
    newcomer = sandbox.store.add_user()
    users, members = load_scan("users", settings, options=RECENT).results
    assert len(sandbox.requests) - before <= 8
    assert (users.mode, users.verdict, members.mode) == ("recent", "counted", "recent")
    assert query(f"SELECT count(*) FROM user_query WHERE user_id = '{newcomer}'") == [(1,)]
    assert query("SELECT count(*) FROM propel_auth_data_staging.user_query") == [(0,)]


@pytest.mark.slow
def test_an_error_after_tables_were_changed_does_not_report_that_the_data_is_kept(
    settings, sandbox, query, tmp_path
) -> None:
    load_scan("users", settings)
    with duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb")) as db:
        db.execute("CREATE UNIQUE INDEX one_scan ON propel_auth_data.propel_scans(table_name)")
    newcomer = sandbox.store.add_user()
    with pytest.raises(WarehouseError, match=r"Some tables can have been changed\."):
        load_scan("users", settings)
    assert query(f"SELECT count(*) FROM user_query WHERE user_id = '{newcomer}'") == [(1,)]
    user = next(user for user, orgs in sandbox.store.of_user.items() if orgs)
    for org in list(sandbox.store.of_user[user]):
        sandbox.store.remove_membership(user, org)
    sandbox.store.touch_user(user)
    with pytest.raises(WarehouseError, match=r"Some tables can have been changed\."):
        load_scan("users", settings, options=RECENT)
    assert query(f"SELECT count(*) FROM org_membership WHERE user_id = '{user}'") == [(0,)]


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0, 1], ids=["all", "all-but-one-of-each-user"])
def test_a_recent_load_never_deletes_more_memberships_than_a_load_may_lose(kept, settings, sandbox, query) -> None:
    load_scan("users", settings)
    before = query(MEMBERSHIPS)
    for user, orgs in sandbox.store.of_user.items():
        for org in list(orgs)[kept:]:
            sandbox.store.remove_membership(user, org)
    for user in sandbox.store.users:
        sandbox.store.touch_user(user)
    with pytest.raises(LossRefused, match=f"rows of org_membership .* had {len(before)} rows"):
        load_scan("users", settings, options=RECENT)
    assert query(MEMBERSHIPS) == before
    load_scan("users", replace(settings, allow_loss=True), options=RECENT)
    assert len(query(MEMBERSHIPS)) == sum(map(len, sandbox.store.of_user.values()))


def test_an_error_before_the_write_reports_that_the_data_is_kept(settings, sandbox, query, tmp_path) -> None:
    load_scan("users", settings)
    before = query(USERS)
    sandbox.store.add_user()
    with duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb")) as db:
        db.execute("ALTER TABLE propel_auth_data._dlt_pipeline_state RENAME COLUMN state TO other")
    with pytest.raises(WarehouseError, match=r"The previous data is kept\."):
        load_scan("users", settings)
    assert query(USERS) == before


def test_another_environment_never_replaces_the_rows(settings, sandbox, query) -> None:
    load_scan("users", settings)
    other = replace(settings, auth_url="https://auth.example.com")
    with pytest.raises(
        OtherEnvironment, match=r"sandbox/7,.*auth\.example\.com.*mkdir my-tenant.*DESTINATION__D"
    ) as told:
        load_scan("users", other)
    assert "PROPELAUTH_ALLOW_LOSS" not in str(told.value)  # it would replace the demo by the tenant
    assert query("SELECT count(*) FROM user_query") == [(len(sandbox.store.users),)]


@pytest.mark.slow
@pytest.mark.parametrize("scan", ["users", "jwks"])
def test_a_sandbox_is_the_same_environment_on_another_port_unless_its_seed_differs(
    scan, settings, sandbox, query
) -> None:
    load_scan("users", settings)
    with Sandbox(users=300, orgs=24, seed=sandbox.store.seed) as moved:
        load_scan(scan, replace(settings, auth_url=moved.url))
    with Sandbox(users=310, orgs=24, seed=8) as other:
        with pytest.raises(
            OtherEnvironment, match=r"loaded from propel-assets-sandbox/7, .* now names propel-assets-sandbox/8"
        ):
            load_scan(scan, replace(settings, auth_url=other.url))
        assert query("SELECT count(*) FROM user_query") == [(300,)]
        load_scan(scan, replace(settings, auth_url=other.url, allow_loss=True))
    assert query("SELECT count(*) FROM user_query") == [(310 if scan == "users" else 300,)]


def test_another_spelling_of_the_host_is_the_same_environment(settings, sandbox, monkeypatch) -> None:
    monkeypatch.setattr(Client, "tenant_id", "Auth.Example.com:443")  # as an earlier version stored it
    load_scan("jwks", settings)
    monkeypatch.setattr(Client, "tenant_id", "auth.example.com")
    load_scan("jwks", settings)
    monkeypatch.setattr(Client, "tenant_id", "auth.example.com:8443")
    with pytest.raises(OtherEnvironment):
        load_scan("jwks", settings)


@pytest.mark.slow
@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_jumps_loses_no_user_and_checks_still_hold(days, settings, sandbox, query, travel) -> None:
    rng = Random(days)

    def load(options: ReadOptions | None = None) -> None:
        load_scan("users", settings, options=options)
        with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
            findings = [finding for table in tables_of("users") for finding in examine(warehouse, table)]
        assert [finding.summary for finding in findings if finding.severity == "ERROR" and not finding.passed] == []

    load()
    for _ in range(2):
        some_life(sandbox.store, rng)
        with travel(days):
            load()
            some_life(sandbox.store, rng)
            load(RECENT)
        some_life(sandbox.store, rng)
        load(RECENT)
        sandbox.store.delete_user(next(iter(sandbox.store.users)))
        load()
        assert {user for (user,) in query("SELECT user_id FROM user_query")} == set(sandbox.store.users)


def test_the_row_count_after_a_recent_load_states_how_many_rows_the_load_read(settings, sandbox) -> None:
    load_scan("users", settings)
    sandbox.store.add_user()
    users, _ = load_scan("users", settings, options=RECENT).results
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        [found] = examine(warehouse, BY_NAME["user_query"], ["row_count"])
    assert users.rows_read < len(sandbox.store.users)
    assert found.summary == f"{len(sandbox.store.users)} rows. The last load read {users.rows_read} of them."
