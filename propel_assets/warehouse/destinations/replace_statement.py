"""Replace the rows of a table in one statement, for destinations without transactions over several statements.

dlt fills a staging table; the statement removes the old rows and inserts those of the staging table.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from dlt.common.destination.client import FollowupJobRequest
from dlt.common.destination.typing import PreparedTableSchema

from propel_assets.warehouse.destinations.jobs import SqlFile
from propel_assets.warehouse.dlt_compat import LoadJobInfo

STAGING_STRATEGY = "insert-from-staging"


class ReplaceInOneStatement:
    """Mixin for a dlt client: replace each table by one statement."""

    statement: ClassVar[str]
    """The statement, with fields for quoted names: table, staging, columns."""

    def create_table_chain_completed_followup_jobs(
        self,
        table_chain: Sequence[PreparedTableSchema],
        completed_table_chain_jobs: Sequence[LoadJobInfo] | None = None,
    ) -> list[FollowupJobRequest]:
        """Return one job with the statements of all tables, once their staging tables are complete."""
        client: Any = self
        table = table_chain[0]
        if (
            completed_table_chain_jobs
            and table["write_disposition"] == "replace"
            and table.get("x-replace-strategy") == STAGING_STRATEGY
        ):
            statements = [self._statement(client.sql_client, table) for table in table_chain]
            return [SqlFile(completed_table_chain_jobs[0], statements)]
        return super().create_table_chain_completed_followup_jobs(  # type: ignore[misc]
            table_chain, completed_table_chain_jobs
        )

    def _statement(self, sql_client: Any, table: PreparedTableSchema) -> str:
        name, staging = sql_client.get_qualified_table_names(str(table["name"]))
        columns = ", ".join(map(sql_client.escape_column_name, table["columns"]))
        return self.statement.format(table=name, staging=staging, columns=columns)


class BigQueryClient(ReplaceInOneStatement):
    """Mixin for dlt's client. No row matches, so the statement deletes every old row and inserts every new one."""

    statement = (
        "MERGE INTO {table} AS t USING {staging} AS s ON FALSE "
        "WHEN NOT MATCHED BY SOURCE THEN DELETE "
        "WHEN NOT MATCHED BY TARGET THEN INSERT ({columns}) VALUES ({columns})"
    )


class DatabricksClient(ReplaceInOneStatement):
    """Mixin for dlt's client. The statement creates one new version of a Delta table."""

    statement = "INSERT OVERWRITE {table} ({columns}) SELECT {columns} FROM {staging}"
