"""The raw tables as assets: one op per scan, built from the catalog by `@dlt_assets`.

The op runs our own loader, which the command line uses too, not `DagsterDltResource.run`: see docs/decisions/0001.
"""

import inspect
from collections.abc import Callable, Generator, Iterator, Sequence, Set
from dataclasses import replace
from typing import Any

import dagster as dg
from dagster_dlt import DagsterDltTranslator, dlt_assets
from dagster_dlt.translator import DltResourceTranslatorData
from dlt.extract import DltSource
from pydantic import Field

from propel_assets.catalog import AUTH_EVENT, BY_NAME, SCANS, RunOption, Table, options_of, tables_of
from propel_assets.defs.checks import check_evaluation
from propel_assets.defs.environment import Environment, PropelAuthResource, WarehouseResource
from propel_assets.defs.failures import as_failure, convert_errors
from propel_assets.errors import PropelError
from propel_assets.privacy.policy_file import load_policy
from propel_assets.privacy.redaction import unexpected_error
from propel_assets.settings import Settings, require_credentials
from propel_assets.source.dlt_source import propel_auth_source
from propel_assets.source.stream import ReadOptions, ScanResult
from propel_assets.warehouse.checks import examine, last_results
from propel_assets.warehouse.grades import GRADED, latest_grades
from propel_assets.warehouse.load import ScanLoad, load_scan
from propel_assets.warehouse.pipeline import has_write_lock
from propel_assets.warehouse.query import Warehouse, explain_refusal, open_warehouse
from propel_assets.webhooks.apply import load_events

PROGRESS_ROWS = 50_000
DATA_VERSION = "dagster/data_version"
MAX_RETRIES = 2  # of an op, after the retries of the client


class UsersConfig(dg.Config):
    """Options of a load of users."""

    recent: bool = Field(
        default=False,
        description="Read only users who signed up or were active since the last load, and merge them. Only a full "
        "load detects deletions, and edits of users who were not active.",
    )


class LookupConfig(dg.Config):
    """Options of a look-up."""

    values: list[str] = Field(default_factory=list, description="Ids, e-mail addresses or usernames to look up.")


class UsageConfig(dg.Config):
    """Options of a load of API key usage."""

    per_key: bool = Field(default=False, description="Also count the usage of each key: one request per key and day.")


CONFIGS: dict[RunOption, tuple[type[dg.Config], Callable[[str, Any], ReadOptions]]] = {
    "recent": (UsersConfig, lambda _, config: ReadOptions(recent=config.recent)),
    "values": (
        LookupConfig,
        lambda scan, config: ReadOptions(lookups={t.name: config.values for t in tables_of(scan)}),
    ),
    "per_key": (UsageConfig, lambda _, config: ReadOptions(usage_per_key=config.per_key)),
}
"""By option of a scan: its config class, and the function that turns scan and config into read options."""


def build_raw_assets(environment: Environment) -> list[dg.AssetsDefinition]:
    """Return one op per scan."""
    source = propel_auth_source(tables=[table.name for table in environment.tables])  # for names; never extracted
    names = {scan: [table.name for table in environment.tables if table.scan == scan] for scan in SCANS}
    return [_build_load_op(environment, scan, source.with_resources(*names[scan])) for scan in SCANS if names[scan]]


def load_op_name(environment: Environment, scan: str) -> str:
    """Return the name of the op that loads ``scan``."""
    return environment.named(f"load_{scan}")


def _build_load_op(environment: Environment, scan: str, source: DltSource) -> dg.AssetsDefinition:
    class CatalogTranslator(DagsterDltTranslator):
        """Gives each dlt resource the asset spec of its table."""

        def get_asset_spec(self, data: DltResourceTranslatorData) -> dg.AssetSpec:
            """Return the spec of one table."""
            return environment.table_spec(BY_NAME[data.resource.name])

    options = options_of(scan)
    config_class, read_options = CONFIGS[options[0]] if options else (None, lambda *_: ReadOptions())

    def load(context: dg.AssetExecutionContext, **arguments: Any) -> Iterator[dg.MaterializeResult[Any]]:
        with convert_errors():
            settings = environment.settings(context.resources)
        yield from _load(context, environment, scan, settings, read_options(scan, arguments.get("config")))

    # Dagster takes the names of resources, which differ between environments, from the names of parameters:
    # `dlt_assets` has no argument for them.
    parameters = {environment.name_prefix: PropelAuthResource, environment.warehouse_key: WarehouseResource}
    parameters |= {"config": config_class} if config_class else {}
    load.__signature__ = _signature(parameters)  # type: ignore[attr-defined]
    load.__annotations__ = {"context": dg.AssetExecutionContext, **parameters}  # what Dagster 1.13.1 reads instead
    return dlt_assets(
        name=load_op_name(environment, scan),
        dlt_source=source,
        dlt_pipeline=None,  # type: ignore[arg-type]  # creating a pipeline writes to the disk
        dagster_dlt_translator=CatalogTranslator(),
        pool=environment.named(_pool(environment, scan)),
    )(load)


def _pool(environment: Environment, scan: str) -> str:
    """Return the pool of a load: one load at a time. Events are applied beside it only where writes are ordered."""
    target = replace(environment.target, destination=environment.destination)
    return "events" if scan == AUTH_EVENT.scan and has_write_lock(target) else "api"


def _signature(parameters: dict[str, type]) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    found = [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters.items()]
    return inspect.Signature([inspect.Parameter("context", kind), *found])


