"""The change log at the destination: what it has of the rows that a load reads, and how it is written."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dlt

from propel_assets.catalog import PROPEL_CHANGES, PROPEL_SCANS, Table
from propel_assets.privacy.policy import Policy
from propel_assets.settings import Target
from propel_assets.warehouse.query import Warehouse, connect

IDS_PER_QUERY = 500


class StoredRows:
    """The stored tables, as the change log of a load compares them. Implements `StoredTables`."""

    def __init__(self, pipeline: dlt.Pipeline, target: Target, policy: Policy) -> None:
        """Query nothing yet."""
        self._arguments = pipeline, target, policy

    def rows(self, table: Table, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows whose first key column is one of ``ids``."""
        with connect(*self._arguments) as warehouse:
            return warehouse.rows_of_keys(table, ids)

    def has_change_log(self) -> bool:
        """Whether the change log has rows."""
        with connect(*self._arguments) as warehouse:
            sql = f"SELECT 1 FROM {warehouse.table(PROPEL_CHANGES.name)}"  # noqa: S608 - a quoted name
            return _has_log(warehouse) and bool(warehouse.rows(sql, limit=1))

    def observed(self, table: Table, ids: Sequence[str]) -> dict[str, datetime | None]:
        """Return for each id the latest time after which its stored row was read, by a load that is complete."""
        with connect(*self._arguments) as warehouse:
            full = _last_full_load(warehouse, table)[0]
            found: dict[str, datetime | None] = dict.fromkeys(ids, full)
            for start in range(0, len(ids) if _has_log(warehouse) else 0, IDS_PER_QUERY):
                some = ids[start : start + IDS_PER_QUERY]
                key = warehouse.column(table.key[0])
                sql = (
                    f"SELECT c.{key}, max(c.observed_from) FROM {warehouse.table(PROPEL_CHANGES.name)} c "  # noqa: S608
                    f"JOIN {warehouse.table('_dlt_loads')} l ON l.load_id = c.load_id AND l.status = 0 "
                    f"WHERE c.table_name = %s AND c.{key} IN ({', '.join(['%s'] * len(some))}) GROUP BY c.{key}"
                )
                for id_, at in warehouse.rows(sql, table.name, *some):
                    times = [time for time in (full, _time(at)) if time is not None]
                    found[id_] = max(times)
        return found

    def read_since_full_load(self, table: Table) -> set[str]:
        """Return the ids that the change log has since the last full load of ``table`` began."""
        with connect(*self._arguments) as warehouse:
            began = _last_full_load(warehouse, table)[0]
            if began is None or not _has_log(warehouse):
                return set()
            sql = (
                f"SELECT DISTINCT {warehouse.column(table.key[0])} FROM "  # noqa: S608 - quoted names
                f"{warehouse.table(PROPEL_CHANGES.name)} WHERE table_name = %s AND observed_to >= %s"
            )
            return {id_ for (id_,) in warehouse.rows(sql, table.name, began)}

    def overtaken(self, table: Table) -> list[str]:
        """Return the ids that were read while the last full load of ``table`` ran, whose rows may be the older ones.

        On PostgreSQL, events are applied beside a full load, which can have read a row before and written it after.
        """
        with connect(*self._arguments) as warehouse:
            return overtaken(warehouse, table)


def overtaken(warehouse: Warehouse, table: Table) -> list[str]:
    """Return the ids that were read while the last full load of ``table`` ran, and not since."""
    began, ended = _last_full_load(warehouse, table)
    if began is None or ended is None or not _has_log(warehouse):
        return []
    key = warehouse.column(table.key[0])
    sql = (
        f"SELECT {key} FROM {warehouse.table(PROPEL_CHANGES.name)} "  # noqa: S608 - quoted names
        f"WHERE table_name = %s AND mode <> 'full' AND observed_to >= %s GROUP BY {key} HAVING max(observed_from) <= %s"
    )
    return [id_ for (id_,) in warehouse.rows(sql, table.name, began, ended)]


def write_change_log(pipeline: dlt.Pipeline, target: Target, policy: Policy, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to the change log. The first load of a version without one creates it, and logs nothing."""
    with connect(pipeline, target, policy) as warehouse:
        if _has_log(warehouse):
            warehouse.insert(PROPEL_CHANGES, rows)


def _has_log(warehouse: Warehouse) -> bool:
    return bool(warehouse.columns_of(PROPEL_CHANGES.name))


def _last_full_load(warehouse: Warehouse, table: Table) -> tuple[datetime | None, datetime | None]:
    """Return when the last full load of ``table`` began to read, and when it was complete."""
    if not warehouse.columns_of(PROPEL_SCANS.name):
        return None, None
    sql = (
        f"SELECT s.started_at, {warehouse.load_time} FROM {warehouse.table(PROPEL_SCANS.name)} s "  # noqa: S608
        f"JOIN {warehouse.table('_dlt_loads')} l ON l.load_id = s.load_id AND l.status = 0 "
        f"WHERE s.table_name = %s AND s.mode = 'full' AND s.verdict <> 'skipped' "
        f"ORDER BY {warehouse.load_time} DESC, s.load_id DESC"
    )
    for began, ended in warehouse.rows(sql, table.name, limit=1):
        return _time(began), _time(ended)
    return None, None


def _time(value: Any) -> datetime:
    """Return a time with its zone. Some destinations return text, or no zone."""
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return at if at.tzinfo else at.replace(tzinfo=UTC)
