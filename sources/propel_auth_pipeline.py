"""What `dlt init propel_auth duckdb --location <this repository>` starts a project with."""

import dlt
from propel_auth import propel_auth_source

from propel_assets.errors import exit_on_error
from propel_assets.warehouse.plain_pipeline import prepare

if __name__ == "__main__":
    with exit_on_error():
        pipeline = dlt.pipeline("propel_auth_pipeline", destination="duckdb", dataset_name="propel_auth_data")
        print(prepare(pipeline).run(propel_auth_source()))
