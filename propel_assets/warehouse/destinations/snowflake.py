"""Snowflake: dlt uploads the rows of a table as files to the stage of that table, where a DELETE leaves them."""

import contextlib
from collections.abc import Sequence
from typing import Any

from dlt.destinations.exceptions import DatabaseUndefinedRelation


class SnowflakeClient:
    """Mixin for dlt's client."""

    def remove_staged_files(self, tables: Sequence[str]) -> None:
        """Remove the files in the stages of ``tables``, those of their staging tables included."""
        client: Any = self
        with client:
            self._remove(tables)
            with client.with_staging_dataset():
                self._remove(tables)

    def _remove(self, tables: Sequence[str]) -> None:
        client: Any = self
        for name in tables:
            stage = client.sql_client.make_qualified_table_name(f"%{name}")
            with contextlib.suppress(DatabaseUndefinedRelation):
                client.sql_client.execute_sql(f"REMOVE '@{stage}'")
