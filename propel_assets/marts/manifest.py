"""The dbt manifest that Dagster definitions are built from, cached in a file."""

import hashlib
import importlib.metadata
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from propel_assets.marts.runner import manifest_dict, profile_of
from propel_assets.marts.sources import PROJECT
from propel_assets.settings import Target, cache_folder

PROJECT_FILES = {".sql", ".yml", ".csv"}


def load_manifest(target: Target) -> dict[str, Any]:
    """Return the manifest with the schema names of ``target``."""
    profile = profile_of(target, type="duckdb", path="propel_auth_pipeline.duckdb")
    return cached_json(f"manifest {target.environment}", lambda: manifest_dict(profile))


def cached_json(name: str, build: Callable[[], Any]) -> Any:
    """Return what ``build`` returned for ``name`` and the present files of the dbt project, from a file.

    If the cache folder cannot be written, the value is built again by every process.
    """
    digest = hashlib.sha256(f"{importlib.metadata.version('dbt-core')} {name}".encode())
    for file in sorted(PROJECT.rglob("*")):
        if file.suffix in PROJECT_FILES and "target" not in file.parts:
            digest.update(file.relative_to(PROJECT).as_posix().encode() + file.read_bytes())
    path = cache_folder() / f"{name.split()[0]}-{digest.hexdigest()[:16]}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = json.loads(json.dumps(build(), default=str))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", encoding="utf-8", delete=False) as file:
            json.dump(value, file)
        Path(file.name).replace(path)
    except OSError:
        pass
    return value
