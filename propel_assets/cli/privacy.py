"""The commands `propel-assets privacy`, `propel-assets erase` and `propel-assets erasures`."""

import click

from propel_assets.catalog import BY_NAME
from propel_assets.cli.arguments import UserId, current_settings, table_arguments
from propel_assets.cli.rendering import log, print_table
from propel_assets.errors import SettingsError
from propel_assets.settings import Settings, Tenant, require_credentials


@click.command(short_help="Show which columns are kept, hashed or dropped.")
@table_arguments
def privacy(tables: tuple[str, ...]) -> None:
    """Show for each column of TABLES (default: all) whether it is kept, hashed or dropped. Sends no request.

    \b
    Examples:
      propel-assets privacy
      PROPELAUTH_PRIVACY=strict propel-assets privacy user_query
    """
    from propel_assets.privacy.policy_file import load_policy

    policy = load_policy(current_settings().privacy_settings, needs_key=False)
    rows = [(name, column, str(rule)) for name in tables or BY_NAME for column, rule in policy.rules[name].items()]
    rows += [(name, field, a) for name in tables or BY_NAME for field, a in policy.new_fields.get(name, {}).items()]
    rest = [(name, "any other field", policy.unclassified) for name in tables or BY_NAME]
    log(f"Privacy policy: {policy.name}")
    print_table(("table", "column", "stored"), sorted(rows + rest, key=lambda row: [*BY_NAME].index(row[0])))


@click.command(short_help="Remove a person from the warehouse.")
@click.argument("user_id", type=UserId())
@click.option("--email", "emails", multiple=True, help="Another e-mail address of this person. Repeatable.")
@click.option("--allow-unknown", is_flag=True, help="Accept an id that neither the warehouse nor PropelAuth has.")
@click.option("--dry-run", is_flag=True, help="Only list what would be removed. Needs no privacy key.")
def erase(user_id: str, emails: tuple[str, ...], allow_unknown: bool, dry_run: bool) -> None:
    """Remove the person USER_ID from every schema of the database, and from all later loads.

    Needs PROPELAUTH_PRIVACY_KEY: a list of keyed hashes keeps the person out of later loads. Can be repeated. Exits
    with 1 if something could not be searched, or still names the person.

    \b
    Examples:
      propel-assets erase 5b1f0c1e-9f0d-4c64-8e0f-5f1c6c2d7a10 --dry-run
      propel-assets erase 5b1f0c1e-9f0d-4c64-8e0f-5f1c6c2d7a10
    """
    from propel_assets.warehouse.erasure import NEXT_STEPS, erase

    settings = current_settings()
    receipt = erase(
        settings.target,
        settings.privacy_settings,
        user_id,
        tenant=_tenant(settings),
        emails=emails,
        allow_unknown=allow_unknown,
        dry_run=dry_run,
        log=log,
    )
    if receipt.records:
        print_table(("table", "action", "rows"), [(r.where, r.what, f"{r.rows:,}") for r in receipt.records])
    else:
        click.echo("Nothing about this person was found.")
    if receipt.remaining:
        log("Still found after the erasure:")
        print_table(("table", "where", "rows"), [(r.where, r.what, f"{r.rows:,}") for r in receipt.remaining])
    if receipt.unsearched:
        log("Could not be searched:")
        print_table(("column", "type", "reason"), [(c.where, c.type, c.reason) for c in receipt.unsearched])
    log("Nothing was changed: this was a dry run." if dry_run else NEXT_STEPS)
    if not dry_run and not receipt.is_complete:
        raise click.ClickException("The erasure is not complete: see the tables above.")


@click.command(short_help="List users to erase after their deletion at PropelAuth.")
@click.option("--run", is_flag=True, help="Erase the users whose erasure is due. Needs PROPELAUTH_PRIVACY_KEY.")
def erasures(run: bool) -> None:
    """List the users who were deleted at PropelAuth and are still in histories and events, with the due date.

    A deletion that a webhook reported proposes an erasure. Before a user is erased, a request to PropelAuth confirms
    the deletion. Exits with 1 if an erasure is not complete.

    \b
    Examples:
      propel-assets erasures
      propel-assets erasures --run
    """
    from propel_assets.cli.warehouse import open_configured_warehouse
    from propel_assets.warehouse.erasure import proposed_erasures, run_due_erasures, unfinished_erasures

    settings = current_settings()
    if run:
        run_due_erasures(settings, log)
    with open_configured_warehouse(settings) as warehouse:
        proposals = proposed_erasures(warehouse, settings.erasure_days)
    unfinished = unfinished_erasures(settings.target, log)
    for user_id in unfinished.by_id:
        log(f"Not complete: the erasure of {user_id}.")
    if unfinished.must_clean_up:
        log(
            "Not complete: an erasure was stopped before it had deleted older states of dlt and, on DuckDB, compacted "
            "the file. Identifiers of the person can be in them. Repeat an erasure that is named above; otherwise run "
            "propel-assets erasures --run."
        )
    columns = [(p.user_id, f"{p.deleted_at:%Y-%m-%d}", f"{p.due_at:%Y-%m-%d}") for p in proposals]
    if columns:
        print_table(("user", "deletion reported", "erasure due"), columns)
    else:
        click.echo("No erasure is proposed. Only a deletion that a webhook reported proposes one.")


def _tenant(settings: Settings) -> Tenant | None:
    """Return PropelAuth, if its URL and key are set. An erasure needs it for users that are not loaded."""
    try:
        return require_credentials(settings).tenant
    except SettingsError:
        return None
