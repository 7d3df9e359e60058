"""The raw tables, histories and marts as sources of another dbt project, with the keys of their Dagster assets."""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from propel_assets.catalog import AUDIT_TABLES, TABLES
from propel_assets.marts.runner import HISTORY, MARTS
from propel_assets.marts.sources import PACKAGE, PROJECT, asset_key, raw_table
from propel_assets.settings import DATASET, Target

HEAD = "# Written by `propel-assets dbt-sources`. Write it again after an upgrade of propel-assets.\n"


def downstream_sources_yaml(target: Target) -> str:
    """Return a properties file of dbt with one source for each schema of ``target``.

    The keys of the assets are in `meta`, so that dagster-dbt connects the models of the project with our assets.
    """
    prefix = (target.environment,) if target.environment else ()
    raw = [raw_table(table, *prefix) for table in (*TABLES, *AUDIT_TABLES)]
    sources = [_source(target, PACKAGE, DATASET, raw)]
    sources += [
        _source(target, layer, layer, [_model(model, *prefix, layer) for model in models_of(layer)])
        for layer in (HISTORY, MARTS)
    ]
    return HEAD + yaml.safe_dump({"version": 2, "sources": sources}, sort_keys=False, width=120, allow_unicode=True)


def _source(target: Target, name: str, schema: str, tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"name": target.named(name), "schema": target.named(schema), "tables": tables}


def _model(model: dict[str, Any], *key_prefix: str) -> dict[str, Any]:
    columns = [{"name": column["name"], "description": column["description"]} for column in model["columns"]]
    description = " ".join(model["description"].split())
    return {
        "name": model["name"],
        "description": description,
        **asset_key(*key_prefix, model["name"]),
        "columns": columns,
    }


def models_of(layer: str) -> Iterator[dict[str, Any]]:
    """Yield the properties of the models and seeds of a layer, from the files beside them."""
    for file in sorted((PROJECT / "models").glob("*/*.yml")):
        if (file.parent.name == "history") == (layer == HISTORY):
            properties = yaml.safe_load(file.read_text(encoding="utf-8"))
            yield from (*properties.get("models", ()), *properties.get("seeds", ()))
