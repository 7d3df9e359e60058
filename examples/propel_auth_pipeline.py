"""PropelAuth into DuckDB by dlt alone, without Dagster: `python propel_auth_pipeline.py`."""

import dlt

from propel_assets.source import propel_auth_source

if __name__ == "__main__":
    pipeline = dlt.pipeline("propel_auth_pipeline", destination="duckdb", dataset_name="propel_auth_data")
    print(pipeline.run(propel_auth_source()))
