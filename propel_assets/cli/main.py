"""The way in for people. Each command imports what it needs, so that `--help` answers at once.

Exit status: 0 done, 1 not done (the reason is on stderr), 2 wrong usage, 3 a check failed.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from propel_assets import __version__
from propel_assets.catalog import BY_NAME, SCANS, TABLES, Table, tables_of
from propel_assets.cli.sandbox import fault
from propel_assets.cli.webhooks import webhooks
from propel_assets.errors import PropelError
from propel_assets.settings import work_for

if TYPE_CHECKING:
    from propel_assets.source.lists import ScanReport
    from propel_assets.warehouse.checks import Finding

CHECK_FAILED = 3
LOADABLE = click.Choice([table.name for table in TABLES], case_sensitive=False)
PORT = click.IntRange(0, 65_535)


class PropelGroup(click.Group):
    """Prints an error of ours as one sentence and exits with 1. Anything else is a bug: it keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PropelError as error:
            raise click.ClickException(str(error)) from error


@click.group(
    cls=PropelGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Try it without an account: propel-assets demo",
)
@click.version_option(__version__, prog_name="propel-assets")
@click.option("--environment", help="Which of several PropelAuth environments. [PROPELAUTH_ENVIRONMENT]")
def main(environment: str | None) -> None:
    """PropelAuth in your warehouse: complete, checked, as Dagster assets.

    \b
    Examples:
      propel-assets demo                      load a PropelAuth on this machine, through Dagster
      propel-assets load                      load everything from the PropelAuth of PROPELAUTH_AUTH_URL
      propel-assets load user_query           load one table, and those read together with it
      propel-assets status                    what is in the warehouse, how old, last checks
      propel-assets report                    the same and more as a page, with charts
    """
    if environment:
        work_for(environment)


# --- load, check, status, tables: plain dlt and SQL, without Dagster ---


@main.command()
@click.argument("tables", nargs=-1, type=LOADABLE, metavar="[TABLE]...")
@click.option("--user-id", "user_ids", multiple=True, help="Look this user up into user_by_id. Repeatable.")
@click.option("--email", "emails", multiple=True, help="Look this user up into user_by_email. Repeatable.")
@click.option("--username", "usernames", multiple=True, help="Look this user up into user_by_username. Repeatable.")
@click.option("--recent", is_flag=True, help="Only users who signed up or were active since the last load; merged.")
@click.option("--usage-per-key", is_flag=True, help="Count API key usage per key too: keys x days requests.")
def load(
    tables: tuple[str, ...],
    user_ids: tuple[str, ...],
    emails: tuple[str, ...],
    usernames: tuple[str, ...],
    recent: bool,
    usage_per_key: bool,
) -> None:
    """Load TABLES (default: all that are on by default), then examine them.

    Tables that are read together are loaded together. A table that cannot be loaded keeps its last good rows and does
    not stop the others.

    \b
    Examples:
      propel-assets load
      propel-assets load user_query org_membership
      propel-assets load user_query --recent
      propel-assets load user_by_email --email someone@example.com
      PROPELAUTH_DESTINATION=postgres propel-assets load
    """
    from propel_assets.settings import load_settings, require_credentials
    from propel_assets.source.table_reader import ReadOptions
    from propel_assets.warehouse.load import load_scan
    from propel_assets.warehouse.query import opened

    settings = require_credentials(load_settings())
    options = ReadOptions(user_ids, emails, usernames, usage_per_key, recent)
    scans = _scans_of(tables)
    failed: dict[str, PropelError] = {}
    done: list[Table] = []
    findings: list[Finding] = []
    with _progress() as (progress, say):
        for scan in scans:
            try:
                loaded = load_scan(scan, settings, options=options, progress=progress, say=say)
            except PropelError as error:
                failed[scan] = error
                if error.concerns_every_scan:
                    break
                say(f"{_names([scan])}: not loaded. {error}")
                continue
            done += tables_of(scan)
            for report in loaded.reports:
                say(f"{report.table_name}: {_what_came(report)}")
        if done:
            with opened(settings, say) as warehouse:
                findings = _examine(warehouse, done)
    if findings:
        _show_failed(findings)
    if failed:
        _give_up(scans, failed)
    _exit_by(findings)


def _what_came(report: "ScanReport") -> str:
    if report.skipped:
        return f"skipped. {report.reason}"
    return f"{report.rows_read:,} row{'' if report.rows_read == 1 else 's'}, {report.verdict}"


