"""`propel-assets refresh`: the daily job in this process."""

import re

import dagster as dg
import pytest

from propel_assets.catalog import TABLES
from propel_assets.cli.instance import prepare_dagster_home
from propel_assets.errors import WarehouseBusy

DEFAULT = {table.name for table in TABLES if table.default}


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_loads_the_default_tables_builds_the_marts_and_the_ui_has_the_run(small, run_process, home, query) -> None:
    ran = run_process("refresh", timeout=580)
    assert ran.returncode == 0, ran.stderr[-3000:]
    for name in DEFAULT:
        assert re.search(rf"^{name} +[\d,]+ +(\d+) of \1 ", ran.stdout, re.MULTILINE), name
    assert re.search(r"^\[ ?\d+/\d+\] user_marts built in [\d.]+ s$", ran.stderr, re.MULTILINE)
    assert small.api_key not in ran.stdout + ran.stderr
    assert query("SELECT count(*) FROM propel_auth_marts.dim_user") == [(60,)]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert [run.job_name for run in instance.get_runs()] == ["propel_auth_refresh"]


@pytest.fixture
def without_marts(monkeypatch):
    monkeypatch.setattr("propel_assets.marts.runner.are_marts_installed", lambda: False)


@pytest.mark.slow
def test_a_table_that_cannot_be_loaded_is_named_and_keeps_its_data(small, run_cli, home, without_marts, query) -> None:
    first = run_cli("refresh")
    assert first.returncode == 0
    assert re.search(r"^No marts\. .*marts", first.stdout, re.MULTILINE)
    before = query("SELECT * FROM org_query ORDER BY org_id")
    small.faults.parse("server_error=503,path=/api/backend/v1/org/query")
    ran = run_cli("refresh", PROPELAUTH_RETRY_SECONDS="0.5")
    assert ran.returncode == 1
    assert "orgs: failed. GET /api/backend/v1/org/query returned 503" in ran.stderr.replace("load_", "")
    assert re.search(
        r"Not loaded or not built: .*\borg_query\b.*Correct them and run `propel-assets refresh`", ran.stderr
    )
    assert query("SELECT * FROM org_query ORDER BY org_id") == before


def test_a_failed_check_is_named_and_ends_with_3(small, run_cli, home, without_marts, query) -> None:
    small.faults.parse("retyped_field=users.email")
    ran = run_cli("refresh")
    assert ran.returncode == 3
    assert "ERROR user_query: schema: Schema mismatch" in ran.stderr
    assert query("SELECT count(*) FROM user_query") == [(60,)]


def test_a_check_that_could_not_be_run_is_an_error(small, run_cli, home, without_marts, monkeypatch) -> None:
    def fail(*_):
        raise WarehouseBusy("Another process has the file open.")

    monkeypatch.setattr("propel_assets.defs.checks.examine", fail)
    ran = run_cli("refresh")
    assert ran.returncode == 1
    assert "check_user_query: failed. Another process has the file open." in ran.stderr
    assert "A step failed. The reasons are above." in ran.stderr


def test_an_instance_that_exists_keeps_its_settings(home) -> None:
    assert (prepare_dagster_home() / "dagster.yaml").exists()
    (home / "dagster.yaml").unlink()
    (home / "history").mkdir()
    assert not (prepare_dagster_home() / "dagster.yaml").exists()
