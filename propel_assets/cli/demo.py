"""`propel-assets demo`: load every table of a sandbox through Dagster, build the marts, and print a few answers."""

import logging
import sys
import time
from collections.abc import Set
from datetime import date
from pathlib import Path
from typing import Any

import click
import dagster as dg

from propel_assets.catalog import AUTH_EVENT, TABLES
from propel_assets.cli.instance import prepare_dagster_home, short_path
from propel_assets.cli.rendering import format_count, print_table
from propel_assets.cli.warehouse import open_configured_warehouse, require_tables_of
from propel_assets.defs.assets import load_op_name
from propel_assets.defs.build import build_definitions
from propel_assets.defs.config import PropelAuthConfig
from propel_assets.defs.dagster_compat import resolve_job
from propel_assets.defs.environment import Environment
from propel_assets.errors import WarehouseError, install_extra
from propel_assets.marts.runner import MARTS, are_marts_installed
from propel_assets.sandbox.running import Sandbox, tenant_id
from propel_assets.settings import DATASET, Settings, load_settings

DESTINATION = "duckdb"
STEP_ENDED = {dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE}
LEGEND = """
0 rows: the mart compares days or loads, and needs more of them; end_user_api_key_usage needs `load --usage-per-key`.
view: its rows are not counted."""
NEXT_STEPS = """
Next:
  {bin}/propel-assets dev        the same in the Dagster UI: lineage, checks, schedules
  {bin}/propel-assets status     tables and marts in the warehouse, their age, the last checks
  {bin}/propel-assets report     an HTML page with charts
  {bin}/python -c "import duckdb; print(duckdb.connect('{file}', read_only=True).sql('FROM {users} LIMIT 5'))"
"""


def run_demo(*, users: int, orgs: int, seed: int, now: date, environment: str = "") -> None:
    """Load every table of a sandbox through Dagster; print one row per asset and the answers to three questions.

    Raises:
        OtherEnvironment: the tables of this folder are of another tenant.
        WarehouseError: a table could not be loaded. The reason was printed when it happened.
    """
    settings = load_settings({"destination": DESTINATION}, environment)
    require_tables_of(tenant_id(seed), settings)
    started = time.monotonic()
    with Sandbox(users=users, orgs=orgs, seed=seed, now=now) as sandbox:
        size = f"{format_count(users, 'user')} and {format_count(orgs, 'org')}"
        click.echo(f"The PropelAuth sandbox at {sandbox.url} has {size}.")
        result, selected = _run_job(sandbox, environment)
    print_table(("asset", "rows", "checks passed", "seconds"), _result_rows(result))
    click.echo(LEGEND)
    for event in result.get_asset_materialization_events():
        if reason := event.materialization.metadata.get("skipped"):
            click.echo(f"skipped: {event.materialization.asset_key.path[-1]} was not read. {reason.value}")
    missing = selected - {event.materialization.asset_key for event in result.get_asset_materialization_events()}
    if missing:  # Dagster calls a run a success although it skipped what a missing table is needed for
        names = ", ".join(sorted(key.path[-1] for key in missing))
        raise WarehouseError(f"The demo ended without these tables: {names}. See the lines above; run it again.")
    if not result.success:
        raise WarehouseError("A check or a test of a table failed: see the lines above.")
    if are_marts_installed():
        _print_answers(settings, now)
    else:
        click.echo(f"\n{install_extra('marts')} to build the history and the marts, and to print figures from them.")
    click.echo(f"\n{len(result.get_asset_materialization_events())} assets in {time.monotonic() - started:.0f} s.")
    with open_configured_warehouse(settings) as warehouse:
        [(file,)] = warehouse.rows("SELECT path FROM duckdb_databases() WHERE database_name = current_database()")
    names = {"bin": short_path(Path(sys.executable).parent), "file": short_path(Path(file).resolve())}
    click.echo(NEXT_STEPS.format(users=f"{settings.target.named(DATASET)}.user_query", **names))


def _run_job(sandbox: Sandbox, environment_name: str) -> tuple[dg.ExecuteInProcessResult, Set[dg.AssetKey]]:
    """Materialize all assets in this process, without those of webhooks: the demo has no receiver.

    Returns the result and the assets that were to be materialized.

    The look-up tables get the first user of the sandbox, if there is one.
    """
    config = PropelAuthConfig(
        environment=environment_name,
        auth_url=sandbox.url,
        api_key=sandbox.api_key,
        oauth_token=sandbox.user_token,
        destination=DESTINATION,
    )
    environment = Environment.from_config(config)
    webhooks = dg.AssetSelection.assets(environment.asset_key(AUTH_EVENT)).downstream()
    selection = dg.AssetSelection.all() - dg.AssetSelection.assets(environment.api_spec.key) - webhooks
    job = dg.define_asset_job("demo", selection=selection)
    lines = _Lines(environment)
    definitions = dg.Definitions.merge(
        build_definitions(config),
        dg.Definitions(jobs=[job], loggers={"progress": _progress_logger(lines)}),
    )
    resolved = resolve_job(definitions, job.name)
    lines.steps = sum(not lines.is_check(node.name) for node in resolved.nodes)
    look_ups = {}
    for user_id in list(sandbox.store.users)[:1]:
        user = sandbox.store.user_object(user_id)
        look_ups = {"id": user_id, "email": user["email"], "username": user.get("username", "")}
    ops = {
        load_op_name(environment, f"user_by_{kind}"): {"config": {"values": [value]}}
        for kind, value in look_ups.items()
        if value
    }
    with dg.DagsterInstance.from_config(str(prepare_dagster_home())) as instance:
        result = resolved.execute_in_process(
            instance=instance, raise_on_error=False, run_config={"ops": ops, "loggers": {"progress": {}}}
        )
    return result, selection.resolve(definitions.resolve_asset_graph())


