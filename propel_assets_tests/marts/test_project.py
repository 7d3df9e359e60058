"""The dbt project itself: it follows the catalogue, and runs on nothing at all."""

import json
import subprocess
import sys
from dataclasses import replace

import duckdb
import pytest
import yaml

from propel_assets.catalog import BY_NAME
from propel_assets.errors import SettingsError
from propel_assets.marts.runner import PROJECT, connected_dbt, manifest_path, sources_yaml
from propel_assets.warehouse.load import load_scan

DBT_COLUMNS = {"dbt_scd_id", "dbt_updated_at", "dbt_valid_from", "dbt_valid_to"}
HISTORIES = {
    "users_history": "user_query",
    "memberships_history": "org_membership",
    "orgs_history": "org_query",
    "role_mappings_history": "custom_role_mappings",
}


def test_the_sources_are_those_of_the_catalogue() -> None:
    remedy = "python -m propel_assets.marts.runner > propel_assets/marts/dbt/models/sources.yml"
    assert (PROJECT / "models" / "sources.yml").read_text() == sources_yaml(), remedy


@pytest.mark.parametrize(("history", "table"), HISTORIES.items())
def test_a_history_has_every_column_but_the_last_activity(loaded, history, table) -> None:
    found = {name for (name,) in loaded.ask(f"SELECT column_name FROM (DESCRIBE {history})")}
    assert found - DBT_COLUMNS == {c.name for c in BY_NAME[table].columns} - {"last_active_at"}


def test_an_empty_warehouse_gives_empty_marts_and_a_first_load_fills_them(small, build, query, tmp_path) -> None:
    build(small)
    models = yaml.safe_load((PROJECT / "models" / "marts.yml").read_text())["models"]
    with duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb"), read_only=True) as db:
        for model in models:
            counted = db.execute(f"SELECT count(*) FROM propel_auth_marts.{model['name']}").fetchall()
            assert counted == [(0,)], model["name"]
    load_scan("users", small)
    build(small, "users_history", "dim_user", "ops_sync_scans")
    assert query("SELECT count(*) FROM propel_auth_marts.dim_user") == [(20,)]
    assert query("SELECT count(*) FROM propel_auth_marts.ops_sync_scans") == [(2,)]


def test_a_tenant_without_orgs_insights_and_keys_gets_the_other_marts(small_sandbox, small, build, query) -> None:
    for feature in ("orgs_off", "insights_off", "api_keys_off", "scim_off"):
        small_sandbox.faults.parse(feature)
    for scan in ("users", "orgs", "invites", "end_user_api_keys", "chart_metrics", "user_reports"):
        load_scan(scan, small)
    build(small)
    assert query("SELECT sum(signups), count(provider_signups) FROM propel_auth_marts.fct_signups_daily") == [(20, 0)]
    assert query("SELECT DISTINCT found_by FROM propel_auth_marts.fct_churn_state") == [("no_report",)]
    assert query("SELECT count(*) FROM propel_auth_marts.fct_seat_usage") == [(0,)]


def test_the_api_budget_is_what_propel_auth_was_asked(small_sandbox, small, build, query) -> None:
    small_sandbox.faults.parse("server_error=429,requests=2,path=/api/backend/v1/user")
    asked = []
    for scan in ("users", "orgs"):
        before = len(small_sandbox.requests)
        load_scan(scan, small)
        asked.append(len(small_sandbox.requests) - before)
    build(small, "ops_api_budget")
    told = "table_name, tables, requests, retries, rate_limited, pages"
    assert query(f"SELECT {told} FROM propel_auth_marts.ops_api_budget ORDER BY started_at") == [
        ("org_membership", 2, asked[0], 2, 2, 1),
        ("org_query", 1, asked[1], 0, 0, 1),
    ]


def test_schema_changes_are_the_fields_that_came_and_went(small_sandbox, small, build, query) -> None:
    load_scan("orgs", small)
    small_sandbox.faults.set("unknown_field", "orgs")
    small_sandbox.faults.set("retyped_field", "orgs.is_saml_configured")
    load_scan("orgs", small)
    small_sandbox.faults.set("retyped_field", None)
    load_scan("orgs", small)
    build(small, "ops_schema_changes")
    told = "table_name, field_name, told, kind, loads, is_current"
    assert query(f"SELECT {told} FROM propel_auth_marts.ops_schema_changes ORDER BY field_name") == [
        ("org_query", "is_saml_configured", "not bool, see is_saml_configured__v_text", "mismatched", 1, False),
        ("org_query", "new_object", "unexpected, stored as json", "unexpected", 2, True),
        ("org_query", "new_scalar", "unexpected, stored as text", "unexpected", 2, True),
    ]


