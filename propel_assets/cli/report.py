"""The commands `propel-assets report`, `propel-assets notebook` and `propel-assets alert`."""

from pathlib import Path

import click

from propel_assets.cli.arguments import current_settings
from propel_assets.cli.rendering import log
from propel_assets.cli.warehouse import open_configured_warehouse
from propel_assets.errors import writing

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "explore.py"


@click.command(short_help="Write an HTML page with charts.")
@click.option(
    "--output",
    default="propel-auth-report.html",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default=True,
    help="The file to write.",
)
def report(output: Path) -> None:
    """Write an HTML page: charts of users and orgs, changes since the previous load, the last checks.

    The page is self-contained and has no personal data: share it with anyone who may see the numbers.

    \b
    Examples:
      propel-assets report
      propel-assets report --output morning.html
    """
    from propel_assets.reporting.report import write_report

    settings = current_settings()
    with open_configured_warehouse(settings) as warehouse:
        write_report(warehouse, output, settings.target)
    click.echo(output)


@click.command(short_help="Write a notebook with charts.")
@click.argument("file", default="explore.py", type=click.Path(dir_okay=False, path_type=Path))
def notebook(file: Path) -> None:
    """Write a marimo notebook with charts of the tables that `status` lists, to be run and changed.

    It needs the extra `dashboard`.

    \b
    Examples:
      propel-assets notebook
      marimo run explore.py
    """
    with writing(file, "file"), file.open("xb") as opened:
        opened.write(NOTEBOOK.read_bytes())
    click.echo(f"{file}: run it with `marimo run {file}`.")


@click.command(short_help="Send a test alert.")
def alert() -> None:
    """Send a test alert to every target in the settings: webhook, mail server, URLs of apprise.

    \b
    Example:
      propel-assets alert
    """
    from propel_assets.reporting.delivery import Message, deliver, targets

    settings = current_settings().alert_settings
    names, unusable = targets(settings)
    if not names and not unusable:
        raise click.ClickException(
            "No alert can be sent. Set PROPELAUTH_ALERT_WEBHOOK to the URL of an incoming webhook, or "
            "PROPELAUTH_ALERT_SMTP, PROPELAUTH_ALERT_FROM and PROPELAUTH_ALERT_TO for e-mail, or "
            "PROPELAUTH_ALERT_APPRISE to a URL of apprise."
        )
    text = "This is a test of propel-assets. Alerts are delivered here."
    if unusable:
        text += f" They are not delivered to these targets, which cannot be used: {' '.join(unusable.values())}"
    message = Message("PropelAuth: test alert", text)
    failures = deliver(settings, {name: [message] for name in names})
    for name in names:
        if name in failures:
            log(f"{name}: {failures[name].reason}")
        else:
            click.echo(f"{name}: delivered")
    for name, reason in unusable.items():
        log(f"{name}: {reason}")
    if failures or unusable:
        raise click.ClickException("Not every alert was delivered. The reasons are above.")
