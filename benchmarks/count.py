"""Print the number of rows in tables, as JSON: `python count.py DATABASE TABLE...`.

DATABASE is a DuckDB file, the URL of a PostgreSQL database, or a folder of Delta tables.
"""

import json
import sys
from pathlib import Path
from typing import Any


def counts(database: str, tables: list[str]) -> list[int]:
    """Return the number of rows in each table."""
    if Path(database).is_dir():
        from deltalake import DeltaTable

        return [DeltaTable(f"{database}/{table.replace('.', '/')}").to_pyarrow_table().num_rows for table in tables]
    if database.startswith("postgresql:"):
        import psycopg2

        connection: Any = psycopg2.connect(database)
    else:
        import duckdb

        connection = duckdb.connect(database, read_only=True)
    with connection.cursor() as cursor:
        found = []
        for table in tables:
            cursor.execute(f"SELECT count(*) FROM {table}")
            found.append(cursor.fetchone()[0])
        return found


if __name__ == "__main__":
    print(json.dumps(counts(sys.argv[1], sys.argv[2:])))
