"""The command `propel-assets check`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from propel_assets.catalog import BY_NAME, TABLES, Table
from propel_assets.cli.arguments import current_settings, table_arguments
from propel_assets.cli.rendering import format_count, log, print_table
from propel_assets.cli.warehouse import open_configured_warehouse

if TYPE_CHECKING:
    from propel_assets.warehouse.checks import CheckResult
    from propel_assets.warehouse.query import Warehouse

CHECK_FAILED = 3
"""Exit code."""


@click.command(short_help="Check the tables in the warehouse.")
@table_arguments
def check(tables: tuple[str, ...]) -> None:
    """Check TABLES (default: all that have been loaded), without a load.

    Exits with 3 when a check fails as an error. Warnings do not count. The results are stored in the warehouse.

    \b
    Examples:
      propel-assets check
      propel-assets check org_membership
    """
    from propel_assets.warehouse.query import explain_refusal

    settings = current_settings()
    with explain_refusal(settings.target), open_configured_warehouse(settings) as warehouse:
        loaded = warehouse.audit.loaded_tables()  # a table that is missing fails a check
        chosen = [BY_NAME[name] for name in tables]
        chosen = chosen or [t for t in TABLES if t.name in loaded or warehouse.columns_of(t.name)]
        results = run_checks(warehouse, chosen)
    print_table(
        ("table", "check", "result", "finding"),
        [(f.table, f.check, "ok" if f.passed else f.severity, f.summary) for f in results],
    )
    exit_by_results(results)


def run_checks(warehouse: "Warehouse", tables: Sequence[Table]) -> "list[CheckResult]":
    """Run every check of ``tables``."""
    from propel_assets.warehouse.checks import examine

    return [result for table in tables for result in examine(warehouse, table)]


def log_failed_checks(results: "Sequence[CheckResult]") -> None:
    """Print each check that failed, and how many passed."""
    failed = [f for f in results if not f.passed]
    for result in failed:
        log(f"{result.severity} {result.table}: {result.check}: {result.summary}")
    warnings = sum(result.severity == "WARN" for result in failed)
    counts = [f"{len(results) - len(failed)} of {len(results)} checks passed"]
    counts += [format_count(len(failed) - warnings, "error")] if len(failed) > warnings else []
    counts += [format_count(warnings, "warning")] if warnings else []
    log(f"{', '.join(counts)}.")


def exit_by_results(results: "Sequence[CheckResult]") -> None:
    """Exit with 3 when a check failed. A warning does not count."""
    if any(not f.passed and f.severity == "ERROR" for f in results):
        raise SystemExit(CHECK_FAILED)
