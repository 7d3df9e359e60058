"""Where rows go: dlt's pipeline for a destination, in a working folder that does not outlive the run."""

import contextlib
import importlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dlt
import psutil
from dlt.common.configuration.exceptions import (
    ConfigFieldMissingException,
    ConfigurationException,
    LookupTrace,
    LookupTraces,
)
from dlt.common.destination import Destination
from dlt.common.destination.exceptions import (
    InvalidDestinationReference,
    UnknownDestinationModule,
)
from dlt.common.destination.reference import DestinationReference
from filelock import FileLock

from propel_assets.errors import SettingsError
from propel_assets.privacy.redaction import RedactingFilter
from propel_assets.settings import DATASET, PIPELINE, Settings, disable_dlt_telemetry, dlt_file_errors, named
from propel_assets.warehouse.destinations.clients import with_our_client
from propel_assets.warehouse.destinations.duckdb import Patience, atomic_duckdb, exclusive
from propel_assets.warehouse.destinations.policies import DESTINATIONS, extra_of, policy_of

FOLDER_PREFIX = "propel-assets-"
ENVIRONMENT = "Environment Variables"  # dlt's name of that place


def build_pipeline(settings: Settings, folder: str | None, say: Callable[[str], None] = lambda _: None) -> dlt.Pipeline:
    """Return the pipeline for ``settings``, working in ``folder``; None is dlt's own folder.

    Raises:
        SettingsError: dlt does not know the destination, or something it needs is not installed or not configured.
    """
    disable_dlt_telemetry()
    log = logging.getLogger("dlt")
    if not any(isinstance(known, RedactingFilter) for known in log.filters):
        log.addFilter(RedactingFilter())
    where: dict[str, Any] = {"pipelines_dir": folder} if folder else {}
    if settings.staging:
        where["staging"] = settings.staging
    with _explained(settings):
        where |= {"destination": destination(settings, say), "dataset_name": named(DATASET)}
        pipeline = dlt.pipeline(named(PIPELINE), **where)
        _ = pipeline.destination.client_class  # imports what it needs: to install that comes before configuring it
        if formats(settings).get("table_format") == "delta":
            importlib.import_module("deltalake")
        pipeline.destination_client()  # resolves its credentials; connects to nothing
    return pipeline


def destination(settings: Settings, say: Callable[[str], None]) -> Destination[Any, Any]:
    """Return dlt's destination, made to replace a table's rows at once and to merge as its row in the table says."""
    name, kind = settings.destination, kind_of(settings)
    if kind == "duckdb":
        return atomic_duckdb.named(name, Patience(settings.lock_seconds, say))
    try:
        factory: Any = DestinationReference.find(kind)
    except (UnknownDestinationModule, InvalidDestinationReference):
        raise SettingsError(
            f"PROPELAUTH_DESTINATION is {name!r}, which dlt does not know. Choose one of {', '.join(DESTINATIONS)}, "
            f"another dlt destination, or one named under [destination.{name}] in .dlt/config.toml."
        ) from None
    factory = with_our_client(factory, kind)
    policy = policy_of(kind)
    options: dict[str, Any] = dict(policy.capabilities)
    if name != kind:
        options["destination_name"] = name
    if kind in DESTINATIONS and policy.replace == "insert-from-staging":
        options["supports_transactions"] = True  # they do; dlt runs DELETE and INSERT in one only where this is said
    options["replace_strategy"] = "truncate-and-insert" if plain_files(settings) else "insert-from-staging"
    plain = factory(**options)
    strategies = list(plain.capabilities().supported_merge_strategies or ())
    if policy.merge in strategies:  # dlt takes the first one
        strategies.sort(key=lambda strategy: strategy != policy.merge)
        return factory(**options, supported_merge_strategies=strategies)
    return plain


def kind_of(settings: Settings) -> str:
    """Return dlt's name of the kind of destination; the one set may be a name from .dlt/config.toml."""
    kind = dlt.config.get(f"destination.{settings.destination}.destination_type", str) or settings.destination
    return kind.removeprefix("dlt.destinations.")


def plain_files(settings: Settings) -> bool:
    """Whether rows go to files that are not Delta tables."""
    return kind_of(settings) == "filesystem" and settings.table_format != "delta"


def formats(settings: Settings) -> dict[str, Any]:
    """Return the formats to load by, as `dlt.Pipeline.run` takes them; left out is the destination's own choice."""
    policy = policy_of(kind_of(settings))
    chosen = {"loader_file_format": policy.staged_files if settings.staging else policy.files}
    if kind_of(settings) == "filesystem" and not plain_files(settings):
        chosen["table_format"] = "delta"
    return {name: value for name, value in chosen.items() if value}


@contextlib.contextmanager
def _explained(settings: Settings) -> Iterator[None]:
    """Turn what dlt says of something that is not installed or not configured into what to install or to set."""
    try:
        with dlt_file_errors():
            yield
    except ConfigFieldMissingException as error:
        ways = list(dict.fromkeys(" and ".join(names) for names in _missing_variables(error.traces)))
        raise SettingsError(
            f"The destination {settings.destination} is not configured. Set {', or '.join(ways)}, or the same in "
            ".dlt/secrets.toml. docs/destinations.md has an example for each destination."
        ) from None
    except ImportError as error:
        extra = extra_of(kind_of(settings), dlt.config.get("destination.filesystem.bucket_url", str) or "")
        package = f"propel-assets[{extra}]" if extra else f"dlt[{kind_of(settings)}]"
        what = f"pip install '{package}' ({' '.join(str(error).split())})"
        raise SettingsError(f"The destination {settings.destination} is not installed. Install it: {what}") from None


def _missing_variables(traces: Mapping[str, Sequence[LookupTrace | LookupTraces]]) -> list[list[str]]:
    """Return the environment variables dlt looked for in vain: one list per way to configure what is missing."""
    ways: list[list[str]] = [[]]
    for tried in traces.values():
        nested = [
            names for trace in tried if isinstance(trace, LookupTraces) for names in _missing_variables(trace.traces)
        ]
        variables = [trace.key for trace in tried if isinstance(trace, LookupTrace) and trace.provider == ENVIRONMENT]
        variables = [name for name in variables if name.startswith("DESTINATION__")]  # others belong to one pipeline
        ways = [[*way, *names] for way in ways for names in nested or [variables[:1]]]
    return ways


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
def writing(settings: Settings, pipeline: dlt.Pipeline, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the right to write to PostgreSQL: reading goes on beside each other, tables are made and filled in turn.

    It is an advisory lock, which ends with its connection, so a kill leaves nothing behind.

    Raises:
        WarehouseBusy: somebody else has held it for too long.
    """
    if kind_of(settings) != "postgres":
        yield
        return
    waiting = Patience(settings.lock_seconds, say).begin()
    with pipeline.sql_client() as client:
        while client.execute_sql("SELECT pg_try_advisory_lock(hashtext(%s))", pipeline.dataset_name) != [(True,)]:
            waiting.go_on(f"another load is writing to {pipeline.dataset_name}")
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
    pipeline = build_pipeline(settings, None)
    with FileLock(f"{pipeline.working_dir}.lock"):  # two loads that end together
        pipeline.drop()
        # Built again: the dropped one still knows the other project's folder, and would read its database.
        build_pipeline(settings, None).sync_destination()
