"""Removes rows of the audit tables that loads of events and later checks have written and that nothing reads now.

Events can be loaded every 30 seconds, and each load writes rows. They are removed once two full loads have begun since:
the histories then have their times.
"""

from collections.abc import Sequence
from datetime import datetime

from propel_assets.catalog import AUTH_EVENT, BY_NAME, PROPEL_CHANGES, PROPEL_CHECKS, PROPEL_SCANS, USER_QUERY
from propel_assets.source.change_log import LOGGED
from propel_assets.source.stream import ScanResult
from propel_assets.warehouse.audit import MAX_LOADS
from propel_assets.warehouse.query import FileWarehouse, Warehouse

# The deletion of a user can propose an erasure, which is due later, and shows that the user existed.
NOT_PROPOSED = "NOT (table_name = %s AND change = 'deleted')"
# A row with values in `__v_text` is kept: checks read why they are there.
OLD_SCANS = "table_name = %s AND variants IS NULL AND finished_at < %s"


def remove_old_rows(warehouse: Warehouse, results: Sequence[ScanResult]) -> None:
    """Remove what is older than the full load before that of ``results``. Files have no such rows.

    Of `auth_event`, whose loads are all loads of events, the last `MAX_LOADS` loads are kept, which checks compare.
    """
    full = [r.table_name for r in results if r.mode == "full" and not r.skipped and r.table_name in LOGGED]
    if isinstance(warehouse, FileWarehouse) or not full or not warehouse.columns_of(PROPEL_CHANGES.name):
        return
    scans, changes = warehouse.table(PROPEL_SCANS.name), warehouse.table(PROPEL_CHANGES.name)
    for name in full:
        for before in warehouse.audit.full_load_start_times(BY_NAME[name])[1:2]:
            sql = f"DELETE FROM {changes} WHERE table_name = %s AND observed_to < %s AND {NOT_PROPOSED}"  # noqa: S608
            warehouse.execute(sql, name, before, USER_QUERY.name)
            warehouse.execute(f"DELETE FROM {scans} WHERE mode = 'events' AND {OLD_SCANS}", name, before)  # noqa: S608
            _remove_old_checks(warehouse, name, before, ("load_id", "check_name"))  # their load is the last full load
            ended = warehouse.audit.scan_end_times(AUTH_EVENT)
            if len(ended) == MAX_LOADS:
                oldest = min(before, *ended)
                warehouse.execute(f"DELETE FROM {scans} WHERE {OLD_SCANS}", AUTH_EVENT.name, oldest)  # noqa: S608
                _remove_old_checks(warehouse, AUTH_EVENT.name, oldest, ("check_name",))


def proposes_erasure(warehouse: Warehouse, event: str) -> str:
    """Return the condition that an event (alias ``event``) reports the deletion of a user that `user_query` lacks."""
    return (
        f"{event}.event_type = 'user.deleted' AND {event}.user_id IS NOT NULL AND NOT EXISTS "  # noqa: S608 - quoted
        f"(SELECT 1 FROM {warehouse.table(USER_QUERY.name)} u WHERE u.user_id = {event}.user_id)"
    )


def _remove_old_checks(warehouse: Warehouse, name: str, before: datetime, key: Sequence[str]) -> None:
    """Remove the evaluations of the checks of a table before a time, except for the newest one of each ``key``."""
    if not warehouse.columns_of(PROPEL_CHECKS.name):
        return
    checks, listed = warehouse.table(PROPEL_CHECKS.name), ", ".join(key)
    repeated = (
        f"SELECT {listed}, max(checked_at) FROM {checks} WHERE table_name = %s "  # noqa: S608
        f"GROUP BY {listed} HAVING count(*) > 1 AND min(checked_at) < %s"
    )
    where = " AND ".join(f"{column} = %s" for column in ("table_name", *key))
    for *values, newest in warehouse.rows(repeated, name, before):
        sql = f"DELETE FROM {checks} WHERE {where} AND checked_at < %s AND checked_at < %s"  # noqa: S608
        warehouse.execute(sql, name, *values, newest, before)
