"""The checks of `warehouse/checks.py` as asset checks: one op per table."""

import inspect
from collections.abc import Iterator
from typing import Any

import dagster as dg

from propel_assets.catalog import Table
from propel_assets.defs.environment import Environment
from propel_assets.defs.failures import convert_errors
from propel_assets.privacy.policy_file import load_policy
from propel_assets.reporting.drawing import can_draw, history_chart
from propel_assets.warehouse.checks import CHECKS, CheckResult, checks_of, examine
from propel_assets.warehouse.query import open_warehouse


def build_checks(environment: Environment) -> list[dg.AssetChecksDefinition]:
    """Return the checks of every table. A check that fails as ERROR blocks downstream ops, one that warns does not."""
    return [_build_check_op(environment, table) for table in environment.tables]


def _build_check_op(environment: Environment, table: Table) -> dg.AssetChecksDefinition:
    key = environment.asset_key(table)
    specs = [
        dg.AssetCheckSpec(name, asset=key, blocking=True, description=inspect.getdoc(CHECKS[name]))
        for name in checks_of(table)
    ]

    @dg.multi_asset_check(
        name=environment.named(f"check_{table.name}"),
        specs=specs,
        can_subset=True,
        required_resource_keys={environment.warehouse_key},
    )
    def check_table(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        names = [check.name for check in context.selected_asset_check_keys]
        with convert_errors():
            settings = environment.settings(context.resources)
            with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
                results = examine(warehouse, table, [name for name in CHECKS if name in names])
        for result in results:
            yield dg.AssetCheckResult(asset_key=key, check_name=result.check, **_outcome(result))

    return check_table


def check_evaluation(result: CheckResult, key: dg.AssetKey) -> dg.AssetCheckEvaluation:
    """Return the result of a check as an event, for an op that does not declare the check."""
    outcome = _outcome(result)
    if at := result.evidence.get("evaluated_at"):
        outcome["description"] = f"At {at}: {result.summary}"
    return dg.AssetCheckEvaluation(asset_key=key, check_name=result.check, blocking=True, **outcome)


def _outcome(result: CheckResult) -> dict[str, Any]:
    metadata: dict[str, Any] = {name: value for name, value in result.evidence.items() if value is not None}
    if result.query:
        metadata["query"] = dg.MetadataValue.md(f"```sql\n{result.query}\n```")
    if (history := metadata.get("history")) and can_draw():
        chart = history_chart(history, metadata["expected_from"], metadata["expected_to"])
        metadata["chart"] = dg.MetadataValue.md(chart.markdown())
    return {
        "passed": result.passed,
        "severity": dg.AssetCheckSeverity[result.severity],
        "description": result.summary,
        "metadata": metadata,
    }
