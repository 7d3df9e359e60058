"""One scan while dlt extracts it: its rows as they are stored, by table, then its rows of the audit tables."""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import dlt
import pyarrow as pa
from dlt.common.schema.typing import TColumnSchema, TTableSchemaColumns

from propel_assets.catalog import AUDIT_TABLES, BY_NAME, ORG_MEMBERSHIP, PROPEL_SCANS, Table, tables_of
from propel_assets.errors import SettingsError
from propel_assets.privacy.erasure_list import STATE_KEY as ERASURE_LIST_KEY
from propel_assets.privacy.filter import HELD_BACK, PrivacyFilter
from propel_assets.settings import Settings, variable_to_set
from propel_assets.source.change_log import LOGGED, ChangeLog, StoredTables
from propel_assets.source.client import Client
from propel_assets.source.decode import to_arrow
from propel_assets.source.readers import ScanContext, read_scan
from propel_assets.source.readers.context import StoredIds
from propel_assets.source.readers.named import refuse_loss
from propel_assets.source.reconcile import ColumnCounts, Reconciler, ValueLimits, merge_types
from propel_assets.source.stream import (
    Progress,
    ReadOptions,
    ResumeState,
    Rows,
    RowsToReadAgain,
    ScanResult,
    join_reasons,
)

# How the rows of a recent scan are loaded: `replace` without rows would empty the table. Tables that always merge use
# the best strategy of their destination.
MERGE: Any = {"disposition": "merge", "strategy": "delete-insert"}
JSON_AS_TEXT = "x-json-as-text"  # a hint of columns that are JSON as text in Arrow tables: `warehouse.json_columns`
RESUME_STATES_KEY = "scans"  # in dlt's source state: the resume state of each scan


class ResumeStore(Protocol):
    """Where the resume states of scans are kept. A run uses exactly one store."""

    def read(self, scan: str) -> ResumeState:
        """Return the resume state that the last complete load of ``scan`` left.

        Without one, return an empty state with the tenant id of the newest load of any scan.
        """
        ...

    def write(self, scan: str, state: ResumeState) -> None:
        """Store ``state`` with the load that is being extracted."""
        ...


class DltResumeStore:
    """Keeps resume states in dlt's source state, which dlt stores at the destination with each load."""

    def __init__(self, state: MutableMapping[str, Any]) -> None:
        """Use the source state ``state``."""
        self._states = state.setdefault(RESUME_STATES_KEY, {})

    def read(self, scan: str) -> ResumeState:
        """Return the stored state of ``scan``."""
        if scan in self._states:
            return ResumeState.from_json(self._states[scan])
        ids = [state["tenant_id"] for state in self._states.values() if state.get("tenant_id")]
        return ResumeState(tenant_id=ids[-1] if ids else "")

    def write(self, scan: str, state: ResumeState) -> None:
        """Store ``state`` as the newest."""
        self._states.pop(scan, None)
        self._states[scan] = state.to_json()


@dataclass(frozen=True)
class SourceRun:
    """How the scans of a source are read, and what of the destination they use.

    Attributes:
        settings: returns all settings with their credentials (`require_credentials`). Called when extraction begins.
        options: options of this run.
        resume_store: where resume states are kept; None: in dlt's source state.
        stored_keys: returns the ids that a table has at the destination. A scan that finds unknown ids older than the
            previous scan is repeated. Without it, there is no such comparison.
        stored: the tables at the destination. Events, and the change log, need it.
        stored_columns: returns the columns that a table has at the destination, with dlt's names of their types.
            Without it, dlt's schema has them. A value that does not fit its column is stored in `<column>__v_text`.
        limits: the values that the destination stores; None: those that every destination stores.
        on_result: called once per table.
        on_changes: called with the rows of the change log, which must be written before those of the load.
        progress: called with the table, the rows so far, and the expected rows.
    """

    settings: Callable[[], Settings]
    options: ReadOptions = field(default_factory=ReadOptions)
    resume_store: ResumeStore | None = None
    stored_keys: Callable[[str], Iterable[Any]] | None = None
    stored: StoredTables | None = None
    stored_columns: Callable[[str], Mapping[str, str]] | None = None
    limits: ValueLimits | None = None
    on_result: Callable[[ScanResult], None] = lambda _: None
    on_changes: Callable[[Sequence[dict[str, Any]]], None] = lambda _: None
    progress: Progress = lambda *_: None


