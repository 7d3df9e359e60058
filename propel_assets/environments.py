"""Entry point for a code location per PropelAuth environment: each attribute is the definitions of one environment.

workspace.yaml, or `-m propel_assets.environments -a staging` of every dagster command:

    load_from:
      - python_module: {module_name: propel_assets.environments, attribute: production, location_name: production}
      - python_module: {module_name: propel_assets.environments, attribute: staging, location_name: staging}
"""

import dagster as dg

from propel_assets.defs.build import build_definitions
from propel_assets.defs.config import PropelAuthConfig
from propel_assets.defs.executors import with_executor
from propel_assets.settings import ENVIRONMENT_NAME


def __getattr__(name: str) -> dg.Definitions:
    """Return the definitions of the environment called ``name``."""
    if not ENVIRONMENT_NAME.fullmatch(name):  # Python looks up names such as __path__
        raise AttributeError(name)
    return with_executor(build_definitions(PropelAuthConfig(environment=name)), name)
