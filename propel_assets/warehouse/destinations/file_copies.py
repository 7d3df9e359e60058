"""Tables that are files, for SQL that changes rows: copied into a DuckDB file, changed there, and written back.

Rows pass through memory in batches; the copy needs room for all of them in the temporary folder.
"""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import dlt
import pyarrow as pa
from dlt.destinations.impl.duckdb.duck import DuckDbClient
from dlt.destinations.impl.filesystem.filesystem import FilesystemClient

from propel_assets.warehouse.destinations.duckdb import with_little_memory
from propel_assets.warehouse.destinations.files import FileTables, one_schema

PART = "which part of the table"
ROWS_AT_ONCE = 50_000


@contextlib.contextmanager
def copied(client: FilesystemClient, folder: str) -> Iterator["FileCopies"]:
    """Copy every table behind ``client`` into a database in ``folder``."""
    duckdb = dlt.destinations.duckdb(str(Path(folder) / "copies.duckdb"))
    copy: Any = duckdb.client(client.schema, duckdb.spec()._bind_dataset_name(client.dataset_name))
    with copy:
        copies = FileCopies(FileTables(client), copy)
        names = [str(table["name"]) for table in client.schema.data_tables(include_incomplete=True)]
        with_little_memory(copy.sql_client, lambda: copies.take(names))
        yield copies


class FileCopies:
    """The copies; ``client`` is dlt's for the database they are in."""

    def __init__(self, files: FileTables, client: DuckDbClient) -> None:
        """Copy nothing yet."""
        self.files, self.client = files, client
        self.names: list[str] = []
        self._parts: dict[str, dict[str, Any]] = {}
        self._before: dict[str, dict[int, tuple[Any, ...]]] = {}

    def take(self, names: Sequence[str]) -> None:
        """Copy those of the tables that are there, anew."""
        self._parts = {name: parts for name in names if (parts := self.files.parts(name))}
        self.names = list(self._parts)
        sql = self.client.sql_client
        sql.execute_sql(f"CREATE SCHEMA IF NOT EXISTS {sql.fully_qualified_dataset_name()}")
        for name, parts in self._parts.items():
            self._copy(name, list(parts.values()))
            self._before[name] = self._sums(name)

    def _copy(self, name: str, parts: Sequence[Any]) -> None:
        table, sql = self._table(name), self.client.sql_client
        connection = sql.native_connection
        connection.register("rows", one_schema(part.schema for part in parts).empty_table())
        sql.execute_sql(f'CREATE OR REPLACE TABLE {table} AS SELECT *, 0 AS "{PART}" FROM rows')  # noqa: S608
        for number, part in enumerate(parts):
            connection.register("rows", part)
            sql.execute_sql(f'INSERT INTO {table} BY NAME SELECT *, {number} AS "{PART}" FROM rows')  # noqa: S608
        connection.unregister("rows")

    def write_back(self, name: str) -> None:
        """Replace the parts of a table that were changed."""
        after, client = self._sums(name), self.client.sql_client
        for number, (part, rows) in enumerate(self._parts[name].items()):
            if after.get(number) != self._before[name].get(number):
                columns = ", ".join(map(client.escape_column_name, rows.schema.names))
                sql = f'SELECT {columns} FROM {self._table(name)} WHERE "{PART}" = {number}'  # noqa: S608
                with client.execute_query(sql) as cursor:
                    some = (table.cast(rows.schema).to_batches() for table in cursor.iter_arrow(ROWS_AT_ONCE))
                    self.files.replace(
                        name, part, pa.RecordBatchReader.from_batches(rows.schema, chain.from_iterable(some))
                    )

    def _sums(self, name: str) -> dict[int, tuple[Any, ...]]:
        """Return, for each part that has rows, what is another one once a row is changed."""
        sql = f'SELECT "{PART}", count(*), sum(hash(t)) FROM {self._table(name)} t GROUP BY 1'  # noqa: S608 - quoted
        return {number: tuple(sums) for number, *sums in self.client.sql_client.execute_sql(sql) or []}

    def _table(self, name: str) -> str:
        return self.client.sql_client.make_qualified_table_name(name)
