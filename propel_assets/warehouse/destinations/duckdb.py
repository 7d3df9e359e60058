"""DuckDB: dlt's destination with two changes. A replace is one transaction, and opening waits for a locked file.

dlt empties a table in one transaction and fills it in others; a process killed in between leaves an empty table. Here
the files of a table are kept until all of them are complete; then one transaction deletes the old rows and inserts the
new rows. That is also faster than loading through a staging dataset (docs/decisions/0002).
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import dlt
import duckdb as engine
from dlt.common.configuration import configspec
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.destination.client import FollowupJobRequest, HasFollowupJobs, LoadJob, RunnableLoadJob
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.schema import Schema
from dlt.destinations.exceptions import DatabaseException, DestinationConnectionError

from propel_assets.warehouse.destinations.capabilities import CachesCapabilities
from propel_assets.warehouse.destinations.duckdb_file import (
    describe_open_error,
    is_writable,
    refuse_path,
    sql_literal,
)
from propel_assets.warehouse.destinations.jobs import ClientJob, SetsClient, SqlFile
from propel_assets.warehouse.dlt_compat import DuckDbClient, DuckDbClientConfiguration, DuckDbSqlClient, LoadJobInfo
from propel_assets.warehouse.locks import LockTimeout, lock_owner, wait_for_lock

T = TypeVar("T")
MEMORY_LIMIT = "180MB"
STRATEGY = "truncate-and-insert"


class SqlJob(ClientJob):
    """A job that runs SQL on `AtomicDuckDbClient`."""

    def execute(self, sql: str) -> None:
        """Run statements in one transaction, with limited memory and without keeping the order of rows.

        One job at a time: the settings are those of the whole database.
        """
        sql_client = self.client.sql_client

        def insert() -> None:
            with _settings(sql_client, {"preserve_insertion_order": "false"}), sql_client.begin_transaction():
                sql_client.execute_sql(sql)

        with _one_at_a_time:
            limited_memory(sql_client, insert)


_one_at_a_time = threading.Lock()


class ReplaceTable(SqlJob):
    """Run the statements of a `SqlFile`: delete the rows of a table, and insert those of its Parquet files."""

    def run(self) -> None:
        """Replace the rows."""
        self.execute(self.path.read_text(encoding="utf-8"))


class InsertParquet(SqlJob, HasFollowupJobs):
    """Insert a Parquet file. dlt's own job does not quote the path of the file."""

    def run(self) -> None:
        """Insert the rows."""
        table = self.client.sql_client.make_qualified_table_name(self.load_table_name)
        self.execute(insert_parquet(table, [self.path]))


class KeepParquet(RunnableLoadJob, HasFollowupJobs):
    """A Parquet file that stays until all files of its table are complete."""

    def run(self) -> None:
        """Do nothing: `ReplaceTable` reads the file."""


def insert_parquet(table: str, files: Sequence[Path]) -> str:
    """Return the statement that inserts Parquet files into a table, whose name is quoted."""
    paths = ", ".join(sql_literal(str(path)) for path in files)
    return f"INSERT INTO {table} BY NAME SELECT * FROM read_parquet([{paths}], union_by_name = true)"  # noqa: S608


def limited_memory(client: DuckDbSqlClient, work: Callable[[], T]) -> T:
    """Run ``work`` with a memory limit. If it runs out of memory, run it again without the limit.

    By default DuckDB uses most of the machine's memory. Very wide rows need more than the limit.
    """
    if {"memory_limit", "max_memory"} & set(client.credentials.global_config or {}):
        return work()  # the user has set a limit
    if client.credentials.read_only:
        return work()  # what exceeds the limit is written beside the file, which this user may not do
    try:
        with _settings(client, {"memory_limit": MEMORY_LIMIT}):
            return work()
    except DatabaseException as error:
        if not isinstance(error.dbapi_exception, engine.OutOfMemoryException):
            raise
    return work()


@contextlib.contextmanager
def _settings(client: DuckDbSqlClient, settings: Mapping[str, str]) -> Iterator[None]:
    """Change settings of the database, except those that the user has set, and restore them."""
    changed = {name: value for name, value in settings.items() if name not in (client.credentials.global_config or {})}
    before: dict[str, Any] = {}
    for name in changed:
        [(before[name],)] = client.execute_sql("SELECT current_setting(%s)", name) or []
    for name, value in changed.items():
        client.execute_sql(f"SET {name} = {sql_literal(value)}")
    try:
        yield
    finally:
        for name, value in before.items():  # not RESET: it leaves the buffers limited (DuckDB 1.5.5)
            client.execute_sql(f"SET {name} = {sql_literal(str(value))}")


@configspec(init=False)
class DuckDbConfiguration(DuckDbClientConfiguration):
    """dlt's configuration, with a text form that does not import SQLAlchemy: a tenth of the time of a small load."""

    def __str__(self) -> str:
        """Return the URL of the database."""
        return f"duckdb:///{self.credentials.database}"


