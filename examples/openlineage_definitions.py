"""Send OpenLineage events of the PropelAuth assets: pip install propel-assets dagster-openlineage.

Set OPENLINEAGE_URL to the server (Marquez, DataHub, Atlan, ...), and turn on the sensor `openlineage_sensor`.
"""

import dagster as dg
from dagster_openlineage import openlineage_sensor

from propel_assets import build_definitions

defs = dg.Definitions.merge(
    build_definitions(),
    dg.Definitions(sensors=[openlineage_sensor(include_asset_events=True, record_filter_limit=1_000)]),
)
