"""The command `propel-assets load`: plain dlt, without Dagster."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from propel_assets.catalog import AUTH_EVENT, BY_NAME, SCANS, TABLES, Table, tables_of
from propel_assets.catalog.model import Lookup, RunOption
from propel_assets.cli.arguments import UserId, current_settings, table_arguments
from propel_assets.cli.check import exit_by_results, log_failed_checks, run_checks
from propel_assets.cli.rendering import format_count, log_verdicts, progress_bar
from propel_assets.errors import PropelError, WarehouseClosed, WarehouseUnreachable

if TYPE_CHECKING:
    from propel_assets.source.stream import ScanResult
    from propel_assets.warehouse.checks import CheckResult
    from propel_assets.warehouse.load import ScanLoad

LOOKUPS = {table.name: table.shape.parameter for table in TABLES if isinstance(table.shape, Lookup)}
"""The tables that hold users who are looked up, with the parameter of the request."""


def _lookup_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add one option per table of `LOOKUPS`, passed on by the name of the table."""
    for table, parameter in reversed(LOOKUPS.items()):
        command = click.option(
            _option_of(table),
            table,
            multiple=True,
            type=UserId() if parameter == "user_id" else str,
            help=f"Look up this {parameter} for {table}. Repeatable.",
        )(command)
    return command


def _option_of(table: str) -> str:
    return f"--{LOOKUPS[table].replace('_', '-')}"


@click.command(short_help="Load tables from PropelAuth, then check them.")
@table_arguments
@_lookup_options
@click.option("--recent", is_flag=True, help="Merge only users who signed up or were active since the last load.")
@click.option("--usage-per-key", is_flag=True, help="Also load the usage of each API key: one request per key and day.")
def load(tables: tuple[str, ...], recent: bool, usage_per_key: bool, **lookups: tuple[str, ...]) -> None:
    """Load TABLES (default: all that are on by default), then check them.

    Tables that are read together are loaded together. A table that cannot be loaded keeps its previous data, and the
    other tables are loaded.

    \b
    Examples:
      propel-assets load
      propel-assets load user_query org_membership
      propel-assets load user_query --recent
      propel-assets load user_by_email --email someone@example.com
      PROPELAUTH_DESTINATION=postgres propel-assets load
    """
    _check_lookups(tables, lookups)
    scans = _scans_of(tables)
    _require_option(scans, "--recent", "recent", is_set=recent)
    _require_option(scans, "--usage-per-key", "per_key", is_set=usage_per_key)
    from propel_assets.privacy.policy_file import load_policy
    from propel_assets.settings import require_credentials
    from propel_assets.source.stream import ReadOptions
    from propel_assets.warehouse.load import load_scan
    from propel_assets.warehouse.session import open_session
    from propel_assets.webhooks.apply import load_events

    settings = require_credentials(current_settings())
    options = ReadOptions(lookups=lookups, usage_per_key=usage_per_key, recent=recent)
    check_results: list[CheckResult] = []
    with progress_bar() as (progress, log), open_session(settings.target, log) as session:

        def loads_of(scan: str) -> "Iterable[ScanLoad]":
            if scan == AUTH_EVENT.scan:
                yield from load_events(settings, log=log, session=session)
            else:
                yield load_scan(scan, settings, options=options, progress=progress, log=log, session=session)

        results, failed = _load_scans(scans, loads_of, log)
        loaded = [table for scan in results for table in tables_of(scan)]
        if loaded and any(isinstance(error, WarehouseUnreachable | WarehouseClosed) for error in failed.values()):
            log("The loaded tables were not checked.")
        elif loaded:
            with session.warehouse(load_policy(settings.privacy_settings)) as warehouse:
                check_results = run_checks(warehouse, loaded)
        location = session.location if _written_tables(results) else ""
    log_verdicts({result.verdict for found in results.values() for result in found if result.mode != "events"})
    if check_results:
        log_failed_checks(check_results)
    if location:
        log(f"Loaded into {location}.")
    if failed:
        _fail(scans, failed, loaded)
    exit_by_results(check_results)


