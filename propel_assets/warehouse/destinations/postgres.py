"""PostgreSQL: CSV that keeps empty text apart from null, and one writer at a time."""

import contextlib
import csv
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import dlt
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.destination.client import HasFollowupJobs, LoadJob
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.schema import Schema
from dlt.destinations.exceptions import DatabaseException

from propel_assets.catalog import PROPEL_SCANS
from propel_assets.errors import WriteLockLost
from propel_assets.warehouse.destinations.jobs import ClientJob, SetsClient
from propel_assets.warehouse.locks import LockTimeout, wait_for_lock

GZIP = b"\x1f\x8b"
NETWORK_LIMITS = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
"""Parameters of libpq: a connection that the network dropped is an error after a minute, not after hours."""
NO_IDLE_TIMEOUT = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'"


class CopyCsv(ClientJob, HasFollowupJobs):
    """COPY of a CSV file as pyarrow writes it: text is quoted, so an empty value without quotes is null.

    dlt's own job makes every empty text null.
    """

    def run(self) -> None:
        """Copy the file in one transaction."""
        sql_client = self.client.sql_client
        with _open_csv(self.path) as file:
            header = next(csv.reader([file.readline().decode()]))
            columns = ", ".join(map(sql_client.escape_column_name, header))
            table = sql_client.make_qualified_table_name(self.load_table_name)
            copy = f"COPY {table} ({columns}) FROM STDIN WITH (FORMAT CSV, NULL '', ENCODING 'utf-8')"
            with sql_client.begin_transaction(), sql_client.native_connection.cursor() as cursor:
                if self.load_table_name == PROPEL_SCANS.name:  # replace what `note_write` has added
                    cursor.execute(f"DELETE FROM {table} WHERE load_id = %s", (self._load_id,))  # noqa: S608
                cursor.copy_expert(copy, file)


def _open_csv(path: Path) -> BinaryIO:
    """Open a file that may be compressed."""
    with path.open("rb") as file:
        compressed = file.read(len(GZIP)) == GZIP
    return cast(BinaryIO, gzip.open(path, "rb")) if compressed else path.open("rb")


class PostgresClient(SetsClient):
    """Mixin for dlt's client."""

    def __init__(self, schema: Schema, config: Any, capabilities: DestinationCapabilitiesContext) -> None:
        """Connect with `NETWORK_LIMITS`, unless the credentials have others."""
        config.credentials.query = {**NETWORK_LIMITS, **(config.credentials.query or {})}
        super().__init__(schema, config, capabilities)  # type: ignore[call-arg]

    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        """Return `CopyCsv` for CSV files, and dlt's job for all others."""
        if ".csv" in Path(file_path).name:
            return CopyCsv(file_path)
        return super().create_load_job(table, file_path, load_id, restore)  # type: ignore[misc]


@contextlib.contextmanager
def stream_rows(client: Any, sql: str) -> Iterator[Any]:
    """Yield a cursor of the server for ``sql``. A cursor of the driver would hold all rows in memory."""
    with client.begin_transaction(), client.native_connection.cursor(name="propel_assets") as cursor:
        cursor.execute(sql)
        yield cursor


@contextlib.contextmanager
def advisory_lock(pipeline: dlt.Pipeline, timeout: LockTimeout) -> Iterator[Callable[[], None]]:
    """Hold the right to write to the dataset of ``pipeline``. The lock ends with its connection.

    Yields a function that raises `WriteLockLost` if the connection has ended.

    Raises:
        WarehouseBusy: another process held it until the time limit.
    """
    with pipeline.sql_client() as client:

        def acquire() -> str:
            locked = client.execute_sql("SELECT pg_try_advisory_lock(hashtext(%s))", pipeline.dataset_name)
            return "" if locked == [(True,)] else f"another process holds the write lock of {pipeline.dataset_name}"

        wait_for_lock(acquire, timeout)
        client.execute_sql(NO_IDLE_TIMEOUT)

        def require_lock() -> None:
            try:
                client.execute_sql("SELECT 1")
            except DatabaseException:
                raise WriteLockLost(
                    "PostgreSQL or the network closed the connection that holds the write lock while this load was "
                    "reading. The previous data is kept. Run the load again. If it happens again, raise the time limit "
                    "of idle connections."
                ) from None

        yield require_lock
