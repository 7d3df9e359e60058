"""dlt's DuckDB destination with two changes: a replace is one transaction, and a busy file is waited for.

dlt empties a table in one transaction and fills it in others: killed in between, everybody is gone. Here the files of
a table stay where they are until all of them are there; then one transaction deletes the old rows and inserts the new
ones. That is also faster than loading through a staging dataset (docs/decisions/0002).
"""

import contextlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import duckdb as engine
import psutil
from dlt.common.configuration import configspec
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.destination.client import FollowupJobRequest, HasFollowupJobs, LoadJob, RunnableLoadJob
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.schema import Schema
from dlt.common.storages.load_package import LoadJobInfo, ParsedLoadJobFileName
from dlt.destinations.exceptions import DatabaseException, DestinationConnectionError
from dlt.destinations.impl.duckdb.configuration import DuckDbClientConfiguration
from dlt.destinations.impl.duckdb.duck import DuckDbClient
from dlt.destinations.impl.duckdb.factory import duckdb as duckdb_factory
from dlt.destinations.impl.duckdb.sql_client import DuckDbSqlClient
from dlt.destinations.job_client_impl import SqlLoadJob
from dlt.destinations.job_impl import FollowupJobRequestImpl
from filelock import FileLock, Timeout

from propel_assets.errors import WarehouseBusy, WarehouseClosed

WAIT_SECONDS = 0.25
SAY_EVERY_SECONDS = 10.0
T = TypeVar("T")
MEMORY_LIMIT = "180MB"
MEMORY_SETTINGS = frozenset({"memory_limit", "max_memory"})
ANOTHER_FILE = "Put that right, or name another file in DESTINATION__DUCKDB__CREDENTIALS."


class ReplaceInOneTransaction(FollowupJobRequestImpl):
    """Statements that delete a table's rows and insert those of its files; dlt runs them in one transaction."""

    def __init__(self, client: DuckDbClient, table: PreparedTableSchema, files: Sequence[str]) -> None:
        """Write the statements to a job file of ``table``."""
        name = str(table["name"])
        job = ParsedLoadJobFileName(name, ParsedLoadJobFileName.new_file_id(), 0, "sql")
        super().__init__(job.file_name())
        self._file_path = str(Path(files[0]).parents[1] / job.file_name())  # dlt's choice would outlive a kill
        qualified = client.sql_client.make_qualified_table_name(name)
        listed = ", ".join(f"'{path.replace(chr(39), 2 * chr(39))}'" for path in files)
        self._save_text_file(
            # Names are quoted by dlt, paths above.
            f"DELETE FROM {qualified};\n"  # noqa: S608
            f"INSERT INTO {qualified} BY NAME SELECT * FROM read_parquet([{listed}], union_by_name = true);"
        )


class ReplaceWithLittleMemory(SqlLoadJob):
    """Runs `ReplaceInOneTransaction`, one table at a time: the limit is the whole database's."""

    _one_at_a_time = threading.Lock()

    def run(self) -> None:
        """Run the statements."""
        with self._one_at_a_time:
            with_little_memory(cast(DuckDbSqlClient, self._job_client.sql_client), super().run)


def with_little_memory(client: DuckDbSqlClient, work: Callable[[], T]) -> T:
    """Return what ``work`` returns: DuckDB takes all the memory it may, and needs little.

    Very wide rows do need more, and get it: ``work`` is then done again.
    """
    if MEMORY_SETTINGS & set(client.credentials.global_config or {}):
        return work()  # the user has said how much
    [(usual,)] = client.execute_sql("SELECT current_setting('memory_limit')") or []
    client.execute_sql(f"SET memory_limit = '{MEMORY_LIMIT}'")
    try:
        return work()
    except DatabaseException as error:
        if not isinstance(error.dbapi_exception, engine.OutOfMemoryException):
            raise
    finally:
        client.execute_sql(f"SET memory_limit = '{usual}'")  # RESET leaves the buffers limited (1.5.5)
    return work()


class KeptFile(RunnableLoadJob, HasFollowupJobs):
    """A file that waits for the others of its table."""

    def run(self) -> None:
        """Do nothing: `ReplaceInOneTransaction` reads the file."""


