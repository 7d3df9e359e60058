"""The change log: in which interval each row that was read between full loads has changed.

A row is compared with the stored row before it replaces it. The change was made after the stored row was last read, and
before the new row was. Only tables whose rows events cause to be read again have a log: `propel_changes`.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import pyarrow as pa

from propel_assets.catalog import ORG_MEMBERSHIP, USER_QUERY, Table
from propel_assets.catalog.events import EVENTS, StoredEvent
from propel_assets.privacy.arrow import pc
from propel_assets.source.stream import Mode, RowsToReadAgain

Row = dict[str, Any]
Key = tuple[Any, ...]
LOGGED = EVENTS.applies_to
DELETED = {"user.deleted": "user_id", "org.deleted": "org_id"}
"""The events that report a deletion, with the field of the id. An id is never used again."""


class StoredTables(Protocol):
    """The tables at the destination."""

    def rows(self, table: Table, ids: Sequence[str], column: str = "") -> list[Row]:
        """Return the rows whose ``column``, by default the first one of the key, is one of ``ids``."""
        ...

    def log_state(self) -> tuple[bool, int]:
        """Return whether the change log has rows, and how many loads of events are complete."""
        ...

    def last_read_times(self, table: Table, ids: Sequence[str]) -> dict[str, datetime | None]:
        """Return for each id the latest time after which its stored row was read."""
        ...

    def read_since_full_load(self, table: Table) -> set[str]:
        """Return the ids that the change log has since the last full load of ``table`` began."""
        ...

    def deleted_since_full_load(self, table: Table) -> set[Key]:
        """Return the keys of the rows of ``table`` that loads of events have deleted since its last full load began."""
        ...

    def first_receipt(self, ids: Sequence[str]) -> datetime | None:
        """Return when the first of the messages ``ids`` of `auth_event` was received."""
        ...

    def rows_to_read_again(self) -> RowsToReadAgain:
        """Return the rows that must be read again, because loads were reading when events were applied."""
        ...


@dataclass
class ChangeLog:
    """Collects the rows of the change log of one load.

    ``read_from``: when the first load began that may have replaced rows by older versions; None: there is none.
    ``event_loads``: the complete loads of events when this load began. ``is_kept``: whether the log is written: only
    once there are webhooks.
    """

    stored: StoredTables
    load_id: str
    events: Sequence[StoredEvent] | None
    read_from: datetime | None = None
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Note when the load began to read."""
        self._started_at = datetime.now(UTC)
        has_rows, self.event_loads = self.stored.log_state()
        self.is_kept = self.events is not None or has_rows
        self._users: list[str] = []
        self._compared: dict[str, set[str]] = {}

    def add(self, table: Table, batch: pa.Table, *, is_merged: bool) -> None:
        """Compare a batch of rows, as they will be stored, with the stored rows.

        Of a full load, only the rows that the log has since the last one are compared. If no log is kept, only merged
        memberships are: a merge must not delete more of them than a load may lose.
        """
        if table.name not in LOGGED or not (self.is_kept or is_merged):
            return
        key = table.key[0]
        if not is_merged:
            batch = batch.filter(pc.is_in(batch[key], pa.array(self._read_before(table), pa.string())))
        ids = list(dict.fromkeys(batch[key].to_pylist()))
        if table is ORG_MEMBERSHIP and is_merged:
            ids, self._users = self._users, []  # some have none any more
        elif table is USER_QUERY:
            self._users = ids
        if ids and (self.is_kept or table is ORG_MEMBERSHIP):
            mode: Mode = "full" if not is_merged else "recent" if self.events is None else "events"
            self._compare(table, ids, batch.to_pylist(), mode)

    def _read_before(self, table: Table) -> Collection[str]:
        name = _read_as(table).name
        if name not in self._compared:
            self._compared[name] = self.stored.read_since_full_load(_read_as(table))
        return self._compared[name]

    def _compare(self, table: Table, ids: Sequence[str], new: Iterable[Row], mode: Mode) -> None:
        before = {_key(table, row): row for row in self.stored.rows(table, ids)}
        read_at = self._last_read_times(table, ids)
        after = {_key(table, row): row for row in new}
        for key, row in after.items():
            change = "added" if key not in before else "changed" if _differs(table, before[key], row) else "unchanged"
            if change != "unchanged" or (mode == "events" and table is not ORG_MEMBERSHIP):
                self._append(table, key, change, mode, read_at[key[0]])
        if table is ORG_MEMBERSHIP:
            for key in before.keys() - after.keys():
                self._append(table, key, "deleted", mode, read_at[key[0]])

    def delete(self, table: Table, column: str, ids: Mapping[str, str]) -> None:
        """Note deleted rows. ``ids``: by the id in ``column`` as it is stored, the id as the API has it."""
        if table.name not in LOGGED or not ids:
            return
        reported = self._reported_deletions()
        deleted = {(id_,): id_ for id_ in ids}
        if table is ORG_MEMBERSHIP:  # of deleted users and of deleted orgs
            noted = {_key(table, row) for row in self.rows if row["table_name"] == table.name}
            deleted = {_key(table, row): row[column] for row in self.stored.rows(table, [*ids], column)}
            deleted = {key: id_ for key, id_ in deleted.items() if key not in noted}
        read_at = self._last_read_times(table, [key[0] for key in deleted])
        for key, id_ in deleted.items():
            self._append(table, key, "deleted", "events", read_at[key[0]], reported.get(ids[id_]))

    def deleted_keys(self, table: Table) -> set[Key]:
        """Return the keys of the rows of ``table`` that are noted as deleted."""
        return {_key(table, row) for row in self.rows if row["table_name"] == table.name and row["change"] == "deleted"}

    def _last_read_times(self, table: Table, ids: Sequence[str]) -> dict[str, datetime | None]:
        times = self.stored.last_read_times(_read_as(table), ids)
        read_from = self.read_from
        return {id_: min(at, read_from) if at and read_from else at for id_, at in times.items()}

    def _reported_deletions(self) -> dict[str, datetime]:
        found: dict[str, datetime] = {}
        for event in self.events or ():
            if event.event_type in DELETED:
                id_ = json.loads(event.payload).get(DELETED[event.event_type])
                if isinstance(id_, str):
                    found[id_] = min(event.received_at, found.get(id_, event.received_at))
        return found

    def _append(
        self,
        table: Table,
        key: Key,
        change: str,
        mode: Mode,
        read_at: datetime | None,
        reported: datetime | None = None,
    ) -> None:
        now, names = datetime.now(UTC), dict(zip(table.key, key, strict=True))
        is_change = change != "unchanged"
        self.rows.append(
            {
                "load_id": self.load_id,
                "table_name": table.name,
                "user_id": names.get("user_id"),
                "org_id": names.get("org_id"),
                "change": change,
                "mode": mode,
                "changed_after": read_at if is_change else None,
                "changed_before": (reported or now) if is_change else None,
                "observed_from": self._started_at,
                "observed_to": now,
            }
        )


def _read_as(table: Table) -> Table:
    """Return the table with whose rows those of ``table`` are read."""
    return USER_QUERY if table is ORG_MEMBERSHIP else table


def _key(table: Table, row: Mapping[str, Any]) -> Key:
    return tuple(row[name] for name in table.key)


def _differs(table: Table, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a tracked column has another value."""
    pairs = (
        (column.type, before.get(column.name), after.get(column.name)) for column in table.columns if column.tracked
    )
    return any(old != new and not (kind == "json" and _is_parsed(old, new)) for kind, old, new in pairs)


def _is_parsed(value: Any, text: str | None) -> bool:
    """Whether ``value`` is the JSON ``text``, parsed: some drivers return JSON so."""
    try:
        return text is not None and value == json.loads(text)
    except RecursionError:
        return False
