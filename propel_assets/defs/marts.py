"""The marts as Dagster assets, by dagster-dbt: one op per group of marts, named in `dbt_project.yml`.

A check that fails on a raw table stops the ops that read it. Without the extra `marts` there are no assets, and nothing
else changes. dbt runs only when marts are materialized.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg
from dlt.destinations.exceptions import DatabaseUndefinedRelation

from propel_assets.catalog import AUDIT_TABLES, BY_NAME, INSIGHTS
from propel_assets.defs.environment import PREFIX, Environment
from propel_assets.defs.failures import convert_errors
from propel_assets.errors import WarehouseError
from propel_assets.marts import runner
from propel_assets.marts.dbt_compat import quiet_import
from propel_assets.marts.lineage import lineage
from propel_assets.marts.manifest import load_manifest
from propel_assets.marts.sources import DLT_LOADS
from propel_assets.privacy.redaction import without_personal_data
from propel_assets.reporting import charts
from propel_assets.reporting.drawing import Chart, can_draw
from propel_assets.warehouse import query
from propel_assets.warehouse.pipeline import destination_kind

AUDIT_TABLE_NAMES = {*(table.name for table in AUDIT_TABLES), DLT_LOADS["name"]}
COMPARISON = "agrees_with_propel_auth"  # the dbt test that compares our figures with PropelAuth's own
ASSET_TYPES = {"model", "seed"}
BUILT = {"success"}


@dataclass(frozen=True)
class Marts:
    """The histories and marts of one environment.

    Attributes:
        environment: the environment.
        keys: the asset key of each model and seed, by its name in dbt. The config's `translation` may have changed it.
    """

    environment: Environment
    keys: Mapping[str, dg.AssetKey]


def build_marts(environment: Environment) -> list[dg.AssetsDefinition]:
    """Return one op per group of marts; none without the extra `marts`, or on a destination without a dbt profile.

    Marts of raw tables that the environment does not include are left out.

    Raises:
        WarehouseError: the installed dbt cannot parse the marts.
    """
    if not environment.config.marts or not runner.are_marts_installed():
        return []
    destination = environment.destination
    if destination_kind(replace(environment.target, destination=destination)) not in runner.ADAPTERS:
        logging.getLogger(__name__).warning(
            "History and marts are left out: propel-assets builds them on DuckDB and PostgreSQL, not on %s. "
            "Your dbt project can build them: `propel-assets dbt-sources --package`.",
            destination,
        )
        return []
    manifest = load_manifest(environment.target)
    included, translator = {table.name for table in environment.tables}, _translator(environment)
    ops: dict[str, list[str]] = {}
    keys: dict[str, dg.AssetKey] = {}
    for op, unique_ids in sorted(models_by_op(manifest).items()):
        if models := [unique_id for unique_id in unique_ids if raw_tables_of(manifest, unique_id) <= included]:
            ops[op] = [manifest["nodes"][unique_id]["name"] for unique_id in models]
            specs = [translator.get_asset_spec(manifest, unique_id, None) for unique_id in models]
            keys |= {name: spec.key for name, spec in zip(ops[op], specs, strict=True)}
    marts = Marts(environment, keys)
    return [_build_op(marts, manifest, translator, op, models) for op, models in ops.items()]


def models_by_op(manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the ids of models and seeds by the op that builds them, which is in their dbt `meta`."""
    groups: dict[str, list[str]] = defaultdict(list)
    for unique_id, node in sorted(manifest["nodes"].items()):
        if node["resource_type"] in ASSET_TYPES:
            groups[node["config"]["meta"]["op"]].append(unique_id)
    return groups


def raw_tables_of(manifest: Mapping[str, Any], unique_id: str) -> set[str]:
    """Return the raw tables that a node is built from, directly or through other models."""
    if unique_id in manifest["sources"]:
        return {manifest["sources"][unique_id]["name"]} - AUDIT_TABLE_NAMES
    return {table for parent in manifest["parent_map"][unique_id] for table in raw_tables_of(manifest, parent)}


