"""dlt's clients, where ours do something otherwise: why, is in the table in `destinations.py`.

BigQuery and Databricks replace a table in one statement: dlt fills a staging table, and its rows come over in a
statement that also removes what was there before. PostgreSQL tells an empty text from none.
"""

import csv
from collections.abc import Sequence
from typing import Any, ClassVar

from dlt.common.destination import Destination
from dlt.common.destination.client import FollowupJobRequest, HasFollowupJobs, LoadJob, RunnableLoadJob
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.storages import FileStorage
from dlt.destinations.sql_client import SqlClientBase
from dlt.destinations.sql_jobs import SqlStagingReplaceFollowupJob


class _ReplaceInOneStatement(SqlStagingReplaceFollowupJob):
    """Statements that replace the rows of each table by those of its staging table, one per table."""

    statement: ClassVar[str]
    """The statement, with places for names that are quoted and qualified."""

    @classmethod
    def generate_sql(cls, table_chain: Sequence[PreparedTableSchema], sql_client: SqlClientBase[Any]) -> list[str]:
        """Return the statements."""
        statements = []
        for table in table_chain:
            name, staging = sql_client.get_qualified_table_names(str(table["name"]))
            columns = ", ".join(map(sql_client.escape_column_name, table["columns"]))
            statements.append(cls.statement.format(table=name, staging=staging, columns=columns))
        return statements


class MergeOnFalse(_ReplaceInOneStatement):
    """BigQuery's MERGE: nothing matches, so every old row goes and every new one comes."""

    statement = (
        "MERGE INTO {table} AS t USING {staging} AS s ON FALSE "
        "WHEN NOT MATCHED BY SOURCE THEN DELETE "
        "WHEN NOT MATCHED BY TARGET THEN INSERT ({columns}) VALUES ({columns})"
    )


class InsertOverwrite(_ReplaceInOneStatement):
    """Databricks' INSERT: a new version of a Delta table."""

    statement = "INSERT OVERWRITE {table} ({columns}) SELECT {columns} FROM {staging}"


class CopyExactly(RunnableLoadJob, HasFollowupJobs):
    """COPY of a CSV file as pyarrow writes it: texts are quoted, so what is not quoted and empty is null.

    dlt's own makes every empty text null.
    """

    def run(self) -> None:
        """Copy the file."""
        client: Any = self._job_client.sql_client  # type: ignore[attr-defined]
        with FileStorage.open_zipsafe_ro(self._file_path, "rb") as file:
            header = next(csv.reader([file.readline().decode()]))
            columns = ", ".join(map(client.escape_column_name, header))
            table = client.make_qualified_table_name(self.load_table_name)
            copy = f"COPY {table} ({columns}) FROM STDIN WITH (FORMAT CSV, NULL '', ENCODING 'utf-8')"
            with client.begin_transaction(), client.native_connection.cursor() as cursor:
                cursor.copy_expert(copy, file)


class _BigQuery:
    def _create_replace_followup_jobs(self, table_chain: Sequence[PreparedTableSchema]) -> list[FollowupJobRequest]:
        return [MergeOnFalse.from_table_chain(table_chain, self.sql_client)]  # type: ignore[attr-defined]


class _Databricks:
    def _create_replace_followup_jobs(self, table_chain: Sequence[PreparedTableSchema]) -> list[FollowupJobRequest]:
        return [InsertOverwrite.from_table_chain(table_chain, self.sql_client)]  # type: ignore[attr-defined]


class _Postgres:
    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        """Copy CSV files exactly; everything else as dlt does."""
        if ".csv" in file_path.rsplit("/", 1)[-1]:
            return CopyExactly(file_path)
        return super().create_load_job(table, file_path, load_id, restore)  # type: ignore[misc]


OURS: dict[str, type] = {"bigquery": _BigQuery, "databricks": _Databricks, "postgres": _Postgres}


def with_our_client(factory: type[Destination[Any, Any]], kind: str) -> type[Destination[Any, Any]]:
    """Return dlt's destination ``factory`` with our client for this ``kind``, where there is one."""
    if kind not in OURS:
        return factory

    class WithOurClient(factory):  # type: ignore[misc,valid-type]
        @property
        def destination_type(self) -> str:
            """What the state says the destination is: dlt's own, which reads these tables as they are."""
            return f"dlt.destinations.{kind}"

        @property
        def client_class(self) -> type[Any]:
            client = super().client_class
            return type(client.__name__, (OURS[kind], client), {})

    return WithOurClient
