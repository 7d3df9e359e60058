"""Databricks: replace a table in one INSERT OVERWRITE, which is one new version of a Delta table."""

from propel_assets.warehouse.destinations.replace_statement import ReplaceInOneStatement


class DatabricksClient(ReplaceInOneStatement):
    """Mixin for dlt's client."""

    statement = "INSERT OVERWRITE {table} ({columns}) SELECT {columns} FROM {staging}"
