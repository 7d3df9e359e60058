"""The raw tables as assets: one op per scan, made from the catalogue by `@dlt_assets`.

The op runs our own loader, the one the command line uses, not `DagsterDltResource.run`: see docs/decisions/0001.
"""

from collections.abc import Callable, Iterator, Set
from datetime import timedelta
from typing import Any

import dagster as dg
from dagster_dlt import DagsterDltTranslator, dlt_assets
from dagster_dlt.translator import DltResourceTranslatorData
from pydantic import Field

from propel_assets.catalog import BY_NAME, SCANS, RunOption, Table, options_of, tables_of
from propel_assets.defs.failures import as_failure
from propel_assets.defs.resources import PropelAuthApiKey, Warehouse, settings_of
from propel_assets.errors import PropelError
from propel_assets.privacy.policy_file import load_policy
from propel_assets.privacy.redaction import unexpected_error
from propel_assets.settings import DATASET, Settings, destination_name, environment_name, named
from propel_assets.source.dlt_source import propel_auth_source
from propel_assets.source.stream import ReadOptions, ScanResult
from propel_assets.warehouse.checks import MAX_AGE
from propel_assets.warehouse.load import ScanLoad, load_scan
from propel_assets.warehouse.query import open_warehouse

PREFIX = "propel_auth"
OWNERS = ["team:data"]
PROGRESS_ROWS = 50_000
MAX_RETRIES = 2  # of an op, after the client has given up
# It counts materializations, also those of a skipped table: the check `up_to_date` shows the age of the data.
FRESH = dg.FreshnessPolicy.time_window(warn_window=MAX_AGE, fail_window=timedelta(hours=50))


def key_of(*path: str) -> dg.AssetKey:
    """Return the key of an asset: behind the name of the environment, where it has one."""
    return dg.AssetKey([*filter(None, [environment_name()]), *path])


def asset_key(table: Table) -> dg.AssetKey:
    """Return the asset of ``table``."""
    return key_of(PREFIX, table.name)


def api_asset() -> dg.AssetKey:
    """Return the asset that stands for PropelAuth itself."""
    return key_of("propel_auth_api")


class RawTables(DagsterDltTranslator):
    """Gives each dlt resource the asset its catalogue entry describes."""

    def get_asset_spec(self, data: DltResourceTranslatorData) -> dg.AssetSpec:
        """Return the spec of one table."""
        return asset_spec(BY_NAME[data.resource.name])


def asset_spec(table: Table) -> dg.AssetSpec:
    """Return what the UI shows of ``table`` before it has been loaded."""
    columns = [
        dg.TableColumn(
            c.name,
            c.type,
            description=c.description,
            constraints=dg.TableColumnConstraints(nullable=not c.required, unique=table.key == (c.name,)),
            tags={"personal_data": ""} if c.personal else {},
        )
        for c in table.columns
    ]
    upstream = {
        c.name: [dg.TableColumnDep(api_asset(), f"{table.path} {table.items or 'answer'}.{c.source_field}")]
        for c in table.columns
    }
    return dg.AssetSpec(
        asset_key(table),
        deps=[api_asset()],
        description=f"{table.description}\n\nRead from `GET {table.path}`. [PropelAuth's reference]({table.doc})",
        group_name=table.group,
        kinds={"propelauth", "dlt", destination_name()},
        owners=OWNERS,
        automation_condition=on_changed_totals() if table.default else None,
        freshness_policy=FRESH if table.default else None,
        metadata={
            "dagster/column_schema": dg.TableSchema(columns=columns),
            "dagster/column_lineage": dg.TableColumnLineage(deps_by_column=upstream),
            "dagster/table_name": f"{named(DATASET)}.{table.name}",
            "primary_key": ", ".join(table.key),
            "load": table.load,
            "reference": dg.MetadataValue.url(table.doc),
        },
    )


def on_changed_totals() -> dg.AutomationCondition[Any]:
    """Return the condition under which a table is loaded by itself: the API's totals have changed."""
    # Not `since_last_handled`: the end of a load would make it forget a change that was seen during it.
    handled = dg.AutomationCondition.newly_requested() | dg.AutomationCondition.initial_evaluation()
    changed = dg.AutomationCondition.any_deps_updated().since(handled)
    return (changed & ~dg.AutomationCondition.in_progress()).with_label("propel_auth_api_changed")


class Users(dg.Config):
    """How far back to read users."""

    recent: bool = Field(
        default=False,
        description="Read only who signed up or was active since the last load, and merge them. Deletions and edits of "
        "users who were not active are seen by a full load only.",
    )


class LookUp(dg.Config):
    """Whom to look up."""

    values: list[str] = Field(default_factory=list, description="Ids, e-mail addresses or usernames to look up.")


class Usage(dg.Config):
    """How finely to count API key usage."""

    per_key: bool = Field(default=False, description="Also count each key: one request per key and day.")


CONFIGS: dict[RunOption, tuple[type[dg.Config], Callable[[str, Any], ReadOptions]]] = {
    "recent": (Users, lambda _, config: ReadOptions(recent=config.recent)),
    "values": (LookUp, lambda scan, config: ReadOptions(lookups={t.name: config.values for t in tables_of(scan)})),
    "per_key": (Usage, lambda _, config: ReadOptions(usage_per_key=config.per_key)),
}
"""By option of a scan: its config class, and the function that turns scan and config into read options."""


