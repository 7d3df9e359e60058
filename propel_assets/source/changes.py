"""Whether anything has changed at PropelAuth, in five requests, whatever its size."""

from dataclasses import dataclass
from typing import Any

import msgspec

from propel_assets.catalog import BY_NAME
from propel_assets.errors import PermanentApiError
from propel_assets.source.client import Client

OFF = -1


@dataclass(frozen=True)
class Changes:
    """What was counted, and the newest sign-up and activity in epoch seconds. -1: the feature is off.

    Totals that differ ask for a full refresh. ``newest`` changes with every login: it asks for what changed, now and
    then. An edit that leaves all of them alone is not seen.
    """

    totals: dict[str, int]
    newest: dict[str, int]

    @property
    def version(self) -> str:
        """The totals as one string."""
        return " ".join(f"{name}={'off' if total == OFF else total}" for name, total in self.totals.items())


def look_for_changes(client: Client) -> Changes:
    """Ask for the totals and for the newest user and activity.

    Raises:
        ApiError: PropelAuth cannot be read.
    """
    by_signup = _first(client, "user_query", "total_users", "CREATED_AT_DESC")
    by_activity = _first(client, "user_query", "total_users", "LAST_ACTIVE_AT_DESC")
    totals = {
        "users": by_signup[0],
        "orgs": _first(client, "org_query", "total_orgs")[0],
        "invites": _first(client, "pending_org_invites", "total_invites")[0],
        "api_keys": _first(client, "end_user_api_keys", "total_api_keys")[0],
    }
    newest = {
        "sign_up": by_signup[1].get("created_at", 0),
        "activity": by_activity[1].get("last_active_at", 0),
    }
    return Changes(totals, newest)


def _first(client: Client, name: str, total: str, order_by: str = "") -> tuple[int, dict[str, Any]]:
    """Return the total of a list and its first row."""
    table = BY_NAME[name]
    params: dict[str, str | int] = {"page_size": 1, "page_number": 0}
    if order_by:
        params["order_by"] = order_by
    try:
        answer = client.get(table.path, msgspec.json.Decoder(dict[str, Any]).decode, params)
    except PermanentApiError as error:
        if table.feature and error.status in table.feature.statuses:
            return OFF, {}
        raise
    rows = answer.get(table.items) or [{}]
    return int(answer.get(total, OFF)), rows[0]
