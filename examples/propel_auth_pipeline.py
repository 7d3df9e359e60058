"""Load PropelAuth into DuckDB with dlt only, without Dagster: `python propel_auth_pipeline.py`."""

import dlt

from propel_assets.errors import exit_on_error
from propel_assets.source import propel_auth_source
from propel_assets.warehouse.plain_pipeline import prepare

if __name__ == "__main__":
    with exit_on_error():
        pipeline = dlt.pipeline("propel_auth_pipeline", destination="duckdb", dataset_name="propel_auth_data")
        print(prepare(pipeline).run(propel_auth_source()))
