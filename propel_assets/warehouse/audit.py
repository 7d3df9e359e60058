"""The audit tables: `propel_scans` has a row for each table and load, `propel_checks` for each check."""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from dlt.destinations.exceptions import DatabaseUndefinedRelation

from propel_assets.catalog import PROPEL_SCANS, Table
from propel_assets.privacy.policy import VARIANT

if TYPE_CHECKING:
    from propel_assets.warehouse.query import Warehouse

MAX_LOADS = 200
TIMES = ("started_at", "finished_at")
FUTURE_TOLERANCE = timedelta(hours=1)  # between the clocks of two machines


@dataclass(frozen=True)
class LoadRecord:
    """A load of a table that is complete: its row of `propel_scans`."""

    load_id: str
    verdict: str
    reason: str
    rows_expected: int | None
    rows_read: int
    total_min: int | None
    total_max: int | None
    started_at: datetime
    finished_at: datetime
    unknown_fields: Any
    values_read: Any = None
    requests: int | None = None
    rate_limited: int | None = None


def as_utc(at: datetime | str) -> datetime:
    """Return a time of the warehouse in UTC. SQLite returns text, some destinations no zone, DuckDB the local zone."""
    at = datetime.fromisoformat(at) if isinstance(at, str) else at
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def as_utc_or_none(at: datetime | str | None) -> datetime | None:
    """Return a time as `as_utc` does; None for null."""
    return as_utc(at) if at else None


def decode_json(value: Any) -> Any:
    """Return a JSON value of an audit table. Some destinations return text, and SQLite's text is encoded twice."""
    while isinstance(value, str):
        value = json.loads(value)
    return value


def _latest_time() -> datetime:
    """Return the time after which a time is of the future, written by a wrong clock."""
    return datetime.now(UTC) + FUTURE_TOLERANCE


