"""The code location: loads with nothing configured, leaves nothing of a run behind, and nothing is forgotten."""

import os
import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from propel_assets.catalog import TABLES
from propel_assets.definitions import defs
from propel_assets.defs.build import build_definitions
from propel_assets.defs.config import PropelAuthConfig
from propel_assets.defs.executors import with_executor
from propel_assets.defs.marts import build_marts
from propel_assets.errors import SettingsError
from propel_assets.warehouse.checks import checks_of
from propel_assets_tests.defs import snapshot
from propel_assets_tests.defs.default import API, DEFAULT

ROOT = Path(__file__).parents[1]
SPECS = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
MARTS = {op.op.name: op for op in build_marts(DEFAULT)}
MANIFEST = "marts-*.json"  # the cached dbt manifest, the only file that is written while definitions load
every_table = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)


# --- with nothing configured ---


@pytest.fixture
def run_bare(tmp_path):
    """Run Python in an empty folder with an empty environment; return what it says and the files it leaves."""
    home, here, temporary = (tmp_path / name for name in ("home", "here", "tmp"))
    for folder in (home, here, temporary):
        folder.mkdir()

    def run(*words: str, cwd: Path = here) -> tuple[str, list[Path]]:
        env = {"HOME": str(home), "TMPDIR": str(temporary), "PATH": os.defpath}
        command = [sys.executable, "-B", *words]
        done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr, [path for folder in (home, here) for path in folder.rglob("*")]

    return run


def test_a_misspelled_variable_is_logged_once_for_all_environments_of_a_code_location(monkeypatch, caplog) -> None:
    monkeypatch.setenv("PROPELAUTH_DESTINATON", "postgres")
    for name in ("production", "staging"):
        build_definitions(PropelAuthConfig(environment=name, tables=["user_query"], marts=False))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "PROPELAUTH_DESTINATON is not a setting. Did you mean PROPELAUTH_DESTINATION?")
    ]


@pytest.mark.slow
def test_the_definitions_load_without_a_setting_and_write_no_more_than_the_manifest(run_bare) -> None:
    code = (
        "import socket\n"
        "def refuse(*_): raise AssertionError('a connection at import')\n"
        "socket.socket.connect = refuse\n"
        "from propel_assets.definitions import defs\n"
        "print(len(defs.resolve_asset_graph().get_all_asset_keys()), 'assets')"
    )
    said, left = run_bare("-W", "error::UserWarning", "-c", code)
    assert said.strip() == f"{len(SPECS)} assets"
    assert all(path.match(MANIFEST) for path in left if path.is_file())


CONNECTED = "from propel_assets.settings import require_credentials, load_settings as load\n"
CONNECTED += "settings = require_credentials(load({'auth_url': 'http://127.0.0.1:1', 'api_key': 'k'}))\n"
PIPELINE = "from propel_assets.warehouse.pipeline import build_pipeline\nbuild_pipeline(settings.target, 'folder')\n"


@pytest.mark.slow
@pytest.mark.parametrize("code", [CONNECTED + PIPELINE, "import propel_assets.definitions\n" + CONNECTED + PIPELINE])
def test_dlt_tells_its_makers_nothing(run_bare, code) -> None:
    said, _ = run_bare(
        "-c", f"{code}from dlt.common.runtime import anon_tracker\nprint(anon_tracker._ANON_TRACKER_ENDPOINT)"
    )
    assert said.strip() == "None"


@pytest.mark.slow
def test_dagster_validates_the_definitions_without_a_setting(run_bare) -> None:
    validate = ("-m", "dagster", "definitions", "validate", "-m", "propel_assets.definitions")
    said, left = run_bare(*validate)
    assert "Validation successful for code location propel_assets.definitions" in said
    assert "in beta" not in said
    # Dagster remembers there which anonymous user it is; nothing is of dlt.
    ours = [path for path in left if path.is_file() and ".dagster" not in path.parts]
    assert all(path.match(MANIFEST) for path in ours)


def test_dagster_finds_the_definitions_from_the_root_of_the_repository() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    assert [place["python_module"]["module_name"] for place in workspace] == ["propel_assets.definitions"]
    assert [place["python_module"]["location_name"] for place in workspace] == ["propel_assets"]
    assert project["dagster"] == {"module_name": "propel_assets.definitions", "code_location_name": "propel_assets"}
    assert project["dg"]["project"]["code_location_target_module"] == "propel_assets.definitions"
    assert project["dg"]["project"]["root_module"] == "propel_assets"


@pytest.mark.slow
def test_dagster_validates_the_repository_as_it_stands(run_bare) -> None:
    said, _ = run_bare("-m", "dagster", "definitions", "validate", cwd=ROOT)
    assert "Validation successful for code location propel_assets" in said


@pytest.mark.parametrize(
    ("name", "executor"),
    [("", "in_process"), ("multiprocess", "multiprocess"), ("celery", "celery"), ("k8s", "k8s")],
)
def test_the_executor_is_the_one_named(name, executor, monkeypatch) -> None:
    monkeypatch.setenv("PROPEL_EXECUTOR", name)
    found = with_executor(dg.Definitions()).executor
    assert isinstance(found, dg.ExecutorDefinition)
    assert found.name == executor


@pytest.mark.parametrize(("name", "module"), [("celery", "dagster_celery"), ("k8s", "dagster_k8s")])
def test_an_executor_that_is_not_installed_names_its_extra(name, module, monkeypatch) -> None:
    monkeypatch.setenv("PROPEL_EXECUTOR", name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingsError, match=f"Install propel-assets with the extra `{name}`."):
        with_executor(dg.Definitions())


