"""The contract with dlt: the undocumented interfaces that `dlt_compat` uses. An upgrade that changes one fails here."""

import ast
import gzip
import inspect
import json
import logging
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dlt
import duckdb
import pyarrow as pa
import pytest
from dlt.common.data_writers import writers
from dlt.common.destination.client import JobClientBase, LoadJob, RunnableLoadJob
from dlt.destinations.exceptions import DestinationConnectionError
from dlt.pipeline.exceptions import PipelineStepFailed
from packaging.requirements import Requirement

import propel_assets
from propel_assets.source.dlt_source import propel_auth_source
from propel_assets.source.scan_reader import JSON_AS_TEXT
from propel_assets.warehouse import dlt_compat, json_columns
from propel_assets.warehouse.destinations.jobs import ClientJob, SetsClient
from propel_assets.warehouse.dlt_setup import set_up_dlt
from propel_assets.warehouse.plain_pipeline import prepare
from propel_assets_tests.processes import ROOT

PACKAGE = Path(propel_assets.__file__).parent
COMPAT = ("warehouse/dlt_compat.py", "marts/dbt_compat.py")
# What dlt documents, and the base classes of `dlt.common.destination` that the author of a destination extends.
DOCUMENTED = re.compile(
    r"dlt(\.(destinations|extract|sources))?(\.\w+)?|dlt\.common\.pipeline\.LoadInfo"
    r"|dlt\.(destinations|pipeline)\.exceptions\.\w+"
    r"|dlt\.common\.(configuration|destination|json|pendulum|schema|typing)(\.\w+)*"
)
UNDOCUMENTED = re.compile(
    r"dlt\._\w+.*|dlt\.common\.configuration\.container.*|dlt\.destinations\.(impl|sql_client|\w*job\w*).*"
)
NAMED_TUPLE = {"_replace", "_asdict", "_fields", "_make"}
ARROW = pa.table({"id": [1, 2], "data": ['{"a": [1, null]}', None]})


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield every module of the package outside the compat modules, by its path."""
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if name not in COMPAT:
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def undocumented_imports(tree: ast.Module) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    dlt_names = [name for name in names if name.split(".")[0] == "dlt"]
    return [name for name in dlt_names if UNDOCUMENTED.fullmatch(name) or not DOCUMENTED.fullmatch(name)]


def private_attributes(tree: ast.Module) -> list[str]:
    """Return private attributes of other objects than `self` and `cls`."""
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and re.fullmatch(r"_[a-z]\w*", node.attr)
        and node.attr not in NAMED_TUPLE
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
    ]
    return [ast.unparse(node) for node in found]


# --- where private interfaces are used ---


def test_only_the_compat_module_imports_undocumented_modules_of_dlt() -> None:
    found = {name: imported for name, tree in modules() if (imported := undocumented_imports(tree))}
    assert found == {}


def test_only_the_compat_modules_use_private_attributes_of_other_objects() -> None:
    found = {}
    for name, tree in modules():
        own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        if others := [text for text in private_attributes(tree) if text.rsplit(".", 1)[-1] not in own]:
            found[name] = others
    assert found == {}


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("from dlt.destinations.impl.duckdb.duck import DuckDbClient", True),
        ("from dlt.common.configuration.container import Container", True),
        ("import dlt._workspace", True),
        ("from dlt.common.data_writers import writers", True),
        ("from dlt.destinations.sql_jobs import SqlFollowupJob", True),
        ("import dlt\nfrom dlt.destinations.exceptions import DatabaseException", False),
        ("from dlt.common.destination.client import LoadJob", False),
        ("from dlt import destinations", False),
    ],
)
def test_undocumented_imports_are_caught(source, caught) -> None:
    assert bool(undocumented_imports(ast.parse(source))) == caught


def test_private_attributes_are_caught() -> None:
    assert private_attributes(ast.parse("self._x\ncls._y\nrow._replace(a=1)\npipeline._state\na.b._c()")) == [
        "pipeline._state",
        "a.b._c",
    ]


def test_the_installed_dlt_is_within_the_bounds_of_the_project() -> None:
    """The upper bound is the next minor version: this test file has seen the present one."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    [requirement] = [Requirement(text) for text in declared if text.startswith("dlt[")]
    major, minor, *_ = map(int, version("dlt").split(".")[:2])
    assert version("dlt") in requirement.specifier
    assert f"{major}.{minor + 1}.0" not in requirement.specifier


# --- what dlt has to keep ---


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_writers_of_arrow_tables_are_chosen_from_the_registry() -> None:
    for ours, theirs in (
        (json_columns.JsonlWriter, dlt_compat.ArrowToJsonlWriter),
        (json_columns.InsertValuesWriter, dlt_compat.ArrowToInsertValuesWriter),
    ):
        assert ours.writer_spec() == theirs.writer_spec()
        assert theirs in writers.ALL_WRITERS
        assert dlt_compat.ArrowToObjectAdapter in theirs.__mro__
        json_columns.register_json_writers()
        assert writers.DataWriter.writer_class_from_spec(theirs.writer_spec()) is ours


def test_json_columns_are_written_as_objects(tmp_path: Path) -> None:
    with (tmp_path / "rows.jsonl").open("wb") as file:
        writer = json_columns.JsonlWriter(file)
        data: Any = {"data_type": "json", JSON_AS_TEXT: True}
        writer.write_all({"id": {"data_type": "bigint"}, "data": data}, [ARROW])
        writer.close()
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"id": 1, "data": {"a": [1, None]}}, {"id": 2, "data": None}]


