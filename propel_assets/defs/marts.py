"""The marts as assets, by dagster-dbt: one op per set of raw tables, so that one bad table stops only its own marts.

Without the extra `marts` there are none, and nothing else changes. The manifest is built once and again when a file of
the dbt project changes; dbt itself runs only when marts are materialized.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from propel_assets.catalog import AUDIT_TABLES, BY_NAME, INSIGHTS
from propel_assets.defs.assets import as_failure
from propel_assets.defs.environment import FRESHNESS, PREFIX, Environment
from propel_assets.errors import PropelError, WarehouseError
from propel_assets.marts import runner as marts
from propel_assets.privacy.redaction import without_personal_data
from propel_assets.reporting import charts

AUDIT_TABLE_NAMES = {table.name for table in AUDIT_TABLES}
COMPARES = "agrees_with_propel_auth"  # the dbt test that holds our figures against PropelAuth's own


def build_marts(environment: Environment) -> list[dg.AssetsDefinition]:
    """Return one op for each set of raw tables that marts are made from; none without the extra `marts`.

    Marts of raw tables that the environment does not include are left out.
    """
    if not environment.config.marts or not marts.installed():
        return []
    manifest = json.loads(marts.manifest_path().read_text(encoding="utf-8"))
    included = {table.name for table in environment.tables}
    groups = {tables: models for tables, models in group_by_raw_tables(manifest).items() if included >= {*tables}}
    return [_build_op(environment, manifest, tables, models) for tables, models in sorted(groups.items())]


def group_by_raw_tables(manifest: Mapping[str, Any]) -> dict[tuple[str, ...], list[str]]:
    """Return the models and histories by the raw tables that they are made from, directly or by way of others."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for unique_id, node in sorted(manifest["nodes"].items()):
        if node["resource_type"] in {"model", "snapshot"}:
            groups[tuple(sorted(_raw_tables(manifest, unique_id)))].append(node["name"])
    return groups


def _raw_tables(manifest: Mapping[str, Any], unique_id: str) -> set[str]:
    if unique_id in manifest["sources"]:
        return {manifest["sources"][unique_id]["name"]} - AUDIT_TABLE_NAMES
    parents = manifest["parent_map"][unique_id]
    return {table for parent in parents for table in _raw_tables(manifest, parent)}


