"""The command `propel-assets status`."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from propel_assets import __version__
from propel_assets.catalog import BY_NAME
from propel_assets.cli.arguments import Duration, current_settings, table_arguments
from propel_assets.cli.check import CHECK_FAILED
from propel_assets.cli.rendering import format_count, log, log_verdicts, own_command, print_table
from propel_assets.cli.warehouse import open_configured_warehouse
from propel_assets.errors import NotInstalled, SettingsError, WarehouseError, WebhookStoreError
from propel_assets.settings import Settings

if TYPE_CHECKING:
    from propel_assets.marts.built import BuiltModel
    from propel_assets.warehouse.status import TableStatus
    from propel_assets.webhooks.store import StoreStatus


@click.command(short_help="List tables and marts: rows, age, last checks.")
@click.option(
    "--format",
    "output",
    type=click.Choice(["table", "json", "prometheus"]),
    default="table",
    show_default=True,
    help="Output for people, for programs, or as metrics in Prometheus' text format.",
)
@click.option("--json", "output", flag_value="json", help="The same as --format json.")
@click.option(
    "--max-age", type=Duration(), help="Maximum age of the last full load (26h, 90m). Exit with 3 if one is older."
)
@table_arguments
def status(output: str, max_age: timedelta | None, tables: tuple[str, ...]) -> None:
    """List TABLES (default: all, and the marts) in the warehouse: rows, age, the last scan, the last checks.

    With `--max-age` it is a dead man's switch that needs no Dagster: run it from cron, beside the schedule it watches.
    Loads of recent changes and of events do not count: only a full load shows every deletion. A table that was never
    loaded is too old, unless it was skipped. So is a table that is missing from the warehouse. Without TABLES, the
    default tables are compared with the limit. Marts are not compared. Exits with 1, and prints no table, if nothing
    has been loaded yet or the warehouse cannot be read.

    \b
    Examples:
      propel-assets status
      propel-assets status --json
      propel-assets status --format prometheus
      propel-assets status --max-age 26h
      propel-assets status --max-age 26h user_query org_query
    """
    from propel_assets.marts.built import built_models
    from propel_assets.warehouse.status import table_statuses, too_old

    settings = current_settings()
    with _explain_unchecked_age(max_age), open_configured_warehouse(settings) as warehouse:
        found = [table for table in table_statuses(warehouse) if not tables or table.table in tables]
        models = built_models(warehouse, settings.target) if output != "prometheus" and not tables else ()
    events, error = (None, None) if output == "table" and tables else _event_status(settings)
    if output == "json":
        click.echo(_as_json(found, models, events, error), nl=False)
    elif output == "prometheus":
        click.echo(_as_prometheus(found, events, error, settings.environment), nl=False)
    else:
        _print_status(found)
        if not tables:
            _print_marts(models, settings)
            _print_events(events)
    if max_age is not None and (failed := too_old(found, max_age, tables)):
        missing = [status.table for status in found if status.is_missing and status.table in failed]
        if missing:
            again = own_command(f"load {' '.join(missing)}", settings.environment)
            needs_values = " Look-ups need their values." if any(BY_NAME[name].is_lookup for name in missing) else ""
            log(f"Dropped since the last load: {', '.join(missing)}. Load again: {again}.{needs_values}")
        if old := [name for name in failed if name not in missing]:
            log(
                f"No full load in the last {_duration(max_age)}: {', '.join(old)}. Check that the schedule of the full "
                "load is on, and that its last run succeeded."
            )
        raise SystemExit(CHECK_FAILED)


@contextmanager
def _explain_unchecked_age(max_age: timedelta | None) -> Iterator[None]:
    """Name the limit in an error of the warehouse, for the person who reads the output of a health probe."""
    try:
        yield
    except WarehouseError as error:
        if max_age is None:
            raise
        raise WarehouseError(
            f"The tables could not be compared with the limit of {_duration(max_age)}. {error}"
        ) from None


def _duration(time: timedelta) -> str:
    minutes = round(time / timedelta(minutes=1))
    return f"{minutes} min" if minutes % 60 else f"{minutes // 60} h"


def _print_status(tables: "Sequence[TableStatus]") -> None:
    from propel_assets.warehouse.status import format_age

    print_table(
        ("table", "rows", "last scan", "age", "full load", "checks passed", "up to date"),
        [
            (
                t.table,
                "-" if t.rows is None else f"{t.rows:,}",
                t.verdict,
                format_age(t.loaded_at) if t.loaded_at else "-",
                format_age(t.full_loaded_at) if t.full_loaded_at else "-",
                f"{t.checks_passed} of {len(t.last_checks)}" if t.last_checks else "-",
                "yes" if t.up_to_date.passed else "no",
            )
            for t in tables
        ],
    )
    for table in tables:
        if not table.up_to_date.passed:
            click.echo(f"{table.table}: {table.up_to_date.summary}")
        if table.has_other_rows:
            click.echo(
                f"{table.table}: {table.rows:,} rows, and the last load wrote {table.rows_expected:,}. If no load is "
                f"running, load the table again: `propel-assets load {table.table}`."
            )
    log_verdicts({t.verdict for t in tables})


def _print_marts(models: "Sequence[BuiltModel]", settings: Settings) -> None:
    from propel_assets.marts.runner import how_to_build
    from propel_assets.warehouse.status import format_age

    click.echo()
    if models:
        rows = [(m.name, f"{m.rows:,}", format_age(m.as_of) if m.as_of else "-") for m in models]
        print_table(("mart", "rows", "age of the data"), rows)
        log("-: the mart does not record its load. After a build of all marts, it is as old as those with an age.")
    else:
        click.echo(f"No marts. {how_to_build(settings.target)}")


def _print_events(events: "StoreStatus | None") -> None:
    if events and events.pending:
        click.echo(
            f"\n{format_count(events.pending, 'webhook event')} not loaded. Run propel-assets load auth_event. If it "
            "reports users or orgs that could not be read, only their events stay pending."
        )


def _event_status(settings: Settings) -> "tuple[StoreStatus | None, str | None]":
    """Return the state of the webhook store, or why it cannot be read. Both are None where no webhooks are received."""
    if not settings.has_webhooks:
        return None, None
    from propel_assets.webhooks.apply import open_store

    try:
        with open_store(settings.webhook_store) as store:
            return (store.status() if store else None), None
    except (WebhookStoreError, SettingsError) as error:  # the tables are reported without it
        log(f"The events not loaded yet could not be counted. {error}")
        return None, str(error)


def _as_json(
    tables: "Sequence[TableStatus]", models: "Sequence[BuiltModel]", events: "StoreStatus | None", error: str | None
) -> str:
    document: dict[str, Any] = {
        "version": __version__,
        "at": _time(datetime.now(UTC)),
        "tables": [
            {
                "table": t.table,
                "is_default": t.is_default,
                "rows": t.rows,
                "rows_expected": t.rows_expected,
                "verdict": t.verdict,
                "reason": t.reason,
                "loaded_at": _time(t.loaded_at),
                "age_seconds": None if (age := _known_age(t)) is None else round(age.total_seconds()),
                "full_loaded_at": _time(t.full_loaded_at),
                "proved_at": _time(t.proved_at),
                "requests": t.requests,
                "rate_limited": t.rate_limited,
                "checks": {"passed": t.checks_passed, "failed": len(t.last_checks) - t.checks_passed},
                "is_up_to_date": t.up_to_date.passed,
            }
            for t in tables
        ],
        "marts": [{"mart": m.name, "rows": m.rows, "as_of": _time(m.as_of)} for m in models],
        "events": events and {"pending": events.pending, "oldest_received_at": _time(events.oldest_received_at)},
        "events_error": error,
    }
    return json.dumps(document, indent=2) + "\n"


def _time(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat(timespec="seconds") if at else None


def _known_age(table: "TableStatus") -> timedelta | None:
    from propel_assets.warehouse.status import UNKNOWN_AGE

    return None if (age := table.age()) == UNKNOWN_AGE else age


def _past_timestamp(at: datetime | None) -> float | None:
    """Return a time as epoch seconds; None for no time or a future one, which would silence an alert on its age."""
    from propel_assets.warehouse.audit import FUTURE_TOLERANCE

    return at.timestamp() if at and at <= datetime.now(UTC) + FUTURE_TOLERANCE else None


TABLE_METRICS: "tuple[tuple[str, str, Callable[[TableStatus], float | None]], ...]" = (
    ("table_rows", "Rows in the warehouse.", lambda t: t.rows),
    (
        "last_load_timestamp_seconds",
        "When the last scan ended that wrote the table.",
        lambda t: _past_timestamp(t.loaded_at),
    ),
    (
        "last_full_load_timestamp_seconds",
        "When the last full load of the table ended.",
        lambda t: _past_timestamp(t.full_loaded_at),
    ),
    (
        "last_proved_scan_timestamp_seconds",
        "When the last scan ended that was proved complete.",
        lambda t: _past_timestamp(t.proved_at),
    ),
    ("scan_requests", "Requests of the last scan.", lambda t: t.requests),
    ("scan_rate_limited", "Responses with status 429 in the last scan.", lambda t: t.rate_limited),
    ("table_up_to_date", "1 if the check up_to_date passes now.", lambda t: t.up_to_date.passed),
    ("table_skipped", "1 if the last scan skipped the table.", lambda t: t.verdict == "skipped"),
    ("checks_failed", "Failed checks of the last load.", lambda t: len(t.last_checks) - t.checks_passed),
)
"""The metrics of a table: name, description, value.

