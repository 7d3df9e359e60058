"""One scan, from PropelAuth into its tables."""

import contextlib
import gc
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dlt
import pyarrow as pa
from dlt.common.destination.client import WithStagingDataset
from dlt.destinations.exceptions import DatabaseUndefinedRelation
from dlt.pipeline.exceptions import PipelineStepFailed

from propel_assets.catalog import BY_NAME, tables_of
from propel_assets.errors import PropelError, WarehouseError, find_cause
from propel_assets.privacy.policy_file import load_policy
from propel_assets.privacy.redaction import without_personal_data
from propel_assets.settings import Settings, require_credentials
from propel_assets.source.dlt_source import MERGE, propel_auth_source
from propel_assets.source.lists import Progress, ScanReport
from propel_assets.source.table_reader import ReadOptions
from propel_assets.warehouse.pipeline import (
    build_pipeline,
    formats,
    leave_a_map,
    loading,
    plain_files,
    working_folder,
    writing,
)
from propel_assets.warehouse.query import asking

MAX_ERROR = 500
ROWS_PER_DELETE = 500


@dataclass(frozen=True)
class ScanLoad:
    """What one load did. ``seconds`` is wall time, reading included."""

    load_id: str
    reports: Sequence[ScanReport]
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
    load_policy(settings.privacy_settings)  # refused before anything is opened
    started = time.monotonic()
    reports: list[ScanReport] = []
    names = [table.name for table in tables_of(scan)]
    with working_folder() as folder:
        pipeline = build_pipeline(settings, folder, say)
        options = options or ReadOptions()
        if options.recent and MERGE["strategy"] not in (pipeline.destination.capabilities().supported_merge_strategies):
            say(f"{settings.destination} cannot replace rows by their key: everything is read.")
            options = replace(options, recent=False)
        if plain_files(settings):
            options = replace(options, anew=True)
        try:
            with loading(settings, pipeline, say):
                pipeline.sync_destination()
                source = propel_auth_source(
                    tables=names,
                    settings=settings,
                    options=options,
                    memory=_memory(pipeline, settings, scan),
                    stored_keys=lambda name: _stored_keys(pipeline, settings, name),
                    on_report=reports.append,
                    progress=progress,
                )
                if plain_files(settings):  # dlt would append what it cannot merge
                    for table in tables_of(scan):
                        source.resources[table.name].apply_hints(write_disposition="replace")
                pipeline.extract(source, **formats(settings))
                _give_memory_back()
                pipeline.normalize()
                with writing(settings, pipeline, say):
                    for report in reports:
                        _remove(pipeline, report)
                    info = pipeline.load()
                    info.raise_on_failed_jobs()
                    _clear_staging(pipeline, [report.table_name for report in reports if not report.skipped])
                leave_a_map(settings)
        except Exception as error:  # each database's driver has error classes of its own
            raise _ours(error, scan, settings) from None
    return ScanLoad(info.loads_ids[0] if info.loads_ids else "", reports, time.monotonic() - started)


def _memory(pipeline: dlt.Pipeline, settings: Settings, scan: str) -> dict[str, Any]:
    """Return what the scan has left for its next load. It counts more than dlt's state.

    Of loads that run beside each other the last one to begin leaves its state at the destination, and what it knows of
    other scans may be older than they; and where a clock has once gone wrong, dlt takes that state for the newest.
    """
    with asking(pipeline, settings) as warehouse:
        return warehouse.memory(tables_of(scan)[0])


def _stored_keys(pipeline: dlt.Pipeline, settings: Settings, name: str) -> Iterator[Any]:
    with asking(pipeline, settings) as warehouse:
        yield from warehouse.keys(BY_NAME[name])


def _give_memory_back() -> None:
    """Give back what reading took, before the database asks for more. `lists.py` lets Python look seldom."""
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
    _, bucket = pipeline._get_destination_clients()  # dlt has no public way to it
    if bucket is not None:
        with bucket:
            bucket.initialize_storage(truncate_tables=list(tables))


def _remove(pipeline: dlt.Pipeline, report: ScanReport) -> None:
    """Delete the rows of those who have none any more: a merge deletes nothing without a row to put in its place.

    Before the load, which remembers how far was read: killed in between, they are only deleted twice.
    """
    if not report.emptied:
        return
    with pipeline.sql_client() as client, contextlib.suppress(DatabaseUndefinedRelation):
        for start in range(0, len(report.emptied), ROWS_PER_DELETE):
            some = report.emptied[start : start + ROWS_PER_DELETE]
            places = ", ".join(["%s"] * len(some))
            table = client.make_qualified_table_name(report.table_name)
            client.execute_sql(f"DELETE FROM {table} WHERE user_id IN ({places})", *some)  # noqa: S608 - a quoted name


def _ours(error: Exception, scan: str, settings: Settings) -> PropelError:
    """Return the error of ours inside ``error``, or one that says what dlt could not do, without anybody's data."""
    cause = find_cause(error)
    if cause is not None:
        return cause
    step = error.step if isinstance(error, PipelineStepFailed) else "opening the destination"
    inner = error.exception if isinstance(error, PipelineStepFailed) and error.exception else error
    # Of a traceback its last error: the first line of that, since PostgreSQL goes on with somebody's row.
    raised = re.findall(r"^(?:\w+\.)+[A-Z]\w*: .+$", str(inner), re.MULTILINE)
    text = without_personal_data(raised[-1] if raised else str(inner))
    for secret in (settings.api_key, settings.oauth_token, settings.privacy_key):
        text = text.replace(secret, "<secret>") if secret else text
    return WarehouseError(
        f"Loading {scan} into {settings.destination} failed ({step}): {type(inner).__name__}: {text[:MAX_ERROR]}. "
        "The last good rows are still there. Put right what it names and run again."
    )
