"""A dbt project and assets of a user, downstream of our tables: lineage in Dagster, and dbt on loaded data."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
import yaml

from propel_assets import PropelAuthConfig, build_definitions
from propel_assets.marts.dbt_compat import quiet_import

pytestmark = [
    pytest.mark.timeout(600),
    # Dagster, of its own code, when a job has a selection of assets.
    pytest.mark.filterwarnings("ignore:Parameter `owners` of initializer:dagster.BetaWarning"),
]
PROJECT = "name: theirs\nversion: '1.0'\nprofile: theirs\nflags: {send_anonymous_usage_stats: false}\n"
CUSTOMERS = """
select users.user_id, raw_users.email
from {{ source('propel_auth_marts', 'dim_user') }} as users
join {{ source('propel_auth', 'user_query') }} as raw_users using (user_id)
"""
DBT = Path(sys.executable).with_name("dbt")


def key(*path: str) -> dg.AssetKey:
    return dg.AssetKey(path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A dbt project whose profile is the DuckDB file of our tables."""
    folder = tmp_path / "theirs"
    (folder / "models").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text(PROJECT)
    database = tmp_path / "propel_auth_pipeline.duckdb"
    output = {"type": "duckdb", "path": str(database), "schema": "theirs", "settings": {"TimeZone": "UTC"}}
    (folder / "profiles.yml").write_text(yaml.safe_dump({"theirs": {"target": "dev", "outputs": {"dev": output}}}))
    return folder


def dbt(project: Path, *words: str) -> Path:
    """Run dbt in ``project`` and return its manifest."""
    command = [DBT, *words, "--profiles-dir", "."]
    env = {**os.environ, "DO_NOT_TRACK": "1"}
    ran = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-2000:]
    return project / "target" / "manifest.json"


def their_definitions(project: Path, manifest: Path) -> dg.Definitions:
    """A Dagster project with the models of ``project`` and an asset that reads one of our tables."""
    with quiet_import():
        from dagster_dbt import DbtCliResource, dbt_assets

    @dbt_assets(manifest=manifest)
    def dbt_models(context: dg.AssetExecutionContext, dbt: DbtCliResource) -> Iterator[Any]:
        yield from dbt.cli(["build"], context=context).stream()

    @dg.asset(deps=[["propel_auth", "user_query"]])
    def churn_scores() -> int:
        with duckdb.connect(os.environ["DESTINATION__DUCKDB__CREDENTIALS"], read_only=True) as database:
            return database.execute("SELECT count(*) FROM propel_auth_data.user_query").fetchall()[0][0]

    resource = DbtCliResource(project_dir=str(project), profiles_dir=str(project), dbt_executable=str(DBT))
    return dg.Definitions(assets=[dbt_models, churn_scores], resources={"dbt": resource})


@pytest.mark.slow
def test_their_models_and_assets_are_built_downstream_of_ours_in_one_run(project, small, query, run_cli) -> None:
    sources = run_cli("dbt-sources")
    assert sources.returncode == 0, sources.stderr
    (project / "models" / "propel_auth.yml").write_text(sources.stdout)
    (project / "models" / "customers.sql").write_text(CUSTOMERS)
    merged = dg.Definitions.merge(their_definitions(project, dbt(project, "parse")), build_definitions())
    graph = merged.resolve_asset_graph()
    users, mart = key("propel_auth", "user_query"), key("propel_auth_marts", "dim_user")
    assert graph.get(key("customers")).parent_keys == {users, mart}
    assert graph.get(key("churn_scores")).parent_keys == {users}
    assert all(graph.get(parent).is_materializable for parent in (users, mart))
    wanted = dg.AssetSelection.assets("customers", "churn_scores").upstream() - dg.AssetSelection.assets(
        "propel_auth_api"
    )
    with dg.DagsterInstance.ephemeral() as instance:
        job = merged.resolve_implicit_global_asset_job_def()
        keys = sorted(wanted.resolve(graph))
        result = job.execute_in_process(instance=instance, asset_selection=keys)
    assert result.success
    assert result.asset_value("churn_scores") == len(small.store.users)
    assert {row[0] for row in query("SELECT user_id FROM theirs.customers")} == set(small.store.users)


