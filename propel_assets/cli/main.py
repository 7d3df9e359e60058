"""The command group `propel-assets`.

Exit codes: 0 done, 1 not done (the reason is on stderr), 2 usage error, 3 a check failed.
"""

from typing import Any

import click

from propel_assets import __version__
from propel_assets.cli.access_review import access_review
from propel_assets.cli.check import check
from propel_assets.cli.load import load
from propel_assets.cli.privacy import erase, erasures, privacy
from propel_assets.cli.probe import probe
from propel_assets.cli.refresh import refresh
from propel_assets.cli.rendering import log
from propel_assets.cli.report import alert, notebook, report
from propel_assets.cli.sandbox import fault, sandbox
from propel_assets.cli.status import status
from propel_assets.cli.tables import data_contract, dbt_sources, lineage, tables
from propel_assets.cli.trial import demo, dev
from propel_assets.cli.verify import verify
from propel_assets.cli.webhooks import webhooks
from propel_assets.errors import PropelError
from propel_assets.settings import load_settings, report_misspelled_variables

SECTIONS = {
    "Load and check": (refresh, load, check, verify, status),
    "Use": (report, access_review, notebook, probe, tables, lineage, dbt_sources, data_contract, webhooks, alert),
    "Personal data": (privacy, erase, erasures),
    "Try it without an account": (demo, dev, sandbox, fault),
}


class PropelGroup(click.Group):
    """Prints an error as one sentence and exits with 1. The text of an unexpected error is never printed."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PropelError as error:
            raise click.ClickException(str(error)) from error
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):  # click ends quietly
            raise
        except Exception as error:  # its text and its traceback may quote rows
            from propel_assets.privacy.redaction import unexpected_error

            raise click.ClickException(str(unexpected_error(error))) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section."""
        longest = max(map(len, self.commands))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                limit = formatter.width - 6 - longest
                formatter.write_dl([(f"{c.name:{longest}}", c.get_short_help_str(limit)) for c in commands])


@click.group(
    cls=PropelGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Try it without an account: propel-assets demo",
)
@click.version_option(__version__, prog_name="propel-assets")
@click.option("--environment", metavar="NAME", help="The PropelAuth environment. [PROPELAUTH_ENVIRONMENT]")
def main(environment: str | None) -> None:
    """Load PropelAuth data into your warehouse, and check it.

    \b
    Examples:
      propel-assets demo                      load a PropelAuth simulator, through Dagster
      propel-assets refresh                   load the default tables from PROPELAUTH_AUTH_URL, build the marts
      propel-assets load                      load the default tables only, without Dagster
      propel-assets load user_query           load one table, and those that are read together with it
      propel-assets status                    list the tables in the warehouse, their age, the last checks
      propel-assets report                    write an HTML page with charts
    """
    report_misspelled_variables(lambda message: log(f"Warning: {message}"), environment)
    if environment:
        load_settings(environment=environment)  # refuse a wrong name before the command begins


for command in (command for commands in SECTIONS.values() for command in commands):
    main.add_command(command)