def test_an_executor_that_does_not_exist_is_named_beside_those_that_do(monkeypatch) -> None:
    monkeypatch.setenv("PROPEL_EXECUTOR", "kubernetes")
    with pytest.raises(SettingsError, match="choose one of in_process, multiprocess, celery, k8s"):
        with_executor(dg.Definitions())


# --- none is forgotten ---


def test_every_table_and_mart_is_an_asset_and_nothing_else_is() -> None:
    made = {key for op in MARTS.values() for key in op.keys}
    assert set(SPECS) == {API, *map(DEFAULT.asset_key, TABLES), *made}
    assert {key.path[0] for key in made} == {"propel_auth_marts", "propel_auth_history"}


@every_table
def test_every_table_has_its_checks(table) -> None:
    graph = defs.resolve_asset_graph()
    found = graph.get_check_keys_for_assets({DEFAULT.asset_key(table)})
    assert {check.name for check in found} == set(checks_of(table))
    assert all(graph.get_check_spec(check).blocking for check in found)
    assert all(graph.get_check_spec(check).description for check in found)


def test_the_definitions_are_those_of_the_snapshot() -> None:
    """Compare with `defs/snapshot.txt`, in which a change of a contract is seen in review."""
    assert snapshot.describe(build_definitions()) == snapshot.FILE.read_text(), snapshot.HOW_TO_UPDATE


def test_everything_that_runs_by_itself_is_off_until_turned_on() -> None:
    known = defs.get_repository_def()
    on = {
        item.name
        for item in (*known.schedule_defs, *known.sensor_defs)
        if item.default_status in (dg.DefaultScheduleStatus.RUNNING, dg.DefaultSensorStatus.RUNNING)
    }
    assert on == set()


def test_refresh_loads_and_checks_every_default_table_and_builds_the_marts() -> None:
    job = defs.resolve_job_def("propel_auth_refresh")
    tables = [table for table in TABLES if table.default]
    made = {key for op in MARTS.values() for key in op.keys}
    assert job.asset_layer.selected_asset_keys == {DEFAULT.asset_key(table) for table in tables} | made
    ops = {f"propel_auth_load_{table.scan}" for table in tables}
    ops |= {f"propel_auth_check_{table.name}" for table in tables} | set(MARTS)
    assert {node.name for node in job.nodes} == ops


def test_what_is_loaded_every_day_is_stale_after_26_hours_and_what_is_loaded_by_name_never() -> None:
    made = {key for op in MARTS.values() for key in op.keys}
    policies: dict[dg.AssetKey, Any] = {key: spec.freshness_policy for key, spec in SPECS.items()}
    windows = {key: policy.warn_window.to_timedelta() for key, policy in policies.items() if policy}
    assert set(windows) == {DEFAULT.asset_key(table) for table in TABLES if table.default} | made
    assert set(windows.values()) == {timedelta(hours=26)}


def test_the_age_at_which_tables_are_stale_is_an_option_and_a_setting(monkeypatch) -> None:
    def windows(**options: Any) -> set[timedelta]:
        graph = build_definitions(PropelAuthConfig(**options)).resolve_asset_graph()
        policies: list[Any] = [graph.get(key).freshness_policy for key in graph.get_all_asset_keys()]
        return {policy.warn_window.to_timedelta() for policy in policies if policy}

    assert windows(max_age_hours=170) == {timedelta(hours=170)}
    monkeypatch.setenv("PROPELAUTH_MAX_AGE_HOURS", "50")
    assert windows() == {timedelta(hours=50)}
    monkeypatch.setenv("PROPELAUTH_MAX_AGE_HOURS", "0")
    with pytest.raises(SettingsError, match=r"PROPELAUTH_MAX_AGE_HOURS is 0\.0; it must be from 1 to"):
        windows()


# --- looks ---


@every_table
def test_an_asset_tells_what_it_is(table) -> None:
    spec = SPECS[DEFAULT.asset_key(table)]
    assert spec.group_name == f"propel_auth_{table.group}"
    assert spec.kinds == {"propelauth", "dlt", "duckdb"}
    assert spec.owners
    assert table.description in (spec.description or "")
    assert f"({table.doc})" in (spec.description or "")
    assert table.path in (spec.description or "")
    assert spec.metadata["dagster/table_name"] == f"propel_auth_data.{table.name}"
    assert [dep.asset_key for dep in spec.deps] == ([API] if table.path else [])


@every_table
def test_an_asset_shows_every_column_and_where_it_comes_from(table) -> None:
    metadata = SPECS[DEFAULT.asset_key(table)].metadata
    columns = metadata["dagster/column_schema"].columns
    assert [(c.name, c.type, c.description) for c in columns] == [
        (c.name, c.type, c.description) for c in table.columns
    ]
    assert all(c.description for c in columns)
    lineage = metadata["dagster/column_lineage"].deps_by_column
    assert set(lineage) == {c.name for c in table.columns if table.path}
    assert {dep.asset_key for deps in lineage.values() for dep in deps} == ({API} if table.path else set())


def test_the_api_is_an_asset_of_its_own() -> None:
    spec = SPECS[API]
    assert spec.group_name
    assert "https://docs.propelauth.com" in (spec.description or "")
    assert spec.kinds == {"propelauth", "api"}
    graph = defs.resolve_asset_graph()
    assert graph.get(API).is_observable
    assert not graph.get(API).is_materializable


@pytest.mark.parametrize("field", ["api_key", "oauth_token"])
def test_the_ui_hides_secrets(field) -> None:
    config: Any = defs.resolve_job_def("propel_auth_refresh").resource_defs["propel_auth"].config_schema.config_type
    schema = config.fields
    assert schema[field].is_secret
    assert not schema["auth_url"].is_secret
    assert schema[field].default_value in ("", None)
