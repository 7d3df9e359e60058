"""SQL on the warehouse, through dlt's client of the destination."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any, TypeVar

import dlt
import duckdb
import pyarrow as pa
from dlt.destinations.exceptions import DatabaseUndefinedRelation

from propel_assets.catalog import PROPEL_SCANS, Table
from propel_assets.errors import PropelError, WarehouseError
from propel_assets.privacy.policy import Policy
from propel_assets.privacy.redaction import is_defect
from propel_assets.settings import Target
from propel_assets.source.dlt_source import complete_schema
from propel_assets.source.values import ARROW_TYPES
from propel_assets.warehouse.audit import Audit
from propel_assets.warehouse.destinations.duckdb import limited_memory
from propel_assets.warehouse.destinations.files import FileTables
from propel_assets.warehouse.destinations.postgres import stream_rows
from propel_assets.warehouse.dlt_compat import DuckDbSqlClient, FilesystemClient, SqlJobClientBase
from propel_assets.warehouse.folders import working_folder
from propel_assets.warehouse.locks import Log
from propel_assets.warehouse.pipeline import build_pipeline, database_file, has_write_lock, load_formats, write_lock
from propel_assets.warehouse.remedies import explain

T = TypeVar("T")
BATCH_ROWS = 10_000
KEYS_PER_QUERY = 500
ROWS_PER_INSERT = 100


def in_batches(values: Sequence[T], size: int = KEYS_PER_QUERY) -> Iterator[Sequence[T]]:
    """Yield ``values`` in batches for one statement each, whose number of parameters databases limit."""
    return (values[start : start + size] for start in range(0, len(values), size))


def placeholders(values: Sized) -> str:
    """Return a list of as many parameters: `(%s, %s)`."""
    return f"({', '.join(['%s'] * len(values))})"


def timestamp_literal(at: datetime) -> str:
    """Return a time in UTC as an SQL literal."""
    return f"CAST('{at:%Y-%m-%d %H:%M:%S.%f}+00' AS TIMESTAMP WITH TIME ZONE)"


class Warehouse:
    """An open connection. Use `open_warehouse` or `connect`."""

    load_order = "l.inserted_at"
    """The SQL expression that orders the loads in `complete_loads_of("propel_scans")`."""
    write_lock: Callable[[], contextlib.AbstractContextManager[Any]] | None = None
    """Holds the right to write, so that no load is in the middle of its write; None: the destination has no lock."""

    def __init__(self, client: Any, policy: Policy, max_age: timedelta) -> None:
        """Query through ``client``. ``policy``: the privacy policy of the loads. ``max_age``: of data, for checks."""
        self._client, self.privacy, self.max_age = client, policy, max_age

    @cached_property
    def audit(self) -> Audit:
        """Return the audit tables."""
        return Audit(self)

    def rows(self, sql: str, *params: Any, limit: int | None = None) -> list[tuple[Any, ...]]:
        """Return the rows of ``sql``, at most ``limit``. Parameters are written `%s`."""
        client = self._client.sql_client

        def query() -> list[tuple[Any, ...]]:
            with client.execute_query(sql, *params) as cursor:
                return [tuple(row) for row in (cursor.fetchall() if limit is None else cursor.fetchmany(limit))]

        return limited_memory(client, query) if isinstance(client, DuckDbSqlClient) else query()

    def execute(self, sql: str, *params: Any) -> None:
        """Run a statement. Parameters are written `%s`."""
        self._client.sql_client.execute_sql(sql, *params)

    def keys(self, table: Table) -> Iterator[Any]:
        """Yield the first column of the primary key for each row of ``table``; none if the table does not exist."""
        column = table.key[0]
        if kind := self.columns_of(table.name).get(column):
            for batch in self.batches(table.name, {column: kind}):
                yield from (row[0] for row in batch)

    def rows_of(self, table: Table, column: str, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows of ``table`` whose ``column`` is one of ``ids``; none if the table does not exist."""
        names = [*self.columns_of(table.name)]
        found: list[dict[str, Any]] = []
        for batch in in_batches(ids if names else ()):
            sql = (
                f"SELECT {', '.join(map(self.column, names))} FROM {self.table(table.name)} "  # noqa: S608
                f"WHERE {self.column(column)} IN {placeholders(batch)}"
            )
            found += [dict(zip(names, row, strict=True)) for row in self.rows(sql, *batch)]
        return found

    def _cursor(self, sql: str) -> contextlib.AbstractContextManager[Any]:
        return self._client.sql_client.execute_query(sql)

    def batches(self, name: str, columns: Mapping[str, str]) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows of a table in batches; they are never in memory together. ``columns``: with dlt's types."""
        is_postgres = self._client.capabilities.sqlglot_dialect == "postgres"
        listed = [
            # The driver parses JSON and rounds its numbers.
            f"CAST({self.column(column)} AS text)" if is_postgres and kind == "json" else self.column(column)
            for column, kind in columns.items()
        ]
        sql = f"SELECT {', '.join(listed)} FROM {self.table(name)}"  # noqa: S608 - quoted names
        cursor = stream_rows(self._client.sql_client, sql) if is_postgres else self._cursor(sql)
        with cursor as rows:
            while batch := rows.fetchmany(BATCH_ROWS):
                yield [tuple(row) for row in batch]

    def number(self, sql: str) -> int:
        """Return the single number that ``sql`` selects."""
        return int(self.rows(sql)[0][0])

    def table(self, name: str) -> str:
        """Return the quoted, qualified name of a table."""
        return self._client.sql_client.make_qualified_table_name(name)

    def complete_loads_of(self, name: str) -> str:
        """Return the rows of a table that complete loads have written, for FROM: `s` is the table, `l` `_dlt_loads`."""
        return f"{self.table(name)} s JOIN {self.table('_dlt_loads')} l ON l.load_id = s.load_id AND l.status = 0"

    def column(self, name: str) -> str:
        """Return the quoted name of a column."""
        return self._client.sql_client.escape_column_name(name)

    def json_to_compare(self, expression: str) -> str:
        """Return an expression of JSON that can be compared, which BigQuery's type cannot."""
        is_bigquery = self._client.capabilities.sqlglot_dialect == "bigquery"
        return f"TO_JSON_STRING({expression})" if is_bigquery else expression

    def columns_of(self, name: str) -> dict[str, str]:
        """Return the columns of a table with dlt's names of their types; empty: the table does not exist."""
        return self.columns_of_tables([name])[name]

    def columns_of_tables(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the columns of several tables, as `columns_of` does, by one query."""
        fold = str.lower if self._client.capabilities.casefold_identifier is str.upper else str
        return {
            name: {fold(column): str(kind.get("data_type")) for column, kind in columns.items()}
            for name, columns in self._client.get_storage_tables(names)
        }

    def count(self, name: str) -> int:
        """Return the number of rows of a table; 0 if it does not exist."""
        return self.number(f"SELECT count(*) FROM {self.table(name)}") if self.columns_of(name) else 0  # noqa: S608

    def insert(self, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        """Add a few rows to a table."""
        names = [column.name for column in table.columns]
        for batch in in_batches(rows, ROWS_PER_INSERT):
            sql = (
                f"INSERT INTO {self.table(table.name)} ({', '.join(map(self.column, names))}) "  # noqa: S608
                f"VALUES {', '.join([placeholders(names)] * len(batch))}"
            )
            self._client.sql_client.execute_sql(sql, *(row[name] for row in batch for name in names))


Connect = Callable[[], contextlib.AbstractContextManager[Warehouse]]
"""Connects to one warehouse: `connect` with its arguments."""


class FileWarehouse(Warehouse):
    """Tables that are files, queried through DuckDB."""

    # The files have only the id of a load. If the clock of a process was ahead, all later ids are of the future.
    load_order = "s.finished_at"

    def __init__(self, client: FilesystemClient, policy: Policy, max_age: timedelta) -> None:
        """Query the files of ``client``."""
        super().__init__(client, policy, max_age)
        self._files = FileTables(client)

    def rows(self, sql: str, *params: Any, limit: int | None = None) -> list[tuple[Any, ...]]:
        """Return the rows of ``sql``, at most ``limit``. Parameters are written `%s`."""
        # LIMIT stops reading the files early, and the result is read to its end.
        limited = sql if limit is None else f"{sql} LIMIT {limit}"
        try:
            return self._files.connection.execute(limited.replace("%s", "?"), params).fetchall()
        except duckdb.CatalogException as error:
            raise DatabaseUndefinedRelation(error) from error

    def _cursor(self, sql: str) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext(self._files.connection.execute(sql))

    def table(self, name: str) -> str:
        """Return the quoted name of the table's view, which is created here."""
        self._files.create_view(name)
        return self.column(name)

    def column(self, name: str) -> str:
        """Return the quoted name of a column."""
        return '"' + name.replace('"', '""') + '"'

    def columns_of_tables(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the columns of several tables, as `columns_of` does."""
        return {name: self._files.types(name) for name in names}

    def insert(self, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        """Add a few rows to a table."""
        columns = {c.name: pa.array([row[c.name] for row in rows], ARROW_TYPES[c.type]) for c in table.columns}
        self._files.append(table.name, pa.table(columns))


@contextlib.contextmanager
def open_warehouse(target: Target, policy: Policy, log: Log = lambda _: None) -> Iterator[Warehouse]:
    """Connect to the warehouse of ``target``. ``log`` receives a message while a lock is waited for.

    Raises:
        WarehouseError: nothing has been loaded yet, the destination cannot be read, or it has no SQL.
    """
    with contextlib.ExitStack() as stack:
        pipeline = build_pipeline(target, stack.enter_context(working_folder()), log)
        require_database(pipeline, target)
        with explain_refusal(target):
            warehouse = stack.enter_context(connect(pipeline, target, policy))
            is_loaded = bool(warehouse.columns_of(PROPEL_SCANS.name))
        if not is_loaded:
            raise not_loaded(target)
        yield warehouse


def not_loaded(target: Target) -> WarehouseError:
    """Return the error to raise for a warehouse that has no load."""
    what = f" for the environment {target.environment}" if target.environment else ""
    return WarehouseError(f"Nothing has been loaded into {target.destination}{what} yet: {_how_to_load(target)}")


def _how_to_load(target: Target) -> str:
    if target.environment:
        return (
            f"correct the name of the environment, or load it: propel-assets --environment {target.environment} load."
        )
    return "run propel-assets load. To try without a tenant: propel-assets demo."


def require_database(pipeline: dlt.Pipeline, target: Target) -> None:
    """Refuse a DuckDB file that does not exist.

    Raises:
        WarehouseError: nothing has been loaded into it yet.
    """
    file = database_file(pipeline)
    if file is not None and not file.exists():
        raise WarehouseError(
            f"There is no {file}. If you have loaded in another folder, change to that folder. Otherwise "
            f"{_how_to_load(target)}"
        )


@contextlib.contextmanager
def explain_refusal(target: Target) -> Iterator[None]:
    """Raise `WarehouseError` for an error of the destination's driver, whose text may quote rows."""
    try:
        yield
    except Exception as error:
        if isinstance(error, PropelError) or is_defect(error):
            raise
        raise explain(error, f"Reading {target.destination} failed") from None


@contextlib.contextmanager
def connect(pipeline: dlt.Pipeline, target: Target, policy: Policy) -> Iterator[Warehouse]:
    """Connect to the warehouse of ``pipeline``, which may be empty.

    Raises:
        WarehouseError: the destination has no SQL.
    """
    with warehouse_client(pipeline, target) as client:
        if isinstance(client, FilesystemClient):
            yield FileWarehouse(client, policy, target.max_age)
        elif isinstance(client, SqlJobClientBase):
            warehouse = Warehouse(client, policy, target.max_age)
            if has_write_lock(target):
                warehouse.write_lock = partial(write_lock, target, pipeline, lambda _: None)
            yield warehouse
        else:
            raise WarehouseError(f"The destination {target.destination} cannot be queried with SQL.")


def warehouse_client(pipeline: dlt.Pipeline, target: Target) -> Any:
    """Return dlt's client of the warehouse, with the schema of every table. Open it with `with`."""
    return dataset_of(pipeline, target).destination_client


def dataset_of(pipeline: dlt.Pipeline, target: Target) -> dlt.Dataset:
    """Return dlt's dataset of ``pipeline``, with the schema of every table."""
    schema = complete_schema()
    if table_format := load_formats(target).get("table_format"):
        for table in schema.data_tables(include_incomplete=True):
            table["table_format"] = table_format
    return pipeline.dataset(schema)
