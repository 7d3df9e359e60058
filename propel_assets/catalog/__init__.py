"""The catalog: one record per table. All other packages derive their facts about tables from it.

dlt resources, assets, descriptions, checks, privacy rules, lineage and docs/ read `TABLES`. To add a table whose shape
exists, add one record to a module of this package and to `TABLES`. Pure data: imports nothing of this project.

Source of the fields: PropelAuth's clients and documentation. The API leaves optional fields out of a response, so
columns are declared here and never inferred from a page.
"""

from difflib import get_close_matches

from propel_assets.catalog.api_keys import (
    END_USER_API_KEY_USAGE,
    END_USER_API_KEY_USAGE_TOTAL,
    END_USER_API_KEYS,
    END_USER_API_KEYS_ARCHIVED,
)
from propel_assets.catalog.audit import (
    PROPEL_CHANGES,
    PROPEL_CHECKS,
    PROPEL_EVENT_GRADES,
    PROPEL_SCAN_STATE,
    PROPEL_SCANS,
)
from propel_assets.catalog.events import AUTH_EVENT
from propel_assets.catalog.insights import CHART_METRICS, ORG_REPORT, USER_REPORT
from propel_assets.catalog.model import (
    API_KEYS,
    INSIGHTS,
    ORGS,
    SCIM,
    Column,
    ColumnType,
    Feature,
    PrivacyClass,
    Reference,
    RunOption,
    Shape,
    Table,
    Webhooks,
)
from propel_assets.catalog.orgs import CUSTOM_ROLE_MAPPINGS, ORG_BY_ID, ORG_QUERY, PENDING_ORG_INVITES, SAML_SP_METADATA
from propel_assets.catalog.public import JWKS, OPENID_CONFIGURATION
from propel_assets.catalog.scim import SCIM_GROUP_MEMBERS, SCIM_GROUPS
from propel_assets.catalog.users import DETAILS, EMPLOYEE, LOOKUPS, OAUTH_USERINFO, ORG_MEMBERSHIP, USER_QUERY

__all__ = [
    "API_KEYS",
    "AUDIT_TABLES",
    "AUTH_EVENT",
    "BY_NAME",
    "END_USER_API_KEYS",
    "END_USER_API_KEY_USAGE",
    "END_USER_API_KEY_USAGE_TOTAL",
    "INSIGHTS",
    "ORGS",
    "ORG_BY_ID",
    "ORG_MEMBERSHIP",
    "ORG_QUERY",
    "PROPEL_CHANGES",
    "PROPEL_CHECKS",
    "PROPEL_EVENT_GRADES",
    "PROPEL_SCANS",
    "PROPEL_SCAN_STATE",
    "SCANS",
    "SCIM",
    "SCIM_GROUPS",
    "SCIM_GROUP_MEMBERS",
    "TABLES",
    "USER_QUERY",
    "Column",
    "ColumnType",
    "Feature",
    "PrivacyClass",
    "Reference",
    "RunOption",
    "Shape",
    "Table",
    "describe_unknown_table",
    "options_of",
    "tables_of",
    "tables_written_by",
]

TABLES: tuple[Table, ...] = (
    USER_QUERY,
    ORG_MEMBERSHIP,
    ORG_QUERY,
    ORG_BY_ID,
    PENDING_ORG_INVITES,
    CUSTOM_ROLE_MAPPINGS,
    END_USER_API_KEYS,
    END_USER_API_KEYS_ARCHIVED,
    END_USER_API_KEY_USAGE_TOTAL,
    END_USER_API_KEY_USAGE,
    USER_REPORT,
    ORG_REPORT,
    CHART_METRICS,
    SCIM_GROUPS,
    SCIM_GROUP_MEMBERS,
    OPENID_CONFIGURATION,
    JWKS,
    OAUTH_USERINFO,
    *LOOKUPS,
    *DETAILS,
    SAML_SP_METADATA,
    EMPLOYEE,
    AUTH_EVENT,
)
AUDIT_TABLES: tuple[Table, ...] = (PROPEL_SCANS, PROPEL_CHECKS, PROPEL_CHANGES, PROPEL_SCAN_STATE, PROPEL_EVENT_GRADES)
BY_NAME: dict[str, Table] = {table.name: table for table in TABLES}
SCANS: tuple[str, ...] = tuple(dict.fromkeys(table.scan for table in TABLES))


def describe_unknown_table(name: str) -> str:
    """Return the message that no table has this name, with the closest names, or the tables of the scan `users`."""
    of_scan = [table.name for table in tables_of(name.lower())]
    close = of_scan or get_close_matches(name.lower(), BY_NAME, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"No table is named {name!r}.{hint} `propel-assets tables` lists all."


def tables_of(scan: str) -> tuple[Table, ...]:
    """Return the tables that ``scan`` reads together."""
    return tuple(table for table in TABLES if table.scan == scan)


def tables_written_by(scan: str) -> tuple[Table, ...]:
    """Return the tables of ``scan``, and the tables of other scans that it merges rows into."""
    tables = tables_of(scan)
    names = [name for table in tables if isinstance(table.shape, Webhooks) for name in table.shape.applies_to]
    return (*tables, *map(BY_NAME.__getitem__, names))


def options_of(scan: str) -> tuple[RunOption, ...]:
    """Return the options that a run of ``scan`` can set."""
    return tuple(option for table in tables_of(scan) for option in table.options)
