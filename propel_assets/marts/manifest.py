"""The dbt manifest that Dagster definitions are built from, cached in a file."""

import hashlib
import importlib.metadata
import json
import tempfile
from pathlib import Path
from typing import Any

from propel_assets.marts.runner import duckdb_profile, manifest_dict
from propel_assets.marts.sources import PROJECT
from propel_assets.settings import Target, cache_folder

PROJECT_FILES = {".sql", ".yml", ".csv"}


def load_manifest(target: Target) -> dict[str, Any]:
    """Return the manifest with the schema names of ``target``.

    It is parsed once for each state of the project's files; if the cache folder cannot be written, once per process.
    """
    path = _cache_file(target)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = _build(target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", encoding="utf-8", delete=False) as file:
            json.dump(manifest, file)
        Path(file.name).replace(path)
    except OSError:
        pass
    return manifest


def _build(target: Target) -> dict[str, Any]:
    parsed = manifest_dict(duckdb_profile(target, "propel_auth_pipeline.duckdb"))
    manifest = json.loads(json.dumps(parsed, default=str))
    for node in manifest["nodes"].values():
        if node["resource_type"] == "test":  # dagster-dbt shows the description in `meta` only
            node["meta"] = {**node["meta"], "description": node["description"]}
    return manifest


def _cache_file(target: Target) -> Path:
    """Return the cache file for ``target``, the version of dbt and the current files of the project."""
    digest = hashlib.sha256(f"{importlib.metadata.version('dbt-core')} {target.environment}".encode())
    for file in sorted(PROJECT.rglob("*")):
        if file.suffix in PROJECT_FILES and "target" not in file.parts:
            digest.update(file.relative_to(PROJECT).as_posix().encode() + file.read_bytes())
    return cache_folder() / f"marts-{digest.hexdigest()[:16]}.json"
