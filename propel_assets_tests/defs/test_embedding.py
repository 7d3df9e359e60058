"""Our definitions merged into an existing project: its definitions stay unchanged, and ours start nothing."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from propel_assets import PropelAuthConfig, build_definitions
from propel_assets.marts.dbt_compat import quiet_import
from propel_assets.sandbox.running import Sandbox

PROJECT = "name: theirs\nversion: '1.0'\nprofile: theirs\n"
PROFILES = "theirs: {target: dev, outputs: {dev: {type: duckdb, path: theirs.duckdb}}}\n"
SOURCES = """
sources:
  - name: propel_auth
    schema: propel_auth_data
    tables:
      - name: user_query
        meta: {dagster: {asset_key: [propel_auth, user_query]}}
"""


# Dagster, of its own code, when a project's executor is applied to the job of a sensor.
pytestmark = pytest.mark.filterwarnings("ignore:Parameter `owners` of initializer:dagster.BetaWarning")


class TheirWarehouse(dg.ConfigurableResource):
    url: str = "theirs"


@pytest.fixture(scope="module")
def their_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dbt project of theirs with a model that reads one of our raw tables."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "models").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text(PROJECT)
    (folder / "profiles.yml").write_text(PROFILES)
    (folder / "models" / "sources.yml").write_text(SOURCES)
    (folder / "models" / "customers.sql").write_text("select user_id from {{ source('propel_auth', 'user_query') }}")
    with quiet_import():
        from dbt.cli.main import dbtRunner
    words = ["parse", "--project-dir", str(folder), "--profiles-dir", str(folder), "--log-level", "none"]
    assert dbtRunner().invoke([*words, "--log-path", str(folder)]).success
    return folder / "target" / "manifest.json"


@pytest.fixture
def theirs(their_manifest: Path) -> dg.Definitions:
    """A project with the names, the executor and the automation that ours could collide with."""
    from dagster_dbt import dbt_assets

    @dg.op
    def load_users(warehouse: TheirWarehouse) -> None: ...

    @dg.job(executor_def=dg.multiprocess_executor)
    def nightly() -> None:
        load_users()

    @dg.job
    def refresh() -> None:
        load_users()

    @dg.asset(automation_condition=dg.AutomationCondition.eager(), group_name="users")
    def report() -> None: ...

    @dg.sensor(job=refresh, default_status=dg.DefaultSensorStatus.RUNNING)
    def alerts() -> None: ...

    @dbt_assets(manifest=their_manifest)
    def dbt_models(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from ()

    return dg.Definitions(
        assets=[report, dbt_models],
        jobs=[nightly, refresh],
        sensors=[alerts],
        schedules=[dg.ScheduleDefinition(name="daily", job=refresh, cron_schedule="0 0 * * *")],
        resources={"warehouse": TheirWarehouse()},
        executor=dg.in_process_executor,
        loggers={"console": dg.json_console_logger},
    )


def described(definitions: dg.Definitions, names: set[str]) -> dict[str, Any]:
    """Return what a project can tell about those of its definitions that are called ``names``."""
    repository, graph = definitions.get_repository_def(), definitions.resolve_asset_graph()
    jobs = {job.name: job for job in repository.get_all_jobs() if job.name in names}
    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    sensors = {sensor.name: sensor for sensor in repository.sensor_defs if sensor.name in names}
    automation: Any = sensors["default_automation_condition_sensor"]
    return {
        "jobs": {
            name: (job.executor_def.name, sorted(node.name for node in job.nodes), sorted(job.loggers))
            for name, job in jobs.items()
        },
        "specs": {
            name: (spec.group_name, spec.owners, spec.tags, spec.automation_condition, list(spec.deps))
            for name, spec in specs.items()
            if name in names
        },
        "sensors": {
            name: (sensor.default_status, sensor.job_name if name == "alerts" else "")
            for name, sensor in sensors.items()
        },
        "schedules": {s.name: (s.job_name, s.default_status) for s in repository.schedule_defs if s.name in names},
        "automated": {k for k in automation.asset_selection.resolve(graph) if graph.get(k).automation_condition},
        "resources": {name: value for name, value in (definitions.resources or {}).items() if name in names},
        "executor": definitions.executor,
        "loggers": definitions.loggers,
    }


THEIRS = {
    "nightly",
    "refresh",
    "report",
    "customers",
    "alerts",
    "daily",
    "warehouse",
    "default_automation_condition_sensor",
}


@pytest.mark.parametrize("environments", [[""], ["production", "staging"]], ids=["one", "two"])
def test_nothing_of_theirs_changes_and_nothing_of_ours_is_on(theirs, environments) -> None:
    ours = [build_definitions(PropelAuthConfig(environment=name)) for name in environments]
    merged = dg.Definitions.merge(theirs, *ours)
    dg.Definitions.validate_loadable(merged)
    assert described(merged, THEIRS) == described(theirs, THEIRS)
    repository = merged.get_repository_def()
    mine = [item for item in (*repository.schedule_defs, *repository.sensor_defs) if item.name not in THEIRS]
    assert len(mine) == 6 * len(environments)
    assert {item.default_status.value for item in mine} == {"STOPPED"}
    assert all(item.name.startswith("propel_auth_") for item in mine)


@pytest.mark.parametrize(
    ("configs", "line"),
    [([{}], 0), ([{"environment": "production"}, {"environment": "staging"}], 1)],
    ids=["one", "two"],
)
def test_the_selections_of_the_page_leave_our_assets_out_of_a_job_of_theirs(configs, line) -> None:
    page = (Path(__file__).parents[2] / "docs" / "embedding.md").read_text()
    found = re.findall(r"^theirs = dg\.AssetSelection\.key_prefixes\((.*)\)$", page, re.MULTILINE)
    assert len(found) == 2
    ours = dg.AssetSelection.key_prefixes(*ast.literal_eval(f"[{found[line]}]"))

    @dg.asset
    def mine() -> None: ...

    built = [build_definitions(PropelAuthConfig(**config)) for config in configs]
    graph = dg.Definitions.merge(dg.Definitions(assets=[mine]), *built).resolve_asset_graph()
    materializable = {key for key in graph.get_all_asset_keys() if graph.get(key).is_materializable}
    assert (dg.AssetSelection.all() - ours).resolve(graph) == {dg.AssetKey("mine")} < materializable


def test_their_dbt_models_and_assets_depend_on_our_tables(theirs) -> None:
    merged = dg.Definitions.merge(theirs, build_definitions())
    graph = merged.resolve_asset_graph()
    users = dg.AssetKey(["propel_auth", "user_query"])
    assert graph.get(users).is_materializable
    assert dg.AssetKey("customers") in graph.get(users).child_keys


def test_their_jobs_run_with_their_resources(theirs) -> None:
    merged = dg.Definitions.merge(theirs, build_definitions())
    assert merged.resolve_job_def("refresh").execute_in_process().success


def test_a_sensor_of_theirs_can_automate_all_assets_when_ours_is_left_out(theirs) -> None:
    everything = dg.AutomationConditionSensorDefinition("their_automation", target=dg.AssetSelection.all())
    project = dg.Definitions.merge(theirs, dg.Definitions(sensors=[everything]))
    merged = dg.Definitions.merge(project, build_definitions(PropelAuthConfig(automation=False)))
    dg.Definitions.validate_loadable(merged)
    conditions = {spec.key: spec.automation_condition for spec in merged.resolve_all_asset_specs()}
    assert {key for key, condition in conditions.items() if condition} == {dg.AssetKey("report")}


@pytest.mark.slow
def test_two_environments_run_in_one_process_against_two_tenants(theirs, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("DESTINATION__DUCKDB__CREDENTIALS")
    with Sandbox(users=20, orgs=3, seed=1) as production, Sandbox(users=30, orgs=5, seed=2) as staging:
        both = {"production": production, "staging": staging}
        ours = [
            build_definitions(PropelAuthConfig(environment=name, auth_url=sandbox.url, api_key=sandbox.api_key))
            for name, sandbox in both.items()
        ]
        merged = dg.Definitions.merge(theirs, *ours)
        tables = ["user_query", "org_membership", "org_query", "org_by_id"]
        keys = [dg.AssetKey([name, "propel_auth", table]) for name in both for table in tables]
        with dg.DagsterInstance.ephemeral() as instance:
            job = merged.resolve_implicit_global_asset_job_def()
            result = job.execute_in_process(instance=instance, asset_selection=keys)
    assert result.success
    for name, sandbox in both.items():
        with duckdb.connect(str(tmp_path / f"{name}_propel_auth_pipeline.duckdb"), read_only=True) as database:
            counts = [
                database.execute(f"SELECT count(*) FROM {name}_{table}").fetchone()
                for table in ("propel_auth_data.user_query", "propel_auth_data.org_query")
            ]
        assert counts == [(len(sandbox.store.users),), (len(sandbox.store.orgs),)]


def test_the_exports_are_listed_and_import_nothing_before_they_are_used() -> None:
    code = (
        "import sys, propel_assets; names = set(dir(propel_assets)); "
        "print({'build_definitions', 'PropelAuthConfig', 'PropelAuthComponent', 'propel_auth_source'} <= names, "
        "[name for name in ('dlt', 'dagster') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"
