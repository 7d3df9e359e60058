"""Tables that are files, Delta or plain Parquet, wherever dlt's filesystem destination put them, as DuckDB views.

Delta's own library and pyarrow read the files, not DuckDB: its extensions for that are downloads.
"""

import re
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.libs.pyarrow import get_column_type_from_py_arrow
from dlt.destinations.impl.filesystem.filesystem import FILENAME_SEPARATOR, FilesystemClient

from propel_assets.catalog import AUDIT_TABLES
from propel_assets.errors import WarehouseError

LOADS = "_dlt_loads"
NEW = ".new"
LEFT_BY_A_KILL = re.compile(rf"_commit_.+|.+(#\d+|{re.escape(NEW)})")  # the first two are those of Delta's library
LOADS_SCHEMA = pa.schema({"load_id": pa.string(), "inserted_at": pa.float64(), "status": pa.int64()})


def one_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Return a schema that the rows of all ``schemas`` fit."""
    return pa.unify_schemas(list(schemas), promote_options="permissive")


class FileTables:
    """The tables behind ``client``; each is looked for when it is first asked for."""

    def __init__(self, client: FilesystemClient) -> None:
        """Read nothing yet."""
        self._client = client
        self._delta = {name for name, table in client.schema.tables.items() if table.get("table_format") == "delta"}
        self.connection = duckdb.connect()
        self.connection.execute("SET TimeZone = 'UTC'")
        self._datasets: dict[str, Any] = {}
        self._versions: dict[str, Any] = {}  # as they were read

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

    def parts(self, name: str) -> dict[str, Any]:
        """Return what of a table is replaced at once, unread: the Delta table, or each file. Empty: no such table."""
        try:
            if name in self._delta:
                self._versions[name] = self._client.load_open_table("delta", name)
                return {name: self._versions[name].to_pyarrow_dataset()}
            return {path: self._plain([path], schema) for path, schema in self._schemas(name).items()}
        except DestinationUndefinedEntity:
            return {}

    def replace(self, name: str, part: str, rows: pa.RecordBatchReader) -> None:
        """Put ``rows`` in the place of one of `parts`: by one commit, or by one file moved over another."""
        if name in self._delta:
            from deltalake import write_deltalake

            write_deltalake(self._versions[name], rows, mode="overwrite")
            return
        files, new = self._client.fs_client, part + NEW
        with files.open(new, "wb") as file, pq.ParquetWriter(file, rows.schema) as writer:
            for batch in rows:
                writer.write_batch(batch)
        files.mv(new, part)

    def forget(self, name: str) -> None:
        """Remove what the rows of a table do not need: older versions, their log, and what was left by a kill."""
        self._client.fs_client.invalidate_cache()
        log, oldest = "", ""
        try:
            if name in self._delta:
                table = self._client.load_open_table("delta", name)
                table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
                table.create_checkpoint()
                # The entries before a checkpoint: they hold the least and the greatest value of every column.
                log, oldest = "_delta_log", f"{table.version():020}"
            paths = self._client.list_table_files(name)
        except DestinationUndefinedEntity:
            return
        for path in paths:
            folder, file = self._client.pathlib.split(path)
            older = log == self._client.pathlib.basename(folder) and file < oldest
            if older or LEFT_BY_A_KILL.fullmatch(file):
                self._client.fs_client.rm_file(path)

    def forget_states(self, pipeline_name: str, but: str) -> None:
        """Remove dlt's states of the pipeline, but not that of the load ``but``."""
        states = self._client._list_dlt_table_files(self._client.schema.state_table_name, pipeline_name)
        for path, (_, load_id, _) in list(states):  # dlt has no public way to them
            if load_id != but:
                self._client.fs_client.rm_file(path)

    def _dataset(self, name: str) -> Any:
        """Return a table's rows, unread; None where there is no such table."""
        try:
            if name in self._delta:
                return self._client.load_open_table("delta", name).to_pyarrow_dataset()
            schemas = self._schemas(name)
        except DestinationUndefinedEntity:
            return None
        return self._plain(list(schemas), one_schema(schemas.values())) if schemas else None

    def _plain(self, paths: Sequence[str], schema: pa.Schema) -> Any:
        return pads.dataset(list(paths), schema=schema, filesystem=self._client.fs_client, format="parquet")

    def _schemas(self, name: str) -> dict[str, pa.Schema]:
        """Return the files of a plain table."""
        files = [path for path in self._client.list_table_files(name) if path.endswith(".parquet")]
        return {path: schema for path in files if (schema := self._schema_of(name, path)) is not None}

    def _schema_of(self, name: str, path: str) -> pa.Schema | None:
        """Return the schema of a Parquet file; None for a truncated file of an audit table."""
        try:
            return pq.read_schema(path, filesystem=self._client.fs_client)
        except pa.ArrowInvalid:
            if name in {table.name for table in AUDIT_TABLES}:
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
