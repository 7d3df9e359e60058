"""The page of `propel-assets report`: charts of the marts, changes between the last two loads, tables and checks.

The page is self-contained and contains no personal data. A chart that cannot be drawn is replaced by the reason.
"""

import contextlib
import re
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import jinja2
from dlt.destinations.exceptions import DatabaseUndefinedRelation

from propel_assets import __version__
from propel_assets.catalog import BY_NAME, Table
from propel_assets.errors import install_extra, writing
from propel_assets.marts import runner
from propel_assets.marts.downstream import models_of
from propel_assets.reporting import charts
from propel_assets.reporting.drawing import NARROW, THEMED, WIDE, Chart, can_draw
from propel_assets.settings import Target
from propel_assets.warehouse.audit import as_utc_or_none
from propel_assets.warehouse.query import Warehouse, timestamp_literal
from propel_assets.warehouse.status import format_age, table_statuses

SCANS = 30
"""Scans of each table that the page shows."""


@dataclass(frozen=True)
class History:
    """A history: its table, its key, the mart with the time of its last load, its table of loads, its raw table."""

    kind: str
    versions: str
    key: str
    mart: str
    loads: str
    raw: str


HISTORIES = (
    History("Users", "users_history", "user_id", "dim_user", "user_loads", "user_query"),
    History("Orgs", "orgs_history", "org_id", "dim_org", "org_loads", "org_query"),
    History(
        "Memberships", "memberships_history", "user_id, org_id", "bridge_membership", "user_loads", "org_membership"
    ),
)


@dataclass(frozen=True)
class Panel:
    """A chart of a mart, or the reason why it is not shown (``instead``)."""

    mart: str
    title: str
    chart: Chart | None = None
    drawings: tuple[str, ...] = ()
    instead: str = ""
    is_built: bool = True


@dataclass(frozen=True)
class ChangeCounts:
    """The numbers of current, new, changed, deleted and restored rows since the previous load.

    ``since``: the end of that load. ``instead``: why they are not known. ``is_built``: whether the marts that they need
    are built.
    """

    kind: str
    counts: tuple[int, ...] = ()
    since: datetime | None = None
    instead: str = ""
    is_built: bool = True