def _load(
    context: dg.AssetExecutionContext, environment: Environment, scan: str, settings: Settings, options: ReadOptions
) -> Iterator[Any]:
    """Load all tables of the scan, also where one of them is selected: they must be consistent with each other."""
    logged = 0

    def progress(table: str, rows: int, total: int | None) -> None:
        nonlocal logged
        if rows >= logged + PROGRESS_ROWS:
            logged = rows
            context.log.info(f"{table}: {rows:,} of {total or '?'} rows read")

    try:
        settings = require_credentials(settings)
        if scan == AUTH_EVENT.scan:
            load = yield from _apply_events(context, environment, settings)
        else:
            load = load_scan(scan, settings, options=options, progress=progress, log=context.log.info)
        yield from _results(load, environment, settings, context.selected_asset_keys)
    except PropelError as error:
        failure = as_failure(error)
        if not error.retry_may_help or context.retry_number >= MAX_RETRIES:
            raise failure from None
        # No retry policy: it would also retry a run that a user has terminated.
        raise dg.RetryRequested(MAX_RETRIES, settings.retry_seconds / 10) from failure
    except Exception as error:
        raise as_failure(unexpected_error(error)) from None


def _results(
    load: ScanLoad, environment: Environment, settings: Settings, selected: Set[dg.AssetKey]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Yield one materialization per selected table.

    A skipped table is materialized with the data version of its last load: Dagster would skip every step downstream of
    a missing output.
    """
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        for result in load.results:
            table = BY_NAME[result.table_name]
            key = environment.asset_key(table)
            if key not in selected:
                continue
            last = warehouse.audit.last_load(table)
            rows = warehouse.count(table.name) if last else 0
            grade = _grade(warehouse) if table == AUTH_EVENT else {}
            yield dg.MaterializeResult(
                asset_key=key,
                metadata=_metadata(result, load, settings) | {"dagster/row_count": rows} | grade,
                data_version=dg.DataVersion(last.load_id if last else "none"),
            )


def _apply_events(
    context: dg.AssetExecutionContext, environment: Environment, settings: Settings
) -> Generator[Any, None, ScanLoad]:
    """Apply all webhook events, yield the events of the tables that they changed, and return the last load."""
    loads: list[ScanLoad] = []
    error = None
    try:
        for load in load_events(settings, log=context.log.info):
            loads.append(load)
    except PropelError as raised:  # the events of the loads before it are applied
        error = raised
    try:
        yield from _changes_of_tables(environment, settings, loads)
    except PropelError as problem:
        context.log.warning(f"The tables that events changed have no new materialization: {problem}")
    if error:
        raise error
    return loads[-1]


def _changes_of_tables(
    environment: Environment, settings: Settings, loads: Sequence[ScanLoad]
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Yield materializations of each table that events have changed: it is the asset of another op.

    Dagster shows a check that is older than the last materialization as not evaluated. `up_to_date` reads audit tables
    only and is evaluated. Of the others, the last results are repeated: a load of events is too small for checks of all
    rows.
    """
    changed: dict[Table, list[tuple[ScanResult, ScanLoad]]] = {}
    for load in loads:
        for result in load.results:
            if result.mode == "events":
                changed.setdefault(BY_NAME[result.table_name], []).append((result, load))
    if not changed:
        return
    policy = load_policy(settings.privacy_settings)
    with explain_refusal(settings.target), open_warehouse(settings.target, policy) as warehouse:
        for table, applied in changed.items():
            key, rows = environment.asset_key(table), warehouse.count(table.name)
            for result, load in applied:
                metadata = _metadata(result, load, settings) | {"dagster/row_count": rows}
                yield dg.AssetMaterialization(key, metadata=metadata, tags={DATA_VERSION: load.load_id})
            if table in environment.tables:
                repeated = [found for found in last_results(warehouse, table) if found.check != "up_to_date"]
                for found in (*examine(warehouse, table, ["up_to_date"]), *repeated):
                    yield check_evaluation(found, key)


def _metadata(result: ScanResult, load: ScanLoad, settings: Settings) -> dict[str, Any]:
    """Return the metadata of a materialization. The UI plots its numbers."""
    metadata: dict[str, Any] = {
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
        return metadata | {"skipped": result.reason}
    metadata |= {"rows_read": result.rows_read, "pages": result.pages, "attempts": result.attempts}
    if result.deleted:
        metadata["ids_deleted"] = sum(map(len, result.deleted.values()))
    if result.total_max is not None:
        metadata |= {"api_total": result.total_max, "api_total_min": result.total_min}
    if result.reason:
        metadata["reason"] = result.reason
    if result.unknown_fields:
        metadata["unknown_fields"] = result.unknown_fields
    return metadata


def _grade(warehouse: Warehouse) -> dict[str, Any]:
    """Return what the webhooks missed between the last two graded full loads."""
    grades = latest_grades(warehouse, GRADED)
    totals = {"changes_graded": sum(g.changes for g in grades), "changes_missed": sum(g.missed for g in grades)}
    return totals if grades else {}


def _privacy(table: Table, settings: Settings) -> dict[str, Any]:
    """Return the columns that the privacy policy keeps, hashes and drops."""
    policy = load_policy(settings.privacy_settings)
    hashed, dropped = policy.columns(table, "hash"), policy.columns(table, "drop")
    metadata: dict[str, Any] = {
        "privacy": policy.name,
        "columns_kept": len({*policy.rules[table.name]} - {*hashed, *dropped}),
    }
    for name, columns in (("columns_hashed", hashed), ("columns_dropped", dropped)):
        if columns:
            metadata[name] = columns
    return metadata