def _build_op(
    environment: Environment, manifest: Mapping[str, Any], tables: Sequence[str], models: Sequence[str]
) -> dg.AssetsDefinition:
    with marts.quiet_import():
        from dagster_dbt import dbt_assets

    @dbt_assets(
        manifest=manifest,
        select=" ".join(models),
        name=environment.named(f"marts_from_{'_and_'.join(tables) or 'the_books'}"),
        dagster_dbt_translator=_translator(environment),
        required_resource_keys={environment.warehouse_key},
        pool=environment.warehouse_key,
    )
    def build(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from _build(context, environment)

    return build


def _build(context: dg.AssetExecutionContext, environment: Environment) -> Iterator[Any]:
    """Build the marts asked for, and tell Dagster of each: rows, columns, where they come from, tests."""
    from dagster_dbt.asset_utils import get_updated_cli_invocation_params_for_context

    asked = get_updated_cli_invocation_params_for_context(
        context=context.op_execution_context,  # it asks for `op`, which is deprecated on the other
        manifest={},
        dagster_dbt_translator=_translator(environment),
    )
    words = ["build", *asked.selection_args]
    if asked.indirect_selection:
        words += ["--indirect-selection", asked.indirect_selection]
    try:
        with marts.connected_dbt(environment.settings(context.resources), context.log.info) as dbt:
            ended = dbt.run(*words)
            for event in ended.events:
                context.log.info(without_personal_data(event["info"]["msg"]))
            yield from _told(context, dbt, ended, asked.dagster_dbt_translator)
            if ended.broken:
                told = "; ".join(f"{name}: {reason}" for name, reason in ended.broken.items())
                raise WarehouseError(f"Not built, or not as promised: {told}")
    except PropelError as error:
        raise as_failure(error) from None


def _told(context: dg.AssetExecutionContext, dbt: marts.Dbt, ended: marts.Ended, translator: Any) -> Iterator[Any]:
    """Return dagster-dbt's events for those of dbt, with rows, columns, their lineage, and charts."""
    from dagster_dbt.core.dbt_cli_event import DbtCoreCliEventMessage
    from dagster_dbt.core.dbt_cli_invocation import DbtCliInvocation
    from dagster_dbt.core.dbt_event_iterator import DbtEventIterator
    from packaging.version import Version

    no_process: Any = None  # dbt ran in this one
    invocation = DbtCliInvocation(
        process=no_process,
        manifest=dbt.manifest,
        dagster_dbt_translator=translator,
        project_dir=Path.cwd(),  # its threads change to it and back, all at once: it must be where we are
        target_path=dbt.folder,
        raise_on_error=False,
        cli_version=Version("1.0"),
        context=context,
        adapter=dbt.adapter(),
    )
    events = (
        told
        for event in ended.events
        for told in DbtCoreCliEventMessage(raw_event=event, event_history_metadata={}).to_default_asset_events(
            manifest=dbt.manifest,
            dagster_dbt_translator=translator,
            context=context,
            target_path=dbt.folder,
            project=None,
        )
    )
    for event in DbtEventIterator(events, invocation).fetch_row_counts().fetch_column_metadata():
        if isinstance(event, dg.Output) and (drawn := _drawn(context.asset_key_for_output(event.output_name), dbt)):
            yield event.with_metadata({**event.metadata, "chart": dg.MetadataValue.md(drawn)})
        elif isinstance(event, dg.AssetCheckResult):
            yield _explained(event, dbt)
        else:
            yield event


def _explained(result: dg.AssetCheckResult, dbt: marts.Dbt) -> dg.AssetCheckResult:
    """Return the result of a check; where figures of PropelAuth's own were not read, with the reason.

    Dagster calls a check skipped that gives no result at all, and has no place for a reason then: this one passes.
    """
    test = str(result.metadata["unique_id"].value)
    if dbt.manifest["nodes"][test]["test_metadata"]["name"] != COMPARES:
        return result
    theirs = [name for name in sorted(_raw_tables(dbt.manifest, test)) if BY_NAME[name].feature == INSIGHTS]
    unread = [dbt.unread[name] for name in theirs if name in dbt.unread]
    if not unread:
        return result
    nothing = len(unread) == len(theirs) and not any(them.has_rows for them in unread)
    why = " ".join(without_personal_data(them.reason)[: marts.MAX_ERROR] for them in unread)
    return result._replace(
        description=f"{'Skipped, nothing to compare' if nothing else 'Compared with what there is'}: {why}",
        metadata={**result.metadata, "skipped": dg.MetadataValue.text(why)},
    )


def _drawn(key: dg.AssetKey, dbt: marts.Dbt) -> str | None:
    """Return the chart of a mart, if it has one and there is something to show."""
    chart = charts.CHARTS.get(key.path[-1])
    shown = chart(dbt.rows) if chart and marts.drawing_installed() else None
    return shown.markdown() if shown else None


def _translator(environment: Environment) -> Any:
    with marts.quiet_import():
        from dagster_dbt import DagsterDbtTranslator

    class Marts(DagsterDbtTranslator):
        """Names what dbt makes as the raw tables are named."""

        def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
            """Return the schema and the table."""
            kind, name = dbt_resource_props["resource_type"], dbt_resource_props["name"]
            if kind == "source":
                return environment.asset_key(BY_NAME[name]) if name in BY_NAME else environment.key(PREFIX, name)
            return environment.key(marts.HISTORY if kind == "snapshot" else marts.MARTS, name)

        def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: Any) -> dg.AssetSpec:
            """Return the spec without the audit tables, which have no op of their own."""
            spec = super().get_asset_spec(manifest, unique_id, project)
            if unique_id.startswith("source"):
                return spec
            audit = {environment.key(PREFIX, name) for name in AUDIT_TABLE_NAMES}
            layer = "history" if unique_id.startswith("snapshot") else "marts"
            # By their keys alone: Dagster 1.13.1 refuses an op whose specs tell different things of one dependency.
            deps = [dg.AssetDep(dep.asset_key) for dep in spec.deps if dep.asset_key not in audit]
            if not deps:
                deps = [dg.AssetDep(environment.asset_key(environment.tables[0]))]
            spec = spec.replace_attributes(
                deps=deps,
                group_name=environment.group(layer),
                kinds={"dbt", environment.destination},
                automation_condition=environment.condition(dg.AutomationCondition.eager()),
                freshness_policy=FRESHNESS,
            )
            return environment.finish(spec, layer)

    return Marts()
