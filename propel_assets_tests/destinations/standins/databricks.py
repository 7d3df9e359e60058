"""A stand-in for Databricks: dlt's own client over DuckDB, in the process that uses it.

What dlt sends is parsed in Databricks' dialect and run in DuckDB's; volumes are folders, PUT and COPY INTO are copies.
That proves dlt's client and its SQL, not Databricks.
"""

import datetime
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import sqlglot
from sqlglot import exp

from propel_assets_tests.destinations.standins.buckets import read_object

CATALOG = "unity"  # `main` is taken in DuckDB
FOLDER = "STANDIN_DATABRICKS"
S3 = "STANDIN_DATABRICKS_S3"  # the URL of a stand-in for S3 that COPY INTO reads
TYPES = """CASE data_type
    WHEN 'VARCHAR' THEN 'string' WHEN 'TIMESTAMP WITH TIME ZONE' THEN 'timestamp' ELSE lower(data_type) END"""


class Databricks:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def place(self, folder: Path) -> dict[str, str]:
        credentials = "DESTINATION__DATABRICKS__CREDENTIALS"
        install()
        return {
            "PROPELAUTH_DESTINATION": "databricks",
            FOLDER: str(folder / "databricks"),
            f"{credentials}__SERVER_HOSTNAME": "databricks.invalid",
            f"{credentials}__HTTP_PATH": "/sql/1.0/warehouses/1",
            f"{credentials}__ACCESS_TOKEN": "x",
            f"{credentials}__CATALOG": CATALOG,
        }


def install() -> None:
    """Give dlt's Databricks client connections to DuckDB, in this process."""
    import dlt.destinations.impl.databricks.sql_client as client
    from databricks import sql

    names = {name: getattr(sql, name) for name in dir(sql) if not name.startswith("__")}
    client.databricks_lib = SimpleNamespace(**{**names, "connect": lambda **_: Connection()})


class Connection:
    def __init__(self) -> None:
        self.folder = Path(os.environ[FOLDER])
        self.folder.mkdir(exist_ok=True)
        self.duckdb = duckdb.connect(str(self.folder / f"{CATALOG}.duckdb"))
        self.duckdb.execute("SET TimeZone = 'UTC'")

    def cursor(self, **_options: Any) -> "Cursor":
        return Cursor(self.duckdb.cursor(), self.folder)

    def close(self) -> None:
        self.duckdb.close()


class Cursor:
    description = None
    arraysize = 1000

    def __init__(self, cursor: duckdb.DuckDBPyConnection, folder: Path) -> None:
        self.duckdb, self.folder = cursor, folder
        self.fetchall, self.fetchmany, self.fetchone = cursor.fetchall, cursor.fetchmany, cursor.fetchone

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        self.duckdb.close()

    def execute(self, sql: str, params: Any = None) -> "Cursor":
        from databricks.sql import exc

        if isinstance(params, dict):
            sql = sql % {name: literal(value) for name, value in params.items()}
        elif params:
            sql = sql % tuple(map(literal, params))
        try:
            self._run(sql.strip())
        except duckdb.CatalogException as error:
            kind = "TABLE_OR_VIEW_NOT_FOUND" if "Table" in str(error) else "SCHEMA_NOT_FOUND"
            raise exc.ServerOperationError(f"[{kind}] {error}") from error
        except (duckdb.Error, sqlglot.errors.SqlglotError) as error:
            raise exc.ServerOperationError(f"{error} :: {sql[:300]}") from error
        return self

    def _run(self, sql: str) -> None:
        for pattern, method in STATEMENTS:
            if found := re.match(pattern, sql, re.IGNORECASE | re.DOTALL):
                method(self, *found.groups())
                return
        for statement in filter(None, sqlglot.parse(sql, read="databricks")):
            self.duckdb.execute(translated(statement).sql(dialect="duckdb"))
            self.description = self.duckdb.description if isinstance(statement, exp.Query | exp.Show) else None

    def _volume(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def _create_volume(self) -> None:
        pass

    def _put(self, file: str, path: str) -> None:
        self._volume(path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, self._volume(path))

    def _remove(self, path: str) -> None:
        there = self._volume(path)
        there.unlink() if there.is_file() else shutil.rmtree(there, ignore_errors=True)

    def _copy_into(self, table: str, path: str, kind: str) -> None:
        if path.startswith("s3://"):
            file = self.folder / path.rpartition("/")[2]
            file.write_bytes(read_object(os.environ[S3], path.removeprefix("s3://")))
            files = str(file)
        else:
            files = f"{self._volume(path)}/*"
        reader = f"read_parquet('{files}')" if kind == "PARQUET" else f"read_ndjson('{files}')"
        self.duckdb.execute(f"INSERT INTO {quoted(table)} BY NAME SELECT * FROM {reader}")

    def _add_columns(self, table: str, columns: str) -> None:
        defined = sqlglot.parse_one(f"CREATE TABLE t ({columns.rstrip(' ;')})", read="databricks").this.expressions
        for column in defined:
            self.duckdb.execute(f"ALTER TABLE {quoted(table)} ADD COLUMN {column.sql(dialect='duckdb')}")

    def _insert_overwrite(self, table: str, rest: str) -> None:
        with self.duckdb.cursor() as cursor:
            cursor.execute(f"BEGIN; DELETE FROM {quoted(table)}; INSERT INTO {quoted(table + ' ' + rest)}; COMMIT")


STATEMENTS = [
    (r"CREATE VOLUME", Cursor._create_volume),
    (r"PUT '(.+?)' INTO '(.+?)'", Cursor._put),
    (r"REMOVE '(.+?)'", Cursor._remove),
    (r"COPY INTO (\S+)\s+FROM '(.+?)'.*?FILEFORMAT = (\w+)", Cursor._copy_into),
    (r"ALTER TABLE (\S+)\s+ADD COLUMNS?\s+(.+)$", Cursor._add_columns),
    (r"INSERT OVERWRITE (\S+) (.+?);?$", Cursor._insert_overwrite),
]


def translated(statement: exp.Expression) -> exp.Expression:
    """Return a statement as DuckDB has it: no table properties, types in Databricks' words."""
    for table in statement.find_all(exp.Table):
        if table.db.lower() == "information_schema":
            table.set("catalog", None)
    for properties in list(statement.find_all(exp.Properties)):
        properties.set("expressions", [])
    for column in list(statement.find_all(exp.Column)):
        if column.name.lower() == "full_data_type":
            column.replace(sqlglot.parse_one(TYPES))
    return statement


def quoted(name: str) -> str:
    return name.replace("`", '"')


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int | float):
        return str(value)
    text = value.isoformat() if isinstance(value, datetime.date) else str(value)
    return "'" + text.replace("'", "''") + "'"
