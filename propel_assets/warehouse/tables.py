"""The loaded tables for notebooks: SQL in DuckDB's dialect on any destination, where they are and how old."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from propel_assets.catalog import BY_NAME
from propel_assets.errors import WarehouseError
from propel_assets.privacy.policy_file import load_policy
from propel_assets.settings import Settings, Target
from propel_assets.warehouse.audit import Audit
from propel_assets.warehouse.folders import working_folder
from propel_assets.warehouse.locks import Log
from propel_assets.warehouse.pipeline import build_pipeline, location_of
from propel_assets.warehouse.query import dataset_of, explain_refusal, open_warehouse


@dataclass(frozen=True)
class LoadedTables:
    """Tables that have been loaded. Use `open_tables`.

    Attributes:
        target: the destination.
        location: the destination and the dataset; for DuckDB also the file.
        loaded_at: when each table was last loaded, by name.
    """

    target: Target
    location: str
    loaded_at: Mapping[str, datetime]

    def rows(self, sql: str) -> Sequence[tuple[Any, ...]]:
        """Return the rows of ``sql``, which dlt translates for the destination. No connection stays open.

        Raises:
            WarehouseError: the destination cannot be read.
        """
        with working_folder() as folder:
            pipeline = build_pipeline(self.target, folder)
            with explain_refusal(self.target):
                return dataset_of(pipeline, self.target)(sql, "duckdb").fetchall()


def open_tables(settings: Settings, names: Sequence[str], log: Log) -> LoadedTables:
    """Return the tables ``names`` of the warehouse of ``settings``. ``log``: as `open_warehouse` has it.

    Raises:
        SettingsError: the destination is unknown, not installed or not configured.
        WarehouseError: one of the tables has never been loaded, or the destination cannot be read.
    """
    with working_folder() as folder:
        location = location_of(settings.target, build_pipeline(settings.target, folder))
    with open_warehouse(settings.target, load_policy(settings.privacy_settings), log) as warehouse:
        loads = {name: warehouse.audit.last_load(BY_NAME[name]) for name in names}
        missing = [_missing(warehouse.audit, name) for name, load in loads.items() if load is None]
    if missing:
        raise WarehouseError(f"{location} does not have all tables: {'; '.join(missing)}.")
    return LoadedTables(settings.target, location, {name: load.finished_at for name, load in loads.items() if load})


def _missing(audit: Audit, name: str) -> str:
    skipped = audit.last_load(BY_NAME[name], skipped=True)
    return f"{name} was skipped: {skipped.reason}" if skipped else f"run propel-assets load {name}"