class Audit:
    """The audit tables of a warehouse."""

    def __init__(self, warehouse: "Warehouse") -> None:
        """Read and write through ``warehouse``."""
        self._warehouse = warehouse

    def last_load(
        self, table: Table, *, skipped: bool = False, events: bool = False, full: bool = False, verdict: str = ""
    ) -> LoadRecord | None:
        """Return the last load that wrote ``table``.

        ``skipped``: also one that kept the previous data. ``events``: also one that read only what events named.
        ``full``: only one that read the whole table. ``verdict``: only one with this verdict.
        """
        stored = self._warehouse.columns_of(PROPEL_SCANS.name)  # an earlier version has fewer columns
        names = [field.name for field in dataclasses.fields(LoadRecord) if field.name in stored]
        if not names:
            return None
        conditions = [f"s.verdict = '{verdict}'"] if verdict else []
        conditions += ["coalesce(s.mode, 'full') = 'full'"] if full else []
        where = " AND ".join(conditions)
        for row in self._loads(table, names, skipped=skipped, events=events, where=where):
            return LoadRecord(**row)
        return None

    def loaded_tables(self) -> set[str]:
        """Return the names of the tables that a load has written."""
        warehouse = self._warehouse
        rows = warehouse.rows(
            f"SELECT DISTINCT s.table_name FROM {warehouse.complete_loads_of(PROPEL_SCANS.name)} "  # noqa: S608
            "WHERE s.verdict <> 'skipped'"
        )
        return {name for (name,) in rows}

    def columns_written(self, table: Table) -> set[str]:
        """Return the columns, variants included, with values that the last full load or a later load wrote."""
        stored = self._warehouse.columns_of(PROPEL_SCANS.name)
        names = [name for name in ("mode", "values_read", "variants") if name in stored]
        found: set[str] = set()
        for row in self._loads(table, names, events=True):
            found |= {name for name, number in (decode_json(row.get("values_read")) or {}).items() if number}
            found |= {variant["column"] + VARIANT for variant in decode_json(row.get("variants")) or ()}
            if row.get("mode") in (None, "full"):
                break
        return found

    def verdicts(self, table: Table, *, loads: int) -> list[tuple[datetime, str]]:
        """Return the time and the verdict of the last loads, the newest first, skipped ones included."""
        found = self._loads(table, ["finished_at", "verdict"], skipped=True)
        return [(row["finished_at"], row["verdict"]) for row in found][:loads]

    def rows_read(self, table: Table, *, loads: int) -> list[int]:
        """Return the numbers of rows that the last loads read, the newest first; only loads of the newest mode."""
        found = self._loads(table, ["mode", "rows_read"])
        return [int(row["rows_read"]) for row in found if row["mode"] == found[0]["mode"]][:loads]

    def rows_after(self, table: Table, *, loads: int) -> list[int]:
        """Return the numbers of rows after the last loads, the newest first. Merges do not record them."""
        found = self._loads(table, ["rows_expected"])
        return [int(row["rows_expected"]) for row in found if row["rows_expected"] is not None][:loads]

    def full_load_start_times(self, table: Table) -> list[datetime]:
        """Return when the full loads of ``table`` began to read, the newest first, without times of the future."""
        times = [row["started_at"] for row in self._loads(table, ["started_at"], where="s.mode = 'full'")]
        return [at for at in times if at <= _latest_time()]

    def scan_end_times(self, table: Table) -> list[datetime]:
        """Return when the last `MAX_LOADS` scans of ``table`` ended, the newest first, skipped ones included."""
        return [row["finished_at"] for row in self._loads(table, ["finished_at"], skipped=True, events=True)]

    def variant_reasons(self, table: Table) -> dict[str, set[str]]:
        """Return why values are in the variant of each column, by the newest load that stored some there."""
        found: dict[str, set[str]] = {}
        if "variants" not in self._warehouse.columns_of(PROPEL_SCANS.name):
            return found
        for row in self._loads(table, ["variants"], events=True, where="s.variants IS NOT NULL"):
            reasons: dict[str, set[str]] = {}
            for variant in decode_json(row["variants"]) or ():
                reasons.setdefault(variant["column"], set()).add(variant["reason"])
            found = reasons | found
        return found

    def last_tenant_id(self) -> str:
        """Return the tenant id of the last load of any table; empty: there is none."""
        return str(self.resume_state(None).get("tenant_id", ""))

    def resume_state(self, table: Table | None) -> dict[str, Any]:
        """Return the resume state of the last load of ``table``; None: of any table. Empty: there is none."""
        if "resume_state" not in self._warehouse.columns_of(PROPEL_SCANS.name):
            return {}
        for row in self._loads(table, ["resume_state"], skipped=True):
            return decode_json(row["resume_state"]) or {}
        return {}

    def _loads(
        self,
        table: Table | None,
        columns: Sequence[str],
        *,
        skipped: bool = False,
        events: bool = False,
        where: str = "",
    ) -> list[dict[str, Any]]:
        """Return ``columns`` of `propel_scans` for the complete loads of ``table``, or of all, the newest first.

        Loads with a time in the future come last. A wrong clock wrote them, and they would be the newest for years.
        """
        warehouse = self._warehouse
        selected = list(dict.fromkeys([*columns, "finished_at"]))
        conditions = [] if skipped else ["s.verdict <> 'skipped'"]
        conditions += [] if events else ["coalesce(s.mode, 'full') <> 'events'"]
        conditions += ["s.table_name = %s"] if table else []
        conditions += [where] if where else []
        where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
        sql = (
            f"SELECT {', '.join(f's.{name}' for name in selected)} "  # noqa: S608
            f"FROM {warehouse.complete_loads_of(PROPEL_SCANS.name)} {where}"
            f"ORDER BY {warehouse.load_order} DESC, s.load_id DESC"
        )
        names = [table.name] if table else []
        found: list[dict[str, Any]] = []
        with contextlib.suppress(DatabaseUndefinedRelation):
            found = [dict(zip(selected, row, strict=True)) for row in warehouse.rows(sql, *names, limit=MAX_LOADS)]
        for row in found:
            row.update({name: as_utc(row[name]) for name in TIMES if name in row})
        latest = _latest_time()
        found.sort(key=lambda row: row["finished_at"] > latest)
        return [{name: row[name] for name in columns} for row in found]
