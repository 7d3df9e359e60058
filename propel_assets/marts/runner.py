"""One run of dbt on a warehouse.

dbt runs in this process through `dbtRunner`: a process of its own costs seconds for every op (docs/decisions/0006).
Requires the extra `marts`, and imports dbt only when it is used.
"""

import contextlib
import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from propel_assets.catalog import AUTH_EVENT, Table
from propel_assets.errors import NotInstalled, SettingsError, WarehouseError, install_extra
from propel_assets.marts import dbt_compat
from propel_assets.marts.sources import PACKAGE, PROJECT
from propel_assets.privacy.policy_file import load_policy
from propel_assets.privacy.redaction import describe_error, describe_message, without_personal_data
from propel_assets.settings import DATASET, Settings, Target, name_prefix, without_environment
from propel_assets.warehouse.folders import working_folder
from propel_assets.warehouse.locks import Log
from propel_assets.warehouse.pipeline import build_pipeline, database_file, destination_kind, load_lock
from propel_assets.warehouse.query import Connect, Warehouse, connect

MARTS, HISTORY = "propel_auth_marts", "propel_auth_history"
MAX_ERROR = 800
POSTGRES_OPTIONS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("sslmode", "sslcert", "sslkey", "sslrootcert"), str),
    **dict.fromkeys(("connect_timeout", "keepalives_idle"), int),
}
"""Parameters of a PostgreSQL URL that dbt's adapter passes to the driver, with their types."""
FAILED = {"error", "fail"}


def are_marts_installed() -> bool:
    """Return whether the extra `marts` is installed. dbt alone can belong to another dbt project."""
    return bool(importlib.util.find_spec("dagster_dbt")) and has_adapter("duckdb")


def has_adapter(kind: str) -> bool:
    """Return whether dbt and its adapter ``kind`` are installed."""
    try:
        return bool(importlib.util.find_spec(f"dbt.adapters.{kind}"))
    except ModuleNotFoundError:  # a package above it
        return False


def how_to_build(target: Target) -> str:
    """Return what to run so that the history and the marts are built, or where they can be."""
    if destination_kind(target) not in ADAPTERS:
        return (
            "History and marts are built on DuckDB and PostgreSQL only. On other destinations, your dbt project can "
            "build them: `propel-assets dbt-sources --package`."
        )
    start = "To build them:" if are_marts_installed() else f"{install_extra('marts')}. Then"
    environment = f"--environment {target.environment} " if target.environment else ""
    return (
        f"{start} run `propel-assets {environment}refresh`, or launch the job "
        f"`{name_prefix(target.environment)}_refresh` in Dagster. If you set `name_prefix`, launch the job whose name "
        "ends in `_refresh`."
    )


@dataclass(frozen=True)
class NodeResult:
    """The result of one model, seed or test, with the values of dbt's `run_results.json`.

    Attributes:
        unique_id: dbt's id of the node.
        name: the node's name.
        status: `success`, `pass`, `warn`, `fail`, `error` or `skipped`.
        message: the message of the warehouse or of dbt, without personal data.
        seconds: the execution time.
        failures: rows that a test returned; None if it is not a test.
    """

    unique_id: str
    name: str
    status: str
    message: str
    seconds: float
    failures: int | None


@dataclass(frozen=True)
class DbtResult:
    """The result of one run of dbt."""

    nodes: Sequence[NodeResult]

    @property
    def failed(self) -> dict[str, str]:
        """The message of each model and test that failed, by name."""
        return {node.name: node.message for node in self.nodes if node.status in FAILED}


@dataclass(frozen=True)
class Profile:
    """The connection of dbt, and the names of the target.

    Two profiles are equal if their relations have the same names: dbt's manifest is parsed once for each of them.

    Attributes:
        output: the options of dbt's adapter, as in `profiles.yml`.
        kind: the adapter.
        database: the database that dbt's relations are in.
        schemas: the variables of the dbt project with the names of schemas, and the schema of the marts.
    """

    output: Mapping[str, Any] = field(repr=False, compare=False)
    kind: str
    database: str
    schemas: tuple[tuple[str, str], ...]

    def yaml(self) -> str:
        """Return the text of `profiles.yml`."""
        return yaml.safe_dump({PACKAGE: {"target": "propel_assets", "outputs": {"propel_assets": dict(self.output)}}})


