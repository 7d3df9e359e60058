"""A replace takes little memory, and as much as it needs where that is not enough."""

from pathlib import Path

import dlt
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from propel_assets.warehouse.destinations import duckdb as duckdb_destination
from propel_assets.warehouse.destinations.duckdb import atomic_duckdb
from propel_assets.warehouse.locks import LockTimeout

LIMIT, ROWS, TIMES = "64MB", 2_000, 20_000
WIDE = pa.table({"id": [str(n) for n in range(ROWS)], "text": [f"{n}" * TIMES for n in range(ROWS)]})


def test_rows_too_wide_for_the_limit_are_loaded_all_the_same(tmp_path: Path, query, monkeypatch) -> None:
    pq.write_table(WIDE, tmp_path / "wide.parquet")
    with duckdb.connect(str(tmp_path / "other.duckdb")) as db:
        db.execute(f"SET memory_limit = '{LIMIT}'; CREATE TABLE wide (id text, text text)")
        with pytest.raises(duckdb.OutOfMemoryException):
            db.execute("INSERT INTO wide FROM 'wide.parquet'")
    monkeypatch.setattr(duckdb_destination, "MEMORY_LIMIT", LIMIT)
    destination = atomic_duckdb.with_name("duckdb", LockTimeout(5, print))
    pipeline = dlt.pipeline("p", destination=destination, dataset_name="propel_auth_data", pipelines_dir=str(tmp_path))
    wide = dlt.resource(WIDE, name="wide", write_disposition="replace")
    pipeline.run(wide, loader_file_format="parquet").raise_on_failed_jobs()
    assert query("SELECT count(DISTINCT id), sum(length(text)) > 100_000_000 FROM wide") == [(ROWS, True)]
