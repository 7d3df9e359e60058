"""The raw tables as sources of dbt."""

from pathlib import Path
from typing import Any

from propel_assets.catalog import AUDIT_TABLES, Table

PROJECT = Path(__file__).with_name("dbt")
PACKAGE = "propel_auth"
DLT_LOADS: dict[str, Any] = {
    "name": "_dlt_loads",
    "description": "One row per complete load. dlt writes it after the other tables of the load.",
    "columns": [
        {"name": "load_id", "data_type": "text", "description": "dlt's id of the load."},
        {"name": "status", "data_type": "bigint", "description": "0: the load is complete."},
    ],
}
"""The source of dlt's own table."""


def raw_table(table: Table, *key_prefix: str) -> dict[str, Any]:
    """Return a raw table as in a dbt properties file.

    Its `meta` has the key of its Dagster asset, which dagster-dbt reads. Audit tables are not assets.
    """
    columns = [
        {
            "name": column.name,
            "data_type": column.type,
            "description": column.description,
            **({"config": {"tags": ["personal_data"]}} if column.personal else {}),
        }
        for column in table.columns
    ]
    key = {} if table in AUDIT_TABLES else asset_key(*key_prefix, PACKAGE, table.name)
    return {"name": table.name, "description": table.description, **key, "columns": columns}


def asset_key(*path: str) -> dict[str, Any]:
    """Return the properties that give a dbt resource the key of a Dagster asset."""
    return {"config": {"meta": {"dagster": {"asset_key": list(path)}}}}