def _result_rows(result: dg.ExecuteInProcessResult) -> list[tuple[str, ...]]:
    """Return one row per asset: rows in the table, checks passed, duration."""
    checks = result.get_asset_check_evaluations()
    rows = []
    for event in result.get_asset_materialization_events():
        metadata = event.materialization.metadata
        name = event.materialization.asset_key.path[-1]
        own_checks = [check for check in checks if check.asset_key == event.materialization.asset_key]
        row_count = metadata.get("dagster/row_count")  # a view has none
        count = "skipped" if "skipped" in metadata else f"{row_count.value:,}" if row_count else "view"
        passed = f"{sum(check.passed for check in own_checks)} of {len(own_checks)}"
        seconds = metadata["load_seconds"] if "load_seconds" in metadata else metadata["Execution Duration"]
        rows.append((name, count, passed, f"{seconds.value:.1f}"))
    order = [table.name for table in TABLES]
    return sorted(rows, key=lambda row: (order.index(row[0]), "") if row[0] in order else (len(order), row[0]))


def _print_answers(settings: Settings, now: date) -> None:
    """Print the answers to three questions, from the marts."""
    schema = settings.target.named(MARTS)
    with open_configured_warehouse(settings) as warehouse:
        signups = warehouse.number(
            f"SELECT coalesce(sum(signups), 0) FROM {schema}.fct_signups_daily "  # noqa: S608 - our names
            f"WHERE day BETWEEN DATE '{now.replace(day=1)}' AND DATE '{now}'"
        )
        active = warehouse.number(
            f"SELECT coalesce(max_by(active_users_30d, day), 0) FROM {schema}.fct_engagement_daily WHERE has_load"  # noqa: S608
        )
        fullest = warehouse.rows(
            f"SELECT o.name, count(*) AS members FROM {schema}.bridge_membership m "  # noqa: S608 - our names
            f"JOIN {schema}.dim_org o ON o.org_id = m.org_id AND NOT o.is_deleted "
            "WHERE NOT m.is_deleted GROUP BY o.org_id, o.name ORDER BY members DESC, o.org_id LIMIT 1"
        )
    click.echo()
    print_table(
        ("question", "answer"),
        [
            (f"How many users signed up in {now:%B %Y} so far?", f"{signups:,}"),
            ("How many users were active in the last 30 days?", f"{active:,}"),
            ("Which org has the most members?", *(f"{name}: {members:,}" for name, members in fullest)),
        ],
    )


class _Lines(logging.Handler):
    """Prints one line per step of a run that loads or builds tables, and why a step failed; nothing else.

    ``steps``: how many there are.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__()
        self.steps = self._done = 0
        self._prefix = environment.named("")

    def is_check(self, step: str) -> bool:
        """Return whether a step only evaluates checks."""
        return step.startswith(f"{self._prefix}check_")

    def emit(self, record: logging.LogRecord) -> None:
        """Print the end of a step."""
        event: Any = getattr(record, "dagster_event", None)
        if event is None or event.event_type not in STEP_ENDED:
            return
        step = event.step_key.removeprefix(self._prefix)
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            data = event.step_failure_data
            reason = data.user_failure_data.description if data.user_failure_data else data.error.cls_name
            click.echo(f"{step}: failed. {reason}", err=True)
        elif not self.is_check(event.step_key):
            self._done += 1
            seconds = event.step_success_data.duration_ms / 1_000
            verb, _, what = step.partition("_")
            done = {"load": "loaded", "build": "built"}[verb]
            number = f"[{self._done:{len(str(self.steps))}}/{self.steps}]"
            click.echo(f"{number} {what} {done} in {seconds:.1f} s", err=True)


def _progress_logger(lines: _Lines) -> dg.LoggerDefinition:
    """Return a logger of a run that prints ``lines`` and nothing else."""

    @dg.logger
    def progress(_context: dg.InitLoggerContext) -> logging.Logger:
        logger = logging.Logger("propel_assets.progress", logging.DEBUG)
        logger.addHandler(lines)
        return logger

    return progress
