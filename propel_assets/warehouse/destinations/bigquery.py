"""BigQuery: replace a table in one MERGE statement."""

from propel_assets.warehouse.destinations.replace_statement import ReplaceInOneStatement


class BigQueryClient(ReplaceInOneStatement):
    """Mixin for dlt's client. No row matches, so the statement deletes every old row and inserts every new one."""

    statement = (
        "MERGE INTO {table} AS t USING {staging} AS s ON FALSE "
        "WHEN NOT MATCHED BY SOURCE THEN DELETE "
        "WHEN NOT MATCHED BY TARGET THEN INSERT ({columns}) VALUES ({columns})"
    )
