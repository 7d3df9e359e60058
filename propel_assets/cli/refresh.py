"""The command `propel-assets refresh`: the daily job, run once in this process."""

import shlex

import click

from propel_assets.cli.arguments import current_settings
from propel_assets.cli.rendering import format_count, log, own_command
from propel_assets.errors import PropelError, install_extra


@click.command(short_help="Load the default tables, check them, build the marts.")
def refresh() -> None:
    """Load the default tables, check them, and build the histories and marts: the daily job, through Dagster.

    The run is stored in DAGSTER_HOME (default: .dagster_home in this folder), and the UI of that
    instance shows it. Without the extra `marts`, it loads and checks the tables only. Exits with 3 when a check failed.

    \b
    Examples:
      propel-assets refresh
      propel-assets --environment staging refresh
    """
    from propel_assets.cli.check import CHECK_FAILED
    from propel_assets.cli.instance import prepare_dagster_home
    from propel_assets.cli.runs import names_of, print_assets, print_skipped, run_job
    from propel_assets.defs.automation import REFRESH
    from propel_assets.defs.build import build_definitions
    from propel_assets.defs.config import PropelAuthConfig
    from propel_assets.defs.environment import Environment
    from propel_assets.marts.runner import are_marts_installed
    from propel_assets.settings import dagster_home, require_credentials
    from propel_assets.warehouse.session import open_session

    settings = require_credentials(current_settings())
    config = PropelAuthConfig(environment=settings.environment)
    environment = Environment.from_config(config)
    click.echo(f"Loading {settings.auth_url} into {settings.destination}.")
    result, missing = run_job(build_definitions(config), environment.named(REFRESH), environment)
    print_assets(result)
    print_skipped(result)
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    for check in failed:
        log(f"{check.severity.value} {check.asset_key.path[-1]}: {check.check_name}: {check.description or 'failed'}")
    missing_text = f"Not loaded or not built: {names_of(missing)}. " if missing else ""
    if any(check.severity.value == "ERROR" for check in failed):
        log(f"{missing_text}A check failed: see the lines above.")
        raise SystemExit(CHECK_FAILED)
    if missing or not result.success:
        raise PropelError(
            f"{missing_text or 'A step failed. '}The reasons are above. Correct them, then run again: "
            f"{own_command('refresh', settings.environment)}"
        )
    if not are_marts_installed():
        click.echo(f"No marts. {install_extra('marts')}.")
    count = len(result.get_asset_materialization_events())
    home = "" if dagster_home() else f"DAGSTER_HOME={shlex.quote(str(prepare_dagster_home()))} "
    name = settings.environment
    module = f"propel_assets.environments -a {name}" if name else "propel_assets.definitions"
    with open_session(settings.target) as session:
        click.echo(f"Loaded into {session.location}.")
    click.echo(
        f"{format_count(count, 'asset')} materialized. Next: {own_command('status', name)}, or the UI: "
        f"{home}dagster dev -m {module}"
    )