def build_raw_assets() -> list[dg.AssetsDefinition]:
    """Return one op per scan."""
    return [_build_scan_assets(scan) for scan in SCANS]


def _build_scan_assets(scan: str) -> dg.AssetsDefinition:
    names = [table.name for table in tables_of(scan)]
    decorate = dlt_assets(
        name=f"load_{scan}",
        dlt_source=propel_auth_source(tables=names).with_resources(*names),  # for names and keys; never extracted
        dlt_pipeline=None,  # type: ignore[arg-type]  # a pipeline made here would write to disk at import
        dagster_dlt_translator=RawTables(),
        pool=named("propel_auth_api"),
    )
    if options := options_of(scan):
        config_class, read_options = CONFIGS[options[0]]

        @decorate
        def load_as_configured(
            context: dg.AssetExecutionContext,
            config: config_class,  # pyright: ignore[reportInvalidTypeForm]  # Dagster reads it when the op is made
            propel_auth: PropelAuthApiKey,
            warehouse: Warehouse,
        ) -> Iterator[dg.MaterializeResult[Any]]:
            yield from _load(context, scan, settings_of(warehouse, propel_auth), read_options(scan, config))

        return load_as_configured

    @decorate
    def load_tables(
        context: dg.AssetExecutionContext, propel_auth: PropelAuthApiKey, warehouse: Warehouse
    ) -> Iterator[dg.MaterializeResult[Any]]:
        yield from _load(context, scan, settings_of(warehouse, propel_auth), ReadOptions())

    return load_tables


def _load(
    context: dg.AssetExecutionContext, scan: str, settings: Settings, options: ReadOptions
) -> Iterator[dg.MaterializeResult[Any]]:
    """Load the scan, whole even where only one of its tables was asked for: they must agree with each other."""
    said = 0

    def progress(table: str, rows: int, total: int | None) -> None:
        nonlocal said
        if rows >= said + PROGRESS_ROWS:
            said = rows
            context.log.info(f"{table}: {rows:,} of {total or '?'} rows read")

    try:
        load = load_scan(scan, settings, options=options, progress=progress, say=context.log.info)
        yield from _results(load, settings, context.selected_asset_keys)
    except PropelError as error:
        failure = as_failure(error)
        if not error.retry_may_help or context.retry_number >= MAX_RETRIES:
            raise failure from None
        # Not by a retry policy: that would also take "Terminate" for a failure, and try again.
        raise dg.RetryRequested(MAX_RETRIES, settings.retry_seconds / 10) from failure
    except Exception as error:
        raise as_failure(unexpected_error(error)) from None


def _results(load: ScanLoad, settings: Settings, selected: Set[dg.AssetKey]) -> Iterator[dg.MaterializeResult[Any]]:
    """Yield one materialization per selected table.

    A skipped table is materialized with the data version of its last load: Dagster would skip every step downstream of
    a missing output.
    """
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        for result in load.results:
            table = BY_NAME[result.table_name]
            if asset_key(table) not in selected:
                continue
            last = warehouse.audit.last_load(table)
            rows = warehouse.count(table.name) if last else 0
            yield dg.MaterializeResult(
                asset_key=asset_key(table),
                metadata=_metadata(result, load, settings) | {"dagster/row_count": rows},
                data_version=dg.DataVersion(last.load_id if last else "none"),
            )


def _metadata(result: ScanResult, load: ScanLoad, settings: Settings) -> dict[str, Any]:
    """Return what a materialization tells; numbers plot over time."""
    told: dict[str, Any] = {
        "mode": result.mode,
        "verdict": result.verdict,
        "requests": result.requests,
        "retries": result.retries,
        "rate_limited": result.rate_limited,
        "waited_seconds": result.waited_seconds,
        "concurrency_reached": result.concurrency,
        "load_seconds": round(load.seconds, 2),
        "load_id": load.load_id,
        "destination": settings.destination,
        **_privacy(BY_NAME[result.table_name], settings),
    }
    if result.skipped:
        return told | {"skipped": result.reason}
    told |= {"rows_read": result.rows_read, "pages": result.pages, "passes": result.passes}
    if result.total_max is not None:
        told |= {"api_total": result.total_max, "api_total_min": result.total_min}
    if result.reason:
        told["reason"] = result.reason
    if result.unknown_fields:
        told["unknown_fields"] = result.unknown_fields
    return told


def _privacy(table: Table, settings: Settings) -> dict[str, Any]:
    """Return what the privacy policy did to the columns."""
    policy = load_policy(settings.privacy_settings)
    hashed, dropped = policy.columns(table, "hash"), policy.columns(table, "drop")
    told: dict[str, Any] = {
        "privacy": policy.name,
        "columns_kept": len({*policy.rules[table.name]} - {*hashed, *dropped}),
    }
    for name, columns in (("columns_hashed", hashed), ("columns_dropped", dropped)):
        if columns:
            told[name] = columns
    return told
