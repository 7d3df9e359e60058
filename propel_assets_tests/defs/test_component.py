"""The component in a fresh project of `dg`: it is listed, scaffolded, checked and run, with secrets from templates."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
import yaml

from propel_assets import PropelAuthComponent, PropelAuthConfig
from propel_assets.defs.component import ATTRIBUTES
from propel_assets.defs.environment import Environment
from propel_assets.settings import FIELDS, load_settings
from propel_assets_tests.conftest import Query
from propel_assets_tests.defs import options
from propel_assets_tests.processes import ROOT

# Dagster, of its own code, whenever YAML is resolved without files.
pytestmark = pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated:DeprecationWarning")

PYPROJECT = """
[project]
name = "my_project"
version = "0.1.0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "my_project"
"""
DEFINITIONS = """
from pathlib import Path

from dagster import definitions, load_from_defs_folder


@definitions
def defs():
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
DG = Path(sys.executable).with_name("dg")


@pytest.fixture
def run_dg(tmp_path: Path, monkeypatch) -> Callable[..., str]:
    """Make a project as `create-dagster project` does; return a function that runs `dg` in it."""
    project = tmp_path / "project"
    package = project / "src" / "my_project"
    (package / "defs").mkdir(parents=True)
    (project / "pyproject.toml").write_text(PYPROJECT)
    (package / "__init__.py").touch()
    (package / "definitions.py").write_text(DEFINITIONS)
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    path = os.pathsep.join([str(DG.parent), os.environ["PATH"]])
    env = {"PATH": path, "HOME": str(tmp_path), "DAGSTER_HOME": str(tmp_path), "COLUMNS": "200", "PYTHONPATH": "src"}
    monkeypatch.chdir(project)

    def run(*words: str, **variables: str) -> str:
        known = {name: value for name, value in os.environ.items() if name.startswith(("DLT_", "DESTINATION__"))}
        ran = subprocess.run(
            [DG, *words], env={**known, **env, **variables}, capture_output=True, text=True, timeout=280, check=False
        )
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
        return ran.stdout + ran.stderr

    return run


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fresh_project_lists_scaffolds_checks_and_runs_the_component(run_dg, sandbox, query: Query) -> None:
    assert "propel_assets.PropelAuthComponent" in run_dg("list", "components")
    run_dg("scaffold", "defs", "propel_assets.PropelAuthComponent", "auth")
    file = Path("src/my_project/defs/auth/defs.yaml")
    assert yaml.safe_load(file.read_text())["type"] == "propel_assets.PropelAuthComponent"
    assert "All component YAML validated successfully" in run_dg("check", "yaml")
    assert "All definitions loaded successfully" in run_dg("check", "defs")  # with nothing configured
    assert "propel_auth_refresh" in run_dg("list", "defs")
    credentials = {"PROPELAUTH_AUTH_URL": sandbox.url, "PROPELAUTH_API_KEY": sandbox.api_key}
    run_dg("launch", "--assets", "key:propel_auth/org_query", **credentials)
    assert query("SELECT count(*) FROM org_query") == [(len(sandbox.store.orgs),)]
    kept = [path for path in Path("..").rglob("*") if path.is_file() and sandbox.api_key.encode() in path.read_bytes()]
    assert kept == []


@pytest.mark.slow
def test_a_project_of_components_merges_in_python(run_dg) -> None:
    page = (ROOT / "docs" / "embedding.md").read_text()
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "load_from_defs_folder" in block
    ]
    Path("src/my_project/definitions.py").write_text(code)
    Path("src/my_project/defs/mine.py").write_text("import dagster as dg\n\n\n@dg.asset\ndef mine() -> None: ...\n")
    listed = run_dg("list", "defs")
    assert "propel_auth_refresh" in listed
    assert "mine" in listed


def build(text: str) -> dg.Definitions:
    component = PropelAuthComponent.resolve_from_yaml(text)
    return component.build_defs(None)  # type: ignore[arg-type]  # the context is not used


