"""The commands `propel-assets tables`, `propel-assets lineage` and `propel-assets dbt-sources`."""

from pathlib import Path

import click

from propel_assets.catalog import TABLES
from propel_assets.catalog.model import API
from propel_assets.cli.arguments import current_settings
from propel_assets.cli.rendering import log, print_table
from propel_assets.errors import writing


@click.command(short_help="List all tables with key and endpoint.")
def tables() -> None:
    """List all tables: primary key, endpoint, and whether they are loaded by default.

    \b
    Example:
      propel-assets tables
    """
    print_table(
        ("table", "key", "read from", "loaded"),
        [
            (
                t.name,
                ", ".join(t.key),
                t.path.replace(API, "...") or "webhooks",
                "by default" if t.default else "by name",
            )
            for t in TABLES
        ],
    )
    log(f"Paths are read with GET; ... is {API}. By name: propel-assets load TABLE.")


@click.command(short_help="Show which API field a column is read from.")
@click.argument("column", default="")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with a drawing instead.")
def lineage(column: str, html: Path | None) -> None:
    """Show the API field that COLUMN is read from, and the columns made from it.

    COLUMN may be a table. Default: all. Needs no warehouse. Marts are included where the extra `marts` is installed.

    \b
    Examples:
      propel-assets lineage dim_user.email
      propel-assets lineage last_active_at
      propel-assets lineage --html lineage.html
    """
    from propel_assets.marts.lineage import lineage as lineage_of_all

    graph = lineage_of_all()
    names = graph.find(column) if column else list(graph.sources)
    if html:
        with writing(html, "file"):
            html.write_text(graph.page(), encoding="utf-8")
        return
    for name in names:
        click.echo("\n".join(graph.lines(name)))


@click.command("dbt-sources", short_help="Print the tables as sources of a dbt project.")
@click.option(
    "--package",
    is_flag=True,
    help="Print an entry for packages.yml instead, for a project that builds the marts itself.",
)
def dbt_sources(package: bool) -> None:
    """Print a YAML file that declares all tables, histories and marts as sources of a dbt project.

    Each source table has the key of its Dagster asset, so that dagster-dbt connects the models that read it. Needs no
    warehouse.

    \b
    Examples:
      propel-assets dbt-sources > models/propel_auth.yml
      propel-assets --environment staging dbt-sources > models/propel_auth_staging.yml
      propel-assets dbt-sources --package
    """
    from propel_assets.marts.downstream import downstream_sources_yaml
    from propel_assets.marts.sources import PROJECT

    if package:
        click.echo(f"packages:\n  - local: {PROJECT}")
    else:
        click.echo(downstream_sources_yaml(current_settings().target), nl=False)


@click.command("data-contract", short_help="Print the data contract of the tables (ODCS).")
def data_contract() -> None:
    """Print the data contract of all tables as YAML, in the Open Data Contract Standard 3.1. Needs no warehouse.

    \b
    Examples:
      propel-assets data-contract > propel-auth.odcs.yaml
      propel-assets --environment staging data-contract
    """
    from propel_assets.reporting.contract import contract_yaml

    click.echo(contract_yaml(current_settings().target), nl=False)
