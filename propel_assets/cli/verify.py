"""The command `propel-assets verify`."""

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING

import click

from propel_assets.catalog import BY_NAME, SCANS, TABLES, tables_of
from propel_assets.cli.arguments import current_settings, table_arguments
from propel_assets.cli.rendering import format_count, print_table, progress_bar
from propel_assets.cli.warehouse import open_configured_warehouse
from propel_assets.errors import PropelError
from propel_assets.settings import Settings, require_credentials

if TYPE_CHECKING:
    from propel_assets.warehouse.verify import TableComparison

DIFFERENCES_FOUND = 3
"""Exit code."""


@click.command(short_help="Compare the tables with PropelAuth, row by row.")
@table_arguments
@click.option("--limit", default=100, type=click.IntRange(min=1), show_default=True, help="Rows to list per table.")
def verify(tables: tuple[str, ...], limit: int) -> None:
    """Scan PropelAuth again and compare TABLES row by row. Writes nothing. Default: all that are loaded.

    Lists each row that is missing, extra or different, by id and column name, never with values. Rows that were
    created, active or named by a webhook event since the load are only counted. Exits with 3 when a row differs.

    \b
    Examples:
      propel-assets verify
      propel-assets verify user_query org_membership
    """
    settings = require_credentials(current_settings())
    wanted = {*tables} or _loaded_tables(settings)
    comparisons, failed = _compare(settings, wanted)
    listed = _print_comparisons(comparisons, limit)
    if failed:
        raise click.ClickException(f"Not compared: {', '.join(failed)}. The reasons are above.")
    compared = sum(found.is_compared for found in comparisons)
    if not compared:
        raise click.ClickException("No table was compared. The reasons are above.")
    total = sum(found.different for found in comparisons)
    if total > listed:
        can_list = sum(len(found.differences) for found in comparisons) > listed
        click.echo(f"{total - listed:,} more.{' Raise --limit to list them.' if can_list else ''}", err=True)
    click.echo(f"{format_count(compared, 'table')} compared, {format_count(total, 'difference')}.", err=True)
    if total:
        raise SystemExit(DIFFERENCES_FOUND)


def _loaded_tables(settings: Settings) -> set[str]:
    """Return the default tables and those that have been loaded."""
    with open_configured_warehouse(settings) as warehouse:
        loaded = warehouse.audit.loaded_tables()
    return {table.name for table in TABLES if table.default or table.name in loaded}


def _compare(settings: Settings, wanted: Collection[str]) -> "tuple[list[TableComparison], list[str]]":
    """Return the comparisons of the tables ``wanted``, and the tables whose scan failed. Logs why they failed."""
    from propel_assets.warehouse.verify import verify_scan

    comparisons: list[TableComparison] = []
    failed: list[str] = []
    with ExitStack() as stack:
        named_by_events = _events(settings, stack)
        progress, log = stack.enter_context(progress_bar())
        for scan in (scan for scan in SCANS if any(BY_NAME[name].scan == scan for name in wanted)):
            try:
                comparisons += verify_scan(
                    scan, wanted, settings, named_by_events=named_by_events, progress=progress, log=log
                )
            except PropelError as error:
                if error.concerns_every_scan:
                    raise
                names = [table.name for table in tables_of(scan) if table.name in wanted]
                failed += names
                log(f"{', '.join(names)}: not compared. {error}")
    return comparisons, failed


def _print_comparisons(comparisons: "Sequence[TableComparison]", limit: int) -> int:
    """Print the comparisons and up to ``limit`` differences of each. Return how many differences were printed."""
    print_table(
        ("table", "rows", "changed since load", "different", "notes"),
        [
            (
                found.table,
                f"{found.rows:,}" if found.is_compared else "-",
                f"{found.changed:,}" if found.is_compared else "-",
                f"{found.different:,}" if found.is_compared else "-",
                "; ".join(found.notes),
            )
            for found in comparisons
        ],
    )
    differences = [(found.table, difference) for found in comparisons for difference in found.differences[:limit]]
    if differences:
        click.echo()
        print_table(
            ("table", "row", "key", "columns"),
            [(table, d.kind, d.key, ", ".join(d.columns)) for table, d in differences],
        )
    return len(differences)


def _events(settings: Settings, stack: ExitStack) -> Callable[[datetime], Collection[str]] | None:
    """Return the function that reads which ids events name; None without a webhook receiver."""
    if not settings.has_webhooks:
        return None
    from propel_assets.webhooks.apply import LOAD_SECONDS, open_store

    store = stack.enter_context(open_store(settings.webhook_store, statement_seconds=LOAD_SECONDS))
    return store.ids_named_since if store else None