def test_attributes_change_names_owners_and_what_is_included() -> None:
    definitions = build(
        """
        environment: staging
        tables: [user_query, org_query]
        marts: false
        key_prefix: [auth]
        group_prefix: identity
        owners: [team:security]
        tags: {domain: auth}
        kinds: [saas]
        daily_cron: null
        recent_cron: "5 * * * *"
        timezone: Europe/Berlin
        changes_sensor: false
        automation: false
        alerts: false
        """
    )
    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    assert set(specs) == {"auth/propel_auth_api", "auth/propel_auth/user_query", "auth/propel_auth/org_query"}
    users = specs["auth/propel_auth/user_query"]
    assert (users.group_name, users.owners, users.kinds) == ("identity_users", ["team:security"], {"saas"})
    assert users.tags["domain"] == "auth"
    assert users.metadata["dagster/table_name"] == "staging_propel_auth_data.user_query"
    assert users.automation_condition is None
    repository = definitions.get_repository_def()
    (schedule,) = repository.schedule_defs
    assert (schedule.name, schedule.cron_schedule) == ("propel_auth_staging_recent_hourly", "5 * * * *")
    assert schedule.execution_timezone == "Europe/Berlin"
    assert list(repository.sensor_defs) == []


def test_a_translation_changes_keys_dependencies_and_checks_together() -> None:
    definitions = build(
        """
        translation:
          key: "{{ layer }}/{{ spec.key.path[-1] }}"
          group_name: "{{ layer }}"
        """
    )
    graph = definitions.resolve_asset_graph()
    users = dg.AssetKey(["raw", "user_query"])
    assert graph.get(users).group_name == "raw"
    assert graph.get(users).parent_keys == {dg.AssetKey(["api", "propel_auth_api"])}
    assert {key.path[0] for key in graph.get(users).child_keys} <= {"history", "marts"}
    assert {key.name for key in graph.get_check_keys_for_assets({users})} >= {"row_count", "up_to_date"}
    assert {key.path[0] for key in graph.get_all_asset_keys()} == {"api", "raw", "history", "marts"}
    jobs = definitions.resolve_job_def("propel_auth_refresh")
    assert users in jobs.asset_layer.selected_asset_keys


def test_templates_resolve_secrets_when_definitions_load_and_nothing_shows_them(monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret-of-the-template")
    component = PropelAuthComponent.resolve_from_yaml(
        '{auth_url: "https://a.example.com", api_key: "{{ env.MY_KEY }}"}'
    )
    assert component.api_key == "secret-of-the-template"
    assert "secret-of-the-template" not in repr(component)
    missing = PropelAuthComponent.resolve_from_yaml('{api_key: "{{ env.NOT_SET }}"}')
    assert missing.api_key == load_settings().api_key == ""


def test_the_scaffolded_component_leaves_the_destination_to_the_deployment(monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_DESTINATION", "snowflake")
    component = PropelAuthComponent.resolve_from_yaml(yaml.safe_dump(ATTRIBUTES))
    environment = Environment.from_config(component)
    assert environment.settings(_resources(environment)).destination == "snowflake"


def test_every_option_that_is_a_setting_reaches_the_runs() -> None:
    class Extended(PropelAuthConfig):
        """What the config is after an option has been added that is a setting."""

        lock_seconds: float | None = None

    values = {
        "environment": "staging",
        "auth_url": "https://auth.example.com",
        "api_key": "key",
        "oauth_token": "token",
        "destination": "postgres",
        "privacy": "strict",
        "max_age_hours": 170.0,
        "lock_seconds": 5.0,
    }
    assert set(values) == {name for name in Extended.model_fields if name in FIELDS}
    environment = Environment.from_config(Extended(**values))
    settings = environment.settings(_resources(environment))
    assert {name: getattr(settings, name) for name in values} == values


def _resources(environment: Environment) -> SimpleNamespace:
    return SimpleNamespace(**environment.resources)


def test_every_option_has_a_description_in_the_schema() -> None:
    schema = PropelAuthComponent.model().model_json_schema()
    assert set(schema["properties"]) == set(PropelAuthConfig.model_fields)
    assert [name for name, option in schema["properties"].items() if not option.get("description")] == []


def test_the_page_on_embedding_has_every_option() -> None:
    page = options.PAGE.read_text()
    assert page == options.page_with(page, options.table()), options.HOW_TO_UPDATE


def test_an_unknown_option_or_table_is_refused_by_name() -> None:
    with pytest.raises(Exception, match="destinatoin"):
        build("destinatoin: duckdb")
    with pytest.raises(Exception, match="no such table: users"):
        build("tables: [users]")
