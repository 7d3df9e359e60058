"""Two safe defaults for a dlt pipeline that loads `propel_auth_source()` without this project's loader.

import dlt
from propel_assets.source import propel_auth_source
from propel_assets.warehouse.plain_pipeline import prepare

pipeline = dlt.pipeline("propel_auth_pipeline", destination="duckdb", dataset_name="propel_auth_data")
prepare(pipeline).run(propel_auth_source())
"""

import dlt

from propel_assets.source.dlt_source import SOURCE
from propel_assets.warehouse.dlt_setup import set_up_dlt

STRATEGY = "replace_strategy"


def prepare(pipeline: dlt.Pipeline) -> dlt.Pipeline:
    """Return ``pipeline``, prepared for a run of `propel_auth_source()`.

    - Tables are replaced through a staging dataset, unless a replace strategy is configured. dlt's default empties a
      table first, and a killed run leaves it empty.
    - What a killed run has left is dropped, if it is of this source alone. dlt would continue with it and load no new
      rows. Schema and state are restored from the destination.
    - dlt writes JSON columns as JSON, and its log contains no values of rows.
    """
    set_up_dlt()
    if pipeline.has_pending_data and pipeline.schema_names == [SOURCE]:
        pipeline.drop()
    if pipeline.destination is not None:
        name = pipeline.destination.destination_name
        is_configured = any(dlt.config.get(f"destination.{of}{STRATEGY}", str) for of in (f"{name}.", ""))
        # Destinations of files choose by the file format.
        if not is_configured and pipeline.destination.capabilities().replace_strategies_selector is None:
            dlt.config[f"{pipeline.pipeline_name}.destination.{STRATEGY}"] = "insert-from-staging"
    return pipeline