def test_a_month_is_priced_by_the_plan_named(small, query) -> None:
    load_scan("chart_metrics", small)
    plan = {"propel_auth_included_mau": 5, "propel_auth_plan_price": 150, "propel_auth_price_per_mau": 0.5}
    with connected_dbt(small) as dbt:
        assert dbt.run("build", "--select", "fct_mau_billing", "--vars", json.dumps(plan)).broken == {}
    rows = query("SELECT mau, overage_mau, price FROM propel_auth_marts.fct_mau_billing")
    assert {mau > 5 for mau, *_ in rows} == {True, False}
    assert rows == [(mau, max(mau - 5, 0), 150 + 0.5 * max(mau - 5, 0)) for mau, *_ in rows]


def test_a_plan_that_is_no_number_is_said(small) -> None:
    with connected_dbt(small) as dbt:
        ended = dbt.run("build", "--select", "fct_mau_billing", "--vars", '{"propel_auth_included_mau": "1; drop"}')
    assert "propel_auth_included_mau must be a number, not 1; drop." in ended.broken["fct_mau_billing"]


@pytest.mark.parametrize(
    ("feature", "deleted", "status"), [("", 0, "pass"), ("", 10, "warn"), ("insights_off", 10, "pass")]
)
def test_sign_ups_are_held_against_propel_auths_own(small_sandbox, small, feature, deleted, status) -> None:
    if feature:
        small_sandbox.faults.parse(feature)
    for user_id in list(small_sandbox.store.users)[20 - deleted :]:
        small_sandbox.store.delete_user(user_id)
    for scan in ("users", "chart_metrics"):
        load_scan(scan, small)
    with connected_dbt(small) as dbt:
        ended = dbt.run("build", "--select", "users_history", "dim_user", "fct_signups_daily")
    found = {event["data"]["node_info"]["node_name"]: event["data"]["status"] for event in ended.events}
    assert found["signups_agree_with_propel_auth"] == status
    assert ended.broken == {}


@pytest.mark.parametrize(
    ("destination", "told"),
    [
        ("postgres", r"need dbt-postgres: pip install 'propel-assets\[marts\]' dbt-postgres"),
        ("filesystem", "There is no dbt profile for filesystem .*docs/marts.md"),
    ],
)
def test_a_missing_adapter_is_named(small, monkeypatch, destination, told) -> None:
    monkeypatch.setitem(sys.modules, "dbt.adapters.postgres", None)
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", "postgresql://nobody:x@localhost/nothing")
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", "files")
    with pytest.raises(SettingsError, match=told), connected_dbt(replace(small, destination=destination)):
        pass


def test_dbt_waits_for_whoever_has_the_file_open(small, build, tmp_path) -> None:
    load_scan("users", small)
    holder = (
        "import duckdb, sys; db = duckdb.connect(sys.argv[1]); print('open', flush=True); "
        "sys.stdin.readline(); db.close()"
    )
    file = str(tmp_path / "propel_auth_pipeline.duckdb")
    with subprocess.Popen(
        [sys.executable, "-c", holder, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "open\n"
        said: list[str] = []

        def say(text: str) -> None:
            said.append(text)
            process.stdin.write("\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]

        with connected_dbt(small, say) as dbt:
            assert dbt.run("build", "--select", "users_history").broken == {}
    assert f"process {process.pid}" in said[0]


def test_dbt_leaves_the_file_free_and_the_working_directory_as_it_was(small, build, tmp_path) -> None:
    build(small, "users_history")
    duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb"), config={"threads": "1"}).close()
    assert not (PROJECT / "target").exists()
    assert not (PROJECT / "logs").exists()


def test_the_manifest_is_built_once(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = manifest_path()
    written = path.stat().st_mtime_ns
    assert manifest_path() == path
    assert path.stat().st_mtime_ns == written
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_without_the_extra_everything_else_loads() -> None:
    program = (
        "import sys; sys.modules['dbt'] = sys.modules['dagster_dbt'] = None\n"
        "from propel_assets.definitions import defs\n"
        "keys = {key.path[0] for key in defs.resolve_asset_graph().get_all_asset_keys()}\n"
        "assert keys == {'propel_auth', 'propel_auth_api'}, keys\n"
        "defs.resolve_job_def('propel_auth_refresh')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