@configspec(init=False)
class DuckDbConfiguration(DuckDbClientConfiguration):
    """dlt's, naming the database without SQLAlchemy: its import would take a tenth of a small load."""

    def __str__(self) -> str:
        """Return the URL of the database."""
        return f"duckdb:///{self.credentials.database}"


class AtomicDuckDbClient(DuckDbClient):
    """Loads replaced tables from Parquet in one transaction; everything else as dlt does."""

    def __init__(
        self, schema: Schema, config: DuckDbClientConfiguration, capabilities: DestinationCapabilitiesContext
    ) -> None:
        """Connect by `PatientSqlClient`."""
        super().__init__(schema, config, capabilities)
        plain = self.sql_client
        self.sql_client = PatientSqlClient(
            plain.dataset_name, plain.staging_dataset_name, config.credentials, capabilities
        )

    def should_truncate_table_before_load(self, table_name: str) -> bool:
        """Never: the transaction that inserts also deletes."""
        return super().should_truncate_table_before_load(table_name) and not self._is_atomic(
            self.prepare_load_table(table_name)
        )

    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        """Keep the Parquet files of a replaced table for the end."""
        if self._is_atomic(table) and file_path.endswith(".parquet"):
            return KeptFile(file_path)
        if self._is_atomic(table) and file_path.endswith(".sql"):
            return ReplaceWithLittleMemory(file_path)
        return super().create_load_job(table, file_path, load_id, restore)

    def create_table_chain_completed_followup_jobs(
        self,
        table_chain: Sequence[PreparedTableSchema],
        completed_table_chain_jobs: Sequence[LoadJobInfo] | None = None,
    ) -> list[FollowupJobRequest]:
        """Once all files of a replaced table are there, replace its rows."""
        files = [
            job.file_path for job in completed_table_chain_jobs or () if job.job_file_info.file_format == "parquet"
        ]
        if self._is_atomic(table_chain[0]) and files:
            return [ReplaceInOneTransaction(self, table_chain[0], files)]
        return super().create_table_chain_completed_followup_jobs(table_chain, completed_table_chain_jobs)

    def _is_atomic(self, table: PreparedTableSchema) -> bool:
        return table["write_disposition"] == "replace" and table.get("x-replace-strategy") == "truncate-and-insert"


class PatientSqlClient(DuckDbSqlClient):
    """Connects once the file is free: DuckDB lets one process write, and none read meanwhile."""

    patience: "Patience"

    def open_connection(self) -> engine.DuckDBPyConnection:
        """Connect, waiting for another program that has the file open."""
        waiting = self.patience.begin()
        while True:
            try:
                return super().open_connection()
            except DestinationConnectionError as error:
                cause = error.__cause__ or error.__context__
                file = str(self.credentials._conn_str())
                if not isinstance(cause, engine.IOException):
                    raise
                if "lock on file" not in str(cause):
                    raise WarehouseClosed(f"DuckDB cannot open {file}: {_first_line(cause)} {ANOTHER_FILE}") from error
                waiting.go_on(f"{_who_holds(str(cause))} has {Path(file).name} open")


class atomic_duckdb(duckdb_factory):  # noqa: N801 - dlt names destinations in lower case
    """DuckDB, as dlt's destination of that name in every other respect."""

    spec = DuckDbConfiguration
    patience: "Patience"

    @classmethod
    def named(cls, name: str, patience: "Patience") -> "atomic_duckdb":
        """Return the destination called ``name``; its clients wait as ``patience`` says."""
        # A replace is one transaction here, but only where dlt is told that there are any: it runs statements that
        # change no table's shape outside of one otherwise, and a kill between DELETE and INSERT left nobody.
        options: dict[str, Any] = {"replace_strategy": "truncate-and-insert", "supports_transactions": True}
        if name != "duckdb":  # a plain one names its file by the pipeline
            options["destination_name"] = name
        made = cls(**options)
        made.patience = patience
        return made

    @property
    def destination_type(self) -> str:
        """What the state says the destination is: plain DuckDB, which reads these files as they are."""
        return "dlt.destinations.duckdb"

    @property
    def client_class(self) -> type[DuckDbClient]:
        """The client that replaces in one transaction."""
        return AtomicDuckDbClient

    def client(self, schema: Schema, initial_config: Any = None) -> DuckDbClient:
        """Return a client that waits."""
        client = super().client(schema, initial_config)
        cast(PatientSqlClient, client.sql_client).patience = self.patience
        return client


