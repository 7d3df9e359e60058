"""The promises of `warehouse/checks.py` as asset checks: one op per table, one check per promise."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from propel_assets.defs.assets import as_failure, asset_key
from propel_assets.defs.resources import Warehouse, settings_of
from propel_assets.errors import PropelError
from propel_assets.source.tables import TABLES, Table
from propel_assets.warehouse.checks import CHECKS, Finding, checks_of, examine
from propel_assets.warehouse.query import opened


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
        try:
            with opened(settings_of(warehouse)) as connection:
                findings = examine(connection, table, [name for name in CHECKS if name in names])
        except PropelError as error:
            raise as_failure(error) from None
        for finding in findings:
            yield _as_result(finding, key)

    return check_table


def _as_result(finding: Finding, key: dg.AssetKey) -> dg.AssetCheckResult:
    metadata: dict[str, Any] = {name: value for name, value in finding.evidence.items() if value is not None}
    if finding.query:
        metadata["query"] = dg.MetadataValue.md(f"```sql\n{finding.query}\n```")
    return dg.AssetCheckResult(
        passed=finding.passed,
        asset_key=key,
        check_name=finding.check,
        severity=dg.AssetCheckSeverity[finding.severity],
        description=finding.summary,
        metadata=metadata,
    )
