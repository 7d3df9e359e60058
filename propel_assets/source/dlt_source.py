"""PropelAuth as a dlt source. Nothing is requested until a pipeline extracts it, and no global setting is changed.

import dlt
from propel_assets.source import propel_auth_source

dlt.pipeline("propel_auth_pipeline", destination="duckdb", dataset_name="propel_auth_data").run(propel_auth_source())

Two defaults of dlt are not safe for a plain pipeline like this one: a table is emptied before it is replaced, and after
a kill dlt continues with the unfinished load. `propel_assets.warehouse.plain_pipeline.prepare` changes both for one
pipeline; docs/ways.md has the settings. The commands and assets of this project do not need it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import dlt
from dlt.common.schema.typing import TColumnSchema, TTableSchema, TTableSchemaColumns
from dlt.extract import DltResource, DltSource

from propel_assets.catalog import (
    AUDIT_TABLES,
    BY_NAME,
    SCANS,
    TABLES,
    Table,
    describe_unknown_table,
    tables_of,
    tables_written_by,
)
from propel_assets.errors import SettingsError
from propel_assets.settings import Settings, load_settings, require_credentials
from propel_assets.source.scan_reader import MERGE, ScanReader, SourceRun, with_json_as_text

SOURCE = "propel_auth_source"


def propel_auth_source(
    auth_url: str = "", api_key: str = "", *, tables: Sequence[str] | None = None, settings: Settings | None = None
) -> DltSource:
    """Return the default tables, or those named in ``tables``, as a dlt source.

    When extraction begins, the auth URL and the key are taken from the arguments, the environment variables
    `PROPELAUTH_AUTH_URL` and `PROPELAUTH_API_KEY`, or dlt's files (`[sources.propel_auth_source]`).

    Args:
        auth_url: the auth URL of the environment.
        api_key: a backend integration key.
        tables: names of tables.
        settings: all settings with their credentials (`require_credentials`), instead of ``auth_url`` and ``api_key``.

    Raises:
        SettingsError: a name in ``tables`` is not that of a table. On extraction: the URL or the key is missing.
    """
    overrides = {"auth_url": auth_url, "api_key": api_key}
    return build_source(tables, SourceRun(lambda: settings or require_credentials(load_settings(overrides))))


def build_source(tables: Sequence[str] | None, run: SourceRun) -> DltSource:
    """Return the tables that `propel_auth_source` returns, read as ``run`` states."""
    for name in tables or ():
        if name not in BY_NAME:
            raise SettingsError(describe_unknown_table(name))
    chosen = [table for table in TABLES if (table.default if tables is None else table.name in tables)]

    @dlt.source(schema=complete_schema(), max_table_nesting=0)
    def source() -> Iterator[DltResource]:
        for scan in SCANS:
            if wanted := [table for table in chosen if table.scan == scan]:
                yield from _resources(scan, wanted, run)

    return source()


def _resources(scan: str, tables: Sequence[Table], run: SourceRun) -> Iterator[DltResource]:
    """Yield one resource per table of a scan, and one per audit table. One scan feeds all of them."""
    merged = tables_written_by(scan)[len(tables_of(scan)) :]

    @dlt.resource(name=f"{scan}_scan", selected=False)
    def batches() -> Iterator[dict[str, Any]]:
        yield from ScanReader(scan, (*tables, *merged), run).read()

    for table in tables:
        yield batches | _pick(table, table.name)
    for table in merged:
        yield batches | _pick(table, f"{table.name}_of_{scan}", MERGE)
    for table in AUDIT_TABLES:
        yield batches | _pick(table, f"{table.name}_of_{scan}")


def _pick(table: Table, resource: str, write_disposition: Any = None) -> DltResource:
    """Return the transformer that takes the batches of ``table`` out of a scan."""

    def pick(batch: dict[str, Any]) -> Iterator[Any]:
        if table.name in batch:
            yield batch[table.name]

    return dlt.transformer(
        pick,
        name=resource,
        table_name=table.name,
        columns=column_hints(table),
        primary_key=list(table.key),
        write_disposition=write_disposition or disposition(table),
    )


def disposition(table: Table) -> Any:
    """Return how dlt loads ``table``. Rows are appended to the audit tables; each names its load."""
    return "append" if table in AUDIT_TABLES else table.load


def column_hints(table: Table) -> TTableSchemaColumns:
    """Return dlt's hints for the declared columns of ``table``."""
    return {
        column.name: with_json_as_text(
            TColumnSchema(
                name=column.name,
                data_type=column.type,
                description=column.description,
                nullable=column.name not in table.key,
            )
        )
        for column in table.columns
    }


def complete_schema() -> dlt.Schema:
    """Return the schema of every table, so that concurrent loads store the same one."""
    schema = dlt.Schema(SOURCE)
    for table in (*TABLES, *AUDIT_TABLES):
        columns = column_hints(table)
        for name in table.key:
            columns[name]["primary_key"] = True
        known: TTableSchema = {"name": table.name, "columns": columns, "resource": table.name}
        known["write_disposition"] = disposition(table)
        schema.update_table(known)
    return schema
