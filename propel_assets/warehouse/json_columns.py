"""Write JSON columns as JSON into file formats that have objects.

Arrow has no JSON type: such a column is text. dlt writes that text into JSON Lines and INSERT statements as a string,
and a destination with a JSON type (Snowflake, BigQuery, Redshift) would then store a string that contains JSON. Only
the columns of this package have the hint `JSON_AS_TEXT`. dlt writes those of other pipelines as before.
"""

from collections.abc import Sequence
from typing import Any

from dlt.common.json import json
from dlt.common.schema.typing import TTableSchemaColumns

from propel_assets.source.scan_reader import JSON_AS_TEXT
from propel_assets.warehouse.dlt_compat import (
    ArrowToInsertValuesWriter,
    ArrowToJsonlWriter,
    ArrowToObjectAdapter,
    register_writer,
)


class _DecodesJson:
    """A writer that turns rows of Arrow tables into objects, JSON columns included."""

    _json_columns: Sequence[str] = ()

    def write_header(self, columns_schema: TTableSchemaColumns) -> None:
        """Note which columns are JSON as text."""
        self._json_columns = [name for name, column in columns_schema.items() if column.get(JSON_AS_TEXT)]
        super().write_header(columns_schema)  # type: ignore[misc]

    def write_data(self, items: Sequence[Any]) -> None:
        """Write the rows of Arrow tables."""
        for batch in items:
            rows = batch.to_pylist()
            for name in set(self._json_columns).intersection(batch.schema.names):
                for row in rows:
                    if row[name] is not None:
                        row[name] = json.loads(row[name])
            super(ArrowToObjectAdapter, self).write_data(rows)  # type: ignore[misc]


class JsonlWriter(_DecodesJson, ArrowToJsonlWriter):
    """dlt's writer of JSON Lines, with JSON columns as objects."""


class InsertValuesWriter(_DecodesJson, ArrowToInsertValuesWriter):
    """dlt's writer of INSERT statements, with JSON columns as JSON literals of the destination."""


def register_json_writers() -> None:
    """Make dlt write Arrow tables with these writers."""
    for writer in (JsonlWriter, InsertValuesWriter):
        register_writer(writer)
