"""One scan, from PropelAuth into its tables."""

import contextlib
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dlt
import pyarrow as pa
from dlt.common.destination.client import WithStagingDataset, WithStateSync
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.destinations.exceptions import DatabaseUndefinedRelation
from dlt.pipeline.exceptions import PipelineStepFailed

from propel_assets.catalog import AUTH_EVENT, tables_of
from propel_assets.errors import ErasureListChanged, PropelError, WarehouseError, find_cause
from propel_assets.privacy.erasure_list import STATE_KEY as ERASURE_LIST_KEY
from propel_assets.privacy.policy import Policy
from propel_assets.privacy.policy_file import load_policy
from propel_assets.privacy.redaction import describe_error
from propel_assets.settings import Settings, Target, require_credentials
from propel_assets.source.change_log import LOGGED
from propel_assets.source.dlt_source import MERGE, SOURCE, propel_auth_source
from propel_assets.source.stream import Progress, ReadOptions, ScanResult
from propel_assets.warehouse.change_log import StoredRows, can_read_again, write_change_log
from propel_assets.warehouse.destinations.policies import policy_of
from propel_assets.warehouse.dlt_compat import load_pipeline_state_from_destination
from propel_assets.warehouse.grades import grade_scan
from propel_assets.warehouse.locks import Log
from propel_assets.warehouse.pipeline import (
    destination_kind,
    empty_bucket,
    has_write_lock,
    load_formats,
    load_lock,
    write_lock,
    writes_plain_files,
)
from propel_assets.warehouse.query import connect, in_batches, placeholders
from propel_assets.warehouse.remedies import remedy_of
from propel_assets.warehouse.retention import remove_old_rows
from propel_assets.warehouse.session import LoadSession, open_session
from propel_assets.warehouse.stored import AuditResumeStore, stored_columns, stored_keys

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
    """Read the tables of ``scan`` and replace them, all or none.

    Args:
        scan: the name of the scan.
        settings: credentials, target and privacy policy.
        options: what to read; None: the default of the scan.
        progress: called with a table, the rows read so far and the rows expected.
        log: receives a message while a lock is waited for.
        session: shared by the loads of a command or run, which makes them faster; None: one for this load.

    Raises:
        PropelError: nothing was replaced; the text says why and what to do.
    """
    settings = require_credentials(settings)
    load_policy(settings.privacy_settings)  # refused before anything is opened
    shared = contextlib.nullcontext(session) if session else open_session(settings.target, log)
    with shared as session:
        load, was_overtaken = _load(scan, settings, session, options or ReadOptions(), progress, log)
        if was_overtaken:
            try:
                _load(AUTH_EVENT.scan, settings, session, ReadOptions(events=()), progress, log)
            except PropelError as error:
                log(f"{NOT_READ_AGAIN.format(scan)} {error}")
    return load


def _load(
    scan: str, settings: Settings, session: LoadSession, options: ReadOptions, progress: Progress, log: Log
) -> tuple[ScanLoad, bool]:
    """Load ``scan``. Return also whether events named rows that the load may have replaced by older ones."""
    target, policy = settings.target, load_policy(settings.privacy_settings)
    started = time.monotonic()
    results: list[ScanResult] = []
    changes: list[dict[str, Any]] = []
    with session.pipeline(log) as pipeline, contextlib.ExitStack() as locks:
        stored = StoredRows(pipeline, target, policy)
        strategies = pipeline.destination.capabilities().supported_merge_strategies or ()
        can_replace_rows = MERGE["strategy"] in strategies
        if options.recent and not can_replace_rows:
            log(f"{settings.destination} cannot replace rows by their key: everything is read.")
            options = replace(options, recent=False)
        if writes_plain_files(target) or (options.events is not None and not can_replace_rows):
            options = replace(options, can_merge=False)
        try:
            locks.enter_context(load_lock(target, pipeline, log))
            if reads_under_lock := options.events is not None or (
                _is_changed_by_events(scan) and not can_read_again(target, policy)
            ):  # no other load may write between these reads and their write
                locks.enter_context(write_lock(target, pipeline, log))
            pipeline.sync_destination()
            erased = _erasure_list(pipeline.state)
            columns = stored_columns(pipeline, target, policy, scan)
            source = propel_auth_source(
                tables=[table.name for table in tables_of(scan)],
                settings=settings,
                options=options,
                resume_store=AuditResumeStore(pipeline, target, policy),
                stored_keys=lambda name: stored_keys(pipeline, target, policy, name),
                stored=stored,
                stored_columns=columns.__getitem__,
                limits=policy_of(destination_kind(target)).limits,
                on_result=results.append,
                on_changes=changes.extend,
                progress=progress,
            )
            if writes_plain_files(target):  # dlt would append what it cannot merge
                for table in tables_of(scan):
                    source.resources[table.name].apply_hints(write_disposition="replace")
            pipeline.extract(source, **load_formats(target))
            if sum(result.rows_read for result in results) >= MANY_ROWS:
                release_memory()
            pipeline.normalize()
            if not reads_under_lock:
                locks.enter_context(write_lock(target, pipeline, log))
                _require_erasure_list(target, pipeline, erased)
            if changes:  # before the rows, so that no change is without its interval after a kill
                write_change_log(pipeline, target, policy, changes)
            for result in results:
                _delete_rows(pipeline, result)
            info = pipeline.load()
            info.raise_on_failed_jobs()
            _clear_staging(pipeline, [result.table_name for result in results if not result.skipped])
            session.finish(info)
        except Exception as error:  # each database's driver has error classes of its own
            raise _load_error(error, scan, settings, results) from None
        has_webhooks = settings.has_webhooks or columns.get(AUTH_EVENT.name)
        if has_webhooks and any(r.mode == "full" and r.table_name in LOGGED for r in results):
            _grade(pipeline, target, policy, info.loads_ids, results, log)
        was_overtaken = _is_changed_by_events(scan) and _is_overtaken(stored, scan, log)
    load_id = info.loads_ids[0] if info.loads_ids else ""
    return ScanLoad(load_id, results, time.monotonic() - started), was_overtaken