class AtomicDuckDbClient(SetsClient, DuckDbClient):
    """Load replaced tables from Parquet in one transaction, and all others as dlt does."""

    def __init__(
        self, schema: Schema, config: DuckDbClientConfiguration, capabilities: DestinationCapabilitiesContext
    ) -> None:
        """Connect with `WaitingSqlClient`."""
        super().__init__(schema, config, capabilities)
        plain = self.sql_client
        self.sql_client = WaitingSqlClient(
            plain.dataset_name, plain.staging_dataset_name, config.credentials, capabilities
        )

    def should_truncate_table_before_load(self, table_name: str) -> bool:
        """Return False for tables that are replaced in one transaction, which also deletes."""
        return super().should_truncate_table_before_load(table_name) and not self._is_atomic(
            self.prepare_load_table(table_name)
        )

    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        """Return our job for Parquet files and for the statements that replace a table."""
        if file_path.endswith(".parquet"):
            return KeepParquet(file_path) if self._is_atomic(table) else InsertParquet(file_path)
        if file_path.endswith(".sql") and self._is_atomic(table):
            return ReplaceTable(file_path)
        return super().create_load_job(table, file_path, load_id, restore)

    def create_table_chain_completed_followup_jobs(
        self,
        table_chain: Sequence[PreparedTableSchema],
        completed_table_chain_jobs: Sequence[LoadJobInfo] | None = None,
    ) -> list[FollowupJobRequest]:
        """Replace the rows of a table once all of its files are complete."""
        table = table_chain[0]
        files = [job for job in completed_table_chain_jobs or () if job.job_file_info.file_format == "parquet"]
        if self._is_atomic(table) and files:
            name = self.sql_client.make_qualified_table_name(str(table["name"]))
            delete = f"DELETE FROM {name};"  # noqa: S608 - a quoted name
            return [SqlFile(files[0], [delete, insert_parquet(name, [Path(job.file_path) for job in files]) + ";"])]
        return super().create_table_chain_completed_followup_jobs(table_chain, completed_table_chain_jobs)

    def _is_atomic(self, table: PreparedTableSchema) -> bool:
        return table["write_disposition"] == "replace" and table.get("x-replace-strategy") == STRATEGY


class WaitingSqlClient(DuckDbSqlClient):
    """Connect when the file is not locked: DuckDB allows one process to write, and no other to read meanwhile.

    A file that this user may only read is opened read-only: then several processes can read at the same time.
    """

    lock_timeout: LockTimeout

    def open_connection(self) -> engine.DuckDBPyConnection:
        """Connect, waiting for another program that has the file open.

        Raises:
            WarehouseBusy: the other program did not close it in time.
            WarehouseClosed: the file cannot be opened for another reason.
        """
        file = Path(str(self.credentials.database))
        refuse_path(file)
        connections: list[engine.DuckDBPyConnection] = []

        def try_open() -> tuple[engine.Error | None, str]:
            """Connect, or return the error and the owner of the lock."""
            try:
                connections.append(super(WaitingSqlClient, self).open_connection())
            except DestinationConnectionError as error:
                if not isinstance(error.inner_exc, engine.Error):
                    raise
                return error.inner_exc, lock_owner(file)
            return None, ""

        def acquire() -> str:
            error, owner = try_open()
            if error and not owner:
                self.credentials.read_only = self.credentials.read_only or (file.is_file() and not is_writable(file))
                error, owner = try_open()  # the lock can have ended before its owner was looked up
            if error and not owner:
                raise describe_open_error(file, error) from error
            return f"{owner} has {file.name} open" if error else ""

        wait_for_lock(acquire, self.lock_timeout)
        return connections[0]


class atomic_duckdb(CachesCapabilities, dlt.destinations.duckdb):  # noqa: N801 - dlt names destinations in lower case
    """DuckDB, as dlt's destination of that name in every other respect."""

    spec = DuckDbConfiguration
    lock_timeout: LockTimeout

    @classmethod
    def with_name(cls, name: str, lock_timeout: LockTimeout) -> "atomic_duckdb":
        """Return the destination with this name; its clients wait for locks up to ``lock_timeout``."""
        # dlt runs the statements of a merge in one transaction only if the destination declares transactions.
        options: dict[str, Any] = {"replace_strategy": STRATEGY, "supports_transactions": True}
        if name != "duckdb":  # without a name of its own, dlt names the file after the pipeline
            options["destination_name"] = name
        made = cls(**options)
        made.lock_timeout = lock_timeout
        return made

    @property
    def destination_type(self) -> str:
        """Return the type that dlt's state names: plain DuckDB, which can read these files."""
        return "dlt.destinations.duckdb"

    @property
    def client_class(self) -> type[DuckDbClient]:
        """Return the client that replaces in one transaction."""
        return AtomicDuckDbClient

    def configuration(self, initial_config: Any = None, accept_partial: bool = False) -> Any:
        """Return the resolved configuration. dlt asks for the same one in each step of a load: it is resolved once."""
        initial_config = initial_config or self.spec()
        if initial_config.is_resolved() or accept_partial:
            return super().configuration(initial_config, accept_partial)
        attributes: Any = self.__dict__
        resolved = attributes.setdefault("resolved_configurations", {})
        if (key := str(dict(initial_config))) not in resolved:
            resolved[key] = super().configuration(initial_config)
        copied = resolved[key].copy()
        copied.credentials.resolve()  # with a connection of its own
        return copied

    def client(self, schema: Schema, initial_config: Any = None) -> DuckDbClient:
        """Return a client that waits for locks."""
        client = super().client(schema, initial_config)
        cast(WaitingSqlClient, client.sql_client).lock_timeout = self.lock_timeout
        return client
