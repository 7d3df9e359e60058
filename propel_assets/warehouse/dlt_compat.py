"""All uses of dlt that dlt does not document as its interface. Other modules import them from here.

Documented are `dlt`, `dlt.destinations`, `dlt.extract`, the modules of exceptions, and what the author of a destination
needs of `dlt.common`: `configuration`, `destination`, `schema`, `json`. Each name below says why that is not enough;
`propel_assets_tests/warehouse/test_dlt_compat.py` fails when an upgrade of dlt changes one of them.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import dlt

# Writers of Arrow tables as JSON Lines and INSERT statements: dlt has no setting for how they write JSON columns.
from dlt.common.data_writers import writers
from dlt.common.data_writers.writers import (
    ArrowToInsertValuesWriter,
    ArrowToJsonlWriter,
    ArrowToObjectAdapter,
    DataWriter,
)

# dlt's type of an Arrow type: dlt exports it nowhere else, and a second table of types could differ from dlt's.
from dlt.common.libs.pyarrow import get_column_type_from_py_arrow

# The folder of local pipeline states: documented as a setting, DLT_DATA_DIR, not as a function.
from dlt.common.pipeline import get_dlt_pipelines_dir

# Only a type: the argument of a documented method of destination clients.
from dlt.common.storages.load_package import LoadJobInfo

# Clients of destinations: `dlt.destinations` documents the factories, not the clients. A subclass is the only way to
# replace a DuckDB table in one transaction, and the files of a table are only listed by the client.
from dlt.destinations.impl.duckdb.configuration import DuckDbClientConfiguration
from dlt.destinations.impl.duckdb.duck import DuckDbClient
from dlt.destinations.impl.duckdb.sql_client import DuckDbSqlClient
from dlt.destinations.impl.filesystem.filesystem import FILENAME_SEPARATOR, FilesystemClient

# Tells a destination with SQL and a catalog of columns from others: `get_storage_table` is in no documented interface.
from dlt.destinations.job_client_impl import SqlJobClientBase

# The stored state of a pipeline, decoded: `Pipeline.sync_destination` does nothing between extraction and load.
from dlt.pipeline.state_sync import load_pipeline_state_from_destination

__all__ = [
    "ArrowToInsertValuesWriter",
    "ArrowToJsonlWriter",
    "ArrowToObjectAdapter",
    "DataWriter",
    "DuckDbClient",
    "DuckDbClientConfiguration",
    "DuckDbSqlClient",
    "FilesystemClient",
    "LoadJobInfo",
    "SqlJobClientBase",
    "copy_local_state",
    "dashboard_file",
    "get_column_type_from_py_arrow",
    "load_ids_of_files",
    "load_pipeline_state_from_destination",
    "local_state_folder",
    "register_writer",
    "state_files",
    "summarize_job_message",
]

# Separates the job from the text of its error in dlt's log, whose records are formatted texts without arguments.
JOB_MESSAGE_SEPARATOR = " with message "


def register_writer(writer: type[DataWriter]) -> None:
    """Make dlt use ``writer`` for its combination of row format and file format. dlt has no public registry."""
    writers.WRITER_SPECS[writer.writer_spec()] = writer


def state_files(client: FilesystemClient, pipeline_name: str) -> Iterator[tuple[str, str]]:
    """Yield path and load of each state of a pipeline. dlt reads the newest one, and has no public list of all."""
    for path in client.list_table_files(client.schema.state_table_name):
        name, *rest = _name_parts(path, 2)
        if len(rest) == 2 and name == pipeline_name:
            yield path, rest[0]


def load_ids_of_files(client: FilesystemClient, table: str) -> list[str]:
    """Return the complete loads of a destination of files, by file name: reading many small files is slow."""
    return [_name_parts(path, 1)[-1] for path in client.list_table_files(table)]


def _name_parts(path: str, separators: int) -> list[str]:
    return PurePosixPath(path).stem.rsplit(FILENAME_SEPARATOR, separators)


def summarize_job_message(line: str) -> str:
    """Return a line of dlt's log without the text of an error: databases quote rows in it."""
    return line.partition(JOB_MESSAGE_SEPARATOR)[0]


def local_state_folder(pipeline_name: str) -> Path:
    """Return the folder in which dlt keeps the local state of a pipeline."""
    return Path(get_dlt_pipelines_dir()) / pipeline_name


def copy_local_state(pipeline: dlt.Pipeline, folder: Path) -> None:
    """Replace the content of ``folder`` by the state and the schemas of ``pipeline``, without its rows and its trace.

    `Pipeline.sync_destination` writes the same. It asks the destination, which takes 0.1 s and more.
    """
    shutil.rmtree(folder, ignore_errors=True)
    working_folder = Path(pipeline.working_dir)
    shutil.copytree(working_folder / "schemas", folder / "schemas")
    shutil.copy(working_folder / "state.json", folder)


def dashboard_file() -> Path:
    """Return dlt's dashboard, a marimo app. `dlt pipeline NAME show` starts it only with dlt's commercial package."""
    from dlt._workspace.helpers.dashboard import dlt_dashboard

    module: ModuleType | Any = dlt_dashboard
    return Path(str(module.__file__))


if __name__ == "__main__":
    print(dashboard_file())
