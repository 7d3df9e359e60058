"""The compacted copy of a DuckDB file has everything, and a compaction that fails leaves nothing behind."""

import stat
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest

from propel_assets.errors import WarehouseClosed
from propel_assets.warehouse.destinations.duckdb_file import (
    needs_compaction,
    remove_abandoned_copy,
    replace_with_compacted_copy,
    write_compacted_copy,
)
from propel_assets.warehouse.locks import LockTimeout, file_lock

TABLES = """
CREATE SCHEMA s;
CREATE TABLE s.parent (id INT PRIMARY KEY);
CREATE TABLE s.a_child (id INT, parent INT REFERENCES s.parent (id));
CREATE TABLE employees ("the id" INT PRIMARY KEY, boss INT REFERENCES employees ("the id"));
CREATE VIEW s.children AS SELECT * FROM s.a_child;
CREATE SEQUENCE numbers;
INSERT INTO s.parent VALUES (1);
INSERT INTO s.a_child VALUES (1, 1), (2, NULL);
INSERT INTO employees VALUES (3, NULL);
INSERT INTO employees VALUES (2, 3);
INSERT INTO employees VALUES (1, 2);
SELECT nextval('numbers');
"""


def client_of(connection: duckdb.DuckDBPyConnection) -> Any:
    return SimpleNamespace(native_connection=connection, escape_column_name=lambda name: f'"{name}"')


def test_tables_with_foreign_keys_are_copied(tmp_path) -> None:
    file = tmp_path / "x.duckdb"
    with closing(duckdb.connect(str(file))) as connection:
        connection.execute(TABLES)
        file.chmod(0o600)
        write_compacted_copy(client_of(connection), file)
        [copy] = file.with_name("x.duckdb.compaction").glob("*")
        assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
        replace_with_compacted_copy(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["x.duckdb"]
    with closing(duckdb.connect(str(file))) as connection:
        assert connection.execute("SELECT * FROM s.children ORDER BY 1").fetchall() == [(1, 1), (2, None)]
        assert connection.execute("SELECT * FROM employees ORDER BY 1").fetchall() == [(1, 2), (2, 3), (3, None)]
        assert connection.execute("SELECT nextval('numbers')").fetchall() == [(2,)]
        with pytest.raises(duckdb.ConstraintException):
            connection.execute("INSERT INTO s.a_child VALUES (3, 9)")


def test_a_compaction_that_fails_leaves_no_copy_and_is_noted(tmp_path) -> None:
    file = tmp_path / "x.duckdb"
    with closing(duckdb.connect(str(file))) as connection:
        # DuckDB does not tell a generated column, into which nothing can be inserted, from one with a default.
        connection.execute("CREATE TABLE a (id INT PRIMARY KEY, twice INT GENERATED ALWAYS AS (id + id))")
        connection.execute("CREATE TABLE b (id INT REFERENCES a (id)); INSERT INTO a VALUES (1)")
        with pytest.raises(WarehouseClosed, match=r"could not be compacted.*Drop the foreign keys"):
            write_compacted_copy(client_of(connection), file)
    assert needs_compaction(file)
    assert [*file.with_name("x.duckdb.compaction").iterdir()] == []


def test_a_load_removes_the_copy_of_a_compaction_that_was_killed(tmp_path) -> None:
    file = tmp_path / "x.duckdb"
    remove_abandoned_copy(file)
    (folder := file.with_name("x.duckdb.compaction")).mkdir()
    (folder / "x.duckdb").touch()
    with file_lock(file, LockTimeout(1, lambda _: None)):
        assert [*folder.iterdir()] == []
    assert needs_compaction(file)