def _build_profile(target: Target, kind: str, database: str, **output: Any) -> Profile:
    """Return the profile for ``target``; ``output`` are the options of dbt's adapter ``kind``."""
    schemas = {
        "propel_auth_raw_schema": target.named(DATASET),
        "propel_auth_history_schema": target.named(HISTORY),
        "propel_auth_marts_schema": target.named(MARTS),
    }
    return Profile({"type": kind, "schema": target.named(MARTS), **output}, kind, database, tuple(schemas.items()))


def duckdb_profile(target: Target, path: str) -> Profile:
    """Return the profile for the DuckDB file ``path``."""
    retries = {"connect_attempts": 3, "retryable_exceptions": ["IOException"]}
    options = {"path": path, "threads": 2, "settings": {"TimeZone": "UTC"}, "retries": retries}
    return _build_profile(target, "duckdb", Path(path).stem, **options)


def _duckdb_profile_from_dlt(target: Target, pipeline: Any) -> Profile:
    file = database_file(pipeline)
    if file is None:
        raise SettingsError("The marts need a DuckDB file; this destination has none.")
    return duckdb_profile(target, str(file.resolve()))


def _postgres_profile_from_dlt(target: Target, pipeline: Any) -> Profile:
    credentials: Any = pipeline.destination_client().config.credentials
    query = credentials.query or {}
    options = {name: convert(query[name]) for name, convert in POSTGRES_OPTIONS.items() if query.get(name)}
    return _build_profile(
        target,
        "postgres",
        str(credentials.database),
        threads=4,
        host=str(query.get("host") or credentials.host),
        port=int(credentials.port or 5432),
        user=str(credentials.username),
        password=str(credentials.password or ""),
        dbname=str(credentials.database),
        **{"connect_timeout": int(credentials.connect_timeout), **options},
    )


ADAPTERS: dict[str, tuple[str, Callable[[Target, Any], Profile]]] = {
    "duckdb": ("marts", _duckdb_profile_from_dlt),
    "postgres": ("marts-postgres", _postgres_profile_from_dlt),
}
"""By destination with a profile of dbt: its extra, and the function that reads dlt's credentials."""


def profile_from_dlt(target: Target, pipeline: Any) -> Profile:
    """Return the profile for the destination, from dlt's own credentials of it."""
    kind = pipeline.destination.destination_type.rsplit(".", 1)[-1]
    if kind not in ADAPTERS:
        raise SettingsError(
            f"propel-assets has no dbt profile for {target.destination}. The models are portable: use "
            f"{PROJECT} as a package of a dbt project with a profile of your own."
        )
    extra, build_profile = ADAPTERS[kind]
    if not has_adapter(kind):
        raise NotInstalled(f"The marts on {target.destination} need dbt's adapter, which is not installed", extra)
    return build_profile(target, pipeline)


