"""One scan, from PropelAuth into its tables."""

import contextlib
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dlt
import pyarrow as pa
from dlt.common.destination.client import WithStagingDataset, WithStateSync
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.pipeline import LoadInfo
from dlt.destinations.exceptions import DatabaseUndefinedRelation
from dlt.extract import DltSource
from dlt.pipeline.exceptions import PipelineStepFailed

from propel_assets.catalog import AUTH_EVENT, tables_of
from propel_assets.errors import ErasureListChanged, PropelError, causes_of
from propel_assets.privacy.policy import Policy
from propel_assets.privacy.policy_file import load_policy
from propel_assets.privacy.redaction import describe_error
from propel_assets.settings import Settings, Target
from propel_assets.source.change_log import LOGGED
from propel_assets.source.dlt_source import build_source
from propel_assets.source.scan_reader import MERGE, SourceRun
from propel_assets.source.stream import Progress, ReadOptions, ScanResult
from propel_assets.warehouse.change_log import StoredRows, can_read_again, note_write, write_change_log
from propel_assets.warehouse.destinations.policies import policy_of
from propel_assets.warehouse.dlt_compat import load_pipeline_state_from_destination
from propel_assets.warehouse.grades import grade_scan
from propel_assets.warehouse.locks import Log
from propel_assets.warehouse.pipeline import (
    destination_kind,
    has_write_lock,
    load_formats,
    load_lock,
    remove_staged_files,
    write_lock,
    writes_plain_files,
)
from propel_assets.warehouse.query import connect, in_batches, placeholders
from propel_assets.warehouse.remedies import as_propel_error
from propel_assets.warehouse.retention import remove_old_rows
from propel_assets.warehouse.session import LoadSession, open_session
from propel_assets.warehouse.stored import AuditResumeStore, erasure_list_of, stored_columns, stored_keys

MANY_ROWS = 10_000  # worth releasing the memory of
NOT_READ_AGAIN = (
    "Warning: the load of {} is complete, but rows that events named meanwhile could not be read again, so they can be "
    "older than before. The next load of events reads them: propel-assets load auth_event."
)


@dataclass(frozen=True)
class ScanLoad:
    """What one load did. ``seconds`` is wall time, reading included."""

    load_id: str
    results: Sequence[ScanResult]
    seconds: float


def load_scan(
    scan: str,
    settings: Settings,
    *,
    options: ReadOptions | None = None,
    progress: Progress = lambda *_: None,
    log: Log = lambda _: None,
    session: LoadSession | None = None,
) -> ScanLoad:
    """Read the tables of ``scan`` completely, then replace each of them as a whole.

    Args:
        scan: the name of the scan.
        settings: target, privacy policy and credentials (`require_credentials`).
        options: what to read; None: the default of the scan.
        progress: called with a table, the rows read so far and the rows expected.
        log: receives a message while a lock is waited for.
        session: shared by the loads of a command or run, which makes them faster; None: one for this load.

    Raises:
        PropelError: the scan was refused, or the write failed; the text says what is kept and what to do.
        KeyboardInterrupt: the text says what is kept.
    """
    policy = load_policy(settings.privacy_settings)  # refused before anything is opened
    shared = contextlib.nullcontext(session) if session else open_session(settings.target, log)
    with shared as session:
        load, must_read_again = _load(scan, settings, policy, session, options or ReadOptions(), progress, log)
        if must_read_again:
            try:
                events, _ = _load(AUTH_EVENT.scan, settings, policy, session, ReadOptions(events=()), progress, log)
                if any(result.unread for result in events.results):
                    log(NOT_READ_AGAIN.format(scan))
            except PropelError as error:
                log(f"{NOT_READ_AGAIN.format(scan)} {error}")
    return load


