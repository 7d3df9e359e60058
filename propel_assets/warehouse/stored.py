"""What a load reads at the destination: resume states, columns and keys."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dlt

from propel_assets.catalog import AUTH_EVENT, BY_NAME, PROPEL_SCANS, tables_of, tables_written_by
from propel_assets.errors import OtherPipeline
from propel_assets.privacy.erasure_list import STATE_KEY
from propel_assets.settings import Target
from propel_assets.source.dlt_source import SOURCE
from propel_assets.source.reconcile import is_same_type
from propel_assets.source.stream import ResumeState
from propel_assets.warehouse.pipeline import destination_kind
from propel_assets.warehouse.query import Connect


@dataclass(frozen=True)
class AuditResumeStore:
    """Reads resume states from `propel_scans`. Each load writes its own with its rows of that table.

    dlt's state is not used: of concurrent loads, the last one to begin stores its state, which can be older than what
    other loads have written; and dlt uses the state with the latest time, even if a clock was wrong.
    """

    connect: Connect

    def read(self, scan: str) -> ResumeState:
        """Return the resume state of the last complete load of ``scan``."""
        with self.connect() as warehouse:
            audit = warehouse.audit
            if stored := audit.resume_state(tables_of(scan)[0]):
                return ResumeState.from_json(stored)
            return ResumeState(tenant_id=audit.last_tenant_id())

    def write(self, scan: str, state: ResumeState) -> None:
        """Do nothing: ``state`` is in the rows of `propel_scans`, which the load writes."""


def erasure_list_of(state: Mapping[str, Any] | None) -> Any:
    """Return the erasure list in the state of a pipeline; None: no person was erased."""
    return ((state or {}).get("sources", {}).get(SOURCE) or {}).get(STATE_KEY)


def stored_columns(connect: Connect, pipeline: dlt.Pipeline, target: Target, scan: str) -> dict[str, dict[str, str]]:
    """Return the columns that the tables of ``scan``, and events, have at the destination, with dlt's types.

    Raises:
        OtherPipeline: another dlt pipeline has created one of them.
    """
    with connect() as warehouse:
        names = {table.name for table in tables_written_by(scan)}
        columns = warehouse.columns_of_tables([*names | {AUTH_EVENT.name, PROPEL_SCANS.name}])
        is_first_load = not columns.pop(PROPEL_SCANS.name)
        if is_first_load:
            columns = warehouse.columns_of_tables(list(BY_NAME))
    for name, stored in columns.items():
        if _has_row_ids(stored) or (is_first_load and _has_other_types(name, stored)):
            variable = f"DESTINATION__{target.destination.upper()}__CREDENTIALS"
            variable = variable if destination_kind(target) != "filesystem" else "DESTINATION__FILESYSTEM__BUCKET_URL"
            raise OtherPipeline(
                f"The dataset {pipeline.dataset_name} has a table {name} of another dlt pipeline. Nothing was read. "
                f"Set another database ({variable}). If the tables of that dataset are not needed, you can instead "
                "drop it and load again."
            )
    return columns


def _has_row_ids(columns: Mapping[str, str]) -> bool:
    """Whether dlt's normalizer has written the table: it adds a row id, this project does not."""
    return "_dlt_id" in columns and not dlt.config.get("normalize.parquet_normalizer.add_dlt_id", bool)


def _has_other_types(name: str, columns: Mapping[str, str]) -> bool:
    """Whether a declared column has another type."""
    return any(not is_same_type(c.type, columns.get(c.name, c.type)) for c in BY_NAME[name].columns)


def stored_keys(connect: Connect, name: str) -> Iterator[Any]:
    """Yield the first column of the primary key for each row of a table."""
    with connect() as warehouse:
        yield from warehouse.keys(BY_NAME[name])