def test_json_columns_of_a_source_are_written_as_objects(settings, tmp_path: Path) -> None:
    bucket = dlt.destinations.filesystem((tmp_path / "bucket").as_uri())
    pipeline = dlt.pipeline("ours", destination=bucket, dataset_name="data", pipelines_dir=str(tmp_path / "state"))
    prepare(pipeline).run(propel_auth_source(tables=["user_query", "org_query"]), loader_file_format="jsonl")
    found: dict[str, set[type]] = {}
    for table in ("user_query", "org_query", "propel_scans"):
        for file in (tmp_path / "bucket" / "data" / table).iterdir():
            for line in gzip.decompress(file.read_bytes()).splitlines():
                for name, hints in pipeline.default_schema.get_table_columns(table).items():
                    if hints.get("data_type") == "json":
                        found.setdefault(f"{table}.{name}", set()).add(type(json.loads(line).get(name)))
    assert found.keys() >= {"user_query.properties", "org_query.metadata", "propel_scans.values_read"}
    assert {kind for kinds in found.values() for kind in kinds} <= {dict, list, type(None)}


def test_json_columns_of_another_pipeline_in_the_same_process_are_written_as_dlt_writes_them(tmp_path: Path) -> None:
    set_up_dlt()
    rows = pa.table({"id": [1], "object": [{"a": [1, None]}], "text": ['{"a": 1}']})
    bucket = dlt.destinations.filesystem((tmp_path / "bucket").as_uri())
    pipeline = dlt.pipeline("theirs", destination=bucket, dataset_name="data", pipelines_dir=str(tmp_path / "state"))
    pipeline.run(rows, table_name="t", columns={"text": {"data_type": "json"}}, loader_file_format="jsonl")
    [file] = (tmp_path / "bucket" / "data" / "t").iterdir()
    row = json.loads(gzip.decompress(file.read_bytes()))
    assert (row["object"], row["text"]) == ({"a": [1, None]}, '{"a": 1}')


def test_the_duckdb_client_has_the_methods_that_ours_overrides() -> None:
    client = dlt_compat.DuckDbClient
    assert parameters(client.__init__) == ["self", "schema", "config", "capabilities"]
    assert parameters(client.create_load_job) == ["self", "table", "file_path", "load_id", "restore"]
    assert parameters(client.should_truncate_table_before_load) == ["self", "table_name"]
    assert parameters(client.create_table_chain_completed_followup_jobs) == [
        "self",
        "table_chain",
        "completed_table_chain_jobs",
    ]
    assert parameters(JobClientBase.prepare_load_job_execution) == ["self", "job"]
    assert "prepare_load_job_execution(self)" in inspect.getsource(RunnableLoadJob.run_managed)


def test_the_duckdb_sql_client_opens_connections_in_one_method() -> None:
    client = dlt_compat.DuckDbSqlClient
    expected = ["self", "dataset_name", "staging_dataset_name", "credentials", "capabilities"]
    assert parameters(client.__init__) == expected
    assert parameters(client.open_connection) == ["self"]
    assert isinstance(client.native_connection, property)


def test_a_database_that_cannot_be_opened_raises_the_error_of_duckdb(tmp_path: Path) -> None:
    (tmp_path / "file.duckdb").write_text("Not a database.")
    with pytest.raises(DestinationConnectionError) as error, _duckdb_client(tmp_path / "file.duckdb"):
        pass
    assert isinstance(error.value.inner_exc, duckdb.Error)


def _duckdb_client(file: Path) -> Any:
    return dlt.dataset(dlt.destinations.duckdb(str(file)), "data", dlt.Schema("s")).destination_client


def test_credentials_of_duckdb_name_the_file(tmp_path: Path) -> None:
    assert _duckdb_client(tmp_path / "file.duckdb").config.credentials.database == str(tmp_path / "file.duckdb")


def test_clients_of_databases_return_the_columns_of_a_table(tmp_path: Path) -> None:
    with _duckdb_client(tmp_path / "file.duckdb") as client:
        assert isinstance(client, dlt_compat.SqlJobClientBase)
        client.sql_client.execute_sql("CREATE SCHEMA data; CREATE TABLE data.t (a BIGINT, b JSON)")
        found, columns = client.get_storage_table("t")
        assert found
        assert {name: column["data_type"] for name, column in columns.items()} == {"a": "bigint", "b": "json"}


