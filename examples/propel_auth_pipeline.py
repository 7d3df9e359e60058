"""PropelAuth into DuckDB by dlt alone, without Dagster: `python propel_auth_pipeline.py`."""

import dlt

from propel_assets.source import propel_auth_source
from propel_assets.warehouse.plain_pipeline import prepare

if __name__ == "__main__":
    pipeline = dlt.pipeline("propel_auth_pipeline", destination="duckdb", dataset_name="propel_auth_data")
    print(prepare(pipeline).run(propel_auth_source()))