def _load(
    scan: str,
    settings: Settings,
    policy: Policy,
    session: LoadSession,
    options: ReadOptions,
    progress: Progress,
    log: Log,
) -> tuple[ScanLoad, bool]:
    """Load ``scan``. Return also whether events named rows that the load may have replaced by older ones."""
    started = time.monotonic()
    with session.pipeline(log) as pipeline, contextlib.ExitStack() as locks:
        load = _Loader(scan, settings, policy, pipeline, options, log)
        try:
            load.read(locks, progress)
            info = load.write()
            session.finish(info)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(load.kept) from None
        except Exception as error:  # each database's driver has error classes of its own
            if any(isinstance(cause, KeyboardInterrupt) for cause in causes_of(error)):  # dlt wraps it
                raise KeyboardInterrupt(load.kept) from None
            step = error.step if isinstance(error, PipelineStepFailed) else "opening the destination"
            attempt = f"Loading {scan} into {settings.destination} failed ({step})"
            raise as_propel_error(error, attempt, load.kept, "run the load again") from None
        load.grade(info)
        must_read_again = load.must_read_again()
    load_id = info.loads_ids[0] if info.loads_ids else ""
    return ScanLoad(load_id, load.results, time.monotonic() - started), must_read_again


class _Loader:
    """One load of one scan: `read`, `write`, and what follows."""

    def __init__(
        self, scan: str, settings: Settings, policy: Policy, pipeline: dlt.Pipeline, options: ReadOptions, log: Log
    ) -> None:
        self._scan, self._settings, self._target, self._policy = scan, settings, settings.target, policy
        self._pipeline, self._log = pipeline, log
        self._options = self._supported(options)
        self._connect = partial(connect, pipeline, self._target, policy)
        self._stored = StoredRows(pipeline, self._target, policy)
        self._columns: dict[str, dict[str, str]] = {}
        self._changes: list[dict[str, Any]] = []
        self.results: list[ScanResult] = []
        self.kept = "The previous data is kept."
        """What an error at this moment leaves in the tables."""

    def _supported(self, options: ReadOptions) -> ReadOptions:
        """Return ``options`` without what the destination does not support."""
        strategies = self._pipeline.destination.capabilities().supported_merge_strategies or ()
        can_replace_rows = MERGE["strategy"] in strategies
        if options.recent and not can_replace_rows:
            self._log(
                f"{self._settings.destination} does not support dlt's merge strategy {MERGE['strategy']}, which recent "
                "loads need: everything is read."
            )
            options = replace(options, recent=False)
        if writes_plain_files(self._target) or (options.events is not None and not can_replace_rows):
            options = replace(options, can_merge=False)
        return options

    @property
    def _is_changed_by_events(self) -> bool:
        """Whether events cause rows of the scan to be read again."""
        return any(table.name in LOGGED for table in tables_of(self._scan))

    def read(self, locks: contextlib.ExitStack, progress: Progress) -> None:
        """Read the scan into files in the working folder, and enter in ``locks`` what the write needs."""
        target, pipeline, log = self._target, self._pipeline, self._log
        locks.enter_context(load_lock(target, pipeline, log))
        reads_under_lock = self._options.events is not None or (
            self._is_changed_by_events and not can_read_again(target, self._policy)
        )
        require_lock = None
        if reads_under_lock:  # no other load may write between these reads and their write
            require_lock = locks.enter_context(write_lock(target, pipeline, log))
        pipeline.sync_destination()
        erased = erasure_list_of(pipeline.state)
        pipeline.extract(self._source(progress), **load_formats(target))
        if sum(result.rows_read for result in self.results) >= MANY_ROWS:
            release_memory()
        pipeline.normalize()
        if require_lock:
            require_lock()  # its connection was idle while the scan read, and may have been closed
        else:
            locks.enter_context(write_lock(target, pipeline, log))
        _require_erasure_list(target, pipeline, erased)

    def _source(self, progress: Progress) -> DltSource:
        self._columns = stored_columns(self._connect, self._pipeline, self._target, self._scan)
        tables = tables_of(self._scan)
        run = SourceRun(
            settings=lambda: self._settings,
            options=self._options,
            resume_store=AuditResumeStore(self._connect),
            stored_keys=partial(stored_keys, self._connect),
            stored=self._stored,
            stored_columns=self._columns.__getitem__,
            limits=policy_of(destination_kind(self._target)).limits,
            on_result=self.results.append,
            on_changes=self._changes.extend,
            progress=progress,
        )
        source = build_source([table.name for table in tables], run)
        if writes_plain_files(self._target):  # dlt would append what it cannot merge
            for table in tables:
                source.resources[table.name].apply_hints(write_disposition="replace")
        return source

    def write(self) -> LoadInfo:
        """Write what was read."""
        if self._changes:  # before the rows, so that no change is without its interval after a kill
            write_change_log(self._connect, self._changes)
        if self._is_changed_by_events and self._options.events is None and can_read_again(self._target, self._policy):
            note_write(self._connect, self._pipeline, self.results)
        self.kept = "Some tables can have been changed."  # they are not one transaction
        for result in self.results:
            _delete_rows(self._pipeline, result)
        info = self._pipeline.load()
        info.raise_on_failed_jobs()
        _clear_staging(self._pipeline, [result.table_name for result in self.results if not result.skipped])
        return info

    def grade(self, info: LoadInfo) -> None:
        """Grade the webhooks by a full scan, and remove old audit rows. Errors are only logged: the load is done."""
        is_full = any(result.mode == "full" and result.table_name in LOGGED for result in self.results)
        if not (is_full and (self._columns.get(AUTH_EVENT.name) or self._settings.has_webhooks)):
            return
        try:
            with self._connect() as warehouse:
                grade_scan(warehouse, info.loads_ids[0], self.results)
                remove_old_rows(warehouse, self.results)
        except Exception as error:  # each database's driver has error classes of its own
            self._log(
                f"The webhooks were not graded, or old audit rows not removed: {describe_error(error)}. The next full "
                "load retries it, and compares with an older scan."
            )

    def must_read_again(self) -> bool:
        """Whether rows must be read again. The load is complete by now, so an error is only logged."""
        if not self._is_changed_by_events:
            return False
        try:
            return bool(self._stored.rows_to_read_again())
        except Exception as error:  # each database's driver has error classes of its own
            self._log(f"{NOT_READ_AGAIN.format(self._scan)} Reading auth_event failed: {describe_error(error)}.")
            return False