def _is_changed_by_events(scan: str) -> bool:
    """Whether events cause rows of ``scan`` to be read again."""
    return any(table.name in LOGGED for table in tables_of(scan))


def _is_overtaken(stored: StoredRows, scan: str, log: Log) -> bool:
    """Whether rows must be read again. The load is complete by now, so an error is only logged."""
    try:
        return bool(stored.overtaken())
    except Exception as error:  # each database's driver has error classes of its own
        log(f"{NOT_READ_AGAIN.format(scan)} Reading auth_event failed: {describe_error(error)}.")
        return False


def _erasure_list(state: Any) -> Any:
    """Return the erasure list in dlt's state; None: no person was erased."""
    return ((state or {}).get("sources", {}).get(SOURCE) or {}).get(ERASURE_LIST_KEY)


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
    if _erasure_list(stored) != used:
        raise ErasureListChanged(
            "A person was erased while this load was reading, and its rows can contain that person. The previous data "
            "is kept. Run the load again."
        )


def _grade(
    pipeline: dlt.Pipeline,
    target: Target,
    policy: Policy,
    load_ids: Sequence[str],
    results: Sequence[ScanResult],
    log: Log,
) -> None:
    """Grade the webhooks by this scan, and remove old audit rows. The load is complete: an error is only logged."""
    try:
        with connect(pipeline, target, policy) as warehouse:
            grade_scan(warehouse, load_ids[0], results)
            remove_old_rows(warehouse, results)
    except Exception as error:  # each database's driver has error classes of its own
        log(
            f"The webhooks were not graded, or old audit rows not removed: {describe_error(error)}. The next full load "
            "repeats it, and compares with an older scan."
        )


def release_memory() -> None:
    """Release the memory of the scan before the database needs it. `source/lists.py` collects garbage rarely.

    In a process with Dagster it takes 0.1 s, which is not worth it after a small scan.
    """
    gc.collect()
    pa.default_memory_pool().release_unused()


def _clear_staging(pipeline: dlt.Pipeline, tables: Sequence[str]) -> None:
    """Empty the staging tables, and the bucket that the warehouse loads from: they contain a copy of personal data.

    dlt's own setting for that would empty the tables of concurrent loads.
    """
    client = pipeline.destination_client()
    if isinstance(client, WithStagingDataset):
        staged = list(filter(client.should_load_data_to_staging_dataset, tables))
        with client if staged else contextlib.nullcontext():
            for name in staged:
                with client.with_staging_dataset(), contextlib.suppress(DatabaseUndefinedRelation):
                    client.initialize_storage(truncate_tables=[name])
    empty_bucket(pipeline, tables)


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
            for some in in_batches(ids):
                client.execute_sql(f"DELETE FROM {table} WHERE {name} IN {placeholders(some)}", *some)  # noqa: S608


def _load_error(error: Exception, scan: str, settings: Settings, results: Sequence[ScanResult]) -> PropelError:
    """Return the `PropelError` inside ``error``, or one that describes it without its text, which may quote rows."""
    cause = find_cause(error)
    if cause is not None:
        return cause
    deletes = any(any(result.deleted.values()) for result in results)  # before the load, so they can be complete
    kept = "No table was replaced." if deletes else "The previous data is kept."
    step = error.step if isinstance(error, PipelineStepFailed) else "opening the destination"
    return WarehouseError(
        f"Loading {scan} into {settings.destination} failed ({step}): {describe_error(error)}. "
        f"{kept} {remedy_of(error)}, and run the load again."
    )
