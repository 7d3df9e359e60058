"""The commands `propel-assets check` and `propel-assets status`."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from propel_assets import __version__
from propel_assets.catalog import BY_NAME, TABLES, Table
from propel_assets.cli.arguments import Duration, current_settings, table_arguments
from propel_assets.cli.rendering import VERDICTS, format_age, format_count, log, print_table
from propel_assets.cli.warehouse import open_configured_warehouse
from propel_assets.errors import SettingsError, WarehouseError, WebhookStoreError
from propel_assets.settings import Settings

if TYPE_CHECKING:
    from propel_assets.marts.built import BuiltModel
    from propel_assets.warehouse.checks import Finding
    from propel_assets.warehouse.query import Warehouse
    from propel_assets.warehouse.status import TableStatus
    from propel_assets.webhooks.store import StoreStatus

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
        loaded = warehouse.audit.loaded_tables()  # a table that is missing is a finding
        chosen = [BY_NAME[name] for name in tables]
        chosen = chosen or [t for t in TABLES if t.name in loaded or warehouse.columns_of(t.name)]
        findings = run_checks(warehouse, chosen)
    print_table(
        ("table", "check", "result", "finding"),
        [(f.table, f.check, "ok" if f.passed else f.severity, f.summary) for f in findings],
    )
    exit_by_findings(findings)


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
@click.option("--max-age", type=Duration(), help="Exit with 3 if a table is older, such as 26h or 90m.")
@table_arguments
def status(output: str, max_age: timedelta | None, tables: tuple[str, ...]) -> None:
    """List TABLES (default: all, and the marts) in the warehouse: rows, age, the last scan, the last checks.

    With `--max-age` it is a dead man's switch that needs no Dagster: run it from cron, beside the schedule it watches.
    A table that was never loaded is too old, unless it was skipped. Without TABLES, those that are loaded by default
    are compared. Marts are not compared. Exits with 1, and prints no table, if nothing has been loaded yet or the
    warehouse cannot be read.

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
        found = [status for status in table_statuses(warehouse) if not tables or status.table in tables]
        models = built_models(warehouse, settings.target) if output != "prometheus" and not tables else ()
    if output == "table":
        _print_status(found)
        if not tables:
            _print_marts(models, settings)
            if (events := _event_status(settings)[0]) and events.pending:
                click.echo(
                    f"\n{format_count(events.pending, 'webhook event')} not loaded yet: propel-assets load auth_event"
                )
    else:
        events, error = _event_status(settings)
        if output == "json":
            text = _as_json(found, models, events, error)
        else:
            text = _as_prometheus(found, events, error, settings.environment)
        click.echo(text, nl=False)
    if max_age is not None and (old := too_old(found, max_age, tables)):
        log(f"Not loaded in the last {_duration(max_age)}: {', '.join(old)}. Check that the schedule runs.")
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
    print_table(
        ("table", "rows", "last scan", "age", "checks passed", "up to date"),
        [
            (
                t.table,
                "-" if t.rows is None else f"{t.rows:,}",
                t.verdict,
                format_age(t.loaded_at) if t.loaded_at else "-",
                f"{t.checks_passed} of {len(t.last_checks)}" if t.last_checks else "-",
                "yes" if t.up_to_date.passed else "no",
            )
            for t in tables
        ],
    )
    for late in (t for t in tables if not t.up_to_date.passed):
        click.echo(f"{late.table}: {late.up_to_date.summary}")
    log(VERDICTS)


def _print_marts(models: "Sequence[BuiltModel]", settings: Settings) -> None:
    from propel_assets.marts.runner import how_to_build

    click.echo()
    if not models:
        click.echo(f"No marts. {how_to_build(settings.target)}")
        return
    print_table(
        ("mart", "rows", "age of the data"),
        [(m.name, f"{m.rows:,}", format_age(m.as_of) if m.as_of else "-") for m in models],
    )
    log("-: the mart does not record which load it was built from.")


def _event_status(settings: Settings) -> "tuple[StoreStatus | None, str | None]":
    """Return what waits in the webhook store, and why it cannot be read. Both None where no webhooks are received."""
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
    from propel_assets.warehouse.status import UNKNOWN_AGE

    now = datetime.now(UTC)
    document: dict[str, Any] = {
        "version": __version__,
        "at": _time(now),
        "tables": [
            {
                "table": t.table,
                "is_default": t.is_default,
                "rows": t.rows,
                "verdict": t.verdict,
                "reason": t.reason,
                "loaded_at": _time(t.loaded_at),
                "age_seconds": None if (age := t.age()) is None or age == UNKNOWN_AGE else round(age.total_seconds()),
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


def _as_prometheus(
    tables: "Sequence[TableStatus]", events: "StoreStatus | None", error: str | None, environment: str
) -> str:
    """Return the metrics. Times are epoch seconds, so that a text that is not renewed still grows old."""
    try:
        from prometheus_client import CollectorRegistry, Gauge, generate_latest
    except ImportError:
        raise SettingsError(
            "The metrics need prometheus-client. Install it: pip install 'propel-assets[webhooks]'"
        ) from None
    from propel_assets.warehouse.status import UNKNOWN_AGE

    registry = CollectorRegistry()

    def gauge(name: str, text: str, values: dict[str, float | None]) -> None:
        metric = Gauge(f"propel_{name}", text, ["environment", "table"], registry=registry)
        for table, value in values.items():
            if value is not None:
                metric.labels(environment, table).set(value)

    gauge("table_rows", "Rows in the warehouse.", {t.table: t.rows for t in tables})
    gauge(
        "last_load_timestamp_seconds",
        "When the last scan ended that wrote the table.",
        {t.table: t.loaded_at.timestamp() for t in tables if t.loaded_at and t.age() != UNKNOWN_AGE},
    )
    gauge(
        "last_proved_scan_timestamp_seconds",
        "When the last scan ended that was proved complete.",
        {t.table: t.proved_at and t.proved_at.timestamp() for t in tables},
    )
    gauge("scan_requests", "Requests of the last scan.", {t.table: t.requests for t in tables})
    gauge("scan_rate_limited", "Responses with status 429 in the last scan.", {t.table: t.rate_limited for t in tables})
    gauge("table_skipped", "1 if the last scan skipped the table.", {t.table: t.verdict == "skipped" for t in tables})
    gauge(
        "checks_failed",
        "Failed checks of the last load.",
        {t.table: len(t.last_checks) - t.checks_passed for t in tables},
    )
    if events is not None or error:
        text = "1 if the webhook store can be read."
        Gauge("propel_webhook_store_up", text, ["environment"], registry=registry).labels(environment).set(not error)
    if events is not None:
        oldest = events.oldest_received_at
        lag = max(0.0, (datetime.now(UTC) - oldest).total_seconds()) if oldest else 0.0
        text = "Age of the oldest event not applied yet."
        pending = Gauge("propel_webhook_pending_events", "Events not applied yet.", ["environment"], registry=registry)
        age = Gauge("propel_webhook_oldest_pending_seconds", text, ["environment"], registry=registry)
        pending.labels(environment).set(events.pending)
        age.labels(environment).set(lag)
    return generate_latest(registry).decode()


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
