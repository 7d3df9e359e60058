"""Batches of rows to Arrow tables, by DuckDB's JSON functions on a thread: they do not hold the interpreter lock.

DuckDB converts texts, numbers, booleans and times. JSON columns are the source texts that msgspec has decoded. A batch
is converted so only if the result is certain to be that of `RowType.to_arrow`:

- The struct of the catalog has decoded all of its pages, so they have declared fields and declared types only.
- No object of the page or of its rows has a key twice: msgspec uses the last value, DuckDB the first one.

Every other batch, and one on which DuckDB raises an error, is converted by `RowType.to_arrow`.
"""

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute

from propel_assets.source.decode import TIMESTAMP, Row, RowType, json_array

pc: Any = pyarrow.compute  # its functions are created at import, which type checkers do not see

MIN_ROWS = 1_000  # of a batch: starting DuckDB takes as long as converting so many
MAX_BYTES = 256 * 2**20  # of the pages of a batch
BATCHES_AHEAD = 2
HAS_TWO_CPUS = (os.cpu_count() or 1) > 1  # the conversion takes more CPU time than `by_row_type`, at the same time
SETTINGS: dict[str, Any] = {
    "threads": 1,
    "memory_limit": "400MB",
    "temp_directory": "",  # rows are personal data: they stay in memory
    "autoload_known_extensions": False,
    "autoinstall_known_extensions": False,
}
SQL_TYPES = {"text": "VARCHAR", "bigint": "BIGINT", "bool": "BOOLEAN", "timestamp": "BIGINT", "date": "DATE"}
"""Types that DuckDB converts. A struct with a double keeps source texts, so its rows have no `body`."""
NO_DUPLICATE_KEY = (  # rows have few different lists of keys; as text they are compared fastest
    "SELECT coalesce(bool_and(len(string_split(keys, ',')) = len(list_distinct(string_split(keys, ',')))), true) "
    "FROM (SELECT DISTINCT array_to_string(unnest({}), ',') AS keys FROM pages)"
)


@dataclass(frozen=True)
class Batch:
    """The table of some rows. ``nested``: the table of the rows inside them, by the field that has them."""

    table: pa.Table
    nested: Mapping[str, pa.Table]


def convert(row_type: RowType, items: str, batches: Iterable[Sequence[Row]]) -> Iterator[Batch]:
    """Yield the tables of each of ``batches``, in order. A thread converts up to `BATCHES_AHEAD` batches ahead.

    ``items``: the field of a page that has its rows.
    """
    converter = Converter(row_type, items)
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="convert") as thread:
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

    def __init__(self, row_type: RowType, items: str) -> None:
        """Connect to nothing yet: a list of few rows needs no DuckDB."""
        self._row_type = row_type
        structure = _structure(row_type)
        for field, nested in row_type.maps.items():
            inner = ", ".join(f'"{name}" {kind}' for name, kind in _structure(nested).items())
            structure[field] = f"MAP(VARCHAR, STRUCT({inner}))"  # a duplicate key gives two entries
        self._conversion = f"SELECT from_json(body, '{json.dumps({items: [structure]})}') FROM pages"  # noqa: S608
        rows = f'$."{items}"[*]'
        keys = [f"json_keys(body, '{path}')" for path in (rows, *(f'{rows}."{field}".*' for field in row_type.maps))]
        self._checks = [NO_DUPLICATE_KEY.format(of_objects) for of_objects in ("[json_keys(body)]", *keys)]
        self._connection: Any = None

    def convert(self, rows: Sequence[Row]) -> Batch:
        """Return the tables of ``rows``."""
        is_worth_it = len(rows) >= MIN_ROWS and HAS_TWO_CPUS
        return (self.by_duckdb(rows) if is_worth_it else None) or by_row_type(self._row_type, rows)

    def by_duckdb(self, rows: Sequence[Row]) -> Batch | None:
        """Return the tables of ``rows`` as DuckDB makes them; None if they could differ from those of `by_row_type`."""
        import duckdb

        bodies = {id(row.body): row.body for row in rows}
        if None in bodies.values() or sum(map(len, bodies.values())) > MAX_BYTES:
            return None
        try:
            return self._query(rows, bodies)
        except duckdb.Error:  # its text can quote rows
            return None

    def _query(self, rows: Sequence[Row], bodies: Mapping[int, bytes]) -> Batch | None:
        import duckdb

        if self._connection is None:
            self._connection = duckdb.connect(config=SETTINGS)
        self._connection.register("pages", _Pages(pa.table({"body": pa.array(bodies.values(), pa.string())})))
        try:
            if not all(self._connection.execute(check).fetchone()[0] for check in self._checks):
                return None
            [pages] = self._connection.execute(self._conversion).to_arrow_table().columns
        finally:
            self._connection.unregister("pages")
        [lists] = pages.combine_chunks().flatten()
        starts = dict(zip(bodies, lists.offsets.to_pylist(), strict=False))
        indices = [starts[id(row.body)] + row.place for row in rows]
        found = lists.values
        if indices != list(range(len(found))):
            found = found.take(pa.array(indices, pa.int64()))
        fields = _fields(found)
        nested = {}
        for name, row_type in self._row_type.maps.items():
            inner = [row for outer in rows for row in (getattr(outer, f"f_{name}") or {}).values()]
            lists = pa.ListArray.from_arrays(fields[name].offsets, fields[name].items)
            if len(lists.flatten()) != len(inner):
                return None  # a key of the map is duplicate
            parents = pc.list_parent_indices(lists)
            constants = {column: fields[column].take(parents) for column in row_type.constant_columns}
            nested[name] = _table(row_type, inner, _fields(lists.flatten()) | constants)
        return Batch(_table(self._row_type, rows, fields), nested)


class _Pages:
    """An Arrow table as DuckDB reads it without the module `pyarrow.dataset`, which takes long to import."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)


def by_row_type(row_type: RowType, rows: Sequence[Row]) -> Batch:
    """Return the tables of ``rows`` as `RowType.to_arrow` makes them."""
    nested = {}
    for name, inner_type in row_type.maps.items():
        pairs = [(row, inner) for row in rows for inner in (getattr(row, f"f_{name}") or {}).values()]
        constants = {
            column: [getattr(row, f"f_{column}") for row, _ in pairs] for column in inner_type.constant_columns
        }
        nested[name] = inner_type.to_arrow([inner for _, inner in pairs], constants)
    return Batch(row_type.to_arrow(rows), nested)


def _structure(row_type: RowType) -> dict[str, str]:
    """Return the types in which DuckDB reads the declared fields of a row."""
    columns = (column for column in row_type.table.columns if column.name not in row_type.constant_columns)
    return {column.source_field: SQL_TYPES[column.type] for column in columns if column.type in SQL_TYPES}


def _fields(structs: Any) -> dict[str, Any]:
    """Return the fields of an array of structs."""
    return dict(zip((field.name for field in structs.type), structs.flatten(), strict=True))


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
