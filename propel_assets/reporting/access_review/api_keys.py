"""Reads the API keys of an access review, with their usage."""

from collections.abc import Collection, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from dlt.destinations.exceptions import DatabaseUndefinedRelation

from propel_assets.catalog import END_USER_API_KEY_USAGE, END_USER_API_KEYS
from propel_assets.reporting.access_review.exceptions import DORMANT_DAYS, exceptions_of_key
from propel_assets.reporting.access_review.history import History
from propel_assets.reporting.access_review.model import USAGE_MAX_AGE, ApiKey, UsagePeriod
from propel_assets.warehouse.audit import as_utc, as_utc_or_none
from propel_assets.warehouse.query import timestamp_literal

Users = Mapping[str, Mapping[str, Any]]
"""By user id."""
Memberships = Collection[tuple[str, str]]
"""Ids of a user and an org."""
Usage = tuple[int, int, date]
"""The validations of one API key, the number of days that are loaded, and the first one."""
OPEN_DAYS = 2
"""A load reads the usage of its own day and of the day before, and the next load reads them again."""


class ApiKeyReader:
    """Reads the API keys of one review.

    ``loaded_at``: the load that they are read from. ``has_no_keys``: whether that load had no keys. ``notes``:
    sentences for the review about missing data.
    """

    def __init__(self, history: History) -> None:
        """Read the usage period, up to the end of ``history``."""
        self._history = history
        self.usage_period = self._read_usage_period()
        self.loaded_at: datetime | None = None
        rest = "AND s.verdict <> 'skipped' ORDER BY s.finished_at, s.load_id"
        loads = history.scans("s.finished_at, s.rows_expected", END_USER_API_KEYS.name, rest)
        self.has_no_keys = bool(loads) and loads[-1][1] == 0
        if self.has_no_keys:  # the mart has one row per key, so it has no row of this load
            self.loaded_at = as_utc(loads[-1][0])
        self.notes: list[str] = []

    def read(self, users: Users, memberships: Memberships, org_ids: Collection[str]) -> list[ApiKey]:
        """Return the active keys; ``org_ids``: only those of these orgs; empty: all."""
        if self.has_no_keys:
            return []
        rows, usage = self._active_key_rows(), self._usage()
        keys = [self._api_key(row, users, memberships, usage) for row in rows]
        keys = [key for key in keys if not org_ids or key.org_id in org_ids]
        if unknown := sum(key.validations is None for key in keys):
            self.notes.append(
                f"The usage of {unknown} of {len(keys)} active API keys is not known: it is not loaded for each of the "
                f"{DORMANT_DAYS} days, or the key is newer than the last complete day. Load it at least weekly with "
                "`propel-assets load end_user_api_key_usage --usage-per-key`."
            )
        return keys

    def _active_key_rows(self) -> list[tuple[Any, ...]]:
        keys = f"{self._history.marts}.fct_api_keys"
        until = f"FROM {keys} WHERE day <= DATE '{self._history.as_of}'"
        try:
            [(loaded_at,)] = self._history.rows(f"SELECT max(as_of) {until}")
            rows = self._history.rows(
                "SELECT api_key_id, owner_kind, user_id, org_id, created_at, expires_at "  # noqa: S608 - our names
                f"FROM {keys} WHERE status = 'active' AND day = (SELECT max(day) {until}) ORDER BY api_key_id"
            )
        except DatabaseUndefinedRelation:
            self.notes.append("API keys are not in this review: their mart is not built.")
            return []
        self.loaded_at = as_utc_or_none(loaded_at)
        return rows

    def _api_key(
        self, row: tuple[Any, ...], users: Users, memberships: Memberships, usage: Mapping[str, Usage]
    ) -> ApiKey:
        key_id, owner_kind, user_id, org_id, created_at, expires_at = row
        created, expires, period = as_utc_or_none(created_at), as_utc_or_none(expires_at), self.usage_period
        orphan_reason = self._orphan_reason(user_id, org_id, created, users, memberships)
        day = created.date() if created else None
        usage_from = max(period.first, day or period.first) if period else None
        validations = self._validations(usage.get(key_id), usage_from)
        usage_from = None if validations is None else usage_from
        exceptions = exceptions_of_key(owner_kind, orphan_reason, day, validations, period)
        owner = (owner_kind, user_id or "", org_id or "")
        return ApiKey(key_id, *owner, created, expires, usage_from, validations, exceptions)

    def _orphan_reason(
        self, user_id: str | None, org_id: str | None, created: datetime | None, users: Users, memberships: Memberships
    ) -> str | None:
        """Return why a key has no owner any more, by the histories: the mart is built again after later loads.

        The owner or the membership of a key that is newer than the last full load may be missing in the history.
        """
        if not user_id:
            return None
        is_before_full_load = created is not None and created < self._history.full_load_start
        if (user := users.get(user_id)) is None:
            return "owner_deleted" if is_before_full_load else None
        ended = as_utc_or_none(user["valid_to"])
        if ended and ended <= self._history.observed:
            return "owner_deleted"
        if user["enabled"] is False:
            return "owner_disabled"
        has_left = bool(org_id) and (user_id, org_id) not in memberships
        return "owner_left_org" if has_left and is_before_full_load else None

    def _read_usage_period(self) -> UsagePeriod | None:
        """Return the days up to the last one that no later load reads again, so that the usage never changes."""
        oldest = timestamp_literal(self._history.end - USAGE_MAX_AGE)
        rest = f"AND s.verdict <> 'skipped' AND s.rows_read > 0 AND s.finished_at >= {oldest}"
        loads = self._history.scans("s.started_at, s.finished_at", END_USER_API_KEY_USAGE.name, rest)
        if not loads:
            return None
        started_at, finished_at = max((as_utc(started), as_utc(finished)) for started, finished in loads)
        last = started_at.date() - timedelta(days=OPEN_DAYS)
        return UsagePeriod(last - timedelta(days=DORMANT_DAYS - 1), last, finished_at)

    def _usage(self) -> dict[str, Usage]:
        """Return the usage of each key in the period."""
        if (period := self.usage_period) is None:
            return {}
        try:
            rows = self._history.rows(
                "SELECT api_key_id, sum(validations), count(*), min(day) "  # noqa: S608 - our names
                f"FROM {self._history.marts}.fct_api_key_usage_daily "
                f"WHERE day >= DATE '{period.first}' AND day <= DATE '{period.last}' GROUP BY api_key_id"
            )
        except DatabaseUndefinedRelation:
            return {}
        return {key_id: (int(validations), days, first) for key_id, validations, days, first in rows}

    def _validations(self, usage: Usage | None, usage_from: date | None) -> int | None:
        """Return the validations of a key; None unless each day of the period from ``usage_from`` on is loaded."""
        period = self.usage_period
        if usage is None or period is None or usage_from is None:
            return None
        validations, days, first = usage
        is_complete = first <= usage_from <= period.last and days == (period.last - first).days + 1
        return validations if is_complete else None
