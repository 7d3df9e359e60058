"""One scan, from PropelAuth into its tables."""

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dlt
import pyarrow as pa
from dlt.common.destination.client import WithStagingDataset
from dlt.destinations.exceptions import DatabaseUndefinedRelation
from dlt.pipeline.exceptions import PipelineStepFailed

from propel_assets.catalog import BY_NAME, tables_of
from propel_assets.errors import PropelError, WarehouseError, find_cause
from propel_assets.privacy.policy import Policy
from propel_assets.privacy.policy_file import load_policy
from propel_assets.privacy.redaction import describe_error
from propel_assets.settings import Settings, Target, require_credentials
from propel_assets.source.dlt_source import MERGE, propel_auth_source
from propel_assets.source.stream import Progress, ReadOptions, ResumeState, ScanResult
from propel_assets.warehouse.destinations.policies import policy_of
from propel_assets.warehouse.folders import working_folder
from propel_assets.warehouse.pipeline import (
    build_pipeline,
    destination_kind,
    load_formats,
    load_lock,
    sync_local_pipeline,
    write_lock,
    writes_plain_files,
)
from propel_assets.warehouse.query import connect

ROWS_PER_DELETE = 500


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
    say: Callable[[str], None] = lambda _: None,
) -> ScanLoad:
    """Read the tables of ``scan`` and replace them, all or none. ``say`` is told what is waited for.

    Raises:
        PropelError: nothing was replaced; the text says why and what to do.
    """
    settings = require_credentials(settings)
    target, policy = settings.target, load_policy(settings.privacy_settings)  # refused before anything is opened
    started = time.monotonic()
    results: list[ScanResult] = []
    names = [table.name for table in tables_of(scan)]
    with working_folder() as folder:
        pipeline = build_pipeline(target, folder, say)
        options = options or ReadOptions()
        if options.recent and MERGE["strategy"] not in (pipeline.destination.capabilities().supported_merge_strategies):
            say(f"{settings.destination} cannot replace rows by their key: everything is read.")
            options = replace(options, recent=False)
        if writes_plain_files(target):
            options = replace(options, full_refresh=True)
        try:
            with load_lock(target, pipeline, say):
                pipeline.sync_destination()
                columns = _stored_columns(pipeline, target, policy, names)
                source = propel_auth_source(
                    tables=names,
                    settings=settings,
                    options=options,
                    resume_store=AuditResumeStore(pipeline, target, policy),
                    stored_keys=lambda name: _stored_keys(pipeline, target, policy, name),
                    stored_columns=columns.__getitem__,
                    limits=policy_of(destination_kind(target)).limits,
                    on_result=results.append,
                    progress=progress,
                )
                if writes_plain_files(target):  # dlt would append what it cannot merge
                    for table in tables_of(scan):
                        source.resources[table.name].apply_hints(write_disposition="replace")
                pipeline.extract(source, **load_formats(target))
                release_memory()
                pipeline.normalize()
                with write_lock(target, pipeline, say):
                    for result in results:
                        _delete_emptied(pipeline, result)
                    info = pipeline.load()
                    info.raise_on_failed_jobs()
                    _clear_staging(pipeline, [result.table_name for result in results if not result.skipped])
                sync_local_pipeline(target)
        except Exception as error:  # each database's driver has error classes of its own
            raise _ours(error, scan, settings) from None
    return ScanLoad(info.loads_ids[0] if info.loads_ids else "", results, time.monotonic() - started)


class AuditResumeStore:
    """Reads resume states from `propel_scans`. Each load writes its own with its rows of that table.

    dlt's state is not used: of concurrent loads, the last one to begin stores its state, which can be older than what
    other loads have written; and dlt uses the state with the latest time, even if a clock was wrong.
    """

    def __init__(self, pipeline: dlt.Pipeline, target: Target, policy: Policy) -> None:
        """Read from the warehouse of ``pipeline``."""
        self._connect = partial(connect, pipeline, target, policy)

    def read(self, scan: str) -> ResumeState:
        """Return the resume state of the last complete load of ``scan``."""
        with self._connect() as warehouse:
            stored = warehouse.audit.resume_state(tables_of(scan)[0])
            if not stored:
                return ResumeState(tenant_id=warehouse.audit.last_tenant_id())
        return ResumeState.from_json(stored)

    def write(self, scan: str, state: ResumeState) -> None:
        """Do nothing: ``state`` is in the rows of `propel_scans`, which the load writes."""


def _stored_columns(
    pipeline: dlt.Pipeline, target: Target, policy: Policy, names: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Return the columns that tables have at the destination, with dlt's names of their types."""
    with connect(pipeline, target, policy) as warehouse:
        return {name: warehouse.columns_of(name) for name in names}


def _stored_keys(pipeline: dlt.Pipeline, target: Target, policy: Policy, name: str) -> Iterator[Any]:
    with connect(pipeline, target, policy) as warehouse:
        yield from warehouse.keys(BY_NAME[name])


def release_memory() -> None:
    """Release the memory of the scan before the database needs it. `source/lists.py` collects garbage rarely."""
    gc.collect()
    pa.default_memory_pool().release_unused()


def _clear_staging(pipeline: dlt.Pipeline, tables: Sequence[str]) -> None:
    """Leave no second copy of people's rows, in the staging dataset or the bucket that the warehouse loads from.

    dlt's own way would empty other loads' tables.
    """
    with pipeline.destination_client() as client:
        if isinstance(client, WithStagingDataset):
            for name in filter(client.should_load_data_to_staging_dataset, tables):
                with client.with_staging_dataset(), contextlib.suppress(DatabaseUndefinedRelation):
                    client.initialize_storage(truncate_tables=[name])
    empty_bucket(pipeline, tables)


def empty_bucket(pipeline: dlt.Pipeline, tables: Sequence[str]) -> None:
    """Remove the files of ``tables`` from the bucket that the warehouse loads from, where there is one."""
    if pipeline.staging is not None:
        bucket = dlt.dataset(pipeline.staging, pipeline.dataset_name, pipeline.default_schema).destination_client
        with bucket:
            bucket.initialize_storage(truncate_tables=list(tables))


def _delete_emptied(pipeline: dlt.Pipeline, result: ScanResult) -> None:
    """Delete the rows of users who have none any more: a merge deletes rows only where it inserts others.

    This comes before the load, which stores the resume state. After a kill in between, they are deleted again.
    """
    if not result.emptied:
        return
    with pipeline.sql_client() as client, contextlib.suppress(DatabaseUndefinedRelation):
        for start in range(0, len(result.emptied), ROWS_PER_DELETE):
            some = result.emptied[start : start + ROWS_PER_DELETE]
            places = ", ".join(["%s"] * len(some))
            table = client.make_qualified_table_name(result.table_name)
            client.execute_sql(f"DELETE FROM {table} WHERE user_id IN ({places})", *some)  # noqa: S608 - a quoted name


def _ours(error: Exception, scan: str, settings: Settings) -> PropelError:
    """Return the error of ours inside ``error``, or one that describes it without its text, which may quote rows."""
    cause = find_cause(error)
    if cause is not None:
        return cause
    step = error.step if isinstance(error, PipelineStepFailed) else "opening the destination"
    return WarehouseError(
        f"Loading {scan} into {settings.destination} failed ({step}): {describe_error(error)}. "
        "The previous data is kept. Correct the cause and run the load again."
    )
