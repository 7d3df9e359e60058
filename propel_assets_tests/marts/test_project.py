"""The dbt project: generated files are up to date, and it runs on an empty warehouse."""

import importlib.metadata
import shutil
import subprocess
import sys
from dataclasses import replace

import duckdb
import pytest

from propel_assets.catalog import BY_NAME
from propel_assets.errors import SettingsError
from propel_assets.marts.built import built_models
from propel_assets.marts.manifest import load_manifest
from propel_assets.marts.runner import open_dbt
from propel_assets.marts.sources import PROJECT
from propel_assets.privacy.policy_file import load_policy
from propel_assets.settings import Target, load_settings
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.query import open_warehouse
from propel_assets_tests.derived import (
    FREE_DOMAINS_FILE,
    FREE_DOMAINS_PACKAGE,
    SOURCES_FILE,
    free_domains_csv,
    sources_yaml,
)
from propel_assets_tests.marts.conftest import DESCRIPTIONS

# Columns of the raw table that the history does not have, because they would add a version to every row.
WITHOUT = {
    "users_history": {"last_active_at"},
    "memberships_history": {"org_name", "org_metadata", "url_safe_org_name"},
    "orgs_history": set(),
    "role_mappings_history": set(),
}
HISTORIES = {
    "users_history": "user_query",
    "memberships_history": "org_membership",
    "orgs_history": "org_query",
    "role_mappings_history": "custom_role_mappings",
}
REMEDY = "python -m propel_assets_tests.derived"


def test_the_sources_are_those_of_the_catalog() -> None:
    assert SOURCES_FILE.read_text(encoding="utf-8") == sources_yaml(), REMEDY


def test_the_free_mail_domains_are_those_of_the_package() -> None:
    assert FREE_DOMAINS_FILE.read_text(encoding="utf-8") == free_domains_csv(), REMEDY
    assert (
        f"{FREE_DOMAINS_PACKAGE}` {importlib.metadata.version(FREE_DOMAINS_PACKAGE)}"
        in (DESCRIPTIONS["free_mail_domains"]["description"])
    )


@pytest.mark.parametrize(("history", "table"), HISTORIES.items())
def test_a_history_has_the_columns_of_its_raw_table(loaded, history, table) -> None:
    found = {name for (name,) in loaded.query(f"SELECT column_name FROM (DESCRIBE {history})")}
    assert (
        found - {"valid_from", "valid_to", "changed_after", "changed_before"}
        == {c.name for c in BY_NAME[table].columns} - WITHOUT[history]
    )


def test_a_copy_of_the_file_can_be_queried_under_another_name_and_under_an_alias(loaded, tmp_path) -> None:
    schemas = ("propel_auth_marts", "propel_auth_history")
    copy = shutil.copy(loaded.file, tmp_path / "copy.duckdb")
    with duckdb.connect(str(copy), read_only=True) as db:
        tables = db.execute(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema IN (?, ?)", schemas
        ).fetchall()
        assert len(tables) >= len(DESCRIPTIONS)
        counted = {table: db.execute(f"SELECT count(*) FROM {'.'.join(table)}").fetchall() for table in tables}
        for model in DESCRIPTIONS.values():
            db.execute(model["config"]["meta"]["query"])
    with duckdb.connect() as db:
        db.execute(f"ATTACH '{copy}' AS shared (READ_ONLY)")
        for table, rows in counted.items():
            assert db.execute(f"SELECT count(*) FROM shared.{'.'.join(table)}").fetchall() == rows


def test_marts_and_tables_of_loads_have_the_time_of_their_last_load(loaded, monkeypatch) -> None:
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(loaded.file))
    settings = load_settings()
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        found = {model.name: model.as_of for model in built_models(warehouse, settings.target)}
    assert None not in (found["dim_user"], found["dim_org"])
    assert (found["user_loads"], found["org_loads"]) == (found["dim_user"], found["dim_org"])


def test_an_empty_warehouse_gives_empty_marts_and_a_first_load_fills_them(small, build, query, tmp_path) -> None:
    build(small)
    with duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb"), read_only=True) as db:
        db.execute("SET search_path = 'propel_auth_marts,propel_auth_history'")
        counted = {model: db.execute(f"SELECT count(*) FROM {model}").fetchall() for model in DESCRIPTIONS}
    assert {model for model, rows in counted.items() if rows != [(0,)]} == {"free_mail_domains"}
    load_scan("users", small)
    build(small, "users_history", "dim_user")
    assert query("SELECT count(*) FROM propel_auth_marts.dim_user") == [(20,)]


@pytest.mark.slow
def test_a_tenant_without_orgs_insights_and_keys_gets_the_other_marts(small_sandbox, small, build, query) -> None:
    for feature in ("orgs_off", "insights_off", "api_keys_off", "scim_off"):
        small_sandbox.faults.parse(feature)
    for scan in ("users", "orgs", "invites", "end_user_api_keys", "chart_metrics", "user_reports"):
        load_scan(scan, small)
    build(small)
    assert query("SELECT sum(signups), count(provider_signups) FROM propel_auth_marts.fct_signups_daily") == [(20, 0)]
    assert query("SELECT count(*) FROM propel_auth_marts.audit_churned_users") == [(0,)]
    assert query("SELECT count(*) FROM propel_auth_marts.fct_seat_usage") == [(0,)]


