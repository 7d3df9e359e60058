"""What `dlt init propel_auth duckdb --location <this repository>` starts a project with."""

import dlt
from propel_auth import propel_auth_source

if __name__ == "__main__":
    pipeline = dlt.pipeline("propel_auth_pipeline", destination="duckdb", dataset_name="propel_auth_data")
    print(pipeline.run(propel_auth_source()))
