"""PropelAuth in your warehouse, as Dagster assets.

The packages, in the order of the data flow. Each imports only those before it, and `settings` and `errors`:

- `catalog/`: the tables. One record each; all other packages read them.
- `privacy/`: what is stored about people.
- `source/`: PropelAuth to rows. HTTP and dlt.
- `warehouse/`: rows to tables, and checks of these tables. dlt and SQL.
- `marts/`: tables to history and marts. dbt.
- `reporting/`: charts, the HTML report, delivery of alerts.
- `webhooks/`: the receiver of PropelAuth's webhooks.
- `defs/`: Dagster assets, checks, schedules and sensors. Only it and the entry points import Dagster.

`sandbox/` is a PropelAuth on localhost and imports none of them. Entry points are `definitions.py` for Dagster and
`cli/` for the command line.

The names below are for other projects. They are imported on first use: each needs Dagster or dlt.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from propel_assets.defs.build import build_definitions
    from propel_assets.defs.component import PropelAuthComponent
    from propel_assets.defs.config import PropelAuthConfig
    from propel_assets.source.dlt_source import propel_auth_source

__version__ = "0.1.0"
__all__ = ["PropelAuthComponent", "PropelAuthConfig", "build_definitions", "propel_auth_source"]

MODULES = {
    "PropelAuthComponent": "propel_assets.defs.component",
    "PropelAuthConfig": "propel_assets.defs.config",
    "build_definitions": "propel_assets.defs.build",
    "propel_auth_source": "propel_assets.source.dlt_source",
}


def __getattr__(name: str) -> Any:
    """Import one of the exported names."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the exported names too: `dg` looks for components here."""
    return sorted({*globals(), *MODULES})