Times are epoch seconds, so that their age grows if the output is not renewed.
"""


def _as_prometheus(
    tables: "Sequence[TableStatus]", events: "StoreStatus | None", error: str | None, environment: str
) -> str:
    try:
        from prometheus_client import CollectorRegistry, Gauge, generate_latest
    except ImportError:
        raise NotInstalled("The metrics need prometheus-client", "webhooks") from None
    registry = CollectorRegistry()

    def gauge(name: str, text: str, value: float) -> None:
        Gauge(f"propel_{name}", text, ["environment"], registry=registry).labels(environment).set(value)

    for name, text, value_of in TABLE_METRICS:
        metric = Gauge(f"propel_{name}", text, ["environment", "table"], registry=registry)
        for table in tables:
            if (value := value_of(table)) is not None:
                metric.labels(environment, table.table).set(value)
    if events is not None or error:
        gauge("webhook_store_up", "1 if the webhook store can be read.", not error)
    if events is not None:
        oldest = events.oldest_received_at
        lag = max(0.0, (datetime.now(UTC) - oldest).total_seconds()) if oldest else 0.0
        gauge("webhook_pending_events", "Events not applied yet.", events.pending)
        gauge("webhook_oldest_pending_seconds", "Age of the oldest event not applied yet.", lag)
    return generate_latest(registry).decode()
