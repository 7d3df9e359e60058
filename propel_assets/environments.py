"""The definitions of one named environment of PropelAuth, for a code location of its own.

workspace.yaml, or `-m propel_assets.environments -a staging` of every dagster command:

    load_from:
      - python_module: {module_name: propel_assets.environments, attribute: production, location_name: production}
      - python_module: {module_name: propel_assets.environments, attribute: staging, location_name: staging}
"""

import importlib

import dagster as dg

from propel_assets.settings import ENVIRONMENT_NAME, work_for


def __getattr__(name: str) -> dg.Definitions:
    """Return the definitions of the environment called ``name``."""
    if not ENVIRONMENT_NAME.fullmatch(name):  # what Python itself looks for
        raise AttributeError(name)
    work_for(name)
    return importlib.import_module("propel_assets.definitions").defs
