"""The checks of `warehouse/checks.py` as asset checks: one op per table."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from propel_assets.catalog import Table
from propel_assets.defs.environment import Environment
from propel_assets.defs.failures import convert_errors
from propel_assets.privacy.policy_file import load_policy
from propel_assets.warehouse.checks import CHECKS, Finding, checks_of, examine
from propel_assets.warehouse.query import open_warehouse


def build_checks(environment: Environment) -> list[dg.AssetChecksDefinition]:
    """Return the checks of every table. A check that fails as ERROR blocks downstream ops, one that warns does not."""
    return [_build_check_op(environment, table) for table in environment.tables]


def _build_check_op(environment: Environment, table: Table) -> dg.AssetChecksDefinition:
    key = environment.asset_key(table)
    specs = [
        dg.AssetCheckSpec(name, asset=key, blocking=True, description=CHECKS[name].__doc__) for name in checks_of(table)
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
                findings = examine(warehouse, table, [name for name in CHECKS if name in names])
        for finding in findings:
            yield _as_result(finding, key)

    return check_table


def _as_result(finding: Finding, key: dg.AssetKey) -> dg.AssetCheckResult:
    metadata: dict[str, Any] = {name: value for name, value in finding.evidence.items() if value is not None}
    if finding.query:
        metadata["query"] = dg.MetadataValue.md(f"```sql\n{finding.query}\n```")
    if history := metadata.get("history"):
        metadata["plot"] = dg.MetadataValue.md(_plot(history, metadata["expected_from"], metadata["expected_to"]))
    return dg.AssetCheckResult(
        passed=finding.passed,
        asset_key=key,
        check_name=finding.check,
        severity=dg.AssetCheckSeverity[finding.severity],
        description=finding.summary,
        metadata=metadata,
    )


def _plot(history: Sequence[int], low: int, high: int) -> str:
    """Return a picture of the rows of each load, the newest in colour, over the band that was expected."""
    top = max(*history, high) or 1
    across, points = 380 / (len(history) - 1), []
    for at, rows in enumerate(history):
        points.append((10 + at * across, 110 - 100 * rows / top))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    colour = "#2b8a3e" if low <= history[-1] <= high else "#e03131"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="400" height="120"><rect width="400" height="120" fill="#fff"/>'
        f'<rect x="10" width="380" y="{110 - 100 * high / top:.1f}" height="{100 * (high - low) / top:.1f}" '
        f'fill="#dbe4ff"/><polyline points="{line}" fill="none" stroke="#3b5bdb" stroke-width="2"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/></svg>'
    )
    return f"![rows of each load](data:image/svg+xml;base64,{b64encode(svg.encode()).decode()})"
