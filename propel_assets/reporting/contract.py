"""The data contract of the tables, in the Open Data Contract Standard (ODCS) 3.1, derived from the catalog."""

from typing import Any

import yaml

from propel_assets import __version__
from propel_assets.catalog import AUDIT_TABLES, TABLES, Column, Table
from propel_assets.catalog.model import PrivacyClass
from propel_assets.settings import DATASET, Target

LOGICAL_TYPES = {
    "text": "string",
    "bigint": "integer",
    "double": "number",
    "bool": "boolean",
    "timestamp": "timestamp",
    "date": "date",
    "json": "object",
}
CLASSIFICATIONS: dict[PrivacyClass, str] = {
    "none": "internal",
    "identifier": "internal",
    "direct_identifier": "restricted",
    "personal": "restricted",
    "free_form": "restricted",
}


def contract(target: Target) -> dict[str, Any]:
    """Return the contract of the tables in the dataset of ``target``."""
    dataset = target.named(DATASET)
    return {
        "apiVersion": "v3.1.0",
        "kind": "DataContract",
        "id": f"propel-assets:{dataset}",
        "name": f"PropelAuth tables in {dataset}",
        "version": __version__,
        "status": "active",
        "domain": "identity",
        "dataProduct": "propel-assets",
        "description": {
            "purpose": "Users, orgs, memberships, roles, invitations, API keys and insight reports of PropelAuth.",
            "usage": "Each table has the state at PropelAuth as of its last load; audit tables have how it "
            "was read and checked.",
            "limitations": "PropelAuth adds fields without notice: they get a column of their own. A value that its "
            "column cannot hold is in `<column>__v_text`, and the column is null. Columns that the privacy policy "
            "drops are null.",
        },
        "tags": ["propelauth"],
        "schema": [_table(table) for table in (*TABLES, *AUDIT_TABLES)],
        "slaProperties": [
            {
                "property": "latency",
                "value": target.max_age_hours,
                "unit": "h",
                "element": ", ".join(table.name for table in TABLES if table.default),
                "description": "The check up_to_date warns if the last full load is older.",
            }
        ],
    }


def contract_yaml(target: Target) -> str:
    """Return the contract as YAML."""
    return yaml.safe_dump(contract(target), sort_keys=False, allow_unicode=True, width=120)


def _table(table: Table) -> dict[str, Any]:
    foreign_keys = {r.columns[0]: r.table for r in table.references if len(r.columns) == 1}
    found: dict[str, Any] = {
        "name": table.name,
        "physicalName": table.name,
        "logicalType": "object",
        "physicalType": "table",
        "description": table.description,
        "tags": [table.group, "loaded by default" if table.default else "loaded by name"],
        "properties": [_column(table, column, foreign_keys.get(column.name)) for column in table.columns],
    }
    if table.key:
        found["dataGranularityDescription"] = f"One row per {', '.join(table.key)}."
        found["quality"] = [
            {
                "id": "primary_key_is_unique",
                "type": "library",
                "metric": "duplicateValues",
                "arguments": {"properties": list(table.key)},
                "mustBe": 0,
                "severity": "error",
            }
        ]
    if table.doc:
        found["authoritativeDefinitions"] = [{"type": "implementation", "url": table.doc}]
    return found


def _column(table: Table, column: Column, refers_to: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": column.name,
        "physicalName": column.name,
        "logicalType": "array" if column.items else LOGICAL_TYPES[column.type],
        "physicalType": column.type,
        "description": column.description,
        "required": column.required or column.name in table.key,
        "classification": CLASSIFICATIONS[column.privacy],
        "tags": [f"privacy:{column.privacy}"],
    }
    if column.items:
        found["items"] = {"logicalType": LOGICAL_TYPES[column.items]}
    if column.name in table.key:
        found |= {"primaryKey": True, "primaryKeyPosition": table.key.index(column.name) + 1}
    if column.source_field != column.name:
        found["transformSourceObjects"] = [column.source_field]
    if refers_to:
        found["relationships"] = [{"type": "foreignKey", "to": f"{refers_to}.{column.name}"}]
    return found
