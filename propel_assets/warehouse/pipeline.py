"""dlt's pipeline for a destination, in a working folder of its own."""

import contextlib
import importlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import dlt
from dlt.common.destination import Destination
from dlt.common.destination.exceptions import InvalidDestinationReference, UnknownDestinationModule
from dlt.common.destination.reference import DestinationReference
from filelock import FileLock, Timeout

from propel_assets.errors import SettingsError
from propel_assets.privacy.erasure_list import names_people
from propel_assets.privacy.redaction import describe_error
from propel_assets.settings import DATASET, PIPELINE, Target, dlt_file_errors
from propel_assets.warehouse.config_errors import explain_config_errors
from propel_assets.warehouse.destinations.capabilities import CachesCapabilities
from propel_assets.warehouse.destinations.duckdb import atomic_duckdb
from propel_assets.warehouse.destinations.policies import DESTINATIONS, policy_of
from propel_assets.warehouse.destinations.postgres import advisory_lock
from propel_assets.warehouse.destinations.snowflake import SnowflakeClient
from propel_assets.warehouse.dlt_compat import copy_local_state, local_state_folder
from propel_assets.warehouse.dlt_setup import set_up_dlt
from propel_assets.warehouse.locks import LockTimeout, Log, file_lock

LOCAL_STATE_SECONDS = 30.0
"""How long the local pipeline state, which no load needs, is waited for."""


def build_pipeline(target: Target, folder: str | None, log: Log = lambda _: None) -> dlt.Pipeline:
    """Return the pipeline for ``target``, working in ``folder``; None: dlt's own folder.

    Raises:
        SettingsError: dlt does not know the destination, or the destination is not installed or not configured.
    """
    set_up_dlt()
    options: dict[str, Any] = {"pipelines_dir": folder} if folder else {}
    if target.staging:
        options["staging"] = target.staging
    with dlt_file_errors(), explain_config_errors(target.destination, destination_kind(target)):
        options |= {"destination": build_destination(target, log), "dataset_name": target.named(DATASET)}
        pipeline = dlt.pipeline(target.named(PIPELINE), **options)
        if load_formats(target).get("loader_file_format") == "csv":  # read once, on this machine: gzip takes longest
            dlt.config[f"{pipeline.pipeline_name}.normalize.data_writer.disable_compression"] = True
        _ = pipeline.destination.client_class  # imports its packages: a missing package is reported before settings
        if load_formats(target).get("table_format") == "delta":
            importlib.import_module("deltalake")
        pipeline.destination_client()  # resolves its credentials, without a connection
    return pipeline


def build_destination(target: Target, log: Log) -> Destination[Any, Any]:
    """Return dlt's destination, with atomic replaces and the merge strategy of its policy.

    Raises:
        SettingsError: dlt does not know the destination.
    """
    name, kind = target.destination, destination_kind(target)
    if kind == "duckdb":
        return atomic_duckdb.with_name(name, LockTimeout(target.lock_seconds, log))
    try:
        factory: Any = DestinationReference.find(kind)
    except (UnknownDestinationModule, InvalidDestinationReference):
        raise SettingsError(
            f"PROPELAUTH_DESTINATION is {name!r}, which dlt does not know. Choose one of {', '.join(DESTINATIONS)}, "
            f"another dlt destination, or one named under [destination.{name}] in .dlt/config.toml."
        ) from None
    policy = policy_of(kind)
    factory = _extend(factory, kind, policy.client)
    options: dict[str, Any] = {**policy.capabilities, **policy.options}
    if name != kind:
        options["destination_name"] = name
    if kind in DESTINATIONS and policy.replace == "insert-from-staging":
        options["supports_transactions"] = True  # dlt runs DELETE and INSERT in one transaction only if this is set
    options["replace_strategy"] = "truncate-and-insert" if writes_plain_files(target) else "insert-from-staging"
    plain = factory(**options)
    strategies = list(plain.capabilities().supported_merge_strategies or ())
    if policy.merge in strategies:  # dlt uses the first one
        strategies.sort(key=lambda strategy: strategy != policy.merge)
        return factory(**options, supported_merge_strategies=strategies)
    return plain


def _extend(factory: Any, kind: str, mixin: type | None) -> Any:
    """Return dlt's ``factory`` with cached capabilities, and with ``mixin`` in its client."""
    if not isinstance(factory, type):
        return factory  # made by the decorator `@dlt.destination`

    class Extended(CachesCapabilities, factory):  # type: ignore[misc,valid-type]
        @property
        def destination_type(self) -> str:
            """Return the type that dlt's state names: dlt's own, which can read these tables."""
            return kind if "." in kind else f"dlt.destinations.{kind}"

        @property
        def client_class(self) -> type[Any]:
            client = super().client_class
            return type(client.__name__, (mixin, client), {}) if mixin else client

    return Extended


def destination_kind(target: Target) -> str:
    """Return dlt's name of the kind of destination; ``target`` may have a name from .dlt/config.toml."""
    kind = dlt.config.get(f"destination.{target.destination}.destination_type", str) or target.destination
    return kind.removeprefix("dlt.destinations.")


