"""The floor of another warehouse: the same download and DuckDB's JSON reader, then the fastest write of the same rows.

PostgreSQL: COPY into an empty staging table, then DELETE and INSERT ... SELECT in one transaction. Delta: one Parquet
file by pyarrow's writer and one commit. No retries, no proof, no checks. `python floor_warehouse.py URL WAREHOUSE`
"""

import sys
from pathlib import Path
from typing import Any

import duckdb
from floor import MEMBER, USER, download, load

TABLES = ("user_query", "org_membership")
TYPES = {"VARCHAR": "text", "BOOLEAN": "boolean", "JSON": "jsonb", "BIGINT": "timestamptz"}


def write_postgres(db: duckdb.DuckDBPyConnection, url: str) -> None:
    """Replace the tables of ``db`` in PostgreSQL."""
    import psycopg2

    columns = {"user_query": USER, "org_membership": {"user_id": "VARCHAR", **MEMBER}}
    connection: Any = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA propel_auth_data; CREATE SCHEMA staging")
        for table in TABLES:
            typed = ", ".join(f"{name} {TYPES[kind]}" for name, kind in columns[table].items())
            for schema in ("propel_auth_data", "staging"):
                cursor.execute(f"CREATE TABLE {schema}.{table} ({typed})")
    with connection, connection.cursor() as cursor:
        for table in TABLES:
            names = ", ".join(columns[table])
            db.execute(f"COPY (SELECT {names} FROM {table}) TO '{table}.csv' (HEADER false)")
            with Path(f"{table}.csv").open("rb") as file:
                cursor.copy_expert(f"COPY staging.{table} ({names}) FROM STDIN (FORMAT csv)", file)
    with connection, connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"DELETE FROM propel_auth_data.{table}")
            cursor.execute(f"INSERT INTO propel_auth_data.{table} SELECT * FROM staging.{table}")
    connection.close()


def write_delta(db: duckdb.DuckDBPyConnection, folder: str) -> None:
    """Write the tables of ``db`` as new Delta tables: one file and one commit each."""
    import pyarrow.parquet
    from deltalake import Schema
    from deltalake.transaction import AddAction, create_table_with_add_actions

    for table in TABLES:
        rows = db.execute(f"SELECT * FROM {table}").to_arrow_table()
        path = Path(folder, "propel_auth_data", table)
        path.mkdir(parents=True)
        pyarrow.parquet.write_table(rows, path / "0.parquet")
        stats = f'{{"numRecords": {len(rows)}}}'
        action = AddAction("0.parquet", (path / "0.parquet").stat().st_size, {}, 0, True, stats)
        create_table_with_add_actions(str(path), Schema.from_arrow(rows.schema), [action], mode="error")


if __name__ == "__main__":
    url, warehouse = sys.argv[1:]
    lines = Path("users.ndjson")
    download(url, lines, include_orgs=True)
    load(lines, "floor.duckdb", include_orgs=True)
    with duckdb.connect("floor.duckdb") as db:
        db.execute("SET TimeZone = 'UTC'")
        (write_postgres if warehouse.startswith("postgresql:") else write_delta)(db, warehouse)