def rewrite(client: DuckDbSqlClient, file: Path) -> None:
    """Copy the database into a fresh file beside it: DuckDB keeps what was deleted in freed blocks of the old one.

    Raises:
        WarehouseClosed: it cannot be copied, for want of room for instance.
    """
    fresh = _fresh(file)
    for left in (fresh, Path(f"{fresh}.wal")):
        left.unlink(missing_ok=True)
    name, path = client.native_connection.execute("SELECT current_database()").fetchall()[0][0], str(fresh)
    try:
        client.native_connection.execute(f"ATTACH '{path.replace(chr(39), 2 * chr(39))}' AS propel_fresh")
        client.native_connection.execute(f"COPY FROM DATABASE {client.escape_column_name(name)} TO propel_fresh")
        client.native_connection.execute("DETACH propel_fresh")
    except engine.Error as error:
        raise WarehouseClosed(
            f"Rows were deleted, but {file.name} could not be rewritten, so their bytes are still in it: "
            f"{_first_line(error)} Make room beside it and run again."
        ) from None


def put_in_place(file: Path) -> None:
    """Put the rewritten database where it belongs, at once; nothing may have the file open."""
    shutil.copymode(file, _fresh(file))
    _fresh(file).replace(file)
    Path(f"{file}.wal").unlink(missing_ok=True)


def _fresh(file: Path) -> Path:
    return file.with_name(f"{file.name}.rewritten")


@dataclass(frozen=True)
class Patience:
    """How long to wait for somebody else, and whom to tell."""

    seconds: float
    say: Callable[[str], None]

    def begin(self) -> "_Waiting":
        """Start one wait."""
        return _Waiting(self, time.monotonic() + self.seconds)


@dataclass
class _Waiting:
    patience: Patience
    until: float
    say_at: float = 0.0

    def go_on(self, who_does_what: str) -> None:
        """Wait a moment; now and then say for whom.

        Raises:
            WarehouseBusy: it has been long enough.
        """
        now = time.monotonic()
        if now >= self.until:
            raise WarehouseBusy(
                f"{who_does_what}, and did not let go in {self.patience.seconds:.0f} s (PROPELAUTH_LOCK_SECONDS). "
                "Nothing was replaced. Close it, or run again later."
            )
        if now >= self.say_at:
            self.patience.say(f"Waiting: {who_does_what}.")
            self.say_at = now + SAY_EVERY_SECONDS
        time.sleep(WAIT_SECONDS)  # DuckDB has no call that waits for its lock


@contextlib.contextmanager
def exclusive(database: Path, patience: Patience) -> Iterator[None]:
    """Hold the right to load into ``database``: one load at a time, whichever process it is in.

    The right ends with the process, so a kill leaves nothing behind.

    Raises:
        WarehouseBusy: somebody else has held it for too long.
        WarehouseClosed: no file can be written beside the database.
    """
    lock = FileLock(f"{database}.lock")
    try:
        Path(lock.lock_file).touch()  # where this fails, FileLock says that somebody else holds it
    except OSError as error:
        raise WarehouseClosed(
            f"Cannot write to the folder of the DuckDB file, {database.parent}: {error.strerror}. {ANOTHER_FILE}"
        ) from error
    holder = Path(f"{database}.lock.holder")
    waiting = patience.begin()
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            waiting.go_on(f"{_read(holder) or 'another process'} is loading into {database.name}")
    try:
        holder.write_text(_name_of(psutil.Process()), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _first_line(error: BaseException) -> str:
    text = str(error).splitlines()[0].strip().removeprefix("IO Error: ")
    return text if text.endswith((".", "!")) else f"{text}."


def _who_holds(message: str) -> str:
    """Name the process in DuckDB's message about a lock."""
    found = re.search(r"PID (\d+)", message)
    if not found:
        return "Another program"
    try:
        return _name_of(psutil.Process(int(found.group(1))))
    except psutil.Error:
        return f"process {found.group(1)}"


def _name_of(process: psutil.Process) -> str:
    return f"process {process.pid} ({process.name()})"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
