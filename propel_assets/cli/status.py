"""The commands `propel-assets check` and `propel-assets status`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from propel_assets.catalog import BY_NAME, TABLES, Table
from propel_assets.cli.arguments import current_settings, table_arguments
from propel_assets.cli.rendering import format_age, log, print_table
from propel_assets.cli.warehouse import open_configured_warehouse

if TYPE_CHECKING:
    from propel_assets.warehouse.checks import Finding
    from propel_assets.warehouse.query import Warehouse

CHECK_FAILED = 3
"""Exit code."""


@click.command(short_help="Check the tables in the warehouse.")
@table_arguments
def check(tables: tuple[str, ...]) -> None:
    """Check TABLES (default: all) in the warehouse, without a load. Exits with 3 when a check fails.

    \b
    Examples:
      propel-assets check
      propel-assets check org_membership
    """
    with open_configured_warehouse(current_settings()) as warehouse:
        chosen = [BY_NAME[name] for name in tables] or [t for t in TABLES if warehouse.columns_of(t.name)]
        findings = run_checks(warehouse, chosen)
    print_table(
        ("table", "check", "", "finding"),
        [(f.table, f.check, "ok" if f.passed else f.severity, f.summary) for f in findings],
    )
    exit_by_findings(findings)


@click.command(short_help="List tables and marts: rows, age, last checks.")
def status() -> None:
    """List the tables and marts in the warehouse: rows, age, the last scan, the last checks.

    \b
    Example:
      propel-assets status
    """
    from propel_assets.marts.built import built_models

    settings = current_settings()
    with open_configured_warehouse(settings) as warehouse:
        print_table(
            ("table", "rows", "last scan", "age", "checks passed", "up to date"),
            [_status_row(warehouse, table) for table in TABLES if warehouse.audit.last_load(table, skipped=True)],
        )
        models = built_models(warehouse, settings.target)
    click.echo()
    if not models:
        click.echo("No marts. They are built by Dagster: propel-assets dev, or the job of your deployment.")
        return
    print_table(
        ("mart", "rows", "age of the data"),
        [(m.name, f"{m.rows:,}", format_age(m.as_of) if m.as_of else "-") for m in models],
    )


def _status_row(warehouse: "Warehouse", table: Table) -> tuple[str, ...]:
    from propel_assets.warehouse.checks import TableFacts, last_findings, up_to_date

    last, good = warehouse.audit.last_load(table, skipped=True), warehouse.audit.last_load(table)
    passed, all_checks = last_findings(warehouse, table)
    age = up_to_date(TableFacts(warehouse, table))
    return (
        table.name,
        f"{warehouse.count(table.name):,}" if good else "-",
        last.verdict if last else "-",
        format_age(good.finished_at) if good else "-",
        f"{passed} of {all_checks}" if all_checks else "-",
        "yes" if age.passed else age.summary,
    )


def run_checks(warehouse: "Warehouse", tables: Sequence[Table]) -> "list[Finding]":
    """Run every check of ``tables``."""
    from propel_assets.warehouse.checks import examine

    return [finding for table in tables for finding in examine(warehouse, table)]


def log_failed_checks(findings: "Sequence[Finding]") -> None:
    """Print each check that failed, and how many passed."""
    failed = [f for f in findings if not f.passed]
    for finding in failed:
        log(f"{finding.severity} {finding.table}: {finding.check}: {finding.summary}")
    log(f"{len(findings) - len(failed)} of {len(findings)} checks passed.")


def exit_by_findings(findings: "Sequence[Finding]") -> None:
    """Exit with 3 when a check failed. A warning does not count."""
    if any(not f.passed and f.severity == "ERROR" for f in findings):
        raise SystemExit(CHECK_FAILED)
