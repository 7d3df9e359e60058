"""The command `propel-assets access-review`."""

from datetime import UTC, datetime
from pathlib import Path

import click

from propel_assets.cli.arguments import current_settings
from propel_assets.cli.rendering import format_count, log
from propel_assets.cli.warehouse import open_configured_warehouse

DAY = click.DateTime(["%Y-%m-%d"])


@click.command("access-review", short_help="Write an access review: all roles at a date.")
@click.option("--as-of", required=True, type=DAY, metavar="YYYY-MM-DD", help="Review the end of this day (UTC).")
@click.option("--since", type=DAY, metavar="YYYY-MM-DD", help="First day of the changes. Default: 90 days before.")
@click.option("--org", "org_ids", multiple=True, metavar="ORG_ID", help="Only this org. Repeatable.")
@click.option("--admin-role", "admin_roles", multiple=True, help="An administrator role. Default: Owner, Admin.")
@click.option("--names", is_flag=True, help="Also write names and e-mail addresses. Default: ids only.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder to write. Default: access-review-DATE.",
)
def access_review(
    as_of: datetime,
    since: datetime | None,
    org_ids: tuple[str, ...],
    admin_roles: tuple[str, ...],
    names: bool,
    output: Path | None,
) -> None:
    """Write an access review from the history: a page to print, and CSV files.

    Per org: who had which role, since when and how granted; the changes of the period; exceptions first. Later loads do
    not change the review of a period.

    \b
    Examples:
      propel-assets access-review --as-of 2026-09-30
      propel-assets access-review --as-of 2026-09-30 --since 2026-07-01 --names
    """
    from propel_assets.reporting.access_review.build import ADMIN_ROLES, build_review
    from propel_assets.reporting.access_review.files import write_review

    if since and since > as_of:
        raise click.BadParameter("it is after --as-of.", param_hint="--since")
    if as_of.date() > datetime.now(UTC).date():
        raise click.BadParameter("the day has not begun (UTC).", param_hint="--as-of")
    settings = current_settings()
    with open_configured_warehouse(settings) as warehouse:
        review = build_review(
            warehouse,
            settings.target,
            as_of.date(),
            since.date() if since else None,
            org_ids=org_ids,
            admin_roles=admin_roles or ADMIN_ROLES,
            with_names=names,
        )
    for path in write_review(review, output or Path(f"access-review-{as_of:%Y-%m-%d}")):
        click.echo(path)
    log(f"{format_count(len(review.existing_orgs), 'org')}, {format_count(len(review.exceptions), 'exception')}.")
    for sentence in review.unknown_changes:
        log(sentence)
    if review.is_preliminary:
        log(
            "Preliminary: the day has not ended, or its last load is not in the marts yet. The final review can differ."
        )