@pytest.mark.slow
def test_the_requests_of_a_load_are_those_that_the_sandbox_received(small_sandbox, small, build, query) -> None:
    small_sandbox.faults.parse("server_error=429,requests=2,path=/api/backend/v1/user")
    asked = []
    for scan in ("users", "orgs"):
        before = len(small_sandbox.requests)
        load_scan(scan, small)
        asked.append(len(small_sandbox.requests) - before)
    build(small, "audit_requests")
    columns = "table_name, tables, requests, retries, rate_limited, pages"
    assert query(f"SELECT {columns} FROM propel_auth_marts.audit_requests ORDER BY started_at") == [
        ("org_membership", 2, asked[0], 2, 2, 1),
        ("org_query", 1, asked[1], 0, 0, 1),
    ]


@pytest.mark.slow
def test_schema_changes_are_the_fields_that_appeared_and_disappeared(small_sandbox, small, build, query) -> None:
    load_scan("orgs", small)
    small_sandbox.faults.set("unknown_field", "orgs")
    small_sandbox.faults.set("retyped_field", "orgs.is_saml_configured")
    load_scan("orgs", small)
    small_sandbox.faults.set("retyped_field", None)
    load_scan("orgs", small)
    build(small, "audit_schema_changes")
    columns = "table_name, field_name, finding, kind, loads, is_current"
    assert query(f"SELECT {columns} FROM propel_auth_marts.audit_schema_changes ORDER BY field_name") == [
        ("org_query", "is_saml_configured", "not bool, see is_saml_configured__v_text", "mismatched", 1, False),
        ("org_query", "new_object", "unexpected, stored as json", "unexpected", 2, True),
        ("org_query", "new_scalar", "unexpected, stored as text", "unexpected", 2, True),
    ]


@pytest.mark.slow
def test_with_a_plan_the_months_have_a_price(small, query) -> None:
    load_scan("chart_metrics", small)
    plan = {"propel_auth_included_mau": 5, "propel_auth_plan_price": 150, "propel_auth_price_per_mau": 0.5}
    with open_dbt(small) as dbt:
        assert dbt.run("build", "--select", "fct_mau_billing", **plan).failed == {}
    rows = query("SELECT mau, overage_mau, price FROM propel_auth_marts.fct_mau_billing")
    assert {mau > 5 for mau, *_ in rows} == {True, False}
    assert rows == [(mau, max(mau - 5, 0), 150 + 0.5 * max(mau - 5, 0)) for mau, *_ in rows]


@pytest.mark.slow
def test_a_plan_that_is_no_number_is_an_error(small) -> None:
    with open_dbt(small) as dbt:
        result = dbt.run("build", "--select", "fct_mau_billing", propel_auth_included_mau="1; drop")
    assert "propel_auth_included_mau must be a number, not 1; drop." in result.failed["fct_mau_billing"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("feature", "deleted", "status"), [("", 0, "pass"), ("", 10, "warn"), ("insights_off", 10, "pass")]
)
def test_sign_ups_are_compared_with_propel_auths_figure(small_sandbox, small, feature, deleted, status) -> None:
    if feature:
        small_sandbox.faults.parse(feature)
    for user_id in list(small_sandbox.store.users)[20 - deleted :]:
        small_sandbox.store.delete_user(user_id)
    for scan in ("users", "chart_metrics"):
        load_scan(scan, small)
    with open_dbt(small) as dbt:
        result = dbt.run("build", "--select", "+fct_signups_daily")
    found = {node.name: node.status for node in result.nodes}
    assert found["signups_agree_with_propel_auth"] == status
    assert result.failed == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("destination", "message"),
    [
        ("postgres", "not installed. Install propel-assets with the extra `marts-postgres`."),
        ("filesystem", "propel-assets has no dbt profile for filesystem. .*/marts/dbt as a package"),
    ],
)
def test_a_missing_adapter_is_named(small, monkeypatch, destination, message) -> None:
    monkeypatch.setitem(sys.modules, "dbt.adapters.postgres", None)
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", "postgresql://nobody:x@localhost/nothing")
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", "files")
    with pytest.raises(SettingsError, match=message), open_dbt(replace(small, destination=destination)):
        pass


@pytest.mark.slow
def test_dbt_waits_for_a_process_that_has_the_file_open(small, build, tmp_path) -> None:
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
        logged: list[str] = []

        def log(text: str) -> None:
            logged.append(text)
            process.stdin.write("\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]

        with open_dbt(small, log) as dbt:
            assert dbt.run("build", "--select", "users_history").failed == {}
    assert f"process {process.pid}" in logged[0]


@pytest.mark.slow
def test_dbt_leaves_the_file_free_and_the_working_directory_as_it_was(small, build, tmp_path) -> None:
    build(small, "users_history")
    duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb"), config={"threads": "1"}).close()
    assert not (PROJECT / "target").exists()
    assert not (PROJECT / "logs").exists()


def test_the_manifest_is_built_once_per_environment(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    manifests = [load_manifest(Target(environment=name)) for name in ("", "staging", "")]
    [first, second] = (tmp_path / "cache" / "propel-assets").iterdir()
    schemas = [{node["schema"] for node in manifest["nodes"].values()} for manifest in manifests]
    assert manifests[2] == manifests[0]
    assert schemas[0] >= {"propel_auth_marts", "propel_auth_history"}
    assert schemas[1] >= {"staging_propel_auth_marts", "staging_propel_auth_history"}
    assert first.stat().st_size == pytest.approx(second.stat().st_size, rel=0.05)
    assert not any(node.get("compiled_code") for node in manifests[1]["nodes"].values())


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