class ScanReader:
    """Reads one scan, and yields its batches by table as dlt loads them."""

    def __init__(self, scan: str, tables: Sequence[Table], run: SourceRun) -> None:
        """Send no request yet. It needs a running extraction."""
        settings, state = run.settings(), dlt.current.source_state()
        self._scan, self._run = scan, run
        self._wanted = {table.name for table in tables}
        self._store = run.resume_store or DltResumeStore(state)
        previous = self._store.read(scan)
        self._privacy = privacy = PrivacyFilter(
            settings.privacy_settings, state.get(ERASURE_LIST_KEY), previous.privacy
        )
        was_restricted = bool(previous.privacy or previous.last_privacy)
        if was_restricted and not privacy.fingerprint and not settings.privacy:
            variable = variable_to_set("privacy", settings.environment)
            raise SettingsError(
                f"The tables of {scan} were loaded with a privacy policy, and {variable} is not set. Nothing was read, "
                "because the default policy stores names and addresses as they are. Set "
                f"{variable} to the policy; or to open, to store them."
            )
        self._reconciler = _reconciler(run)
        self._hinted: dict[str, set[str]] = {}
        self._results: list[ScanResult] = []
        applies_events = run.options.events is not None and run.options.can_merge
        again = run.stored.rows_to_read_again() if run.stored and applies_events else RowsToReadAgain()
        is_logged = run.stored is not None and not self._wanted.isdisjoint(LOGGED)
        self._log = (
            ChangeLog(run.stored, _load_id(), run.options.events, again.read_from) if run.stored and is_logged else None
        )
        self._context = ScanContext(
            client=Client(settings.tenant),
            options=replace(run.options, recent=run.options.recent and not privacy.policy_changed),
            resume_state=previous,
            wanted=self._wanted,
            progress=run.progress,
            resume_state_of=self._store.read,
            stored=StoredIds(privacy, run.stored, run.stored_keys),
            rows_to_read_again=again,
        )

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the scan by table, then an item that keeps each skipped table, then the audit rows."""
        for item in read_scan(self._scan, self._context):
            if isinstance(item, Rows):
                yield {item.table: self._batch(item)}
            elif item.table_name in self._wanted:
                self._add_result(item)
        yield from self._finish()

    def _batch(self, rows: Rows) -> Any:
        """Return rows as they are stored, with hints if they differ from those of the batch before."""
        table = BY_NAME[rows.table]
        batch: Any = self._reconciler.apply(table, self._privacy.apply(table.name, rows.data))
        if self._log:
            self._log.add(table, batch, is_merged=rows.is_recent)
        json_columns = self._reconciler.json_columns(table.name)
        hinted = self._hinted.get(table.name)
        self._hinted[table.name] = json_columns
        if (rows.is_recent and hinted is None) or json_columns - (hinted or set()):
            return dlt.mark.with_hints(batch, _batch_hints(rows, json_columns))
        return batch

    def _add_result(self, result: ScanResult) -> None:
        name = result.table_name
        if self._log and result.mode == "events":
            for column, ids in result.deleted.items():
                by_stored_id = dict(zip(self._privacy.stored_ids(name, column, ids), ids, strict=True))
                self._log.delete(BY_NAME[name], column, by_stored_id)
        self._results.append(_after_privacy(_with_counts(result, self._reconciler), self._privacy))

    def _finish(self) -> Iterator[dict[str, Any]]:
        run, log, results = self._run, self._log, _with_policy(self._results, self._scan, self._privacy)
        if log:
            results = [replace(result, event_loads=log.event_loads) for result in results]
        if log and run.options.events is not None:
            results = [replace(r, rows_deleted=len(log.deleted_keys(BY_NAME[r.table_name]))) for r in results]
        if log and any(r.is_recent for r in results) and (ended := log.deleted_keys(ORG_MEMBERSHIP)):
            in_all = ended | log.stored.deleted_since_full_load(ORG_MEMBERSHIP)
            refuse_loss(self._context, ORG_MEMBERSHIP, len(ended), len(in_all))
        for result in results:
            run.on_result(result)
            if result.skipped:
                yield {result.table_name: _keep_rows()}
        self._store.write(self._scan, results[0].resume_state)
        run.on_changes(log.rows if log and log.is_kept else ())
        yield {**{table.name: to_arrow(table, ()) for table in AUDIT_TABLES}, PROPEL_SCANS.name: _audit_rows(results)}


def _keep_rows() -> Any:
    """Return an item that keeps the rows of a table: dlt empties a table that is replaced by nothing."""
    return dlt.mark.with_hints([], dlt.mark.make_hints(write_disposition="append"))


def _batch_hints(rows: Rows, json_columns: Iterable[str]) -> Any:
    """Return the hints of a batch: its JSON columns that the catalog does not declare, and how it is merged.

    In a recent scan, all rows of a user or an org are replaced together, deleted ones included.
    """
    columns: TTableSchemaColumns = {
        name: with_json_as_text(TColumnSchema(name=name, data_type="json")) for name in json_columns
    }
    if not rows.is_recent:
        return dlt.mark.make_hints(columns=columns)
    columns |= {key: TColumnSchema(name=key, primary_key=False) for key in BY_NAME[rows.table].key}
    columns[BY_NAME[rows.table].key[0]]["merge_key"] = True
    return dlt.mark.make_hints(write_disposition=MERGE, columns=columns)


def column_types(schema: dlt.Schema, table: str) -> dict[str, str]:
    """Return the types of the columns that dlt's ``schema`` has for a table; empty: it does not have the table."""
    columns = schema.tables[table].get("columns", {}) if table in schema.tables else {}
    return {name: str(hints["data_type"]) for name, hints in columns.items() if "data_type" in hints}


