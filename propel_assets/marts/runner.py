"""The dbt project of the marts: where it is, what it connects to, its manifest, and one run of dbt.

dbt runs in this process, through its own programmatic entry: a process of its own costs seconds for every op that
builds marts, and there is one for each set of raw tables (docs/decisions/0006). Imports dbt only when it is used:
it comes with the extra `marts`.

    python -m propel_assets.marts.runner > propel_assets/marts/dbt/models/sources.yml

writes the sources again after a change of the catalog.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from propel_assets.catalog import AUDIT_TABLES, INSIGHTS, TABLES, Table
from propel_assets.errors import SettingsError, WarehouseError
from propel_assets.privacy.policy_file import load_policy
from propel_assets.privacy.redaction import without_personal_data
from propel_assets.settings import DATASET, Settings, cache_folder, named, temporary_environment
from propel_assets.warehouse.folders import working_folder
from propel_assets.warehouse.pipeline import build_pipeline, database_file, load_lock
from propel_assets.warehouse.query import Warehouse, connect

PROJECT = Path(__file__).with_name("dbt")
PACKAGE = "propel_auth"
MARTS, HISTORY = "propel_auth_marts", "propel_auth_history"
PREFIX = "{{ env_var('PROPEL_DBT_PREFIX', '') }}"  # of the schemas: what `named` adds
MAX_ERROR = 800
ADAPTERS = {"duckdb": "dbt-duckdb", "postgres": "dbt-postgres"}


def marts_schema() -> str:
    """Return the schema of the marts."""
    return named(MARTS)


def history_schema() -> str:
    """Return the schema of the histories."""
    return named(HISTORY)


def installed() -> bool:
    """Tell whether the extra `marts` is installed."""
    return all(importlib.util.find_spec(name) for name in ("dbt", "dagster_dbt"))


def drawing_installed() -> bool:
    """Tell whether charts can be drawn: the extra `marts` has what draws them."""
    return importlib.util.find_spec("vl_convert") is not None


def sources_yaml() -> str:
    """Return the raw tables as dbt sources, with the catalog's descriptions."""
    tables = [
        {
            "name": table.name,
            "description": table.description,
            "columns": [
                {
                    "name": c.name,
                    "data_type": c.type,
                    "description": c.description,
                    **({"config": {"tags": ["personal_data"]}} if c.personal else {}),
                }
                for c in table.columns
            ],
        }
        for table in (*TABLES, *AUDIT_TABLES)
    ]
    source = {
        "name": PACKAGE,
        "description": "What PropelAuth has, loaded by propel-assets.",
        "schema": f"{PREFIX}{{{{ var('propel_auth_raw_schema', '{DATASET}') }}}}",
        "tables": tables,
    }
    head = "# Generated from the catalog by `python -m propel_assets.marts.runner`; do not edit.\n"
    return head + yaml.safe_dump({"version": 2, "sources": [source]}, sort_keys=False, width=120, allow_unicode=True)


@dataclass(frozen=True)
class Ended:
    """What one run of dbt did: its events on models and tests, and what is not as it should be, with the reason."""

    success: bool
    events: Sequence[dict[str, Any]]
    broken: Mapping[str, str]


@dataclass(frozen=True)
class Unread:
    """Why PropelAuth's own figures were not read at the last load, and whether those of a load before are there."""

    reason: str
    has_rows: bool


