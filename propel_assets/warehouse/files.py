"""Tables that are files, Delta or plain Parquet, wherever dlt's filesystem destination put them, as DuckDB views.

Delta's own library and pyarrow read the files, not DuckDB: its extensions for that are downloads.
"""

import uuid
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.libs.pyarrow import get_column_type_from_py_arrow
from dlt.destinations.impl.filesystem.filesystem import FILENAME_SEPARATOR, FilesystemClient

from propel_assets.errors import WarehouseError
from propel_assets.source.tables import BOOKS

LOADS = "_dlt_loads"
LOADS_SCHEMA = pa.schema({"load_id": pa.string(), "inserted_at": pa.float64(), "status": pa.int64()})


class FileTables:
    """The tables behind ``client``; each is looked for when it is first asked for."""

    def __init__(self, client: FilesystemClient) -> None:
        """Read nothing yet."""
        self._client = client
        self._delta = {name for name, table in client.schema.tables.items() if table.get("table_format") == "delta"}
        self.connection = duckdb.connect()
        self.connection.execute("SET TimeZone = 'UTC'")
        self._datasets: dict[str, Any] = {}

    def see(self, name: str) -> bool:
        """Make the table ``name`` a view; return whether there is such a table."""
        if name not in self._datasets:
            rows = self._loads() if name == LOADS else self._dataset(name)
            if rows is None:
                return False
            self.connection.register(name, rows)
            self._datasets[name] = rows
        return True

    def types(self, name: str) -> dict[str, str]:
        """Return the columns of a table with dlt's names of their types; empty: no such table."""
        if not self.see(name):
            return {}
        schema = self._datasets[name].schema
        return {field.name: str(get_column_type_from_py_arrow(field.type)["data_type"]) for field in schema}

    def append(self, name: str, rows: pa.Table) -> None:
        """Add rows to a table."""
        if name in self._delta:
            from dlt.common.libs.deltalake import write_delta_table

            write_delta_table(self._client.load_open_table("delta", name), rows, "append")
        else:
            path = self._client.get_table_prefix(name) + f"{uuid.uuid4().hex}.parquet"
            with self._client.fs_client.open(path, "wb") as file:
                pq.write_table(rows, file)
        if self._datasets.pop(name, None) is not None:
            self.connection.unregister(name)

    def _dataset(self, name: str) -> Any:
        """Return a table's rows, unread; None where there is no such table."""
        try:
            if name in self._delta:
                return self._client.load_open_table("delta", name).to_pyarrow_dataset()
            files = [path for path in self._client.list_table_files(name) if path.endswith(".parquet")]
        except DestinationUndefinedEntity:
            return None
        schemas = {path: schema for path in files if (schema := self._schema_of(name, path)) is not None}
        if not schemas:
            return None
        schema = pa.unify_schemas(list(schemas.values()), promote_options="permissive")
        return pads.dataset(list(schemas), schema=schema, filesystem=self._client.fs_client, format="parquet")

    def _schema_of(self, name: str, path: str) -> pa.Schema | None:
        """Return the schema of a Parquet file; None for one of the books that a killed load left half-written."""
        try:
            return pq.read_schema(path, filesystem=self._client.fs_client)
        except pa.ArrowInvalid:
            if name in {book.name for book in BOOKS}:
                return None
            raise WarehouseError(f"A load of {name} was stopped while it wrote its files. Load it again.") from None

    def _loads(self) -> pa.Table | None:
        """Return the complete loads, by the names of dlt's files: a load id is its time, and many files are slow."""
        try:
            files = self._client.list_table_files(LOADS)
        except DestinationUndefinedEntity:
            return None
        names = [path.rsplit("/", 1)[-1].removesuffix(".jsonl").split(FILENAME_SEPARATOR)[-1] for path in files]
        columns = {"load_id": names, "inserted_at": [float(name) for name in names], "status": [0] * len(names)}
        return pa.table(columns, schema=LOADS_SCHEMA)
