"""`propel-assets demo`: load every table of a sandbox through Dagster, build the marts, and print a few answers."""

import sys
import time
from datetime import date
from pathlib import Path

import click
import dagster as dg

from propel_assets.catalog import AUTH_EVENT
from propel_assets.cli.instance import short_path
from propel_assets.cli.rendering import format_count, print_table
from propel_assets.cli.runs import names_of, print_assets, print_skipped, run_job
from propel_assets.cli.warehouse import open_configured_warehouse, require_tables_of
from propel_assets.defs.assets import load_op_name
from propel_assets.defs.build import build_definitions
from propel_assets.defs.config import PropelAuthConfig
from propel_assets.defs.environment import Environment
from propel_assets.errors import WarehouseError, install_extra
from propel_assets.marts.runner import MARTS, are_marts_installed
from propel_assets.sandbox.running import Sandbox, tenant_id
from propel_assets.settings import DATASET, Settings, load_settings

DESTINATION = "duckdb"
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
        result, missing = _run(sandbox, environment)
    print_assets(result)
    click.echo(LEGEND)
    print_skipped(result)
    if missing:
        raise WarehouseError(
            f"The demo ended without these tables: {names_of(missing)}. See the lines above; run it again."
        )
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


def _run(sandbox: Sandbox, environment_name: str) -> tuple[dg.ExecuteInProcessResult, set[dg.AssetKey]]:
    """Materialize all assets, without those of webhooks: the demo has no receiver. Return what `run_job` returns.

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
    definitions = dg.Definitions.merge(build_definitions(config), dg.Definitions(jobs=[job]))
    look_ups = {}
    for user_id in list(sandbox.store.users)[:1]:
        user = sandbox.store.user_object(user_id)
        look_ups = {"id": user_id, "email": user["email"], "username": user.get("username", "")}
    ops = {
        load_op_name(environment, f"user_by_{kind}"): {"config": {"values": [value]}}
        for kind, value in look_ups.items()
        if value
    }
    return run_job(definitions, job.name, environment, ops)


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
