"""Every fault of the sandbox, by the command line: the load is complete, or the previous data is kept."""

import re

import pytest

from propel_assets.sandbox.switches import SWITCHES

COMPLETE, RETRIED, SKIPPED = "proved", "retried", "skipped"


@pytest.fixture
def load(loaded, run_cli, tmp_path):
    """Run `propel-assets load` in pages of 20. No personal data and no key may remain or be shown."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def run(*tables):
        ran = run_cli("load", *tables, TMPDIR=str(temporary), PROPELAUTH_PAGE_SIZE="20")
        shown = ran.stdout + ran.stderr
        assert loaded.api_key not in shown
        assert "@" not in shown
        assert "Traceback" not in shown
        assert list(temporary.iterdir()) == []
        return ran

    return run


@pytest.fixture
def rows_of(query):
    """Return the rows of a table, without dlt's columns and those that are new."""
    columns = {}

    def rows(table):
        if table not in columns:
            names = [name for name, *_ in query(f"DESCRIBE {table}") if not name.startswith("_dlt")]
            columns[table] = ", ".join(names)
        return sorted(query(f"SELECT {columns[table]} FROM {table}"), key=str)

    return rows


CASES = [
    ("latency_ms=20", "org_query", COMPLETE),
    ("rate_limit=10", "user_report", RETRIED),
    ("server_error=503,requests=1 retry_after=seconds", "org_query", RETRIED),
    ("server_error,requests=3", "user_query", RETRIED),
    ("reset,requests=3", "user_query", RETRIED),
    ("truncated,requests=3", "user_query", RETRIED),
    ("html,requests=3", "user_query", RETRIED),
    ("slow_body_ms=80", "org_query", COMPLETE),
    ("orgs_off", "org_query", SKIPPED),
    ("orgs_off", "user_query", COMPLETE),
    ("include_orgs_off", "user_query", COMPLETE),
    ("insights_off", "user_report", SKIPPED),
    ("api_keys_off", "end_user_api_keys", SKIPPED),
    ("scim_off", "scim_groups", SKIPPED),
    ("page_size_cap=7", "user_query", COMPLETE),
    ("page_size_cap=10 page_size_refused", "user_query", COMPLETE),
    ("unknown_field", "user_query", COMPLETE),
    ("missing_field=users.last_name", "org_query", COMPLETE),
]
REFUSALS = [
    ("server_error", "org_query", "GET /api/backend/v1/org/query returned 500 \\([0-9]+ attempts? in [0-9]+ s\\)"),
    ("rate_limit=0.001", "user_report", "GET /api/backend/v1/user_report/[a-z_]+ returned 429 \\([0-9]+ attempts?"),
    (
        "rate_limit=0.001 retry_after=date",
        "user_report",
        "returned 429 with Retry-After [0-9]+ s, longer than PROPELAUTH_RETRY",
    ),
    ("reset", "org_query", "org/query failed: connection reset"),
    ("truncated", "org_query", "org/query failed: response truncated"),
    ("html", "org_query", "org/query returned 200 with text/html that is not JSON"),
    ("html=404", "org_query", "org/query returned 404.*PROPELAUTH_AUTH_URL"),
    ("wrong_json", "org_query", "org/query returned JSON of an unexpected shape"),
    ("wrong_json={}", "org_query", "org/query returned JSON of an unexpected shape"),
    ("redirect", "org_query", "org/query returned 302.*PROPELAUTH_AUTH_URL to the host that does not redirect"),
    ("key_revoked", "org_query", "org/query returned 401.*PROPELAUTH_API_KEY.*Backend Integration page"),
    ("repeated_page=1", "user_query", "could not prove that no row is missing"),
    (
        "orgs_off,after=4",
        "user_query",
        "users came without org_id_to_org_info, others with it",
    ),
    ("missing_field=users.user_id", "user_query", "user/query returned JSON of an unexpected shape.*user_id"),
]
CHANGING_LISTS = ("delete_every=2", "signup_every=2", "shuffled_ties")


@pytest.mark.parametrize(("switches", "table", "verdict"), CASES)
def test_a_fault_that_is_retried_or_skipped_leaves_complete_tables(
    switches, table, verdict, loaded, load, rows_of, query
) -> None:
    before = {name: rows_of(name) for name in (table, "org_membership")}
    for option in switches.split():
        loaded.faults.parse(option)
    ran = load(table)
    assert ran.returncode == 0, ran.stderr
    assert {name: rows_of(name) for name in before} == before
    last = f"SELECT verdict, retries, reason FROM propel_scans WHERE table_name = '{table}' ORDER BY load_id DESC"
    found, retries, reason = query(last)[0]
    assert (found == SKIPPED) == (verdict == SKIPPED), reason
    assert bool(reason) == (found != "proved")
    assert (retries > 0) == (verdict == RETRIED)


@pytest.mark.parametrize(("switches", "table", "why"), REFUSALS)
def test_a_fault_that_stops_a_load_keeps_the_previous_data(switches, table, why, loaded, load, rows_of) -> None:
    before = rows_of(table)
    for option in switches.split():
        loaded.faults.parse(option)
    ran = load(table)
    assert ran.returncode == 1
    assert re.search(why, ran.stderr), ran.stderr
    assert rows_of(table) == before


@pytest.mark.parametrize("switch", CHANGING_LISTS)
def test_no_user_who_stays_is_missing(switch, loaded, load, query) -> None:
    before = set(loaded.store.users)
    loaded.faults.parse(switch)
    ran = load("user_query")
    stayed = before & set(loaded.store.users)
    found = {user for (user,) in query("SELECT user_id FROM user_query")}
    assert ran.returncode == 0, ran.stderr
    assert stayed <= found <= before | set(loaded.store.users)


def test_a_field_of_another_type_is_loaded_and_named_by_a_check(loaded, load, query) -> None:
    loaded.faults.parse("retyped_field=users.email")
    ran = load("user_query")
    assert ran.returncode == 3
    assert "ERROR user_query: schema: Schema mismatch: " in ran.stderr
    assert query("SELECT count(*) FROM user_query") == [(60,)]


def test_skipped_memberships_may_reference_deleted_users(loaded, load) -> None:
    loaded.store.delete_user(max(loaded.store.of_user, key=lambda user: len(loaded.store.of_user[user])))
    loaded.faults.parse("orgs_off")
    ran = load("user_query")
    assert ran.returncode == 0, ran.stderr
    assert "WARN org_membership: references_exist: Missing references: 1 not in `user_query`." in ran.stderr


def test_one_scan_that_fails_leaves_the_others_loaded(loaded, load, query) -> None:
    loaded.faults.parse("server_error=500,path=/api/backend/v1/org")
    ran = load("user_query", "org_query", "custom_role_mappings")
    assert ran.returncode == 1
    assert "Not loaded: org_query. The reasons are above." in ran.stderr
    loads = "SELECT table_name, count(*) FROM propel_scans GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL"
    assert query(loads) == [("custom_role_mappings", 2), ("org_membership", 2), ("user_query", 2)]


def test_every_switch_is_tried_here() -> None:
    used = [switches for switches, *_ in CASES + REFUSALS] + list(CHANGING_LISTS)
    tried = {re.split("[=,]", option)[0] for switches in used for option in switches.split()}
    elsewhere = {"retyped_field", "insert_every"} | {name for name in SWITCHES if name.startswith("webhook_")}
    elsewhere |= {"unknown_org_empty", "org_detail_created_at", "response_headers", "error_bodies", "past_end"}  # probe
    assert tried | elsewhere == set(SWITCHES)
