"""The dbt project of the marts: where it is, what it connects to, its manifest, and one run of dbt.

dbt runs in this process, through its own programmatic entry: a process of its own costs seconds for every op that
builds marts, and there is one for each set of raw tables (docs/decisions/0005). Imports dbt only when it is used:
it comes with the extra `marts`.

    python -m propel_assets.warehouse.marts > propel_assets/dbt/models/sources.yml

writes the sources again after the catalogue has changed.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from propel_assets.errors import SettingsError, WarehouseError
from propel_assets.settings import DATASET, Settings, cache_folder, environment_extended
from propel_assets.source.tables import BOOKS, TABLES
from propel_assets.warehouse.pipeline import build_pipeline, database_file, loading, working_folder

PROJECT = Path(__file__).parents[1] / "dbt"
PACKAGE = "propel_auth"
MARTS_SCHEMA = "propel_auth_marts"
HISTORY_SCHEMA = "propel_auth_history"
ADAPTERS = {"duckdb": "dbt-duckdb", "postgres": "dbt-postgres"}


def installed() -> bool:
    """Tell whether the extra `marts` is installed."""
    return all(importlib.util.find_spec(name) for name in ("dbt", "dagster_dbt"))


def sources_yaml() -> str:
    """Return the raw tables as dbt sources, columns described as in the catalogue."""
    tables = [
        {
            "name": table.name,
            "description": table.description,
            "columns": [
                {
                    "name": c.name,
                    "data_type": c.type,
                    "description": c.description,
                    **({"config": {"tags": ["personal_data"]}} if c.personal else {}),
                }
                for c in table.columns
            ],
        }
        for table in (*TABLES, *BOOKS)
    ]
    source = {
        "name": PACKAGE,
        "description": "What PropelAuth has, loaded by propel-assets.",
        "schema": f"{{{{ var('propel_auth_raw_schema', '{DATASET}') }}}}",
        "tables": tables,
    }
    head = "# Made from the catalogue by `python -m propel_assets.warehouse.marts`; do not edit.\n"
    return head + yaml.safe_dump({"version": 2, "sources": [source]}, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    print(sources_yaml(), end="")