@dataclass(frozen=True)
class Dbt:
    """dbt, connected to a warehouse. Use `connected_dbt`."""

    environment: Mapping[str, str]
    folder: Path
    unread: Mapping[str, Unread] = field(default_factory=dict)

    def run(self, *words: str) -> Ended:
        """Run dbt with ``words``, and return what it did.

        Raises:
            WarehouseError: dbt could not even begin.
        """
        with quiet_import():
            from dbt.cli.main import dbtRunner
            from dbt_common.events.base_types import EventMsg
            from dbt_common.events.functions import msg_to_dict

        events: list[dict[str, Any]] = []

        def hear(event: EventMsg) -> None:
            if event.info.name in RESULTS:
                events.append(msg_to_dict(event))

        manifest = _parsed(tuple(sorted(self.environment.items())))
        with temporary_environment({**self.environment, **QUIET}):
            done = dbtRunner(manifest=manifest, callbacks=[hear]).invoke([*words, *_places(self.folder)])
        if done.exception is not None:
            raise WarehouseError(f"dbt stopped: {without_personal_data(str(done.exception))[:MAX_ERROR]}")
        results: Any = getattr(done.result, "results", ())
        for r in results:  # dbt keeps the SQL of histories to itself; dagster-dbt reads their lineage from it
            if r.node.resource_type == "snapshot" and (sql := getattr(r.node, "compiled_code", "")):
                file = self.folder / "compiled" / r.node.package_name / r.node.original_file_path
                if importlib.metadata.version("dagster-dbt") != "0.29.1":  # that of dagster-embedded-elt
                    file /= f"{r.node.name}.sql"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(sql, encoding="utf-8")
        broken = {
            r.node.name: without_personal_data(r.message or "")[:MAX_ERROR]
            for r in results
            if r.status in {"error", "fail"}
        }
        return Ended(done.success, events, broken)

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest, with the names this warehouse has."""
        return _as_dict(tuple(sorted(self.environment.items())))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of ``sql``, asked over dbt's own connection: nobody else's can be open on a DuckDB file."""
        adapter = self.adapter()
        with adapter.connection_named("propel_assets"):
            _, cursor = adapter.connections.add_query(sql, auto_begin=False)
            return [tuple(row) for row in cursor.fetchall()]

    def adapter(self) -> Any:
        """Return dbt's adapter of the last run, to ask the warehouse with."""
        from dbt.adapters.factory import FACTORY

        return FACTORY.lookup_adapter(self.environment["PROPEL_DBT_TARGET"])


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Keep what dbt imports for its usage statistics from giving the root logger a handler that prints everything."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)


# What is told of each model and test; the rest is for a terminal.
RESULTS = {"LogModelResult", "LogSnapshotResult", "LogTestResult"}
QUIET = {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "DO_NOT_TRACK": "1"}


def _places(folder: Path) -> list[str]:
    """Return where dbt finds the project, and where it writes."""
    words = ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT), "--target-path", str(folder)]
    words += ["--log-path", str(folder), "--log-level", "none", "--log-level-file", "none", "--no-use-colors"]
    return [*words, "--no-version-check"]


@cache
def _parsed(environment: tuple[tuple[str, str], ...]) -> Any:
    """Return dbt's own manifest under ``environment``, parsed once in a process."""
    with quiet_import():
        from dbt.cli.main import dbtRunner

    with tempfile.TemporaryDirectory() as folder, temporary_environment({**dict(environment), **QUIET}):
        result = dbtRunner().invoke(["parse", *_places(Path(folder))])
    if not result.success:
        raise WarehouseError(f"dbt cannot read the project of the marts: {result.exception}")
    return result.result


