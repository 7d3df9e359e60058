"""PropelAuth as a dlt source. Nothing is requested until a pipeline extracts it.

import dlt
from propel_assets.source import propel_auth_source

dlt.pipeline("propel_auth_pipeline", destination="duckdb", dataset_name="propel_auth_data").run(propel_auth_source())
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import dlt
import pyarrow as pa
from dlt.common.configuration.container import Container
from dlt.common.pipeline import PipelineContext
from dlt.common.schema.typing import TColumnSchema, TTableSchema, TTableSchemaColumns
from dlt.extract import DltResource, DltSource

from propel_assets.catalog import BOOKS, BY_NAME, SCANS, TABLES, Table
from propel_assets.privacy.filter import FINGERPRINT_KEY, HELD_BACK, PrivacyFilter
from propel_assets.settings import Settings, load_settings, require_credentials
from propel_assets.source.client import Client
from propel_assets.source.decode import to_arrow
from propel_assets.source.json_columns import keep_json
from propel_assets.source.lists import Progress, ScanReport
from propel_assets.source.readers import Reader
from propel_assets.source.table_reader import ReadOptions, memory_of, recall

SOURCE = "propel_auth_source"
# How rows read by `recent` are loaded; tables that always merge do so as their destination does best.
MERGE: Any = {"disposition": "merge", "strategy": "delete-insert"}
STRATEGY = "replace_strategy"
SCAN_LOG, CHECK_LOG = BOOKS


class _ExpectedDifference(logging.Filter):
    """Drops dlt's warnings that a json column comes as text and that Arrow is written as JSON Lines: so it is meant."""

    EXPECTED = ("when merging arrow schema with dlt schema", "native writer could not be found")

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False for those warnings."""
        return not any(expected in str(record.msg) for expected in self.EXPECTED)


def propel_auth_source(
    auth_url: str = "",
    api_key: str = "",
    *,
    tables: Sequence[str] | None = None,
    settings: Settings | None = None,
    options: ReadOptions | None = None,
    memory: Mapping[str, Any] | None = None,
    stored_keys: Callable[[str], Iterable[Any]] | None = None,
    on_report: Callable[[ScanReport], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> DltSource:
    """Return every table PropelAuth has, or those named in ``tables``, as a dlt source.

    The auth URL and the key come from the arguments, the environment (`PROPELAUTH_AUTH_URL`, `PROPELAUTH_API_KEY`) or
    dlt's files (`[sources.propel_auth_source]`), when extraction begins. ``on_report`` is called once per table read.
    ``memory`` is what the last load of the scan has written to its books, where that counts more than dlt's state.
    ``stored_keys`` returns the ids that the table of this name has at the destination: a scan that finds older ones
    beside them is repeated. Without it there is no such comparison.

    Raises:
        SettingsError: on extraction, when the URL or the key is missing.
    """
    log = logging.getLogger("dlt")
    if not any(isinstance(known, _ExpectedDifference) for known in log.filters):
        log.addFilter(_ExpectedDifference())
    keep_json()
    _forget_unfinished_load()
    _replace_safely()
    chosen = [t for t in TABLES if (t.default if tables is None else t.name in tables)]

    def resolved() -> Settings:
        return require_credentials(settings or load_settings({"auth_url": auth_url, "api_key": api_key}))

    @dlt.source(schema=complete_schema(), max_table_nesting=0)
    def source() -> Iterator[DltResource]:
        for scan in SCANS:
            if wanted := [table for table in chosen if table.scan == scan]:
                yield from _resources(scan, wanted, resolved, options, memory or {}, stored_keys, on_report, progress)

    return source()


def _resources(
    scan: str,
    tables: Sequence[Table],
    settings: Callable[[], Settings],
    options: ReadOptions | None,
    memory: Mapping[str, Any],
    stored_keys: Callable[[str], Iterable[Any]] | None,
    on_report: Callable[[ScanReport], None],
    progress: Progress,
) -> Iterator[DltResource]:
    """Yield one resource per table of a scan, all fed by one reading of PropelAuth, and one for the scan's reports."""

    @dlt.resource(name=f"{scan}_scan", selected=False)
    def reading() -> Iterator[dict[str, pa.Table]]:
        _replace_safely()
        known, state = settings(), dlt.current.source_state()
        recall(state, memory)
        privacy = PrivacyFilter(known.privacy_settings, state)
        asked = options or ReadOptions()
        if privacy.policy_changed:
            asked = replace(asked, recent=False)

        def count_unknown(name: str, ids: set[str]) -> int:
            # Ids stored under another policy have another form.
            if stored_keys is None or privacy.policy_changed:
                return 0
            return privacy.count_unknown(name, ids, stored_keys(name))

        reader = Reader(Client(known), state, asked, progress, count_unknown)
        merged: set[str] = set()
        for name, rows in reader.read(scan, {table.name for table in tables}):
            if reader.reports[name].recent and name not in merged:
                merged.add(name)
                dlt.current.source().resources[name].apply_hints(write_disposition=MERGE, columns=_merged_by_user(name))
            yield {name: privacy.apply(name, rows)}
        reports = [reader.reports[table.name] for table in tables]
        for report in reports:
            _add_privacy(report, privacy)
            if report.table_name == "org_membership" and not report.recent:  # it comes with the users
                state[FINGERPRINT_KEY] = privacy.fingerprint
            on_report(report)
            if report.skipped:  # dlt would empty the table of a `replace` resource that yields nothing
                dlt.current.source().resources[report.table_name].apply_hints(write_disposition="append")
        yield {SCAN_LOG.name: _as_rows(reports, memory_of(state, scan)), CHECK_LOG.name: to_arrow(CHECK_LOG, ())}

    for table in tables:
        yield reading | _pick(table, table.name)
    for book in BOOKS:
        yield reading | _pick(book, f"{book.name}_of_{scan}")


