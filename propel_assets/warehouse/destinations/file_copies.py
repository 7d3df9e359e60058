"""Change rows of tables that are files by SQL: copy them into a DuckDB file, change them, and write them back.

Rows are copied in batches; the temporary folder needs space for all of them.
"""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import dlt
import pyarrow as pa

from propel_assets.warehouse.destinations.duckdb import limited_memory
from propel_assets.warehouse.destinations.files import FileTables, one_schema
from propel_assets.warehouse.dlt_compat import DuckDbClient, FilesystemClient

PART = "number of the part"
ROWS_AT_ONCE = 50_000


@contextlib.contextmanager
def copy_tables(client: FilesystemClient, folder: str) -> Iterator["FileCopies"]:
    """Copy every table of ``client`` into a database in ``folder``."""
    duckdb = dlt.destinations.duckdb(str(Path(folder) / "copies.duckdb"))
    copy: Any = dlt.dataset(duckdb, client.dataset_name, client.schema).destination_client
    with copy:
        copies = FileCopies(FileTables(client), copy)
        names = [str(table["name"]) for table in client.schema.data_tables(include_incomplete=True)]
        limited_memory(copy.sql_client, lambda: copies.copy(names))
        yield copies


class FileCopies:
    """The copies. ``client`` is dlt's client of the database that contains them."""

    def __init__(self, files: FileTables, client: DuckDbClient) -> None:
        """Copy nothing yet."""
        self.files, self.client = files, client
        self.names: list[str] = []
        self._parts: dict[str, dict[str, Any]] = {}
        self._before: dict[str, dict[int, tuple[Any, ...]]] = {}

    def copy(self, names: Sequence[str]) -> None:
        """Copy those of the tables that exist, in place of earlier copies."""
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
        """Replace the parts of a table whose rows have changed."""
        after, client = self._sums(name), self.client.sql_client
        for number, (part, rows) in enumerate(self._parts[name].items()):
            if after.get(number) != self._before[name].get(number):
                columns = ", ".join(map(client.escape_column_name, rows.schema.names))
                sql = f'SELECT {columns} FROM {self._table(name)} WHERE "{PART}" = {number}'  # noqa: S608
                with client.execute_query(sql) as cursor:
                    batches = (table.cast(rows.schema).to_batches() for table in cursor.iter_arrow(ROWS_AT_ONCE))
                    self.files.replace(
                        name, part, pa.RecordBatchReader.from_batches(rows.schema, chain.from_iterable(batches))
                    )

    def _sums(self, name: str) -> dict[int, tuple[Any, ...]]:
        """Return a checksum of the rows of each part that has rows."""
        sql = f'SELECT "{PART}", count(*), sum(hash(t)) FROM {self._table(name)} t GROUP BY 1'  # noqa: S608 - quoted
        return {number: tuple(sums) for number, *sums in self.client.sql_client.execute_sql(sql) or []}

    def _table(self, name: str) -> str:
        return self.client.sql_client.make_qualified_table_name(name)