def write_report(warehouse: Warehouse, path: Path, target: Target) -> None:
    """Write the page of the warehouse ``target`` to ``path``. An existing file is replaced only by a complete one.

    Raises:
        PropelError: the file cannot be written.
    """
    page = render(warehouse, target)
    with writing(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        temporary.write_text(page, encoding="utf-8")
        temporary.chmod(0o644)
        temporary.replace(path)


def render(warehouse: Warehouse, target: Target) -> str:
    """Return the page."""
    panels = [_panel(warehouse, mart, target.named(runner.MARTS)) for mart in charts.CHARTS]
    changes = [_changes(warehouse, history, target) for history in HISTORIES]
    tables = table_statuses(warehouse)
    checks = [check for table in tables for check in table.last_checks]
    definitions = {model["name"]: model for model in models_of(runner.MARTS)}
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["age"] = format_age
    environment.filters["with_code"] = _with_code
    return environment.from_string(template).render(
        version=__version__,
        environment=target.environment,
        now=datetime.now(UTC),
        read_at=_read_at(warehouse, target),
        headlines=[panel.chart.headline for panel in panels if panel.chart and panel.chart.headline],
        checks=(sum(check.passed for check in checks), len(checks)),
        panels=panels,
        scans={t.table: warehouse.audit.verdicts(BY_NAME[t.table], loads=SCANS)[::-1] for t in tables},
        max_age=target.max_age,
        definitions=[definitions[mart] for mart in charts.CHARTS],
        changes=changes,
        how_to_build="" if all(part.is_built for part in (*panels, *changes)) else runner.how_to_build(target),
        failed=[check for check in checks if not check.passed],
        tables=tables,
        row_changes={t.table: _row_change(warehouse, BY_NAME[t.table]) for t in tables},
    )


def _with_code(text: str) -> str:
    """Return a description as HTML, with what is in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _panel(warehouse: Warehouse, mart: str, schema: str) -> Panel:
    title, table, draw = charts.CHARTS[mart]
    try:
        chart = draw(warehouse.rows, schema)
    except DatabaseUndefinedRelation:
        why = runner.unloaded_reason(warehouse, table)
        return Panel(mart, title, instead=why or f"{schema}.{mart} has not been built yet.", is_built=bool(why))
    if chart is None:
        why = runner.unloaded_reason(warehouse, table) or f"{schema}.{mart} is empty: there is nothing to show yet."
        return Panel(mart, title, instead=why)
    if not can_draw():
        return Panel(mart, chart.title, chart, instead=f"{install_extra('marts')} to draw it.")
    drawings = (chart.svg(width, THEMED).replace(' xmlns="http://www.w3.org/2000/svg"', "") for width in (WIDE, NARROW))
    return Panel(
        mart, chart.title, chart, tuple(d.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "") for d in drawings)
    )


def _as_of(warehouse: Warehouse, history: History, target: Target) -> datetime | None:
    """Return the time of the load that the marts were built from."""
    [(as_of,)] = warehouse.rows(f"SELECT max(as_of) FROM {target.named(runner.MARTS)}.{history.mart}")  # noqa: S608 - our names
    return as_utc_or_none(as_of)


def _read_at(warehouse: Warehouse, target: Target) -> dict[str, datetime]:
    """Return the time of the load of users and of orgs that the charts are drawn from."""
    found = {}
    for history in HISTORIES[:2]:  # memberships are read with users
        with contextlib.suppress(DatabaseUndefinedRelation):
            if as_of := _as_of(warehouse, history, target):
                found[history.kind] = as_of
    return found


def _changes(warehouse: Warehouse, history: History, target: Target) -> ChangeCounts:
    """Return the changes between the last load in the history and all earlier ones."""
    if why := runner.unloaded_reason(warehouse, BY_NAME[history.raw]):
        return ChangeCounts(history.kind, instead=why)
    versions = f"{target.named(runner.HISTORY)}.{history.versions}"
    try:
        as_of = _as_of(warehouse, history, target)
        if as_of is None:
            return ChangeCounts(history.kind, instead="None yet.")
        since = timestamp_literal(as_of)
        exists, existed = "current_versions > 0", f"first_from < {since}"
        counted = (
            exists,
            f"{exists} AND NOT {existed}",
            f"{exists} AND {existed} AND last_from >= {since} AND last_to >= {since}",
            f"NOT {exists} AND {existed} AND last_to >= {since}",
            f"{exists} AND {existed} AND last_from >= {since} AND last_to < {since}",
            existed,
        )
        [counts] = warehouse.rows(
            f"SELECT {', '.join(f'count(CASE WHEN {c} THEN 1 END)' for c in counted)} FROM (SELECT "  # noqa: S608
            "min(valid_from) AS first_from, max(valid_from) AS last_from, max(valid_to) AS last_to, "
            "count(CASE WHEN valid_to IS NULL THEN 1 END) AS current_versions "
            f"FROM {versions} GROUP BY {history.key}) by_key"
        )
        loads = f"{target.named(runner.HISTORY)}.{history.loads}"
        [(previous,)] = warehouse.rows(f"SELECT max(read_at) FROM {loads} WHERE read_at < {since}")  # noqa: S608
    except DatabaseUndefinedRelation:
        return ChangeCounts(history.kind, instead=f"{versions} has not been built yet.", is_built=False)
    *shown, before = map(int, counts)
    last = warehouse.audit.last_load(BY_NAME[history.raw])
    if last and last.finished_at > as_of:
        return ChangeCounts(history.kind, instead="The marts are older than the last load.", is_built=False)
    if not before:
        instead = f"{shown[0]:,} in the first build of the history. Changes are shown after the next build."
        return ChangeCounts(history.kind, instead=instead)
    return ChangeCounts(history.kind, tuple(shown), as_utc_or_none(previous))


def _row_change(warehouse: Warehouse, table: Table) -> int | None:
    """Return the difference between the row counts after the last two complete loads; None if there are fewer."""
    last = warehouse.audit.rows_after(table, loads=2)
    return last[0] - last[1] if len(last) == 2 else None
