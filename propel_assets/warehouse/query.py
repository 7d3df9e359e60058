"""Questions to the warehouse, whatever it is, through dlt's own client for it."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dlt
import duckdb
import pyarrow as pa
from dlt.destinations.exceptions import DatabaseUndefinedRelation
from dlt.destinations.impl.duckdb.sql_client import DuckDbSqlClient
from dlt.destinations.impl.filesystem.filesystem import FilesystemClient
from dlt.destinations.job_client_impl import SqlJobClientBase

from propel_assets.catalog import Table
from propel_assets.errors import WarehouseError
from propel_assets.privacy.policy import Policy
from propel_assets.privacy.policy_file import load_policy
from propel_assets.settings import Settings
from propel_assets.source.decode import ARROW_TYPES
from propel_assets.source.dlt_source import SCAN_LOG, complete_schema
from propel_assets.warehouse.destinations.duckdb import with_little_memory
from propel_assets.warehouse.destinations.files import FileTables
from propel_assets.warehouse.pipeline import build_pipeline, database_file, formats, working_folder

MOST_LOADS = 200  # looked at
ROWS_AT_ONCE = 10_000
CLOCKS_APART = timedelta(hours=1)  # of two machines
HOW_TO_LOAD = "Run propel-assets load first, or make demo to try."


@dataclass(frozen=True)
class LastLoad:
    """The last complete load that wrote a table, and the last that tried: rows as in `propel_scans`."""

    load_id: str
    verdict: str
    reason: str
    rows_expected: int | None
    rows_read: int
    total_min: int | None
    total_max: int | None
    finished_at: datetime
    unknown_fields: Any


class Warehouse:
    """An open connection. Use `opened`."""

    privacy: Policy
    _stored_at = "l.inserted_at"

    def __init__(self, client: SqlJobClientBase) -> None:
        """Ask through ``client``."""
        self._client = client

    def rows(self, sql: str, *params: Any, limit: int | None = None) -> list[tuple[Any, ...]]:
        """Return the rows of ``sql``, at most ``limit``. Parameters are written `%s`."""
        client: Any = self._client.sql_client

        def ask() -> list[tuple[Any, ...]]:
            with client.execute_query(sql, *params) as cursor:
                return [tuple(row) for row in (cursor.fetchall() if limit is None else cursor.fetchmany(limit))]

        return with_little_memory(client, ask) if isinstance(client, DuckDbSqlClient) else ask()

    def keys(self, table: Table) -> Iterator[Any]:
        """Yield the first column of the key of each row of ``table``; none where there is no such table."""
        column = table.key[0]
        if column in self.columns_of(table.name):
            sql = f"SELECT {self.column(column)} FROM {self.table(table.name)}"  # noqa: S608
            with self._cursor(sql) as cursor:
                while chunk := cursor.fetchmany(ROWS_AT_ONCE):
                    yield from (row[0] for row in chunk)

    def _cursor(self, sql: str) -> contextlib.AbstractContextManager[Any]:
        return self._client.sql_client.execute_query(sql)

    def number(self, sql: str) -> int:
        """Return the one number ``sql`` asks for."""
        return int(self.rows(sql)[0][0])

    def table(self, name: str) -> str:
        """Return the quoted, qualified name of a table, as SQL names it."""
        return self._client.sql_client.make_qualified_table_name(name)

    def column(self, name: str) -> str:
        """Return the quoted name of a column."""
        return self._client.sql_client.escape_column_name(name)

    def columns_of(self, name: str) -> dict[str, str]:
        """Return the columns of a table as they are there, with dlt's name of their type; empty: no such table."""
        _, columns = self._client.get_storage_table(name)
        ours = str.lower if self._client.capabilities.casefold_identifier is str.upper else str
        return {ours(column): str(kind.get("data_type")) for column, kind in columns.items()}

    def count(self, name: str) -> int:
        """Return how many rows a table has. One that never had any need not be there."""
        return self.number(f"SELECT count(*) FROM {self.table(name)}") if self.columns_of(name) else 0  # noqa: S608

    def last_load(self, table: Table, *, skipped: bool = False) -> LastLoad | None:
        """Return the last complete load of ``table``; with ``skipped`` also one that left it as it was."""
        names = [field.name for field in dataclasses.fields(LastLoad)]
        for row in self._loads(table, names, skipped=skipped):
            return LastLoad(**row)
        return None

    def rows_read(self, table: Table, *, loads: int) -> list[int]:
        """Return how many rows the last loads of ``table`` read, the newest first: those of the newest one's mode."""
        found = self._loads(table, ["mode", "rows_read"])
        return [int(row["rows_read"]) for row in found if row["mode"] == found[0]["mode"]][:loads]

    def rows_left(self, table: Table, *, loads: int) -> list[int]:
        """Return how many rows the last loads of ``table`` left, the newest first; merges do not tell."""
        found = self._loads(table, ["rows_expected"])
        return [int(row["rows_expected"]) for row in found if row["rows_expected"] is not None][:loads]

    def memory(self, table: Table) -> dict[str, Any]:
        """Return what the last complete load of ``table`` has left for the next one; empty: nothing, or it is older."""
        if "memory" not in self.columns_of(SCAN_LOG.name):
            return {}
        for row in self._loads(table, ["memory"], skipped=True):
            left = row["memory"]
            return json.loads(left) if isinstance(left, str) else left or {}
        return {}

    def _loads(self, table: Table, columns: Sequence[str], *, skipped: bool = False) -> list[dict[str, Any]]:
        """Return ``columns`` of `propel_scans` for the complete loads of ``table``, the newest first.

        Those that a clock gone wrong has put into the future come last: they would be the newest for years.
        """
        wanted = list(dict.fromkeys([*columns, "finished_at"]))
        which = "" if skipped else "AND s.verdict <> 'skipped' "
        sql = (
            f"SELECT {', '.join(f's.{name}' for name in wanted)} FROM {self.table('propel_scans')} s "  # noqa: S608
            f"JOIN {self.table('_dlt_loads')} l ON l.load_id = s.load_id AND l.status = 0 "
            f"WHERE s.table_name = %s {which}ORDER BY {self._stored_at} DESC, s.load_id DESC"
        )
        found: list[dict[str, Any]] = []
        with contextlib.suppress(DatabaseUndefinedRelation):
            found = [dict(zip(wanted, row, strict=True)) for row in self.rows(sql, table.name, limit=MOST_LOADS)]
        for row in found:
            at = row["finished_at"]
            at = datetime.fromisoformat(at) if isinstance(at, str) else at  # SQLite
            row["finished_at"] = at if at.tzinfo else at.replace(tzinfo=UTC)
        now = datetime.now(UTC) + CLOCKS_APART
        found.sort(key=lambda row: row["finished_at"] > now)
        return [{name: row[name] for name in columns} for row in found]

    def insert(self, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows to one of the books."""
        names = [column.name for column in table.columns]
        values = ", ".join(["%s"] * len(names))
        sql = f"INSERT INTO {self.table(table.name)} ({', '.join(map(self.column, names))}) VALUES ({values})"  # noqa: S608
        for row in rows:
            self._client.sql_client.execute_sql(sql, *(row[name] for name in names))


class FileWarehouse(Warehouse):
    """Tables that are files, asked through DuckDB."""

    # Of a load the files tell its id only, and in a process whose clock was ahead once all ids are of the future.
    _stored_at = "s.finished_at"

    def __init__(self, client: FilesystemClient) -> None:
        """Ask the files behind ``client``."""
        self._files = FileTables(client)

    def rows(self, sql: str, *params: Any, limit: int | None = None) -> list[tuple[Any, ...]]:
        """Return the rows of ``sql``, at most ``limit``. Parameters are written `%s`."""
        # With a LIMIT no more of the files is read than is needed, and the result is read to its end.
        bounded = sql if limit is None else f"{sql} LIMIT {limit}"
        try:
            return self._files.connection.execute(bounded.replace("%s", "?"), params).fetchall()
        except duckdb.CatalogException as error:
            raise DatabaseUndefinedRelation(error) from error

    def _cursor(self, sql: str) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext(self._files.connection.execute(sql))

    def table(self, name: str) -> str:
        """Return the name of the table's view, which is made here."""
        self._files.see(name)
        return self.column(name)

    def column(self, name: str) -> str:
        """Return the quoted name of a column."""
        return '"' + name.replace('"', '""') + '"'

    def columns_of(self, name: str) -> dict[str, str]:
        """Return the columns of a table as they are there, with dlt's name of their type; empty: no such table."""
        return self._files.types(name)

    def insert(self, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows to one of the books."""
        columns = {c.name: pa.array([row[c.name] for row in rows], ARROW_TYPES[c.type]) for c in table.columns}
        self._files.append(table.name, pa.table(columns))


@contextlib.contextmanager
def opened(settings: Settings, say: Callable[[str], None] = lambda _: None) -> Iterator[Warehouse]:
    """Connect to the warehouse of ``settings``. ``say`` is told what is waited for.

    Raises:
        WarehouseError: there is none yet, or it cannot be asked in SQL.
    """
    with working_folder() as folder:
        pipeline = build_pipeline(settings, folder, say)
        file = database_file(pipeline)
        if file is not None and not file.exists():
            raise WarehouseError(f"There is no {file} yet. {HOW_TO_LOAD}")
        with asking(pipeline, settings) as warehouse:
            if not warehouse.columns_of(SCAN_LOG.name):
                raise WarehouseError(f"Nothing has been loaded into {settings.destination} yet. {HOW_TO_LOAD}")
            yield warehouse


@contextlib.contextmanager
def asking(pipeline: dlt.Pipeline, settings: Settings) -> Iterator[Warehouse]:
    """Connect to the warehouse of ``pipeline``, whether or not anything has been loaded into it.

    Raises:
        WarehouseError: it cannot be asked in SQL.
    """
    with client_of(pipeline, settings) as client:
        if isinstance(client, FilesystemClient):
            warehouse: Warehouse = FileWarehouse(client)
        elif isinstance(client, SqlJobClientBase):
            warehouse = Warehouse(client)
        else:
            raise WarehouseError(f"The destination {settings.destination} cannot be asked in SQL.")
        warehouse.privacy = load_policy(settings.privacy_settings)
        yield warehouse


def client_of(pipeline: dlt.Pipeline, settings: Settings) -> Any:
    """Return dlt's client of the warehouse, with the schema of every table; to be opened by `with`."""
    schema = complete_schema()
    if "table_format" in (chosen := formats(settings)):
        for table in schema.data_tables(include_incomplete=True):
            table["table_format"] = chosen["table_format"]
    return pipeline._get_destination_clients(schema)[0]