@dataclass(frozen=True)
class Dbt:
    """dbt, with a profile and a private folder. Use `open_dbt`.

    Attributes:
        profile: the connection of dbt.
        folder: of this run only.
        open_warehouse: opens the warehouse for queries, between runs of dbt.
    """

    profile: Profile
    folder: Path
    open_warehouse: Connect

    def run(self, *arguments: str, **variables: Any) -> DbtResult:
        """Run dbt as `run_dbt` does."""
        return run_dbt(self.profile, self.folder, *arguments, **variables)

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest, with the names of this warehouse."""
        return manifest_dict(self.profile)


def run_dbt(profile: Profile, folder: Path, *arguments: str, **variables: Any) -> DbtResult:
    """Run dbt with command-line ``arguments`` and the project's ``variables``. Its artifacts are in ``folder``.

    Raises:
        WarehouseError: dbt could not start.
    """
    done = _invoke(profile, folder, arguments, variables, _parse(profile)[0])
    if done.exception is not None:
        raise WarehouseError(f"dbt stopped: {describe_error(done.exception)}.")
    return DbtResult([_node_result(result) for result in getattr(done.result, "results", ())])


def _node_result(result: Any) -> NodeResult:
    # An error of the database can quote rows. Other messages have only counts (tests) or names of nodes (compiler).
    text = result.message or ""
    from_warehouse = str(result.status) == "error" and not dbt_compat.is_compilation_error(text)
    message = describe_message(text) if from_warehouse else without_personal_data(text)[:MAX_ERROR]
    return NodeResult(
        result.node.unique_id, result.node.name, str(result.status), message, result.execution_time, result.failures
    )


def _invoke(
    profile: Profile, folder: Path, arguments: Sequence[str], variables: Mapping[str, Any], manifest: Any = None
) -> Any:
    """Run dbt once and return its `dbtRunnerResult`. The profile holds a password: it is in the private folder."""
    with dbt_compat.quiet_import():
        from dbt.cli.main import dbtRunner

    file = folder / "profiles.yml"
    file.write_text(profile.yaml(), encoding="utf-8")
    file.chmod(0o600)
    options = ["--project-dir", str(PROJECT), "--profiles-dir", str(folder), "--target-path", str(folder)]
    options += ["--log-path", str(folder), "--log-level", "none", "--log-level-file", "none", "--no-use-colors"]
    options += ["--vars", json.dumps({**dict(profile.schemas), **variables})]
    options += ["--no-version-check", "--no-send-anonymous-usage-stats"]
    if arguments[0] == "build":  # the artifacts are not needed, and take half the time of a small build
        options += ["--no-write-json"]
    # dbt also reads options from DBT_* variables, which belong to the user's own dbt project: DBT_TARGET can name a
    # target that this profile does not have, and DBT_EMPTY builds tables without rows. No option of dbt prevents it.
    with dbt_compat.ONE_INVOCATION, without_environment("DBT_"):
        try:
            return dbtRunner(manifest=manifest).invoke([*arguments, *options])
        finally:
            dbt_compat.close_connections()
            file.unlink(missing_ok=True)


@cache
def _parse(profile: Profile) -> tuple[Any, dict[str, Any]]:
    """Return dbt's own manifest for ``profile``, parsed once per process, and what `manifest_dict` returns.

    dbt writes compiled SQL into its own manifest with every command, so the copy is made before the first one.

    Raises:
        WarehouseError: the dbt project cannot be parsed.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = _invoke(profile, Path(folder), ["parse"], {})
    if not result.success:
        reason = describe_error(result.exception) if result.exception else "an unknown error"
        raise WarehouseError(
            f"dbt cannot parse the project of the marts: {reason}. {install_extra('marts')}, which has its versions of "
            "dbt, or leave the marts out: PropelAuthConfig(marts=False)."
        )
    return result.result, dbt_compat.manifest_artifact(result.result)


def manifest_dict(profile: Profile) -> dict[str, Any]:
    """Return the manifest for ``profile`` as in dbt's artifact `manifest.json`."""
    return _parse(profile)[1]


@contextlib.contextmanager
def open_dbt(settings: Settings, log: Log = lambda _: None) -> Iterator[Dbt]:
    """Open dbt on the warehouse of ``settings``. On DuckDB no load runs at the same time.

    Raises:
        SettingsError: there are no marts for the destination, or its adapter is not installed.
        WarehouseBusy: another process has held the DuckDB file for too long.
    """
    with working_folder() as folder:
        target, policy = settings.target, load_policy(settings.privacy_settings)
        pipeline = build_pipeline(target, folder, log)
        profile = profile_from_dlt(target, pipeline)
        open_warehouse = partial(connect, pipeline, target, policy)
        with load_lock(target, pipeline, log):
            with open_warehouse():  # waits for a process that has the file open, and logs which
                pass
            yield Dbt(profile, Path(folder), open_warehouse)


def unloaded_reason(warehouse: Warehouse, table: Table) -> str:
    """Return why the last load did not read a raw table; empty if it did."""
    tried = warehouse.audit.last_load(table, skipped=True)
    if tried is None:
        if table == AUTH_EVENT:
            return 'No webhooks have been loaded: see the page "Webhooks" of the documentation.'
        return f"{table.name} has not been loaded. Run `propel-assets load {table.name}`."
    return f"{table.name} was skipped: {tried.reason}" if tried.verdict == "skipped" else ""
