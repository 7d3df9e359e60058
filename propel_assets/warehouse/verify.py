"""Compare the tables in the warehouse with PropelAuth, row by row. Writes nothing.

Each table is read in the warehouse first and then scanned at PropelAuth. Scanned rows pass through the privacy policy,
the erasure list and the column types of a load. Rows are compared by key and by one digest per column, without
`last_active_at`. Rows that changed since the load are only counted. PropelAuth's current row and webhook events show a
change; times in stored rows are not used. All other differing rows are read once more. With a webhook receiver, the
comparison waits for events that explain them.
"""

import itertools
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from math import inf
from typing import Any, Literal

import dlt
import pyarrow as pa

from propel_assets.catalog import (
    AUTH_EVENT,
    BY_NAME,
    ORG_MEMBERSHIP,
    USER_QUERY,
    Table,
    tables_of,
)
from propel_assets.catalog.events import ids_named_by
from propel_assets.catalog.model import Lookup, MetricGrid, PerParent, ReportGrid, Webhooks
from propel_assets.catalog.users import LOOKUPS
from propel_assets.errors import WarehouseError
from propel_assets.privacy.filter import PrivacyFilter
from propel_assets.privacy.policy import VARIANT
from propel_assets.privacy.policy_file import load_policy
from propel_assets.privacy.redaction import describe_key
from propel_assets.settings import Settings
from propel_assets.source.client import Client
from propel_assets.source.convert import nested_rows
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets.source.dlt_source import complete_schema
from propel_assets.source.lists import MAX_SINGLE_READS, get_or_none, request_each
from propel_assets.source.readers import ScanContext, read_scan
from propel_assets.source.readers.per_parent import FLAGGED
from propel_assets.source.readers.users import API_CLOCK_DIFFERENCE, READ_UNTIL
from propel_assets.source.reconcile import Reconciler, merge_types
from propel_assets.source.scan_reader import column_types
from propel_assets.source.stream import Progress, Rows, ScanResult
from propel_assets.warehouse import differences
from propel_assets.warehouse.audit import LoadRecord, as_utc, decode_json
from propel_assets.warehouse.destinations.policies import policy_of
from propel_assets.warehouse.differences import ComparedTable, Outcome, added_since, explain, not_loaded
from propel_assets.warehouse.digests import Key, Kind, RowDigests
from propel_assets.warehouse.folders import working_folder
from propel_assets.warehouse.locks import Log
from propel_assets.warehouse.pipeline import build_pipeline, destination_kind
from propel_assets.warehouse.query import connect, require_database
from propel_assets.warehouse.stored import AuditResumeStore, erasure_list_of

USER_ID, ACTIVITY = "user_id", "last_active_at"
USER_BY_ID = next(table for table in LOOKUPS if table.shape == Lookup("user_id"))
IGNORED = (ACTIVITY, f"{ACTIVITY}{VARIANT}", "num_orgs_subscribed")
"""Columns that are not compared: PropelAuth changes them without an edit of the row."""
NOT_COMPARED: dict[type, str] = {
    Lookup: "its rows come from the configuration of each run",
    ReportGrid: "PropelAuth recomputes reports",
    MetricGrid: "PropelAuth recomputes metrics",
    Webhooks: "its rows are webhook events, which PropelAuth does not list",
}
"""By shape, why a table is not compared."""

EVENT_GRACE_SECONDS = 30.0
"""How long events that can explain a difference are waited for."""
POLL_SECONDS = 1.0
"""Initial pause between two reads of the webhook store. Each pause is 1.5 times as long as the previous one."""

NamedByEvents = Callable[[datetime], Collection[str]]
"""Returns the ids of users, orgs, keys and groups that webhook events since a time name."""


@dataclass(frozen=True)
class Difference:
    """One row that differs, or a column that the warehouse does not have any more.

    ``key``: the id of the row, without personal data. ``columns``: the columns that differ.
    """

    kind: Kind | Literal["missing column"]
    key: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableComparison:
    """What the comparison of one table found.

    Attributes:
        table: the table.
        rows: rows in the warehouse.
        changed: rows that differ because they changed since the load.
        differences: the other rows that differ, at most `MAX_DIFFERENCES`.
        different: how many other rows differ.
        notes: what else is known, such as the reason why the table was not compared.
        is_compared: whether the table was compared.
    """

    table: str
    rows: int = 0
    changed: int = 0
    differences: Sequence[Difference] = ()
    different: int = 0
    notes: Sequence[str] = ()
    is_compared: bool = True


