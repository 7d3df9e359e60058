"""Tables of dlt's filesystem destination, Delta or plain Parquet, as views in DuckDB.

The library deltalake and pyarrow read the files, because DuckDB's extensions for that are downloads.
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

from propel_assets.catalog import AUDIT_TABLES
from propel_assets.errors import WarehouseError
from propel_assets.warehouse.dlt_compat import (
    FilesystemClient,
    get_column_type_from_py_arrow,
    load_ids_of_files,
    state_files,
)

LOADS = "_dlt_loads"
NEW = ".new"
TEMPORARY = re.compile(rf"_commit_.+|.+(#\d+|{re.escape(NEW)})")  # the first two are names of the library deltalake
LOADS_SCHEMA = pa.schema({"load_id": pa.string(), "inserted_at": pa.float64(), "status": pa.int64()})


def one_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Return a schema that fits the rows of all ``schemas``."""
    return pa.unify_schemas(list(schemas), promote_options="permissive")


class FileTables:
    """The tables of a destination. Each is opened when it is first used."""

    def __init__(self, client: FilesystemClient) -> None:
        """Open no table yet."""
        self._client = client
        self._delta = {name for name, table in client.schema.tables.items() if table.get("table_format") == "delta"}
        self.connection = duckdb.connect()
        self.connection.execute("SET TimeZone = 'UTC'")
        self._datasets: dict[str, Any] = {}
        self._versions: dict[str, Any] = {}  # of the Delta tables, as they were read

    def create_view(self, name: str) -> bool:
        """Create the view of a table; return whether the table exists."""
        if name not in self._datasets:
            rows = self._loads() if name == LOADS else self._dataset(name)
            if rows is None:
                return False
            self.connection.register(name, rows)
            self._datasets[name] = rows
        return True

    def types(self, name: str) -> dict[str, str]:
        """Return the columns of a table with dlt's names of their types; empty: the table does not exist."""
        if not self.create_view(name):
            return {}
        schema = self._datasets[name].schema
        return {field.name: str(get_column_type_from_py_arrow(field.type)["data_type"]) for field in schema}

    def append(self, name: str, rows: pa.Table) -> None:
        """Add rows to a table."""
        if name in self._delta:
            from deltalake import write_deltalake

            write_deltalake(self._client.load_open_table("delta", name), rows, mode="append")
        else:
            path = self._client.get_table_prefix(name) + f"{uuid.uuid4().hex}.parquet"
            with self._client.fs_client.open(path, "wb") as file:
                pq.write_table(rows, file)
        if self._datasets.pop(name, None) is not None:
            self.connection.unregister(name)

    def parts(self, name: str) -> dict[str, Any]:
        """Return the parts of a table that are replaced as a whole: the Delta table, or each file.

        Rows are read later. Empty: the table does not exist.
        """
        try:
            if name in self._delta:
                self._versions[name] = self._client.load_open_table("delta", name)
                return {name: self._versions[name].to_pyarrow_dataset()}
            return {path: self._plain([path], schema) for path, schema in self._schemas(name).items()}
        except DestinationUndefinedEntity:
            return {}

    def replace(self, name: str, part: str, rows: pa.RecordBatchReader) -> None:
        """Replace the rows of one of `parts` atomically: by one commit, or by renaming one file."""
        if name in self._delta:
            from deltalake import write_deltalake

            write_deltalake(self._versions[name], rows, mode="overwrite")
            return
        files, new = self._client.fs_client, part + NEW
        with files.open(new, "wb") as file, pq.ParquetWriter(file, rows.schema) as writer:
            for batch in rows:
                writer.write_batch(batch)
        files.mv(new, part)

    def remove_old_versions(self, name: str) -> None:
        """Remove older versions of a table, their log, and the temporary files of killed processes."""
        self._client.fs_client.invalidate_cache()
        log, oldest = "", ""
        try:
            if name in self._delta:
                table = self._client.load_open_table("delta", name)
                table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
                table.create_checkpoint()
                # The entries before a checkpoint contain the smallest and the largest value of every column.
                log, oldest = "_delta_log", f"{table.version():020}"
            paths = self._client.list_table_files(name)
        except DestinationUndefinedEntity:
            return
        for path in paths:
            folder, file = self._client.pathlib.split(path)
            older = log == self._client.pathlib.basename(folder) and file < oldest
            if older or TEMPORARY.fullmatch(file):
                self._client.fs_client.rm_file(path)

    def remove_states(self, pipeline_name: str, except_load_id: str) -> None:
        """Remove dlt's states of a pipeline, except the state of one load."""
        for path, load_id in list(state_files(self._client, pipeline_name)):
            if load_id != except_load_id:
                self._client.fs_client.rm_file(path)

    def _dataset(self, name: str) -> Any:
        """Return a table as a dataset, whose rows are read later; None: the table does not exist."""
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
        """Return the schema of each file of a plain table, by path."""
        files = [path for path in self._client.list_table_files(name) if path.endswith(".parquet")]
        return {path: schema for path in files if (schema := self._schema_of(name, path)) is not None}

    def _schema_of(self, name: str, path: str) -> pa.Schema | None:
        """Return the schema of a Parquet file; None for an incomplete file of an audit table: its load was killed."""
        try:
            return pq.read_schema(path, filesystem=self._client.fs_client)
        except pa.ArrowInvalid:
            if name in {table.name for table in AUDIT_TABLES}:
                return None
            raise WarehouseError(
                f"A file of {name} is incomplete, because a load was killed while it wrote it. "
                f"Load the table again: propel-assets load {name}."
            ) from None

    def _loads(self) -> pa.Table | None:
        """Return the complete loads. A load id is the time of the load."""
        try:
            ids = load_ids_of_files(self._client, LOADS)
        except DestinationUndefinedEntity:
            return None
        columns = {"load_id": ids, "inserted_at": [float(load_id) for load_id in ids], "status": [0] * len(ids)}
        return pa.table(columns, schema=LOADS_SCHEMA)
