"""Keeps JSON columns JSON on their way into formats that have objects.

Arrow has no JSON type: such a column is text. dlt writes that text into JSON Lines and INSERT statements as a string,
and a destination with a real JSON type (Snowflake, BigQuery, Redshift) would then hold a string with JSON in it.
"""

from collections.abc import Sequence
from typing import Any

from dlt.common.data_writers import writers
from dlt.common.json import json
from dlt.common.schema.typing import TTableSchemaColumns


class _DecodesJson:
    """A writer that turns rows of Arrow tables into objects, JSON columns included."""

    _json_columns: Sequence[str] = ()

    def write_header(self, columns_schema: TTableSchemaColumns) -> None:
        """Remember which columns are JSON."""
        self._json_columns = [name for name, column in columns_schema.items() if column.get("data_type") == "json"]
        super().write_header(columns_schema)  # type: ignore[misc]

    def write_data(self, items: Sequence[Any]) -> None:
        """Write the rows of Arrow tables."""
        for batch in items:
            rows = batch.to_pylist()
            for name in set(self._json_columns).intersection(batch.schema.names):
                for row in rows:
                    if row[name] is not None:
                        row[name] = json.loads(row[name])
            super(writers.ArrowToObjectAdapter, self).write_data(rows)  # type: ignore[misc]


class JsonlWriter(_DecodesJson, writers.ArrowToJsonlWriter):
    """dlt's, with JSON columns as objects."""


class InsertValuesWriter(_DecodesJson, writers.ArrowToInsertValuesWriter):
    """dlt's, with JSON columns as the destination writes JSON literals."""


def keep_json() -> None:
    """Make dlt use these writers for Arrow tables."""
    for writer in (JsonlWriter, InsertValuesWriter):
        writers.WRITER_SPECS[writer.writer_spec()] = writer
