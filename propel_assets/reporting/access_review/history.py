"""The history that an access review reads: its loads of users, and the intervals between them."""

from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from itertools import accumulate
from typing import Any

from propel_assets.catalog import PROPEL_SCANS, USER_QUERY
from propel_assets.errors import WarehouseError
from propel_assets.marts.runner import HISTORY, MARTS
from propel_assets.reporting.access_review.model import ONE_DAY, Interval
from propel_assets.settings import Target
from propel_assets.warehouse.audit import as_utc, as_utc_or_none, decode_json
from propel_assets.warehouse.query import Warehouse, timestamp_literal


class History:
    """The histories and marts of ``target``, up to the end of the day ``as_of`` (UTC).

    ``histories``, ``marts``: their schemas. ``end``: the end of the day. ``loads``: the times of the loads of users,
    also of later ones. ``observed``: the last one before ``end``. ``full_load_start``: the start of the last full load
    up to it. ``is_activity_known``: whether that load has times of activity.
    """

    def __init__(self, warehouse: Warehouse, target: Target, as_of: date) -> None:
        """Read the loads of users.

        Raises:
            WarehouseError: there is none up to the end of the day.
        """
        self._warehouse, self.as_of = warehouse, as_of
        self.histories, self.marts = target.named(HISTORY), target.named(MARTS)
        self.end = datetime.combine(as_of + ONE_DAY, time(), UTC)
        rows = self.rows(f"SELECT read_at, full_load_started_at FROM {self.histories}.user_loads")  # noqa: S608
        starts = sorted((as_utc(read_at), as_utc_or_none(started) or as_utc(read_at)) for read_at, started in rows)
        self.loads = [read_at for read_at, _ in starts]
        # By load: the latest start of a full load up to it.
        self._full_load_starts = [*accumulate((started for _, started in starts), max)]
        loads_until_end = bisect_left(self.loads, self.end)
        if not loads_until_end:
            first = f"The first load is of {self.loads[0]:%Y-%m-%d}." if self.loads else "The history has no load."
            raise WarehouseError(f"The history has no load of users up to the end of {as_of} (UTC). {first}")
        self.observed = self.loads[loads_until_end - 1]
        self.full_load_start = self._full_load_starts[loads_until_end - 1]
        self.is_activity_known = self._has_activity()

    def interval(self, seen_at: datetime) -> Interval:
        """Return the interval of a change that the load at ``seen_at`` showed: from the start of the full load before.

        The narrower intervals of the histories cannot be used: each is that of a version's last change, which can be a
        different one.
        """
        before = bisect_left(self.loads, seen_at)
        return Interval(self._full_load_starts[before - 1] if before else None, seen_at)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of ``sql``."""
        return self._warehouse.rows(sql)

    def scans(self, columns: str, table: str, rest: str, *, limit: int | None = None) -> Sequence[tuple[Any, ...]]:
        """Return columns of the complete scans of ``table`` that finished before the end of the day."""
        return self._warehouse.rows(
            f"SELECT {columns} FROM {self._warehouse.complete_loads_of(PROPEL_SCANS.name)} "  # noqa: S608 - our names
            f"WHERE s.table_name = %s AND s.finished_at < {timestamp_literal(self.end)} {rest}",
            table,
            limit=limit,
        )

    def tenant_id(self) -> str:
        """Return the tenant of the last load of users up to ``observed``. A later load can be of another one."""
        state = self._last_users_load("resume_state", "s.resume_state IS NOT NULL") or {}
        return str(state.get("tenant_id", ""))

    def _has_activity(self) -> bool:
        """Return whether the last full load of users up to ``observed`` has times of activity.

        An erasure clears `values_read`. Then the mart is read: it has activity on days other than sign-ups.
        """
        values = self._last_users_load("values_read", "coalesce(s.mode, 'full') = 'full'")
        if values is not None:
            return bool(values.get("last_active_at"))
        days = f"FROM {self.marts}.fct_user_activity_daily WHERE observed_at <= {timestamp_literal(self.observed)}"
        return bool(self.rows(f"SELECT 1 {days} AND NOT is_signup_day LIMIT 1"))

    def _last_users_load(self, column: str, condition: str) -> dict[str, Any] | None:
        """Return a JSON column of `propel_scans` for the last load of users up to ``observed``; None: no value."""
        rest = (
            f"AND {condition} AND s.verdict <> 'skipped' AND s.finished_at <= {timestamp_literal(self.observed)} "
            "ORDER BY s.finished_at DESC, s.load_id DESC"
        )
        rows = self.scans(f"s.{column}", USER_QUERY.name, rest, limit=1)
        return decode_json(rows[0][0]) if rows else None
