"""Whether anything has changed at PropelAuth: a few requests, whatever the size of the tenant."""

from dataclasses import dataclass
from typing import Any

import msgspec

from propel_assets.catalog import TABLES, USER_QUERY, Table
from propel_assets.catalog.model import PagedList
from propel_assets.errors import PermanentApiError
from propel_assets.source.client import Client

NOT_ENABLED = -1


@dataclass(frozen=True)
class Changes:
    """The totals of lists, and the newest sign-up and activity in epoch seconds. -1: the feature is not enabled.

    A different total requires a full refresh. ``newest`` changes with every login and requires a recent refresh now and
    then. An edit that changes neither is not detected.
    """

    totals: dict[str, int]
    newest: dict[str, int]

    @property
    def version(self) -> str:
        """The totals as one text."""
        named = {name: "off" if total == NOT_ENABLED else total for name, total in self.totals.items()}
        return " ".join(f"{name}={total}" for name, total in named.items())


def find_changes(client: Client) -> Changes:
    """Return the totals of the lists that signal changes, and the newest sign-up and activity.

    Raises:
        ApiError: PropelAuth cannot be read.
    """
    totals: dict[str, int] = {}
    newest: dict[str, int] = {}
    for table in TABLES:
        if not (isinstance(table.shape, PagedList) and table.shape.signals_changes):
            continue
        order = "CREATED_AT_DESC" if table is USER_QUERY else ""
        total, row = _first(client, table, table.shape.total, order)
        totals[table.shape.total.removeprefix("total_")] = total
        if table is USER_QUERY:
            newest["sign_up"] = row.get("created_at", 0)
            _, row = _first(client, table, table.shape.total, "LAST_ACTIVE_AT_DESC")
            newest["activity"] = row.get("last_active_at", 0)
    return Changes(totals, newest)


def _first(client: Client, table: Table, total: str, order_by: str) -> tuple[int, dict[str, Any]]:
    """Return the total of a list and its first row."""
    params: dict[str, str | int] = {"page_size": 1, "page_number": 0}
    if order_by:
        params["order_by"] = order_by
    try:
        answer = client.get(table.path, msgspec.json.Decoder(dict[str, Any]).decode, params)
    except PermanentApiError as error:
        if table.feature and error.status in table.feature.statuses:
            return NOT_ENABLED, {}
        raise
    rows = answer.get(table.items) or [{}]
    return int(answer.get(total, NOT_ENABLED)), rows[0]
