"""What the sandbox has, as rows of the tables: to compare with what a warehouse has."""

import json
from datetime import UTC, datetime
from typing import Any

from propel_assets.catalog import BY_NAME, Table
from propel_assets.sandbox.store import Store

Rows = dict[tuple, dict[str, Any]]
"""Rows by key."""


def truth(store: Store, name: str) -> Rows:
    """Return the rows that a table must have now."""
    with store.lock:
        users = [store.user_object(user_id, include_orgs=True) for user_id in store.users]
        wire = {
            "user_query": users,
            "org_membership": [{"user_id": u["user_id"], **o} for u in users for o in u["org_id_to_org_info"].values()],
            "org_query": [{**org.wire, "created_at": org.created_at} for org in store.orgs.values()],
            "pending_org_invites": store.invites,
        }[name]
        return by_key(BY_NAME[name], [{c.name: row.get(c.name) for c in BY_NAME[name].columns} for row in wire])


def by_key(table: Table, rows: list[dict[str, Any]]) -> Rows:
    """Return rows as the API would show them, by key; refuse a key that stands twice."""
    found = {tuple(row[key] for key in table.key): {c: shown(table, c, row[c]) for c in row} for row in rows}
    assert len(found) == len(rows), "a key stands twice"
    return found


def shown(table: Table, name: str, value: Any) -> Any:
    """Return a value in one form, whatever the destination's: times in UTC, JSON decoded."""
    kinds = {column.name: column.type for column in table.columns}
    kind = kinds.get(name, "json" if name == "new_object" else "text")
    if value is None or kind not in ("timestamp", "json"):
        return value
    if kind == "json":
        return json.loads(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return datetime.fromtimestamp(value, UTC)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