def verify_scan(
    scan: str,
    wanted: Collection[str],
    settings: Settings,
    *,
    named_by_events: NamedByEvents | None = None,
    progress: Progress = lambda *_: None,
    log: Log = lambda _: None,
) -> list[TableComparison]:
    """Compare the tables ``wanted`` of ``scan`` with PropelAuth.

    Args:
        scan: the name of the scan.
        wanted: names of its tables.
        settings: target, privacy policy and credentials (`require_credentials`).
        named_by_events: which ids the events in the webhook store name; None: no webhooks are received.
        progress: called with a table, the rows read so far and the rows expected.
        log: receives a message while a lock or an event is waited for.

    Raises:
        PropelError: the tables could not be compared.
    """
    tables = [table for table in tables_of(scan) if table.name in wanted]
    if reason := NOT_COMPARED.get(type(tables[0].shape)) or _merge_reason(tables[0]):
        return [_not_compared(table, reason) for table in tables]
    with working_folder() as folder:
        pipeline = build_pipeline(settings.target, folder, log)
        require_database(pipeline, settings.target)
        pipeline.sync_destination()
        return _Comparison(scan, tables, settings, pipeline, folder, named_by_events, progress, log).run()


def _merge_reason(table: Table) -> str:
    return "its rows are merged, and PropelAuth's figures change later" if table.load == "merge" else ""


def _not_compared(table: Table, reason: str) -> TableComparison:
    return TableComparison(table.name, notes=(f"not compared: {reason}",), is_compared=False)