def _require_erasure_list(target: Target, pipeline: dlt.Pipeline, used: Any) -> None:
    """Refuse to write rows that were read under another erasure list than the stored one. Holds the write lock.

    Raises:
        ErasureListChanged: a person was erased meanwhile, and the rows can contain them.
    """
    if not has_write_lock(target):
        return
    stored = None
    with pipeline.destination_client() as client, contextlib.suppress(DestinationUndefinedEntity):  # the first load
        if isinstance(client, WithStateSync):
            stored = load_pipeline_state_from_destination(pipeline.pipeline_name, client)
    if erasure_list_of(stored) != used:
        raise ErasureListChanged(
            "A person was erased while this load was reading, and its rows can contain that person. The previous data "
            "is kept. Run the load again."
        )


def release_memory() -> None:
    """Release the memory of the scan before the database needs it. `source/lists.py` collects garbage rarely.

    In a process with Dagster it takes 0.1 s, which is not worth it after a small scan.
    """
    gc.collect()
    pa.default_memory_pool().release_unused()


def _clear_staging(pipeline: dlt.Pipeline, tables: Sequence[str]) -> None:
    """Empty the staging tables, and remove the files that the warehouse loads from: they are copies of personal data.

    dlt's own setting for that would empty the tables of concurrent loads.
    """
    client = pipeline.destination_client()
    if isinstance(client, WithStagingDataset):
        staged = list(filter(client.should_load_data_to_staging_dataset, tables))
        with client if staged else contextlib.nullcontext():
            for name in staged:
                with client.with_staging_dataset(), contextlib.suppress(DatabaseUndefinedRelation):
                    client.initialize_storage(truncate_tables=[name])
    remove_staged_files(pipeline, tables)


def _delete_rows(pipeline: dlt.Pipeline, result: ScanResult) -> None:
    """Delete the rows of users and orgs that have none any more: a merge deletes rows only where it inserts others.

    This comes before the load, which stores the resume state. After a kill in between, they are deleted again.
    """
    if not any(result.deleted.values()):
        return
    with pipeline.sql_client() as client, contextlib.suppress(DatabaseUndefinedRelation):
        table = client.make_qualified_table_name(result.table_name)
        for column, ids in result.deleted.items():
            name = client.escape_column_name(column)
            for batch in in_batches(ids):
                client.execute_sql(f"DELETE FROM {table} WHERE {name} IN {placeholders(batch)}", *batch)  # noqa: S608