def _give_up(scans: Sequence[str], failed: "dict[str, PropelError]") -> NoReturn:
    """End with what was not loaded and why. The last error may have ended it all before every scan was tried."""
    last_scan, last = list(failed.items())[-1]
    if not last.concerns_every_scan:
        raise click.ClickException(f"Not loaded: {_names(failed)}. The reasons stand above.")
    untried = scans[scans.index(last_scan) + 1 :]
    rest = f" Not tried after that: {_names(untried)}." if untried else ""
    raise click.ClickException(f"Not loaded: {_names(failed)}. {last}{rest}")


def _names(scans: Iterable[str]) -> str:
    return ", ".join(table.name for scan in scans for table in tables_of(scan))


def _scans_of(names: Sequence[str]) -> list[str]:
    """Return the scans that read ``names``, or all that are on by default."""
    wanted = {BY_NAME[name].scan for name in names} if names else {t.scan for t in TABLES if t.default}
    return [scan for scan in SCANS if scan in wanted]


def _say(text: str) -> None:
    click.echo(text, err=True)


@contextmanager
def _progress() -> Iterator[tuple[Callable[[str, int, int | None], None], Callable[[str], None]]]:
    """Give a progress bar on a terminal, and plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield lambda *_: None, _say
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def progress(table: str, rows: int, total: int | None) -> None:
            if table not in tasks:
                tasks[table] = bar.add_task(table, total=total)
            bar.update(tasks[table], completed=rows, total=total)

        yield progress, lambda text: console.print(text, markup=False, soft_wrap=True)


@main.command()
@click.argument("tables", nargs=-1, type=LOADABLE, metavar="[TABLE]...")
def check(tables: tuple[str, ...]) -> None:
    """Examine TABLES (default: all) in the warehouse, without loading. Exits with 3 when a check fails.

    \b
    Examples:
      propel-assets check
      propel-assets check org_membership
    """
    from propel_assets.settings import load_settings
    from propel_assets.warehouse.query import opened

    with opened(load_settings(), _say) as warehouse:
        chosen = [BY_NAME[name] for name in tables] or [t for t in TABLES if warehouse.columns_of(t.name)]
        findings = _examine(warehouse, chosen)
    _print_table(
        ("table", "check", "", "finding"),
        [(f.table, f.check, "ok" if f.passed else f.severity, f.summary) for f in findings],
    )
    _exit_by(findings)


def _examine(warehouse: Any, tables: Sequence[Table]) -> "list[Finding]":
    from propel_assets.warehouse.checks import examine

    return [finding for table in tables for finding in examine(warehouse, table)]


def _show_failed(findings: "Sequence[Finding]") -> None:
    failed = [f for f in findings if not f.passed]
    for finding in failed:
        _say(f"{finding.severity} {finding.table}: {finding.check}: {finding.summary}")
    _say(f"{len(findings) - len(failed)} of {len(findings)} checks passed.")


def _exit_by(findings: "Sequence[Finding]") -> None:
    if any(not f.passed and f.severity == "ERROR" for f in findings):
        raise SystemExit(CHECK_FAILED)


@main.command()
def status() -> None:
    """Show what is in the warehouse: rows, how they were read, how old they are, the last checks.

    \b
    Example:
      propel-assets status
    """
    from propel_assets.settings import load_settings
    from propel_assets.warehouse.query import opened

    with opened(load_settings(), _say) as warehouse:
        _print_table(
            ("table", "rows", "verdict", "age", "checks passed", "up to date"),
            [_status_row(warehouse, table) for table in TABLES if warehouse.last_load(table, skipped=True)],
        )


def _status_row(warehouse: Any, table: Table) -> tuple[str, ...]:
    from propel_assets.warehouse.checks import last_findings, up_to_date

    tried, good = warehouse.last_load(table, skipped=True), warehouse.last_load(table)
    passed, examined = last_findings(warehouse, table)
    age = up_to_date(warehouse, table)
    return (
        table.name,
        f"{warehouse.count(table.name):,}" if good else "-",
        tried.verdict,
        _age(good.finished_at) if good else "-",
        f"{passed} of {examined}" if examined else "-",
        "yes" if age.passed else age.summary,
    )


def _age(at: datetime) -> str:
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    minutes = int((datetime.now(UTC) - at).total_seconds() // 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} days"


@main.command()
@click.option(
    "--output",
    default="propel-auth-report.html",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default=True,
    help="The file to write.",
)
def report(output: Path) -> None:
    """Write one HTML page: charts of users and orgs, what changed since the last load, the last checks.

    It loads nothing from elsewhere and names no person, so that it can be sent to anybody who may know the numbers.

    \b
    Examples:
      propel-assets report
      propel-assets report --output morning.html
    """
    from propel_assets.reporting.report import write_report
    from propel_assets.settings import load_settings
    from propel_assets.warehouse.query import opened

    with opened(load_settings(), _say) as warehouse:
        write_report(warehouse, output)
    click.echo(output)


@main.command()
def tables() -> None:
    """Show every table: its key, where it is read, and whether it is loaded without being named.

    \b
    Example:
      propel-assets tables
    """
    _print_table(
        ("table", "key", "read from", "default"),
        [(t.name, ", ".join(t.key), f"GET {t.path}", "on" if t.default else "by name") for t in TABLES],
    )


@main.command()
@click.argument("tables", nargs=-1, type=LOADABLE, metavar="[TABLE]...")
def privacy(tables: tuple[str, ...]) -> None:
    """Show what is stored of each column of TABLES (default: all): kept, hashed or dropped. Asks nothing.

    \b
    Examples:
      propel-assets privacy
      PROPELAUTH_PRIVACY=strict propel-assets privacy user_query
    """
    from propel_assets.privacy.policy_file import load_policy
    from propel_assets.settings import load_settings

    policy = load_policy(load_settings().privacy_settings, needs_key=False)
    rows = [(name, column, str(rule)) for name in tables or BY_NAME for column, rule in policy.rules[name].items()]
    rest = [(name, "any other field", policy.unclassified) for name in tables or BY_NAME]
    _say(f"Privacy policy: {policy.name}")
    _print_table(("table", "column", "stored"), sorted(rows + rest, key=lambda row: [*BY_NAME].index(row[0])))


@main.command()
@click.argument("user_id")
@click.option("--email", "emails", multiple=True, help="A further e-mail address that is theirs. Repeatable.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
def erase(user_id: str, emails: tuple[str, ...], dry_run: bool) -> None:
    """Remove the person USER_ID from every schema of the database, and from all later loads.

    Needs PROPELAUTH_PRIVACY_KEY: a list of keyed hashes keeps the person out. Safe to repeat.

    \b
    Examples:
      propel-assets erase 5b1f0c1e-9f0d-4c64-8e0f-5f1c6c2d7a10 --dry-run
      propel-assets erase 5b1f0c1e-9f0d-4c64-8e0f-5f1c6c2d7a10
    """
    from propel_assets.settings import load_settings
    from propel_assets.warehouse.erasure import AFTERWARDS, erase

    receipt = erase(load_settings(), user_id, emails=emails, dry_run=dry_run, say=_say)
    if receipt:
        _print_table(("table", "what", "rows"), [(r.where, r.what, f"{r.rows:,}") for r in receipt])
    else:
        click.echo("Nothing about this person was found.")
    _say("Nothing was changed: this was a dry run." if dry_run else AFTERWARDS)


@main.command()
@click.argument("column", default="")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page that draws it instead.")
def lineage(column: str, html: Path | None) -> None:
    """Show which API field COLUMN comes from, and what it goes into. COLUMN may be a table; default: everything.

    Needs no warehouse. The marts are included where the extra `marts` is installed.

    \b
    Examples:
      propel-assets lineage dim_user.email
      propel-assets lineage last_active_at
      propel-assets lineage --html lineage.html
    """
    from propel_assets.marts.lineage import lineage as lineage_of_all

    known = lineage_of_all()
    names = known.find(column) if column else list(known.sources)
    if html:
        try:
            html.write_text(known.page(), encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"Cannot write {html}: {error.strerror}. Name another file.") from error
        return
    for name in names:
        click.echo("\n".join(known.lines(name)))


@main.command()
def alert() -> None:
    """Send a test alert to the webhook and by the mail server that are set.

    \b
    Example:
      propel-assets alert
    """
    from propel_assets.reporting.delivery import deliver, targets
    from propel_assets.settings import load_settings

    settings = load_settings()
    names = targets(settings)
    if not names:
        raise click.ClickException("Set PROPELAUTH_ALERT_WEBHOOK or PROPELAUTH_ALERT_SMTP: see docs/alerts.md.")
    failures = deliver(settings, dict.fromkeys(names, ("PropelAuth: a test", "If you read this, alerts reach you.")))
    for name in names:
        if name in failures:
            _say(f"{name}: {failures[name]}")
        else:
            click.echo(f"{name}: delivered")
    if failures:
        raise click.ClickException("Not every alert was delivered. The reasons are above.")


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    table = RichTable(*head, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    # A pipe has no width: print whole lines there, for grep and friends.
    console.print(table, markup=False) if console.is_terminal else Console(width=1_000, highlight=False).print(table)


# --- sandbox, demo, dev: to play with ---


def _sandbox_options(command: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.option("--users", default=2500, type=click.IntRange(min=0), show_default=True, help="How many users."),
        click.option("--orgs", default=120, type=click.IntRange(min=0), show_default=True, help="How many orgs."),
        click.option("--seed", default=1, show_default=True, help="With --now it decides every byte."),
        click.option(
            "--now",
            type=click.DateTime(["%Y-%m-%d"]),
            # Its clock starts at noon, which must not be in the future: activity would be later than the load of it.
            callback=lambda _context, _option, value: (value or datetime.now(UTC) - timedelta(hours=12)).date(),
            help="The sandbox's date; its clock starts at 12:00 UTC. Default: today, or yesterday before 12:00 UTC.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.option("--port", default=8400, type=PORT, show_default=True, help="Port on 127.0.0.1; 0 for a free one.")
@_sandbox_options
@click.option(
    "--fault",
    "faults",
    multiple=True,
    help="A fault to start with, as for `propel-assets fault`, for example latency_ms=50. Repeatable.",
)
@click.option(
    "--frozen",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Only user/query, from pages kept in this folder (made when missing): for benchmarks. --orgs is not used.",
)
def sandbox(
    port: int, users: int, orgs: int, seed: int, now: date, faults: tuple[str, ...], folder: Path | None
) -> None:
    """Run a PropelAuth on this machine, with people, orgs, roles, keys and reports.

    \b
    Examples:
      propel-assets sandbox
      propel-assets sandbox --port 8400 --users 100000 --seed 7
      propel-assets sandbox --fault rate_limit=10 --fault latency_ms=50
      propel-assets sandbox --users 1000000 --frozen pages
    """
    from propel_assets.sandbox.faults import Faults
    from propel_assets.sandbox.frozen import frozen, gate_options, serve_frozen
    from propel_assets.sandbox.running import serve

    def ready(url: str) -> None:
        click.echo(f"PROPELAUTH_AUTH_URL={url}\nPROPELAUTH_API_KEY=sandbox-api-key")
        click.echo("PROPELAUTH_OAUTH_TOKEN=sandbox-user-token")

    try:
        for option in faults:
            Faults(seed).parse(option)
        options = gate_options(faults) if folder else {}
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--fault") from error
    try:
        if folder:
            serve_frozen(frozen(folder, users=users, seed=seed, now=now), port=port, on_ready=ready, **options)
        else:
            serve(port=port, users=users, orgs=orgs, seed=seed, now=now, faults=faults, on_ready=ready)
    except OSError as error:
        raise click.ClickException(f"Cannot listen on port {port}: {error.strerror}. Choose another --port.") from error


main.add_command(fault)
main.add_command(webhooks)


@main.command()
@_sandbox_options
def demo(users: int, orgs: int, seed: int, now: date) -> None:
    """Load a PropelAuth that runs on this machine, every table, through Dagster, into DuckDB.

    \b
    Examples:
      propel-assets demo
      propel-assets demo --users 20000 --orgs 900
    """
    from propel_assets.cli.demo import run_demo

    run_demo(users=users, orgs=orgs, seed=seed, now=now, show=_print_table)


@main.command()
@click.option("--port", default=3000, type=PORT, show_default=True, help="Port of the Dagster UI on 127.0.0.1.")
@click.option("--sandbox-port", default=8400, type=PORT, show_default=True, help="Port of the sandbox on 127.0.0.1.")
@_sandbox_options
def dev(port: int, sandbox_port: int, users: int, orgs: int, seed: int, now: date) -> None:
    """Run the sandbox and `dagster dev` together. Ctrl-C stops both. Port 0 selects a free port.

    \b
    Examples:
      propel-assets dev
      propel-assets dev --port 3001 --sandbox-port 8401 --users 20000
    """
    from propel_assets.cli.demo import run_dev

    run_dev(port=port, sandbox_port=sandbox_port, users=users, orgs=orgs, seed=seed, now=now)