@dataclass
class _Comparison:
    """The comparison of the tables of one scan."""

    scan: str
    tables: Sequence[Table]
    settings: Settings
    pipeline: dlt.Pipeline
    folder: str
    named_by_events: NamedByEvents | None
    progress: Progress
    log: Log

    def __post_init__(self) -> None:
        self._policy = load_policy(self.settings.privacy_settings)
        self._connect = partial(connect, self.pipeline, self.settings.target, self._policy)
        self._store = AuditResumeStore(self._connect)
        self._state = self._store.read(self.scan)
        erased = erasure_list_of(self.pipeline.state)
        self._privacy = PrivacyFilter(self.settings.privacy_settings, erased, self._state.privacy)
        self._compared: dict[str, ComparedTable] = {}
        self._changed_ids: set[str] = set()
        self._new_ids: set[str] = set()
        naming = complete_schema().naming
        self._reconciler = Reconciler(
            lambda name: self._stored_columns[name],
            naming.normalize_path,
            max_name_length=naming.max_length,
            limits=policy_of(destination_kind(self.settings.target)).limits,
        )
        self._stored_columns: dict[str, dict[str, str]] = {}

    def run(self) -> list[TableComparison]:
        """Read both sides and return what differs."""
        try:
            reasons = self._read_warehouse()
            if self._compared:
                results = self._read_propelauth()
                reasons |= {r.table_name: r.reason for r in results if r.skipped}
                self._note_verdicts(results)
            for name in reasons:
                if compared := self._compared.pop(name, None):
                    compared.digests.close()
            if self._compared:
                self._explain_by_events()
                if self._wait_for_events():
                    self._explain_by_events()
                self._note_not_loaded()
            return [
                _not_compared(table, reasons[table.name])
                if table.name in reasons
                else self._compare(self._compared[table.name])
                for table in self.tables
            ]
        finally:
            for compared in self._compared.values():
                compared.digests.close()

    # --- the warehouse ---

    def _read_warehouse(self) -> dict[str, str]:
        """Store the digests of the warehouse rows. Return the reason for each table that is not compared."""
        reasons = {}
        with self._connect() as warehouse:
            names = [table.name for table in tables_of(self.scan)]
            self._stored_columns = {
                name: self._as_loads_write(name, stored) for name, stored in warehouse.columns_of_tables(names).items()
            }
            for table in self.tables:
                stored = self._stored_columns[table.name]
                load = warehouse.audit.last_load(table)
                if load is not None and load.rows_read and not stored:
                    raise WarehouseError(
                        f"{table.name} is missing in the warehouse. The last load read {load.rows_read} rows. "
                        "Load the table again."
                    )
                if load is None or not stored:
                    reasons[table.name] = "the table was never loaded"
                elif self._privacy.policy_changed:
                    reasons[table.name] = "the privacy policy has changed since the load. Load the table first"
                else:
                    newest = warehouse.audit.last_load(table, events=True) or load
                    compared = self._prepare(table, load, stored)
                    compared.has_applied_events = newest.load_id != load.load_id
                    compared.added = added_since(warehouse, table, load)
                    written = warehouse.audit.columns_written(table)
                    compared.missing_columns = self._missing_columns(table, stored, written)
                    self._compared[table.name] = compared
            for compared in self._compared.values():
                for batch in warehouse.batches(compared.table.name, compared.kinds):
                    columns = dict(zip(compared.kinds, zip(*batch, strict=True), strict=True))
                    later = _is_later(columns, "created_at", compared.newest_possible)
                    compared.digests.add("stored", columns, [False] * len(later), later)
        return reasons

    def _as_loads_write(self, name: str, stored: Mapping[str, str]) -> dict[str, str]:
        """Return the columns of a table with the types that a load has: JSON, where files have text."""
        known: dict[str, str] = {}
        for schema in (*self.pipeline.schemas.values(), complete_schema()):  # nothing loaded: no schema of the pipeline
            known |= column_types(schema, name)
        merged = merge_types(known, stored)
        return {column: merged[column] for column in stored}

    def _missing_columns(self, table: Table, stored: Mapping[str, str], written: Collection[str]) -> list[str]:
        """Return the columns that are missing: those of the key, and those that loads have written.

        Raises:
            WarehouseError: a column of the primary key is one of them.
        """
        names = [column.name for column in table.columns]
        missing = [name for name in [*names, *sorted({*written} - {*names})] if name in {*table.key, *written}]
        missing = [name for name in missing if name not in stored]
        if keys := [name for name in table.key if name in missing]:
            raise WarehouseError(
                f"{table.name} has no column {' and '.join(keys)} in the warehouse, so its rows cannot be compared. "
                "Load the table again."
            )
        return [name for name in missing if name in names or f"{name}{VARIANT}" not in stored]

    def _prepare(self, table: Table, load: LoadRecord, stored: Mapping[str, str]) -> ComparedTable:
        kinds = {name: kind for name, kind in stored.items() if name not in IGNORED and not name.startswith("_dlt")}
        identifiers = {column.name for column in table.columns if column.privacy == "identifier"}
        digests = RowDigests(self.folder, table.name, table.key, kinds, identifiers)
        # Times of PropelAuth's clock, where the scan has read some.
        by_our_clock = load.started_at.timestamp() - API_CLOCK_DIFFERENCE
        active_since = self._state.cursor.get(READ_UNTIL, by_our_clock)
        created_since = self._state.newest.get(table.name, by_our_clock)
        if table.name == USER_QUERY.name:
            created_since = max(created_since, active_since)
        newest_possible = max(created_since, load.finished_at.timestamp() + API_CLOCK_DIFFERENCE)
        return ComparedTable(table, load, kinds, digests, created_since, active_since, newest_possible)

    def _note_events(self) -> None:
        """Note the ids that webhook events since the load name.

        The webhook store is read first: an event leaves it once it is applied, and is in the warehouse then.
        """
        since = min(compared.load.started_at for compared in self._compared.values())
        named = {*(self.named_by_events(since) if self.named_by_events else ())}
        with self._connect() as warehouse:
            if warehouse.columns_of(AUTH_EVENT.name):
                sql = f"SELECT user_id, org_id, payload FROM {warehouse.table(AUTH_EVENT.name)} WHERE received_at >= %s"  # noqa: S608
                keeps_payload = self._policy.rules[AUTH_EVENT.name]["payload"].action == "keep"
                for user_id, org_id, payload in warehouse.rows(sql, since):
                    ids = ids_named_by(decode_json(payload) or {}) if keeps_payload else ()
                    named |= {*ids} or {*filter(None, [user_id or org_id])}
        self._changed_ids |= {*named, *self._privacy.stored_ids(USER_QUERY.name, USER_ID, named)}

    def _note_not_loaded(self) -> None:
        """Find the extra rows that the load did not write, where `propel_scan_state` has the keys of the load."""
        with self._connect() as warehouse:
            for compared in self._compared.values():
                found = (d for d in compared.differences(set(), set()) if d.kind == "extra")
                keys = {d.key for d in itertools.islice(found, differences.MAX_DIFFERENCES)} - {*compared.added}
                compared.not_loaded = not_loaded(warehouse, compared.table, compared.load, keys)

    # --- PropelAuth ---

    def _changed_since_load(
        self, compared: ComparedTable, columns: Mapping[str, Sequence[Any]]
    ) -> tuple[list[bool], list[bool]]:
        """Return two lists with a value per row of PropelAuth.

        The first: whether the row was created or active since the load. The second: whether it is new in this list
        since the load: created, or expired and therefore moved here.
        """
        now = datetime.now(UTC).timestamp() + API_CLOCK_DIFFERENCE
        expired_since = compared.load.started_at.timestamp() - API_CLOCK_DIFFERENCE
        created = _is_later(columns, "created_at", compared.created_since)
        active = _is_later(columns, ACTIVITY, compared.active_since)
        expired = _is_later(columns, "expires_at", expired_since, now)
        return [*map(any, zip(created, active, strict=True))], [*map(any, zip(created, expired, strict=True))]

    def _read_propelauth(self, only: Mapping[str, Collection[Key]] | None = None) -> list[ScanResult]:
        """Scan and store the digests. ``only``: by table, replace those of these keys and ignore all other rows."""
        context = ScanContext(
            client=Client(self.settings.tenant),
            # A loss must not stop the scan: it is reported. Flagged rows that the load had are not new.
            resume_state=replace(self._state, rows={}, cursor={FLAGGED: self._state.cursor.get(FLAGGED, ())}),
            wanted={*self._compared},
            progress=self.progress,
            resume_state_of=self._store.read,
        )
        results = []
        for name, keys in (only or {}).items():
            self._compared[name].digests.remove("current", keys)
        for item in read_scan(self.scan, context):
            if isinstance(item, ScanResult):
                results.append(item)
            else:
                self._add(item.table, item.data, only)
        return results

    def _note_verdicts(self, results: Iterable[ScanResult]) -> None:
        """Note why a scan is not proved: a row that it missed appears as extra, or is missing on both sides."""
        for result in results:
            if result.verdict == "counted" and result.reason and result.table_name in self._compared:
                self._compared[result.table_name].notes.append(f"the scan is not proved: {result.reason}")

    def _add(self, name: str, data: pa.Table, only: Mapping[str, Collection[Key]] | None) -> None:
        """Add rows as a load would store them."""
        stored = self._reconciler.apply(BY_NAME[name], self._privacy.apply(name, data))
        columns = {column: stored[column].to_pylist() for column in stored.column_names}
        if name == USER_QUERY.name:
            self._note_users(columns)
        compared = self._compared.get(name)
        if compared is None or not len(stored) or (only is not None and name not in only):
            return
        known = {*compared.kinds, *IGNORED, *compared.missing_columns}
        compared.new_columns |= {
            column for column in columns if column not in known and stored[column].null_count < len(stored)
        }
        compared.digests.add(
            "current", columns, *self._changed_since_load(compared, columns), only[name] if only else None
        )

    def _note_users(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Note the ids of users who were active or created since the load, for their memberships."""
        since = self._state.cursor.get(READ_UNTIL)
        for name, ids in (ACTIVITY, self._changed_ids), ("created_at", self._new_ids):
            if since is not None:
                pairs = zip(columns[USER_ID], columns[name], strict=True)
                ids |= {user_id for user_id, at in pairs if at is not None and _seconds(at) > since}

    # --- differences ---

    def _explain_by_events(self) -> None:
        """Read the rows that differ once more, except those that events name."""
        self._note_events()
        self._read_differences_again()
        self._note_events()  # an event can arrive between the read of its row and the read of the store

    def _read_differences_again(self) -> None:
        """Read the rows that differ once more, by single requests where the API has them."""
        keys: dict[str, set[Key]] = {}
        for name, compared in self._compared.items():
            found = (d.key for d in compared.differences(self._changed_ids, self._new_ids) if not d.is_changed)
            keys[name] = {*itertools.islice(found, differences.MAX_DIFFERENCES + 1)}
            if len(keys[name]) > (limit := differences.MAX_DIFFERENCES):
                compared.notes.append(f"more than {limit:,} rows differ. They were not read again")
                keys[name] = set()
        keys = {name: found for name, found in keys.items() if found}
        if not keys:
            return
        ids = sorted({key[0] for found in keys.values() for key in found})
        single = self._single_read()
        if single is None or len(ids) > MAX_SINGLE_READS:
            self._read_propelauth(keys)
            return
        for name, found in keys.items():
            self._compared[name].digests.remove("current", found)
        client = Client(self.settings.tenant)
        for rows in request_each(client, lambda id_: single(client, id_), ids, self.tables[0].name):
            for item in rows:
                self._add(item.table, item.data, keys)

    def _single_read(self) -> Callable[[Client, str], list[Rows]] | None:
        """Return the function that reads the rows of one id; None where the API has no such request."""
        table = self.tables[0]
        if isinstance(table.shape, PerParent) and not self._privacy.hashes(table.name, table.key[0]):
            return partial(_read_one_row, table, table.shape)
        if table.scan == USER_QUERY.scan and not self._privacy.hashes(USER_QUERY.name, USER_ID):
            return partial(_read_one_user, include_orgs=ORG_MEMBERSHIP.name in self._compared)
        return None

    def _wait_for_events(self) -> bool:
        """Wait until events explain all differences, at most `EVENT_GRACE_SECONDS`. Return whether any came."""
        if self.named_by_events is None:
            return False
        unexplained = [self._explain(compared).unexplained for compared in self._compared.values()]
        if any(found.number > len(found.rows) for found in unexplained):
            return False
        rows = [row for found in unexplained for row in found.rows]
        if not rows:
            return False
        self.log(
            f"{self.scan}: {len(rows):,} rows differ. Waiting up to {EVENT_GRACE_SECONDS:g} s for webhook events that "
            "report their changes."
        )
        before, pause, end = len(rows), POLL_SECONDS, time.monotonic() + EVENT_GRACE_SECONDS
        while rows and time.monotonic() < end:
            time.sleep(min(pause, max(0.0, end - time.monotonic())))
            pause *= 1.5
            self._note_events()
            rows = [row for row in rows if self._changed_ids.isdisjoint(row.ids)]
        return len(rows) < before

    def _explain(self, compared: ComparedTable) -> Outcome:
        return explain(compared, self._changed_ids, self._new_ids)

    def _compare(self, compared: ComparedTable) -> TableComparison:
        table, outcome = compared.table, self._explain(compared)
        unexplained = outcome.unexplained
        listed = [Difference("missing column", "", (name,)) for name in compared.missing_columns]
        total = unexplained.number + len(listed)
        listed += [Difference(r.kind, describe_key(table, table.key, r.key), r.columns) for r in unexplained.rows]
        del listed[differences.MAX_DIFFERENCES :]
        notes = [*compared.notes, *filter(None, [outcome.note])]
        if compared.new_columns:
            notes.append(f"fields that are new since the load: {', '.join(sorted(compared.new_columns))}")
        rows = compared.digests.count("stored")
        return TableComparison(table.name, rows, outcome.changed, listed, total, notes)


def _is_later(columns: Mapping[str, Sequence[Any]], name: str, after: float, until: float = inf) -> list[bool]:
    """Return for each row whether its time ``name`` is after ``after`` and not after ``until`` (epoch seconds)."""
    times = columns.get(name, [None] * len(next(iter(columns.values()))))
    return [at is not None and after < _seconds(at) <= until for at in times]


def _read_one_user(client: Client, user_id: str, *, include_orgs: bool) -> list[Rows]:
    """Return the rows of one user in both tables; none for 404."""
    row_type = RowType(USER_QUERY, maps={ORG_MEMBERSHIP.items: RowType(ORG_MEMBERSHIP, constant_columns=("user_id",))})
    params = {"include_orgs": "true" if include_orgs else "false"}
    row = get_or_none(client, USER_BY_ID.path_of(user_id=user_id), PageDecoder(row_type), params)
    if row is None:
        return []
    memberships = nested_rows(row_type, ORG_MEMBERSHIP.items, [row])
    return [Rows(USER_QUERY.name, row_type.to_arrow([row])), Rows(ORG_MEMBERSHIP.name, memberships)]


def _read_one_row(table: Table, shape: PerParent, client: Client, id_: str) -> list[Rows]:
    """Return the row of one parent; none for 404."""
    parameter = BY_NAME[shape.parent].key[0]
    row_type = RowType(table, constant_columns=() if shape.has_key else (parameter,))
    row = get_or_none(client, table.path_of(**{parameter: id_}), PageDecoder(row_type))
    return [] if row is None else [Rows(table.name, row_type.to_arrow([row], {parameter: id_}))]


def _seconds(at: Any) -> float:
    return as_utc(at).timestamp()
