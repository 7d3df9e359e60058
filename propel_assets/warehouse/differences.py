"""Which rows of a table differ from PropelAuth, and which of them a change since the load explains."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from propel_assets.catalog import PROPEL_CHANGES, PROPEL_SCAN_STATE, Table
from propel_assets.warehouse.audit import LoadRecord
from propel_assets.warehouse.digests import Key, KeyDifference, RowDigests
from propel_assets.warehouse.query import Warehouse, in_batches, placeholders

MAX_DIFFERENCES = 10_000
"""Maximum number of differences listed per table."""


@dataclass
class ComparedTable:
    """One table.

    ``created_since``, ``active_since``: rows of PropelAuth with a greater time changed since the load.
    ``newest_possible``: a stored row with a greater `created_at` cannot be of the load.
    ``added``: the keys of the rows that the change log has as added since the load.
    ``not_loaded``: the keys of rows that the load has not written, as far as `propel_scan_state` shows it.
    ``has_applied_events``: whether loads of events have written the table since the load.
    """

    table: Table
    load: LoadRecord
    kinds: dict[str, str]
    digests: RowDigests
    created_since: float
    active_since: float
    newest_possible: float
    added: Collection[Key] = ()
    not_loaded: Collection[Key] = ()
    has_applied_events: bool = False
    missing_columns: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)
    new_columns: set[str] = field(default_factory=set)

    def differences(self, changed_ids: set[str], new_ids: set[str]) -> Iterator[KeyDifference]:
        """Yield the rows that differ. Rows with one of ``changed_ids`` are changed, with one of ``new_ids`` new."""
        for found in self.digests.differences():
            if found.kind == "extra":
                is_new = found.key in self.not_loaded or (found.is_new and found.key not in self.added)
            else:
                is_new = found.is_new or not new_ids.isdisjoint(found.ids)
            is_changed = found.is_changed or not changed_ids.isdisjoint(found.ids)
            yield found._replace(is_changed=is_changed, is_new=is_new)


@dataclass
class Differing:
    """Rows that differ: how many, and the first `MAX_DIFFERENCES`."""

    number: int = 0
    rows: list[KeyDifference] = field(default_factory=list)

    def add(self, rows: Sequence[KeyDifference], number: int = 1) -> None:
        """Add ``number`` rows, of which ``rows`` are the first."""
        self.number += number
        self.rows += rows[: MAX_DIFFERENCES - len(self.rows)]


@dataclass
class Outcome:
    """How many of the differing rows changed at PropelAuth since the load, and those that no change explains."""

    changed: int = 0
    unexplained: Differing = field(default_factory=Differing)
    note: str = ""


def explain(compared: ComparedTable, changed_ids: set[str], new_ids: set[str]) -> Outcome:
    """Split the rows that differ into those that changed at PropelAuth since the load and the unexplained ones.

    ``changed_ids``: ids that changed since the load. ``new_ids``: ids that are newer than the load.

    The times of an extra row are not trusted. The row counts of the load decide whether it was loaded and then
    deleted at PropelAuth.
    """
    outcome = Outcome()
    newer, named_by_events, unnamed = Differing(), Differing(), Differing()  # extra rows
    min_missing = max_missing = 0  # loaded rows that are missing now: at least, at most
    has_times = "created_at" in compared.kinds
    for found in compared.differences(changed_ids, new_ids):
        if found.kind == "extra":
            (newer if found.is_new else named_by_events if found.is_changed else unnamed).add([found])
            continue
        max_missing += found.kind == "missing" and not found.is_new
        min_missing += found.kind == "missing" and not found.is_changed and has_times
        if found.is_changed:
            outcome.changed += 1
        else:
            outcome.unexplained.add([found])
    outcome.unexplained.add(newer.rows, newer.number)
    counts = _count_not_loaded(compared, newer.number, unnamed.number, min_missing, max_missing)
    for number, extra in zip(counts, (unnamed, named_by_events), strict=True):
        if number <= 0 or not extra.number:
            outcome.changed += extra.number
            continue
        outcome.unexplained.add(extra.rows, extra.number)
        if compared.load.rows_expected is None:
            outcome.note = (
                "the last load read only recent changes: rows that PropelAuth has deleted since the last full load "
                "are extra"
            )
        elif number < extra.number:
            outcome.note = f"{number} of the extra rows were not loaded, the others were deleted at PropelAuth"
    outcome.unexplained.rows.sort(key=lambda row: row.key)
    return outcome


def _count_not_loaded(
    compared: ComparedTable, newer: int, unnamed: int, min_missing: int, max_missing: int
) -> tuple[int, int]:
    """Return how many extra rows the load did not write: of the unnamed ones, and at least of those that events name.

    stored = loaded - missing + added, so added = stored - loaded + missing. `rows_expected` rows were loaded. Between
    ``min_missing`` and ``max_missing`` of them are missing now. ``newer`` of the added rows are newer than the load.
    """
    expected = compared.load.rows_expected
    if expected is None:
        return unnamed, 0
    surplus = compared.digests.count("stored") - expected - newer
    of_unnamed = unnamed if compared.has_applied_events else min(surplus + max_missing, unnamed)
    of_named = surplus + min_missing - len(compared.added) - unnamed
    return of_unnamed, of_named


def _has_logged_key(table: Table) -> bool:
    """Return whether `propel_changes` and `propel_scan_state` can hold keys of ``table``: `user_id` and `org_id`."""
    return {*table.key} <= {"user_id", "org_id"}


def added_since(warehouse: Warehouse, table: Table, load: LoadRecord) -> set[Key]:
    """Return the keys of rows that `propel_changes` records as added since the load began."""
    if not warehouse.columns_of(PROPEL_CHANGES.name) or not _has_logged_key(table):
        return set()
    names = ", ".join(map(warehouse.column, table.key))
    sql = (
        f"SELECT {names} FROM {warehouse.table(PROPEL_CHANGES.name)} "  # noqa: S608 - quoted names
        "WHERE table_name = %s AND change = 'added' AND observed_to >= %s"
    )
    return {tuple(map(str, key)) for key in warehouse.rows(sql, table.name, load.started_at)}


def not_loaded(warehouse: Warehouse, table: Table, load: LoadRecord, keys: Collection[Key]) -> set[Key]:
    """Return those of ``keys`` that are not in `propel_scan_state` of the load; none if it has no state."""
    if not keys or not warehouse.columns_of(PROPEL_SCAN_STATE.name) or not _has_logged_key(table):
        return set()
    state = f"{warehouse.table(PROPEL_SCAN_STATE.name)} WHERE load_id = %s AND table_name = %s"
    is_complete = f"SELECT 1 FROM {state} AND user_id IS NULL AND org_id IS NULL"  # noqa: S608 - quoted names
    if not warehouse.rows(is_complete, load.load_id, table.name, limit=1):
        return set()
    names, found = ", ".join(map(warehouse.column, table.key)), set()
    for ids in in_batches(sorted({key[0] for key in keys})):
        sql = f"SELECT {names} FROM {state} AND {warehouse.column(table.key[0])} IN {placeholders(ids)}"  # noqa: S608
        found |= {tuple(map(str, key)) for key in warehouse.rows(sql, load.load_id, table.name, *ids)}
    return {*keys} - found