@cache
def _as_dict(environment: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return _parsed(environment).writable_manifest().to_dict(omit_none=False)


@contextlib.contextmanager
def connected_dbt(settings: Settings, say: Callable[[str], None] = lambda _: None) -> Iterator[Dbt]:
    """Give dbt on the warehouse of ``settings``; on DuckDB, nobody loads meanwhile.

    Raises:
        SettingsError: there are no marts for the destination, or its adapter is not installed.
        WarehouseBusy: somebody else has held the DuckDB file for too long.
    """
    with working_folder() as folder:
        pipeline = build_pipeline(settings.target, folder, say)
        environment = _environment(settings, pipeline)
        with load_lock(settings.target, pipeline, say):
            with connect(pipeline, settings.target, load_policy(settings.privacy_settings)) as warehouse:
                unread = _unread(warehouse)
            try:
                yield Dbt(environment, Path(folder), unread)
            finally:
                _let_go()


def _unread(warehouse: Warehouse) -> dict[str, Unread]:
    """Return the tables of PropelAuth's own figures that the last load did not read."""
    theirs = [table for table in TABLES if table.feature == INSIGHTS]
    return {
        table.name: Unread(why, has_rows=warehouse.audit.last_load(table) is not None)
        for table in theirs
        if (why := why_not(warehouse, table))
    }


def why_not(warehouse: Warehouse, table: Table) -> str:
    """Return why a raw table gives nothing; empty: it does."""
    tried = warehouse.audit.last_load(table, skipped=True)
    if tried is None:
        return f"{table.name} has not been loaded: propel-assets load {table.name}."
    return f"{table.name} was skipped: {tried.reason}" if tried.verdict == "skipped" else ""


@contextlib.contextmanager
def dbt_on(database: Path, folder: Path) -> Iterator[Dbt]:
    """Give dbt on a DuckDB file that nobody else uses; it writes to ``folder``."""
    try:
        yield Dbt({**_target("duckdb"), "PROPEL_DBT_DATABASE": str(database)}, folder)
    finally:
        _let_go()


def _let_go() -> None:
    """Close what dbt has open: DuckDB's file is locked until then."""
    from dbt.adapters.factory import FACTORY

    FACTORY.cleanup_connections()
    for adapter in FACTORY.adapters.values():
        if close := getattr(adapter.connections, "close_all_connections", None):
            close()


def _environment(settings: Settings, pipeline: Any) -> dict[str, str]:
    """Return what profiles.yml asks for, from dlt's own credentials of the destination."""
    kind = pipeline.destination.destination_type.rsplit(".", 1)[-1]
    if kind not in ADAPTERS:
        raise SettingsError(
            f"There is no dbt profile for {settings.destination} in propel-assets. The models are portable: use "
            f"{PROJECT} as a package of a dbt project with a profile of your own."
        )
    if not importlib.util.find_spec(f"dbt.adapters.{kind}"):
        raise SettingsError(
            f"The marts on {settings.destination} need {ADAPTERS[kind]}: pip install 'propel-assets[marts]' "
            f"{ADAPTERS[kind]}."
        )
    if kind == "duckdb":
        file = database_file(pipeline)
        if file is None:
            raise SettingsError("The marts need a DuckDB file; this destination has none.")
        return {**_target(kind), "PROPEL_DBT_DATABASE": str(file.resolve())}
    credentials: Any = pipeline.destination_client().config.credentials
    host = (credentials.query or {}).get("host") or credentials.host
    return {
        **_target(kind),
        "PROPEL_DBT_HOST": str(host),
        "PROPEL_DBT_PORT": str(credentials.port or 5432),
        "PROPEL_DBT_USER": str(credentials.username),
        "DBT_ENV_SECRET_PROPEL_DBT_PASSWORD": str(credentials.password or ""),
        "PROPEL_DBT_DATABASE": str(credentials.database),
    }


def _target(kind: str) -> dict[str, str]:
    return {"PROPEL_DBT_TARGET": kind, "PROPEL_DBT_PREFIX": named("")}


def manifest_path() -> Path:
    """Return the manifest that definitions are made from, built once for each state of the project's files."""
    digest = hashlib.sha256((importlib.metadata.version("dbt-core") + named("")).encode())
    for file in sorted(PROJECT.rglob("*")):
        if file.suffix in {".sql", ".yml"} and "target" not in file.parts:
            digest.update(file.relative_to(PROJECT).as_posix().encode() + file.read_bytes())
    path = cache_folder() / f"marts-{digest.hexdigest()[:16]}.json"
    if not path.exists():
        manifest = json.dumps(_as_dict(tuple(sorted(_target("duckdb").items()))), default=str)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkstemp(dir=path.parent, suffix=".json")[1])
        except OSError:  # a home that cannot be written to: built again by the next process
            path = fresh = Path(tempfile.mkdtemp()) / path.name
        fresh.write_text(manifest, encoding="utf-8")
        fresh.replace(path)
    return path


if __name__ == "__main__":
    print(sources_yaml(), end="")
