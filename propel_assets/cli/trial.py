"""The commands `propel-assets demo` and `propel-assets dev`. What they run imports Dagster, so it is imported late."""

import importlib.util
from datetime import date

import click

from propel_assets.cli.arguments import PORT, current_settings, sandbox_options
from propel_assets.errors import NotInstalled


@click.command(short_help="Load a sandbox through Dagster; print answers.")
@sandbox_options
def demo(users: int, orgs: int, seed: int, now: date) -> None:
    """Load the tables of a PropelAuth simulator on this machine, through Dagster, into DuckDB.

    \b
    Examples:
      propel-assets demo
      propel-assets demo --users 20000 --orgs 900
    """
    from propel_assets.cli.demo import run_demo

    run_demo(users=users, orgs=orgs, seed=seed, now=now, environment=current_settings().environment)


@click.command(short_help="Run the sandbox and the Dagster UI.")
@click.option("--port", default=3000, type=PORT, show_default=True, help="Port of the Dagster UI on 127.0.0.1.")
@click.option("--sandbox-port", default=8400, type=PORT, show_default=True, help="Port of the sandbox on 127.0.0.1.")
@sandbox_options
@click.option(
    "--live/--no-live",
    default=None,
    help="Let users sign up, log in, change and leave, and receive the webhooks. Default: with the extra `webhooks`.",
)
def dev(port: int, sandbox_port: int, users: int, orgs: int, seed: int, now: date, live: bool | None) -> None:
    """Run the sandbox and `dagster dev` together. Ctrl-C stops both. Port 0 selects a free port.

    With the extra `webhooks`, the data changes all the time, webhooks are received, and the sensor for them is on.

    \b
    Examples:
      propel-assets dev
      propel-assets dev --no-live
      propel-assets dev --port 3001 --sandbox-port 8402 --users 20000
    """
    from propel_assets.cli.dev import run_dev

    is_installed = all(importlib.util.find_spec(name) for name in ("svix", "prometheus_client"))
    if live and not is_installed:
        raise NotInstalled("Live mode needs the webhook receiver", "webhooks")

    run_dev(
        port=port,
        sandbox_port=sandbox_port,
        users=users,
        orgs=orgs,
        seed=seed,
        now=now,
        environment=current_settings().environment,
        live=is_installed if live is None else live,
    )