def _build_op(
    marts: Marts, manifest: Mapping[str, Any], translator: Any, op: str, models: Sequence[str]
) -> dg.AssetsDefinition:
    with quiet_import():
        from dagster_dbt import dbt_assets

    environment = marts.environment

    @dbt_assets(
        manifest=manifest,
        select=" ".join(models),
        name=environment.named(op),
        dagster_dbt_translator=translator,
        required_resource_keys={environment.warehouse_key},
        pool=environment.warehouse_key,
    )
    def build(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from _build(context, marts)

    return build


def _build(context: dg.AssetExecutionContext, marts: Marts) -> Iterator[Any]:
    """Build the selected marts, run the selected tests, and yield the results of both."""
    environment = marts.environment
    models = {name for name, key in marts.keys.items() if key in context.selected_asset_keys}
    tests = {check.name for check in context.selected_asset_check_keys}
    arguments = ["build", "--indirect-selection", "empty", "--select", *sorted(models | tests)]
    with convert_errors(), runner.open_dbt(environment.settings(context.resources), context.log.info) as dbt:
        result = dbt.run(*arguments)
        for node in result.nodes:
            context.log.info(f"{node.name}: {node.status} in {node.seconds:.1f} s. {node.message}")
        with dbt.open_warehouse() as warehouse:
            for node in result.nodes:
                yield from _events(context, marts, dbt, node, warehouse)
        if result.failed:
            failed = "; ".join(f"{name}: {reason}" for name, reason in result.failed.items())
            raise WarehouseError(f"Not built, or a test failed: {failed}")
        if missing := sorted(models - {node.name for node in result.nodes}):
            raise WarehouseError(
                f"dbt ran and returned no result for {', '.join(missing)}, so they were not built. Materialize them "
                "again. If that does not help, restart the code server."
            )


def _events(
    context: dg.AssetExecutionContext,
    marts: Marts,
    dbt: runner.Dbt,
    node: runner.NodeResult,
    warehouse: query.Warehouse,
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Yield the materialization of a model, or the result of a test."""
    properties = dbt.manifest["nodes"][node.unique_id]
    if properties["resource_type"] in ASSET_TYPES:
        if node.status in BUILT:
            yield _materialization(marts, properties, node, warehouse)
    elif node.status != "skipped":
        yield _check_result(context, dbt, properties, node, warehouse)


def _materialization(
    marts: Marts, properties: Mapping[str, Any], node: runner.NodeResult, warehouse: query.Warehouse
) -> dg.MaterializeResult[Any]:
    """Return the materialization, with rows, columns, their lineage and the chart."""
    relation = f"{properties['schema']}.{properties['alias']}"
    types = dict(
        warehouse.rows(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = %s AND table_name = %s",
            properties["schema"],
            properties["alias"],
        )
    )
    columns = [
        dg.TableColumn(name, types.get(name, "?"), description=column["description"])
        for name, column in properties["columns"].items()
    ]
    metadata: dict[str, Any] = {
        "Execution Duration": node.seconds,
        "dagster/table_name": relation,
        "dagster/column_schema": dg.TableSchema(columns=columns),
    }
    if lines := _column_lineage(marts, node.name):
        metadata["dagster/column_lineage"] = dg.TableColumnLineage(deps_by_column=lines)
    if properties["config"]["materialized"] != "view":
        metadata["dagster/row_count"] = warehouse.number(f"SELECT count(*) FROM {relation}")  # noqa: S608 - our names
    if chart := _chart(node.name, properties["schema"], warehouse):
        metadata["chart_preview"] = dg.MetadataValue.md(chart.preview())
        metadata["chart"] = dg.MetadataValue.md(chart.markdown())
    return dg.MaterializeResult(asset_key=marts.keys[node.name], metadata=metadata)


def _column_lineage(marts: Marts, model: str) -> dict[str, list[dg.TableColumnDep]]:
    """Return the columns that each column of ``model`` comes from."""
    columns = {column: sources for column, sources in lineage().sources.items() if column.split(".")[0] == model}
    return {
        column.split(".")[1]: [_column_dep(marts, s) for s in sorted(sources)] for column, sources in columns.items()
    }


def _column_dep(marts: Marts, source: str) -> dg.TableColumnDep:
    table, column = source.split(".")
    return dg.TableColumnDep(marts.keys.get(table) or _raw_key(marts.environment, table), column)


def _check_result(
    context: dg.AssetExecutionContext,
    dbt: runner.Dbt,
    properties: Mapping[str, Any],
    node: runner.NodeResult,
    warehouse: query.Warehouse,
) -> dg.AssetCheckResult:
    """Return the result of a dbt test.

    A comparison with figures of PropelAuth that were not read passes, with the reason: a Dagster check without a result
    would be shown as skipped, without one.
    """
    [key] = [check for check in context.selected_asset_check_keys if check.name == node.name]
    metadata: dict[str, Any] = {"status": node.status, "failed_rows": node.failures or 0}
    description = None
    if properties["test_metadata"]["name"] == COMPARISON:
        tables = [BY_NAME[name] for name in sorted(raw_tables_of(dbt.manifest, node.unique_id))]
        insights = [table for table in tables if table.feature == INSIGHTS]
        unloaded = {t: reason for t in insights if (reason := runner.unloaded_reason(warehouse, t))}
        if unloaded:
            nothing = len(unloaded) == len(insights) and not any(map(warehouse.audit.last_load, unloaded))
            reason = " ".join(without_personal_data(text)[: runner.MAX_ERROR] for text in unloaded.values())
            description = f"{'Skipped, nothing to compare' if nothing else 'Compared with older figures'}: {reason}"
            metadata["skipped"] = reason
    severity = properties["config"]["severity"].lower()
    return dg.AssetCheckResult(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=node.status == "pass",
        severity=dg.AssetCheckSeverity.WARN if severity == "warn" else dg.AssetCheckSeverity.ERROR,
        description=description,
        metadata=metadata,
    )


def _chart(model: str, schema: str, warehouse: query.Warehouse) -> Chart | None:
    """Return the chart of a mart, if it has one and has rows.

    A chart that also reads a mart of a later op is drawn from the second run on.
    """
    if model not in charts.CHARTS or not can_draw():
        return None
    try:
        return charts.CHARTS[model][-1](warehouse.rows, schema)
    except DatabaseUndefinedRelation:
        return None


def _asset_key(environment: Environment, properties: Mapping[str, Any]) -> dg.AssetKey:
    """Return the asset key before the translation: the schema without the name of the environment, and the table."""
    name = properties["name"]
    if properties["resource_type"] == "source":
        return _raw_key(environment, name)
    return environment.key(runner.HISTORY if is_history(properties) else runner.MARTS, name)


def _raw_key(environment: Environment, name: str) -> dg.AssetKey:
    """Return the asset key of a raw table or audit table."""
    return environment.asset_key(BY_NAME[name]) if name in BY_NAME else environment.key(PREFIX, name)


def is_history(properties: Mapping[str, Any]) -> bool:
    """Return whether a model is a history: it has the schema of the histories."""
    return properties["fqn"][1] == "history"


def _translator(environment: Environment) -> Any:
    with quiet_import():
        from dagster_dbt import DagsterDbtTranslator

    class MartsTranslator(DagsterDbtTranslator):
        """Names the assets like the raw tables, and gives them our groups, owners and kinds."""

        def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
            """Return the asset key of a dbt resource."""
            return _asset_key(environment, dbt_resource_props)

        def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: Any) -> dg.AssetSpec:
            """Return the asset spec without dependencies on audit tables, which no op loads by themselves."""
            spec = super().get_asset_spec(manifest, unique_id, project)
            if unique_id.startswith("source"):
                return spec
            audit = {environment.key(PREFIX, name) for name in AUDIT_TABLE_NAMES}
            layer = "history" if is_history(manifest["nodes"][unique_id]) else "marts"
            # By their keys alone: Dagster 1.13.1 refuses an op whose specs describe a dependency differently.
            deps = [dg.AssetDep(dep.asset_key) for dep in spec.deps if dep.asset_key not in audit]
            if not deps:  # the audit tables exist once any table is loaded
                deps = [dg.AssetDep(environment.asset_key(environment.tables[0]))]
            spec = spec.replace_attributes(
                deps=deps,
                group_name=environment.group(layer),
                kinds={"dbt", environment.destination},
                automation_condition=environment.condition(dg.AutomationCondition.eager()),
                freshness_policy=environment.freshness,
            )
            return environment.finish(spec, layer)

    return MartsTranslator()