def test_a_job_reports_the_file_that_dlt_has_moved(tmp_path: Path) -> None:
    class Job(ClientJob):
        def run(self) -> None:
            """Do nothing."""

    class Base:
        def prepare_load_job_execution(self, job: RunnableLoadJob) -> None:
            """Do nothing."""

    job = Job(str(tmp_path / "table.abcdef.0.parquet"))
    assert job.path == tmp_path / "table.abcdef.0.parquet"
    assert parameters(LoadJob.metrics) == ["self"]
    client = type("Client", (SetsClient, Base), {})()
    client.prepare_load_job_execution(job)
    assert job.client is client


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[dlt.Pipeline, Any]]:
    """A pipeline that has loaded a table into files twice, with state, and its client."""
    pipeline = dlt.pipeline(
        "the__name", destination=dlt.destinations.filesystem(str(tmp_path / "files")), pipelines_dir=str(tmp_path / "p")
    )
    for value in (1, 2):

        @dlt.resource(name="t")
        def rows(value: int = value) -> Iterator[dict[str, int]]:
            dlt.current.resource_state()["value"] = value
            yield {"a": value}

        pipeline.run(rows(), loader_file_format="parquet").raise_on_failed_jobs()
    with pipeline.destination_client() as client:
        yield pipeline, client


def test_loads_and_states_are_named_by_their_files(files) -> None:
    pipeline, client = files
    assert isinstance(client, dlt_compat.FilesystemClient)
    loads = dlt_compat.load_ids_of_files(client, "_dlt_loads")
    assert sorted(loads) == sorted(pipeline.list_completed_load_packages())
    assert all(float(load_id) > 0 for load_id in loads)
    states = list(dlt_compat.state_files(client, "the__name"))
    assert {load_id for _, load_id in states} == set(loads)
    assert all(client.fs_client.exists(path) for path, _ in states)
    assert list(dlt_compat.state_files(client, "another")) == []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(pa.string(), "text"), (pa.int64(), "bigint"), (pa.bool_(), "bool"), (pa.timestamp("us", "UTC"), "timestamp")],
)
def test_dlt_has_a_name_for_each_arrow_type(kind, expected) -> None:
    assert dlt_compat.get_column_type_from_py_arrow(kind)["data_type"] == expected


def test_the_log_of_a_failed_job_separates_the_text_of_the_error(caplog, tmp_path: Path, monkeypatch) -> None:
    """Load rows that a table refuses. The log names the job before the separator, and the rows after it."""
    monkeypatch.setattr(logging.getLogger("dlt"), "filters", [])
    file = tmp_path / "file.duckdb"
    pipeline = dlt.pipeline(
        "p", destination=dlt.destinations.duckdb(str(file)), dataset_name="data", pipelines_dir=str(tmp_path / "p")
    )
    pipeline.run([{"a": 1, "b": "text"}], table_name="t").raise_on_failed_jobs()
    with duckdb.connect(str(file)) as db:
        db.execute("CREATE UNIQUE INDEX one ON data.t (a)")
    log = logging.getLogger("dlt")
    log.addHandler(caplog.handler)
    try:
        with pytest.raises(PipelineStepFailed):
            pipeline.run([{"a": 1, "b": "other"}], table_name="t").raise_on_failed_jobs()
    finally:
        log.removeHandler(caplog.handler)
    messages = [text for text in caplog.messages if dlt_compat.JOB_MESSAGE_SEPARATOR in text.splitlines()[0]]
    assert messages
    for message in messages:
        summary = dlt_compat.summarize_job_message(message)
        assert re.fullmatch(r"Job for t\.[\w.]+ (failed terminally|retried) in load [\d.]+", summary)


def test_the_dashboard_is_a_marimo_app() -> None:
    assert "marimo" in dlt_compat.dashboard_file().read_text(encoding="utf-8")


def test_a_copied_local_state_is_what_the_destination_has(tmp_path) -> None:
    def pipeline(folder: str) -> dlt.Pipeline:
        destination = dlt.destinations.duckdb(str(tmp_path / "p.duckdb"))
        return dlt.pipeline("p", destination=destination, dataset_name="data", pipelines_dir=str(tmp_path / folder))

    def state(folder: str) -> dict[str, Any]:
        state = json.loads((tmp_path / folder / "p/state.json").read_text())
        return {name: value for name, value in state.items() if name != "_local"}

    def schemas(folder: str) -> dict[str, str]:
        return {path.name: path.read_text() for path in (tmp_path / folder / "p/schemas").iterdir()}

    loaded = pipeline("loaded")
    loaded.run([{"a": 1, "b": "text"}], table_name="t").raise_on_failed_jobs()
    dlt_compat.copy_local_state(loaded, tmp_path / "copied/p")
    pipeline("synced").sync_destination()
    assert state("copied") == state("synced")
    assert schemas("copied") == schemas("synced")
    assert {path.name for path in (tmp_path / "copied/p").iterdir()} == {"schemas", "state.json"}
    attached = dlt.attach("p", pipelines_dir=str(tmp_path / "copied"), destination="duckdb")
    assert attached.default_schema.tables["t"]["columns"].keys() >= {"a", "b"}