def _add_privacy(report: ScanReport, privacy: PrivacyFilter) -> None:
    """Take what the privacy filter has removed out of the counts of ``report``."""
    name = report.table_name
    if out := privacy.rows_left_out.get(name):
        report.rows_read -= out
        report.total_min = None if report.total_min is None else report.total_min - out
        report.total_max = None if report.total_max is None else report.total_max - out
        text = f"{out} row{'' if out == 1 else 's'} of erased people left out"
        report.reason = f"{report.reason}; {text}" if report.reason else text
    report.unknown_fields |= dict.fromkeys(privacy.fields_held_back.get(name, ()), HELD_BACK)
    report.emptied = privacy.stored_ids("user_query", report.emptied)


def _forget_unfinished_load() -> None:
    """Drop what a killed run of the active pipeline has left: dlt would go on with it, and can stage its rows twice.

    What counts is at the destination, state too; the run takes it from there and reads everything again.
    """
    if Container()[PipelineContext].is_active():
        pipeline = dlt.current.pipeline()
        if pipeline.has_pending_data and pipeline.schema_names == [SOURCE]:  # nobody else's rows
            pipeline.drop()


def _replace_safely() -> None:
    """Have the running pipeline replace tables through a staging dataset, where nothing else is configured.

    dlt's default empties a table first, and a run that is killed leaves it so. Our own loads configure better ways.
    """
    if not Container()[PipelineContext].is_active():
        return
    pipeline = dlt.current.pipeline()
    if pipeline.destination is None:
        return
    name = pipeline.destination.destination_name
    configured = any(dlt.config.get(f"destination.{of}{STRATEGY}", str) for of in (f"{name}.", ""))
    by_table = pipeline.destination.capabilities().replace_strategies_selector  # files: by their format, no choice
    if not configured and by_table is None:
        dlt.config[f"{pipeline.pipeline_name}.destination.{STRATEGY}"] = "insert-from-staging"


def _pick(table: Table, resource: str) -> DltResource:
    """Return the transformer that takes the batches of ``table`` out of a scan."""

    def pick(batch: dict[str, pa.Table]) -> Iterator[pa.Table]:
        if table.name in batch:
            yield batch[table.name]

    return dlt.transformer(
        pick,
        name=resource,
        table_name=table.name,
        columns=column_hints(table),
        primary_key=list(table.key),
        write_disposition=disposition(table),
    )


def _as_rows(reports: Sequence[ScanReport], memory: Mapping[str, Any]) -> pa.Table:
    of_load = {"load_id": dlt.current.load_package_state()["load_id"], "memory": memory}
    names = [column.name for column in SCAN_LOG.columns]

    def value(report: ScanReport, name: str) -> Any:
        found = of_load[name] if name in of_load else getattr(report, name)
        return int(found.timestamp()) if isinstance(found, datetime) else found or None if name == "reason" else found

    return to_arrow(SCAN_LOG, ({name: value(report, name) for name in names} for report in reports))


def disposition(table: Table) -> Any:
    """Return how dlt loads ``table``. Only the books are appended to, and each of their rows names its load."""
    if table in BOOKS:
        return "append"
    return table.load


def column_hints(table: Table) -> TTableSchemaColumns:
    """Return dlt's hints for the declared columns of ``table``."""
    return {
        column.name: TColumnSchema(
            name=column.name,
            data_type=column.type,
            description=column.description,
            nullable=column.name not in table.key,
        )
        for column in table.columns
    }


def _merged_by_user(name: str) -> TTableSchemaColumns:
    """Return the hints under which all rows of a user are replaced together, those that are gone too."""
    columns: TTableSchemaColumns = {key: TColumnSchema(name=key, primary_key=False) for key in BY_NAME[name].key}
    columns["user_id"]["merge_key"] = True
    return columns


def complete_schema() -> dlt.Schema:
    """Return the schema of every table: loads that run beside each other then all store the same one."""
    schema = dlt.Schema(SOURCE)
    for table in (*TABLES, *BOOKS):
        columns = column_hints(table)
        for name in table.key:
            columns[name]["primary_key"] = True
        known: TTableSchema = {"name": table.name, "columns": columns, "resource": table.name}
        known["write_disposition"] = "append" if table in BOOKS else table.load
        schema.update_table(known)
    return schema
