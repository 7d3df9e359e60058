"""The promises of `warehouse/checks.py` as asset checks: one op per table, one check per promise."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from propel_assets.catalog import TABLES, Table
from propel_assets.defs.assets import asset_key
from propel_assets.defs.failures import convert_errors
from propel_assets.defs.resources import Warehouse, settings_of
from propel_assets.privacy.policy_file import load_policy
from propel_assets.warehouse.checks import CHECKS, Finding, checks_of, examine
from propel_assets.warehouse.query import open_warehouse


def build_checks() -> list[dg.AssetChecksDefinition]:
    """Return the checks of every table. All block what is downstream when they fail as an ERROR, none as a WARN."""
    return [_build_table_checks(table) for table in TABLES]


def _build_table_checks(table: Table) -> dg.AssetChecksDefinition:
    key = asset_key(table)
    specs = [
        dg.AssetCheckSpec(name, asset=key, blocking=True, description=CHECKS[name].__doc__) for name in checks_of(table)
    ]

    @dg.multi_asset_check(name=f"check_{table.name}", specs=specs, can_subset=True)
    def check_table(context: dg.AssetCheckExecutionContext, warehouse: Warehouse) -> Iterator[dg.AssetCheckResult]:
        names = [check.name for check in context.selected_asset_check_keys]
        with convert_errors():
            settings = settings_of(warehouse)
            with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as connection:
                findings = examine(connection, table, [name for name in CHECKS if name in names])
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
