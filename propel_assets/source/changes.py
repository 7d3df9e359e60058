"""Whether anything has changed at PropelAuth: a few requests, whatever the size of the tenant."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

from propel_assets.catalog import TABLES, USER_QUERY, Table
from propel_assets.catalog.model import PagedList
from propel_assets.errors import PermanentApiError
from propel_assets.source.client import Client

NOT_ENABLED = -1


@dataclass(frozen=True)
class Changes:
    """The totals of lists, and the newest sign-up and activity in epoch seconds. -1: the list cannot be read.

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
            newest["sign_up"] = _time(row.get("created_at"))
            _, row = _first(client, table, table.shape.total, "LAST_ACTIVE_AT_DESC")
            newest["activity"] = _time(row.get("last_active_at"))
    return Changes(totals, newest)


def _first(client: Client, table: Table, total: str, order_by: str) -> tuple[int, dict[str, Any]]:
    """Return the total of a list and its first row."""
    params: dict[str, str | int] = {"page_size": 1, "page_number": 0}
    if order_by:
        params["order_by"] = order_by
    fields = [
        ("total", int, msgspec.field(name=total)),
        ("items", list[dict[str, Any]], msgspec.field(name=table.items)),
    ]
    decode: Any = msgspec.json.Decoder(msgspec.defstruct("Page", fields)).decode
    try:
        answer = client.get(table.path, decode, params)
    except PermanentApiError as error:
        if error.status == HTTPStatus.FORBIDDEN or (table.feature and error.status in table.feature.statuses):
            return NOT_ENABLED, {}  # a load reports what the key may not read
        raise
    return answer.total, next(iter(answer.items), {})


def _time(value: Any) -> int:
    """Return a time in seconds; 0 for no value, or one of another type."""
    return value if isinstance(value, int) else 0
