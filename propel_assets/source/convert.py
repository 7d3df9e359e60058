"""Batches of rows to Arrow tables, by DuckDB's JSON reader on a thread: it does not hold the interpreter lock.

DuckDB converts texts, numbers, booleans and times. JSON columns are the source texts that msgspec has decoded. DuckDB
converts a batch only if its result is certain to equal that of `RowType.to_arrow`:

- The struct of the catalog has decoded all of its rows, so they have declared fields and declared types only.
- No object that becomes a row has a key twice, which DuckDB's reader reports: msgspec uses the last value.
- No map of rows has a key twice: DuckDB finds as many rows in it as msgspec.

Every other batch, and one on which DuckDB raises an error, is converted by `RowType.to_arrow`. DuckDB reads the rows
from a file in memory, which nothing else can open; where the system has none, every batch is converted by
`RowType.to_arrow`.
"""

import contextlib
import os
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import pyarrow as pa

from propel_assets.privacy.arrow import pc
from propel_assets.source.decode import Row, RowType, inner_rows
from propel_assets.source.values import TIMESTAMP, json_array

MIN_ROWS = 1_000  # of a batch: starting DuckDB takes as long as converting so many
MAX_BYTES = 128 * 2**20  # of the rows of a batch
MAX_ROW_BYTES = 2**22  # two of them are a buffer of the reader
BATCHES_AHEAD = 1
SETTINGS: dict[str, Any] = {
    "threads": 1,
    "memory_limit": "200MB",
    "temp_directory": "",  # rows are personal data: they stay in memory
    "enable_external_file_cache": False,  # the file has other rows each time
    "autoload_known_extensions": False,
    "autoinstall_known_extensions": False,
}
SQL_TYPES = {"text": "VARCHAR", "bigint": "BIGINT", "bool": "BOOLEAN", "timestamp": "BIGINT", "date": "DATE"}
"""Types that DuckDB converts. A struct with a double keeps source texts, so its rows have no `raw`."""


@dataclass(frozen=True)
class Batch:
    """The table of some rows. ``nested``: the table of the rows inside them, by the field that has them."""

    table: pa.Table
    nested: Mapping[str, pa.Table]


def convert(row_type: RowType, batches: Iterable[Sequence[Row]]) -> Generator[Batch, None, None]:
    """Yield the tables of each of ``batches``, in order. A thread converts up to `BATCHES_AHEAD` batches ahead."""
    waiting: deque[Future[Batch]] = deque()
    with Converter(row_type) as converter, ThreadPoolExecutor(1, thread_name_prefix="convert") as thread:
        try:
            for rows in batches:
                waiting.append(thread.submit(converter.convert, rows))
                if len(waiting) > BATCHES_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            thread.shutdown(cancel_futures=True)


class Converter:
    """Converts batches of one list. One thread at a time may use it."""

    def __init__(self, row_type: RowType) -> None:
        """Open nothing yet: a list of few rows needs no DuckDB."""
        self._row_type = row_type
        columns = _columns(row_type)
        for field, nested in row_type.maps.items():
            inner = ", ".join(f'"{name}" {kind}' for name, kind in _columns(nested).items())
            columns[field] = f"MAP(VARCHAR, STRUCT({inner}))"  # a duplicate key gives two entries
        self._sql_columns = ", ".join(f"\"{name}\": '{kind}'" for name, kind in columns.items())
        self._opened = contextlib.ExitStack()
        self._file = -1
        self._connection: Any = None

    def __enter__(self) -> "Converter":
        """Return the converter."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close what was opened."""
        self._opened.close()

    def convert(self, rows: Sequence[Row]) -> Batch:
        """Return the tables of ``rows``."""
        return (self.by_duckdb(rows) if len(rows) >= MIN_ROWS else None) or by_row_type(self._row_type, rows)

    def by_duckdb(self, rows: Sequence[Row]) -> Batch | None:
        """Return the tables of ``rows`` as DuckDB makes them; None if they could differ from those of `by_row_type`."""
        texts = [row.raw for row in rows]
        if None in texts or not hasattr(os, "memfd_create") or sum(map(len, texts)) > MAX_BYTES:
            return None
        import duckdb

        try:
            connection = self._connection or self._open()
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
            with open(self._file, "wb", closefd=False) as file:
                file.write(b"\n".join(texts))
            found = connection.execute(self._query).to_arrow_table()
        except duckdb.Error:  # its text can quote rows
            return None
        return self._batch(rows, found) if len(found) == len(rows) else None

    def _open(self) -> Any:
        """Connect to a database in memory, and open a file in memory."""
        import duckdb

        self._connection = self._opened.enter_context(duckdb.connect(config=SETTINGS))
        self._file = os.memfd_create("rows")
        self._opened.callback(os.close, self._file)
        self._query = (
            f"FROM read_json('/proc/self/fd/{self._file}', format = 'newline_delimited', records = 'true', "
            f"compression = 'uncompressed', maximum_object_size = {MAX_ROW_BYTES}, columns = {{{self._sql_columns}}})"
        )
        return self._connection

    def _batch(self, rows: Sequence[Row], found: pa.Table) -> Batch | None:
        fields = dict(zip(found.column_names, (column.combine_chunks() for column in found.columns), strict=True))
        nested = {}
        for name, row_type in self._row_type.maps.items():
            inner = inner_rows(rows, name)
            lists = pa.ListArray.from_arrays(fields[name].offsets, fields[name].items)
            structs = lists.flatten()
            if len(structs) != len(inner):
                return None
            parents = pc.list_parent_indices(lists)
            constants = {column: fields[column].take(parents) for column in row_type.constant_columns}
            own = dict(zip((field.name for field in structs.type), structs.flatten(), strict=True))
            nested[name] = _table(row_type, inner, own | constants)
        return Batch(_table(self._row_type, rows, fields), nested)


def by_row_type(row_type: RowType, rows: Sequence[Row]) -> Batch:
    """Return the tables of ``rows`` as `RowType.to_arrow` makes them."""
    return Batch(row_type.to_arrow(rows), {name: nested_rows(row_type, name, rows) for name in row_type.maps})


def nested_rows(row_type: RowType, name: str, rows: Sequence[Row]) -> pa.Table:
    """Return the table of the rows inside ``rows``, in the field ``name``, as `RowType.to_arrow` makes it."""
    inner_type = row_type.maps[name]
    pairs = [(row, inner) for row in rows for inner in (getattr(row, f"f_{name}") or {}).values()]
    names = inner_type.constant_columns
    constants = {column: [getattr(row, f"f_{column}") for row, _ in pairs] for column in names}
    return inner_type.to_arrow([inner for _, inner in pairs], constants)


def _columns(row_type: RowType) -> dict[str, str]:
    """Return the types in which DuckDB reads the declared fields of a row."""
    columns = (column for column in row_type.table.columns if column.name not in row_type.constant_columns)
    return {column.source_field: SQL_TYPES[column.type] for column in columns if column.type in SQL_TYPES}


def _table(row_type: RowType, rows: Sequence[Row], fields: Mapping[str, Any]) -> pa.Table:
    """Return a table of what DuckDB has read of ``rows``, and of their JSON texts."""
    columns = {}
    for column in row_type.table.columns:
        if column.type == "json":
            columns[column.name] = json_array(list(map(attrgetter(f"f_{column.source_field}"), rows)))
        elif column.type == "timestamp":
            columns[column.name] = fields[column.source_field].cast(pa.timestamp("s", "UTC")).cast(TIMESTAMP)
        else:
            columns[column.name] = fields[column.source_field]
    return row_type.make_table(columns, {})
