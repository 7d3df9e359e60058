"""Where rows go: dlt's pipeline for a destination, in a working folder that does not outlive the run."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dlt
import psutil
from dlt.common.configuration.exceptions import ConfigurationException
from dlt.common.destination import Destination
from dlt.common.destination.exceptions import (
    InvalidDestinationReference,
    UnknownDestinationModule,
)

from propel_assets.errors import SettingsError
from propel_assets.settings import DATASET, PIPELINE, Settings, set_default_environment
from propel_assets.warehouse.duckdb_destination import Patience, atomic_duckdb, exclusive

FOLDER_PREFIX = "propel-assets-"
SAFE_REPLACE = "insert-from-staging"
KNOWN = (
    "duckdb",
    "postgres",
    "bigquery",
    "snowflake",
    "redshift",
    "databricks",
    "filesystem",
    "ducklake",
    "motherduck",
)


def build_pipeline(settings: Settings, folder: str | None, say: Callable[[str], None] = lambda _: None) -> dlt.Pipeline:
    """Return the pipeline for ``settings``, working in ``folder``; None is dlt's own folder.

    Raises:
        SettingsError: dlt does not know the destination.
    """
    # No usage report, and nobody left in the staging tables of a merge.
    set_default_environment({"RUNTIME__DLTHUB_TELEMETRY": "false", "LOAD__TRUNCATE_STAGING_DATASET": "true"})
    folder_if_named: Any = folder  # dlt takes None, and declares a str
    return dlt.pipeline(
        PIPELINE, destination=destination(settings, say), dataset_name=DATASET, pipelines_dir=folder_if_named
    )


def destination(settings: Settings, say: Callable[[str], None]) -> Destination[Any, Any]:
    """Return dlt's destination, made to replace a table's rows in one transaction."""
    name = settings.destination
    kind = dlt.config.get(f"destination.{name}.destination_type", str) or name
    if kind.rsplit(".", 1)[-1] == "duckdb":
        return atomic_duckdb.named(name, Patience(settings.lock_seconds, say))
    try:
        found = Destination.from_reference(name, replace_strategy=SAFE_REPLACE)
    except (UnknownDestinationModule, InvalidDestinationReference):
        found = None
    if found is None:
        raise SettingsError(
            f"PROPELAUTH_DESTINATION is {name!r}, which dlt does not know. Choose one of {', '.join(KNOWN)}, another dlt "  # noqa: E501
            f"destination, or one named under [destination.{name}] in .dlt/config.toml."
        )
    return found


def loader_file_format(pipeline: dlt.Pipeline) -> Any:
    """Return the bulk format to load by; None is the destination's own choice."""
    return "parquet" if isinstance(pipeline.destination, atomic_duckdb) else None


def database_file(pipeline: dlt.Pipeline) -> Path | None:
    """Return the DuckDB file behind ``pipeline``; None for every other destination."""
    if not isinstance(pipeline.destination, atomic_duckdb):
        return None
    with contextlib.suppress(ConfigurationException):
        credentials: Any = pipeline.destination_client().config.credentials
        path = str(credentials._conn_str())
        return None if path.startswith((":", "md:")) else Path(path)
    return None


@contextlib.contextmanager
def loading(settings: Settings, pipeline: dlt.Pipeline, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the right to load, where the destination allows one load at a time."""
    file = database_file(pipeline)
    if file is None:
        yield
        return
    if not file.parent.is_dir():
        raise SettingsError(f"The folder of the DuckDB file does not exist: {file.parent}. Create it, or name another.")
    with exclusive(file, Patience(settings.lock_seconds, say)):
        yield


@contextlib.contextmanager
def working_folder() -> Iterator[str]:
    """Give a private folder for one run, and remove it: what dlt extracts are people's data.

    A killed run cannot remove its folder; the next one does.
    """
    try:
        for left in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*-*"):
            owner = left.name.removeprefix(FOLDER_PREFIX).split("-")[0]
            if owner.isdigit() and not psutil.pid_exists(int(owner)):
                shutil.rmtree(left, ignore_errors=True)
        folder = tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-")
    except OSError as error:
        raise SettingsError(f"No temporary file can be written: {error.strerror}. Make room, or set TMPDIR.") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def leave_a_map(settings: Settings) -> None:
    """Make `dlt pipeline propel_auth_pipeline info` and `dlt.pipeline(...).dataset()` work: schema and state, no rows.

    What lies in dlt's own folder is dropped first: it may be of another project on this machine.
    """
    build_pipeline(settings, None).drop()
    # Built again: the dropped one still knows the other project's folder, and would read its database.
    build_pipeline(settings, None).sync_destination()