@pytest.mark.slow
def test_every_source_table_is_one_of_our_assets_and_every_asset_has_one(run_cli) -> None:
    for environment in ("", "staging"):
        words = ["--environment", environment] if environment else []
        sources = yaml.safe_load(run_cli(*words, "dbt-sources").stdout)["sources"]
        found = {
            tuple(table["config"]["meta"]["dagster"]["asset_key"]): f"{source['schema']}.{table['name']}"
            for source in sources
            for table in source["tables"]
            if not table["name"].startswith("propel_")  # audit tables
        }
        definitions = build_definitions(PropelAuthConfig(environment=environment))
        specs = {tuple(spec.key.path): spec for spec in definitions.resolve_all_asset_specs()}
        assert set(found) == {path for path in specs if path[-1] != "propel_auth_api"}
        names = {path: specs[path].metadata["dagster/table_name"].split(".")[-2:] for path in found}
        assert {path: ".".join(name) for path, name in names.items()} == found


@pytest.mark.slow
def test_the_marts_are_a_package_of_their_dbt_project(project, loaded, query, run_cli) -> None:
    (project / "packages.yml").write_text(run_cli("dbt-sources", "--package").stdout)
    (project / "models" / "customers.sql").write_text("select user_id from {{ ref('dim_user') }}")
    dbt(project, "deps")
    manifest = dbt(project, "build", "--select", "+customers")
    assert {row[0] for row in query("SELECT user_id FROM theirs.customers")} == set(loaded.store.users)
    merged = dg.Definitions.merge(
        their_definitions(project, manifest), build_definitions(PropelAuthConfig(marts=False))
    )
    graph = merged.resolve_asset_graph()
    assert key("propel_auth", "user_query") in graph.get(key("propel_auth_history", "users_history")).parent_keys
    assert key("dim_user") in graph.get(key("customers")).parent_keys
    shutil.rmtree(project / "dbt_packages")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "histories"),
    [
        ({}, "theirs_propel_auth_history"),
        ({"propel_auth_history_schema": "propel_auth_history"}, "propel_auth_history"),
    ],
    ids=["no variable", "a variable names the schema"],
)
def test_their_project_without_macros_builds_histories_apart_from_ours(project, run_cli, variables, histories) -> None:
    (project / "dbt_project.yml").write_text(PROJECT + yaml.safe_dump({"vars": variables}))
    (project / "packages.yml").write_text(run_cli("dbt-sources", "--package").stdout)
    (project / "models" / "customers.sql").write_text("{{ config(schema='sales') }} select 1 as one")
    dbt(project, "deps")
    nodes = json.loads(dbt(project, "parse").read_text())["nodes"].values()
    schemas = {(node["package_name"], node["config"]["schema"]): node["schema"] for node in nodes if is_model(node)}
    assert schemas == {
        ("theirs", "sales"): "theirs_sales",
        ("propel_auth", None): "theirs",
        ("propel_auth", "propel_auth_history"): histories,
    }
    shutil.rmtree(project / "dbt_packages")


def is_model(node: dict[str, Any]) -> bool:
    return node["resource_type"] == "model"


def test_marts_of_two_environments_are_apart_in_one_definitions() -> None:
    names = ("production", "staging")
    merged = dg.Definitions.merge(*(build_definitions(PropelAuthConfig(environment=name)) for name in names))
    dg.Definitions.validate_loadable(merged)
    graph = merged.resolve_asset_graph()
    for name in names:
        mart = graph.get(key(name, "propel_auth_marts", "dim_user"))
        assert mart.group_name == f"propel_auth_{name}_marts"
        assert mart.metadata["dagster/table_name"].endswith(f".{name}_propel_auth_marts.dim_user")
        assert {parent.path[0] for parent in mart.parent_keys} == {name}