def _load_scans(
    scans: Sequence[str], loads_of: Callable[[str], "Iterable[ScanLoad]"], log: Callable[[str], None]
) -> "tuple[dict[str, list[ScanResult]], dict[str, PropelError]]":
    """Load each scan until an error concerns all of them. Return the results and the errors by scan."""
    results: dict[str, list[ScanResult]] = {}
    failed: dict[str, PropelError] = {}
    for scan in scans:
        found: list[ScanResult] = []
        try:
            for done in loads_of(scan):
                found += done.results
        except PropelError as error:
            failed[scan] = error
        except KeyboardInterrupt as interrupt:  # its text says what is kept of this scan
            log(f"Interrupted while loading {_table_names([scan])}. {interrupt}".rstrip())
            log(f"Loaded before that, and complete: {', '.join(_written_tables(results)) or 'none'}.")
            raise
        for result in found:
            log(f"{result.table_name}: {_describe(result)}")
        if found:
            results[scan] = found
        if error := failed.get(scan):
            if error.concerns_every_scan:
                break
            log(f"{_table_names([scan])}: {'not complete' if found else 'not loaded'}. {error}")
    return results, failed


def _written_tables(results: "Mapping[str, Sequence[ScanResult]]") -> list[str]:
    return [result.table_name for found in results.values() for result in found if not result.skipped]


def _check_lookups(tables: Sequence[str], lookups: Mapping[str, Sequence[str]]) -> None:
    """Refuse a table of `LOOKUPS` without a value, and a value without its table.

    Raises:
        click.UsageError: with the table and the option.
    """
    for table, values in lookups.items():
        option = _option_of(table)
        if table in tables and not values:
            raise click.UsageError(f"{table} needs {option}: the user to look up.")
        if values and table not in tables:
            raise click.UsageError(f"{option} is for the table {table}: propel-assets load {table} {option} ...")


def _require_option(scans: Sequence[str], option: str, name: RunOption, *, is_set: bool) -> None:
    """Refuse an option that no scan of ``scans`` has.

    Raises:
        click.UsageError: with the option and its tables.
    """
    having = [table for table in TABLES if name in table.options]
    if is_set and not any(table.scan in scans for table in having):
        names = " and ".join(table.name for table in having)
        raise click.UsageError(f"{option} is for the table {names}: propel-assets load {names} {option}")


def _describe(result: "ScanResult") -> str:
    if result.skipped:
        return f"skipped. {result.reason}"
    if result.mode == "events":
        deleted = sum(map(len, result.deleted.values()))
        return f"{format_count(result.rows_read, 'row')} read again, {format_count(deleted, 'id')} deleted"
    return f"{format_count(result.rows_read, 'row')}, {result.verdict}"


def _fail(scans: Sequence[str], failed: dict[str, PropelError], loaded: Sequence[Table]) -> NoReturn:
    """End with the tables that failed and the reason. After some errors no further scan was started."""
    incomplete = [scan for scan in failed if any(table.scan == scan for table in loaded)]
    found = {"Not loaded": [scan for scan in failed if scan not in incomplete], "Not complete": incomplete}
    text = " ".join(f"{what}: {_table_names(names)}." for what, names in found.items() if names)
    last_scan, last = list(failed.items())[-1]
    if not last.concerns_every_scan:
        raise click.ClickException(f"{text} The reasons are above.")
    not_started = scans[scans.index(last_scan) + 1 :]
    rest = f" Not started after that: {_table_names(not_started)}." if not_started else ""
    raise click.ClickException(f"{text} {last}{rest}")


def _table_names(scans: Iterable[str]) -> str:
    return ", ".join(table.name for scan in scans for table in tables_of(scan))


def _scans_of(names: Sequence[str]) -> list[str]:
    """Return the scans that read ``names``, or all that are on by default."""
    wanted = {BY_NAME[name].scan for name in names} if names else {t.scan for t in TABLES if t.default}
    return [scan for scan in SCANS if scan in wanted]