def _reconciler(run: SourceRun) -> Reconciler:
    """Return the reconciler of a scan. It needs a running extraction: dlt's schema has the naming convention."""
    schema = dlt.current.source_schema()

    def columns(name: str) -> Mapping[str, str]:
        return merge_types(column_types(schema, name), run.stored_columns(name) if run.stored_columns else {})

    naming = schema.naming
    return Reconciler(columns, naming.normalize_path, max_name_length=naming.max_length, limits=run.limits)


def _with_counts(result: ScanResult, reconciler: Reconciler) -> ScanResult:
    """Return ``result`` with what its batches held, and how they differ from the catalog."""
    counts = reconciler.counts.get(result.table_name, ColumnCounts())
    return replace(
        result,
        unknown_fields=reconciler.describe(BY_NAME[result.table_name]),
        values_read=counts.values,
        variants=counts.variant_rows(),
    )


def _after_privacy(result: ScanResult, privacy: PrivacyFilter) -> ScanResult:
    """Return ``result`` without the rows and values that the privacy filter has removed."""
    removed = privacy.rows_left_out.get(result.table_name, 0)
    reason = f"{removed} row{'' if removed == 1 else 's'} of erased people left out" if removed else ""
    held_back = dict.fromkeys(privacy.fields_held_back.get(result.table_name, ()), HELD_BACK)
    return replace(
        result,
        reason=join_reasons(result.reason, reason),
        rows_read=result.rows_read - removed,
        total_min=None if result.total_min is None else result.total_min - removed,
        total_max=None if result.total_max is None else result.total_max - removed,
        unknown_fields={**result.unknown_fields, **held_back},
        deleted={name: privacy.stored_ids(result.table_name, name, ids) for name, ids in result.deleted.items()},
    )


def _with_policy(results: Sequence[ScanResult], scan: str, privacy: PrivacyFilter) -> list[ScanResult]:
    """Note the privacy policy in the resume state; that of the scan, if all its tables were read in full under it.

    API keys of erased people are removed from the cursor of API key usage.
    """
    state = results[0].resume_state
    state = replace(state, cursor=privacy.without_erased(state.cursor), last_privacy=privacy.fingerprint)
    if len(results) == len(tables_of(scan)) and not any(r.is_recent for r in results):
        state = replace(state, privacy=privacy.fingerprint)
    return [replace(result, resume_state=state) for result in results]


def _load_id() -> str:
    return dlt.current.load_package_state()["load_id"]


def _audit_rows(results: Sequence[ScanResult]) -> pa.Table:
    """Return the rows of `propel_scans` for the load that is being extracted."""
    load_id = _load_id()

    def row(result: ScanResult) -> dict[str, Any]:
        names = (column.name for column in PROPEL_SCANS.columns)
        values = {name: getattr(result, name) for name in names if name != "load_id"}
        return {
            **values,
            "load_id": load_id,
            "reason": result.reason or None,
            "variants": result.variants or None,
            "resume_state": result.resume_state.to_json(),
        }

    return to_arrow(PROPEL_SCANS, map(row, results))


def with_json_as_text(hints: TColumnSchema) -> TColumnSchema:
    """Return ``hints`` with `JSON_AS_TEXT` for a JSON column."""
    if hints.get("data_type") == "json":
        hints[JSON_AS_TEXT] = True  # type: ignore[typeddict-unknown-key]
    return hints