def writes_plain_files(target: Target) -> bool:
    """Return whether the tables are files without a table format."""
    return destination_kind(target) == "filesystem" and target.table_format != "delta"


def load_formats(target: Target) -> dict[str, Any]:
    """Return the formats for `dlt.Pipeline.run`. Without a format, the destination decides."""
    kind = destination_kind(target)
    policy = policy_of(kind)
    formats = {"loader_file_format": policy.staged_files if target.staging else policy.files}
    if kind == "filesystem" and target.table_format == "delta":
        formats["table_format"] = "delta"
    return {name: value for name, value in formats.items() if value}


def database_file(pipeline: dlt.Pipeline) -> Path | None:
    """Return the DuckDB file of ``pipeline``; None for every other destination."""
    if not isinstance(pipeline.destination, atomic_duckdb):
        return None
    config: Any = pipeline.destination_client().config
    path = str(config.credentials.database)
    return None if path.startswith((":", "md:")) else Path(path)


def location_of(target: Target, pipeline: dlt.Pipeline) -> str:
    """Return the destination and the dataset of ``pipeline``, without credentials; for DuckDB also the file."""
    file = database_file(pipeline)
    where = f"{target.destination}: {file.absolute()}" if file else target.destination
    return f"{where}, dataset {pipeline.dataset_name}"


def load_lock(target: Target, pipeline: dlt.Pipeline, log: Log) -> contextlib.AbstractContextManager[None]:
    """Hold the right to load, if the destination allows one load at a time.

    Raises:
        SettingsError: the folder of the DuckDB file does not exist.
        WarehouseBusy: another load held it until the time limit.
    """
    file = database_file(pipeline)
    if file is None:
        return contextlib.nullcontext()
    if not file.parent.is_dir():
        raise SettingsError(
            f"The folder of the DuckDB file does not exist: {file.parent}. Create it, or set another file in "
            "DESTINATION__DUCKDB__CREDENTIALS."
        )
    return file_lock(file, LockTimeout(target.lock_seconds, log))


def has_write_lock(target: Target) -> bool:
    """Return whether loads and events can read at the same time, because a lock of the database orders their writes."""
    return destination_kind(target) == "postgres"


def write_lock(
    target: Target, pipeline: dlt.Pipeline, log: Log
) -> contextlib.AbstractContextManager[Callable[[], None]]:
    """Hold the right to write to PostgreSQL: loads read at the same time, and write one after the other.

    Yields a function that raises `WriteLockLost` if the lock has ended.

    Raises:
        WarehouseBusy: another load held it until the time limit.
    """
    if not has_write_lock(target):
        return contextlib.nullcontext(lambda: None)
    return advisory_lock(pipeline, LockTimeout(target.lock_seconds, log))


def sync_local_pipeline(target: Target, log: Log = lambda _: None, loaded: dlt.Pipeline | None = None) -> None:
    """Restore the local pipeline state, which `dlt pipeline NAME info` and `dlt.pipeline(NAME).dataset()` read.

    It contains the schema and the state, and no rows: those of ``loaded``, which has just loaded, or else what the
    destination has. The previous content of dlt's folder is dropped first: it can be of another project on this
    machine. An error is only logged, because the tables are complete without that state.
    """
    try:
        folder = local_state_folder(target.named(PIPELINE))
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock", timeout=LOCAL_STATE_SECONDS):
            if loaded is not None and not names_people(loaded.state):
                copy_local_state(loaded, folder)
                return
            if folder.exists():  # removed before dlt reads it, which would log how its destination differs
                shutil.rmtree(folder)
            if loaded is not None:
                log(
                    "dlt's local pipeline state was removed: an erasure was stopped. `propel-assets erasures` names it."
                )
                return
            local = build_pipeline(target, None)
            local.sync_destination()
            if names_people(local.state):
                local.drop()
    except Timeout as held:
        log(
            "The tables are loaded, but dlt's local pipeline state could not be written: another process has held "
            f"{held.lock_file} for {LOCAL_STATE_SECONDS:g} s. `dlt pipeline` and `dlt.pipeline(...).dataset()` need "
            "it. The next load writes it."
        )
    except Exception as error:  # dlt wraps the errors of folders and of databases
        log(
            f"The tables are loaded, but dlt's local pipeline state could not be written: {describe_error(error)}. "
            "`dlt pipeline` and `dlt.pipeline(...).dataset()` need it. Set DLT_DATA_DIR to a folder that this user can "
            "write to, and load again."
        )


def remove_staged_files(pipeline: dlt.Pipeline, tables: Sequence[str]) -> None:
    """Remove the files of ``tables`` that the warehouse loads from: those in the bucket, and in Snowflake's stages."""
    if pipeline.staging is not None:
        bucket = dlt.dataset(pipeline.staging, pipeline.dataset_name, pipeline.default_schema).destination_client
        with bucket:
            bucket.initialize_storage(truncate_tables=list(tables))
    if issubclass(pipeline.destination.client_class, SnowflakeClient):
        cast(SnowflakeClient, pipeline.destination_client()).remove_staged_files(tables)
