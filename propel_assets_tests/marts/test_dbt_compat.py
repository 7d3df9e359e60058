"""The contracts of dbt that `marts/dbt_compat.py` relies on, and that nothing else relies on private parts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

import propel_assets
from propel_assets.marts import runner
from propel_assets.marts.manifest import load_manifest
from propel_assets.marts.runner import open_dbt
from propel_assets.settings import Target, load_settings
from propel_assets.warehouse.load import load_scan

PUBLIC = {
    "from dbt.cli.main import dbtRunner",
    "from dagster_dbt import dbt_assets",
    "from dagster_dbt import DagsterDbtTranslator",
}


def test_only_dbt_compat_imports_private_modules_of_dbt_and_dagster_dbt() -> None:
    package = Path(propel_assets.__file__).parent
    imports = {
        (file.relative_to(package).as_posix(), match.strip())
        for file in package.rglob("*.py")
        for match in re.findall(r"^\s*(?:from|import) (?:dbt|dagster_dbt)[. ].*$", file.read_text(), re.MULTILINE)
    }
    assert {file for file, line in imports if line not in PUBLIC} == {"marts/dbt_compat.py"}


def handlers_after(code: str) -> int:
    """Return how many handlers the root logger has after ``code`` has run in a process of its own."""
    program = f"import logging\n{code}\nprint(len(logging.getLogger().handlers))"
    return int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


def test_the_quiet_import_of_dbt_gives_the_root_logger_no_handler() -> None:
    code = "from propel_assets.marts.dbt_compat import quiet_import\nwith quiet_import():\n    {}"
    assert handlers_after(code.format("from dbt.cli.main import dbtRunner")) == 0


@pytest.mark.slow
def test_the_plain_import_of_dbt_gives_the_root_logger_a_handler() -> None:
    """If it adds none any more, `quiet_import` can go."""
    assert handlers_after("from dbt.cli.main import dbtRunner") > 0


def test_variables_of_another_dbt_project_change_nothing(small, tmp_path, monkeypatch) -> None:
    """If dbt has an option to ignore them, `without_environment` can go."""
    variables = {
        "DBT_TARGET": "prod",
        "DBT_PROFILE": "mine",
        "DBT_EMPTY": "true",
        "DBT_EXCLUDE_RESOURCE_TYPES": "model",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runner._parse.cache_clear()
    assert load_manifest(Target())["nodes"]
    load_scan("users", small)
    with open_dbt(small) as dbt:
        assert dbt.run("build", "--select", "+dim_user").failed == {}
        with dbt.open_warehouse() as warehouse:
            assert warehouse.number("SELECT count(*) FROM propel_auth_marts.dim_user") > 0
    assert {name: os.environ.get(name) for name in variables} == variables


@pytest.mark.slow
def test_dbt_keeps_the_duckdb_file_open_until_its_connections_are_closed(small, build, tmp_path, monkeypatch) -> None:
    """If it does not keep the file open any more, `close_connections` can go."""
    file = str(tmp_path / "propel_auth_pipeline.duckdb")
    build(small, "user_loads")
    duckdb.connect(file, config={"threads": "1"}).close()
    closed = []
    monkeypatch.setattr("propel_assets.marts.dbt_compat.close_connections", lambda: closed.append(True))
    from dbt.adapters.factory import FACTORY

    with open_dbt(small) as dbt:
        assert dbt.run("build", "--select", "user_loads").failed == {}
        assert closed
        assert {*FACTORY.adapters} == {"duckdb"}
        assert callable(FACTORY.adapters["duckdb"].connections.close_all_connections)
    monkeypatch.undo()
    build(small, "user_loads")


@pytest.mark.slow
def test_two_environments_in_one_process_have_their_own_schemas(small_sandbox, build, tmp_path) -> None:
    settings = [
        load_settings({"auth_url": small_sandbox.url, "api_key": small_sandbox.api_key}, name)
        for name in ("staging", "production")
    ]
    for each in settings:
        load_scan("users", each)
        build(each, "+dim_user")
        small_sandbox.store.delete_user(next(iter(small_sandbox.store.users)))
    build(settings[0], "+dim_user")  # after the other, with the data of the first one
    with duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb"), read_only=True) as db:
        counts = [
            db.execute(f"SELECT count(*) FROM {schema}").fetchall()
            for schema in (
                "staging_propel_auth_marts.dim_user",
                "production_propel_auth_marts.dim_user",
                "staging_propel_auth_history.users_history",
            )
        ]
    assert counts == [[(20,)], [(19,)], [(20,)]]
