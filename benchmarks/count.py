"""Print how many rows each table of a DuckDB file has, as JSON. Run by the Python that wrote the file."""

import json
import sys

import duckdb

with duckdb.connect(sys.argv[1], read_only=True) as db:
    print(json.dumps([db.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0] for table in sys.argv[2:]]))
