"""Several PropelAuth environments from one installation: a code location, a key, tables and alerts for each."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import duckdb
import pytest
import yaml

from propel_assets import PropelAuthConfig, build_definitions
from propel_assets.errors import SettingsError
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import load_settings, require_credentials
from propel_assets.warehouse.load import load_scan
from propel_assets.webhooks.apply import load_events
from propel_assets.webhooks.store import WebhookStore
from propel_assets_tests.webhooks.conftest import received

WORKSPACE = """
load_from:
  - python_module: {module_name: propel_assets.environments, attribute: production, location_name: production}
  - python_module: {module_name: propel_assets.environments, attribute: staging, location_name: staging}
"""
ROOT = Path(__file__).parents[1]
DAGSTER = [sys.executable, "-m", "dagster"]


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Sandbox]]:
    """Two sandboxes, configured as two environments; dlt chooses the files."""
    monkeypatch.delenv("DESTINATION__DUCKDB__CREDENTIALS")
    with Sandbox(users=40, orgs=4, seed=1) as production, Sandbox(users=60, orgs=6, seed=2) as staging:
        both = {"production": production, "staging": staging}
        for name, sandbox in both.items():
            monkeypatch.setenv(f"{name.upper()}__PROPELAUTH_AUTH_URL", sandbox.url)
            monkeypatch.setenv(f"{name.upper()}__PROPELAUTH_API_KEY", sandbox.api_key)
        yield both


@pytest.mark.slow
def test_each_environment_has_a_webhook_store_of_its_own(two, tmp_path) -> None:
    production, staging = (load_settings(environment=name) for name in two)
    assert production.webhook_store == "sqlite:///production_propel_auth_webhooks.db"
    assert staging.webhook_store == "sqlite:///staging_propel_auth_webhooks.db"
    assert load_settings().webhook_store == "sqlite:///propel_auth_webhooks.db"
    for settings in (production, staging):
        load_scan("users", settings)
    user_id = next(iter(two["production"].store.users))
    two["production"].store.update_user(user_id, first_name="Changed")
    with closing(WebhookStore(production.webhook_store)) as store:
        store.add([received({"event_type": "user.updated", "user_id": user_id})])
        list(load_events(staging))
        assert store.status().pending == 1
        list(load_events(production))
        assert store.status().pending == 0
    with duckdb.connect(str(tmp_path / "production_propel_auth_pipeline.duckdb"), read_only=True) as database:
        sql = "SELECT first_name FROM production_propel_auth_data.user_query WHERE user_id = ?"
        assert database.execute(sql, [user_id]).fetchall() == [("Changed",)]


def run(*words: str) -> str:
    ran = subprocess.run([*DAGSTER, *words], capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_environment_has_assets_a_file_and_marts_of_its_own(two, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (tmp_path / "workspace.yaml").write_text(WORKSPACE)
    assert "Validation successful" in run("definitions", "validate", "-w", "workspace.yaml")
    for name in two:
        where = ("-m", "propel_assets.environments", "-a", name)
        said = run("asset", "list", *where)
        assert f"{name}/propel_auth/user_query" in said
        assert all(line.startswith(name) for line in said.splitlines() if "propel_auth" in line)
        run("asset", "materialize", *where, "--select", f'+key:"{name}/propel_auth_marts/dim_org"')
    for name, sandbox in two.items():
        with duckdb.connect(str(tmp_path / f"{name}_propel_auth_pipeline.duckdb"), read_only=True) as database:
            schemas = {schema for (schema,) in database.execute("SELECT schema_name FROM duckdb_schemas()").fetchall()}
            assert {f"{name}_propel_auth_data", f"{name}_propel_auth_marts"} <= schemas
            [(orgs,)] = database.execute(f"SELECT count(*) FROM {name}_propel_auth_marts.dim_org").fetchall()
            assert orgs == len(sandbox.store.orgs)


def test_an_environment_that_is_added_leaves_the_names_of_the_first_one_and_shares_none() -> None:
    page = (ROOT / "docs" / "environments.md").read_text().split("## Add an environment")[1]
    places = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])["load_from"]  # type: ignore[index]
    assert places[0] == yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"][0]
    assert places[1]["python_module"]["attribute"] == "staging"

    first, added = build_definitions(), build_definitions(PropelAuthConfig(environment="staging"))
    dg.Definitions.validate_loadable(dg.Definitions.merge(first, added))
    assert names_of(first) & names_of(added) == set()
    items = [*added.get_repository_def().sensor_defs, *added.get_repository_def().schedule_defs]
    assert {item.default_status.value for item in items} == {"STOPPED"}


def names_of(definitions: dg.Definitions) -> set[str]:
    """Return the names of assets, jobs, sensors, schedules and pools."""
    repository = definitions.get_repository_def()
    named = [*repository.get_all_jobs(), *repository.sensor_defs, *repository.schedule_defs]
    pools = {
        op.pool for job in repository.get_all_jobs() for op in job.all_node_defs if isinstance(op, dg.OpDefinition)
    }
    keys = definitions.resolve_asset_graph().get_all_asset_keys()
    names = {*(item.name for item in named), *filter(None, pools), *(key.to_user_string() for key in keys)}
    return names - {"__ASSET_JOB"}


def test_an_environment_with_another_name_finds_no_table_of_the_first_one(loaded, run_cli, monkeypatch) -> None:
    monkeypatch.delenv("DESTINATION__DUCKDB__CREDENTIALS")
    assert run_cli("status").returncode == 0
    ran = run_cli("--environment", "stage", "status")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "stage_propel_auth_pipeline.duckdb" in ran.stderr


@pytest.mark.slow
def test_the_command_line_works_for_the_environment_it_is_given(two, run_process, tmp_path) -> None:
    done = run_process("--environment", "staging", "load", "org_query")
    assert done.returncode == 0, done.stderr
    assert [file.name for file in tmp_path.glob("*.duckdb")] == ["staging_propel_auth_pipeline.duckdb"]
    assert "org_query" in run_process("status", PROPELAUTH_ENVIRONMENT="staging").stdout
    assert run_process("--environment", "staging", "report", "--output", "r.html").returncode == 0
    page = (tmp_path / "r.html").read_text()
    assert "<title>PropelAuth staging report</title>" in page
    assert "<h1>PropelAuth staging report</h1>" in page


def test_a_key_of_all_or_of_another_environment_is_never_used(two, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_API_KEY", "of-all")
    monkeypatch.setenv("PROPELAUTH_PAGE_SIZE", "50")
    monkeypatch.setenv("STAGING__PROPELAUTH_ALERT_TO", "staging@example.com")
    monkeypatch.delenv("STAGING__PROPELAUTH_API_KEY")
    monkeypatch.setenv("PROPELAUTH_ENVIRONMENT", "staging")
    settings = load_settings()
    assert (settings.page_size, settings.alert_to) == (50, "staging@example.com")
    with pytest.raises(SettingsError, match=r"Set STAGING__PROPELAUTH_API_KEY, or api_key in .* under \[.*\.staging\]"):
        require_credentials(settings)
    Path(".dlt").mkdir()
    Path(".dlt/secrets.toml").write_text('[sources.propel_auth_source.staging]\napi_key = "of-staging"\n')
    code = "from propel_assets.settings import *; print(require_credentials(load_settings()).api_key)"
    ran = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "of-staging", ran.stderr


def test_a_refused_key_is_named_by_the_variable_of_its_environment(two, run_cli) -> None:
    for words in (["load", "org_query"], ["probe"]):
        ran = run_cli("--environment", "staging", *words, STAGING__PROPELAUTH_API_KEY="wrong")
        assert ran.returncode == 1
        assert "STAGING__PROPELAUTH_API_KEY is not a key of this environment" in ran.stderr + ran.stdout


@pytest.mark.parametrize("name", ["Prod", "a-b", "1st", "x" * 21, "select; drop"])
def test_a_name_that_cannot_be_part_of_a_table_name_is_refused(name, run_cli) -> None:
    ran = run_cli("--environment", name, "status")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"Error: PROPELAUTH_ENVIRONMENT is {name!r}; a name has at most 20 lowercase letters")
