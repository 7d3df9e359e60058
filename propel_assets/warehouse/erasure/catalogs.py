"""The catalog of a database by its kind."""

from typing import Any

from propel_assets.warehouse.dlt_compat import DuckDbSqlClient
from propel_assets.warehouse.erasure.database_catalog import Catalog
from propel_assets.warehouse.erasure.duckdb_catalog import DuckDbCatalog
from propel_assets.warehouse.erasure.postgres_catalog import PostgresCatalog


def catalog_of(client: Any) -> Catalog:
    """Return the catalog of the database behind dlt's ``client``."""
    if isinstance(client.sql_client, DuckDbSqlClient):
        return DuckDbCatalog(client)
    if client.config.destination_type == "postgres":
        return PostgresCatalog(client)
    return Catalog(client)
