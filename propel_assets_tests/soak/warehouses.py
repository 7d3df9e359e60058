"""The databases of a schedule: a real DuckDB file or a database of a real PostgreSQL, seen from outside."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from propel_assets.settings import DATASET

TABLES = ("user_query", "org_membership", "org_query", "pending_org_invites")
HOLD = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"

# A server that has lost one of its processes ends all connections, and takes none until it has recovered.
until_it_answers = retry(
    retry=retry_if_exception_type(psycopg2.OperationalError),
    stop=stop_after_delay(60),
    wait=wait_fixed(0.2),
    reraise=True,
)

Tables = dict[str, list[dict[str, Any]] | None]
"""The rows of each of `TABLES`; None: there is no such table."""


@dataclass
class DuckDb:
    """A file."""

    file: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"PROPELAUTH_DESTINATION": "duckdb", "DESTINATION__DUCKDB__CREDENTIALS": str(self.file)}

    def start_from(self, base: Path) -> None:
        shutil.copy(base, self.file)

    def read(self) -> Tables:
        if not self.file.exists():
            return dict.fromkeys(TABLES)
        with duckdb.connect(str(self.file), read_only=True) as database:
            return {name: self._rows(database, name) for name in TABLES}

    def _rows(self, database: duckdb.DuckDBPyConnection, name: str) -> list[dict[str, Any]] | None:
        """Return the rows of a table, JSON decoded, which DuckDB's driver leaves to its user."""
        try:
            cursor = database.execute(f"SELECT * FROM {DATASET}.{name}")
        except duckdb.CatalogException:
            return None
        columns = [(column[0], str(column[1]) == "JSON") for column in cursor.description or ()]
        return [
            {
                column: json.loads(value) if is_json and value is not None else value
                for (column, is_json), value in zip(columns, row, strict=True)
            }
            for row in cursor.fetchall()
        ]

    def left_over(self) -> list[str]:
        """Return what a finished load must not leave."""
        beside = [self.file.with_name(f"{self.file.name}{end}") for end in (".wal", ".lock.holder")]
        return [file.name for file in beside if file.exists()]

    @contextlib.contextmanager
    def held(self) -> Iterator["Holder"]:
        """Have another process keep the file open."""
        command = [sys.executable, "-c", HOLD, str(self.file)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin
            assert process.stdout
            process.stdout.readline()
            yield Holder(process.stdin.close, lambda said: "Waiting: " in said)
            process.kill()


@dataclass
class Holder:
    """What holds a database: how to make it let go, and whether the load waits, by what it said."""

    let_go: Any
    waited_for: Any


@dataclass
class Postgres:
    """A database of the server whose sockets lie in ``folder``."""

    folder: str
    name: str

    @property
    def environment(self) -> dict[str, str]:
        url = f"postgresql://postgres:x@localhost/{self.name}?host={self.folder}"
        return {"PROPELAUTH_DESTINATION": "postgres", "DESTINATION__POSTGRES__CREDENTIALS": url}

    @until_it_answers
    def connect(self, name: str = "") -> Any:
        connection = psycopg2.connect(dbname=name or self.name, user="postgres", host=self.folder)
        connection.autocommit = True
        return contextlib.closing(connection)

    def create(self, template: str = "template0") -> None:
        with self.connect("postgres") as server:
            server.cursor().execute(f"CREATE DATABASE {self.name} TEMPLATE {template}")

    @until_it_answers
    def drop(self) -> None:
        with self.connect("postgres") as server:
            server.cursor().execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")

    def read(self) -> Tables:
        with self.connect() as database, database.cursor() as cursor:
            while self._others(cursor):  # of a killed process: the server lets its statement end
                pass
            return {name: self._rows(cursor, name) for name in TABLES}

    def _others(self, cursor: Any) -> int:
        # pg_sleep: the server waits, not we.
        cursor.execute(
            "SELECT pg_sleep(0.05), count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return cursor.fetchone()[1]

    def _rows(self, cursor: Any, name: str) -> list[dict[str, Any]] | None:
        cursor.execute("SELECT to_regclass(%s)", [f"{DATASET}.{name}"])
        if cursor.fetchone() == (None,):
            return None
        cursor.execute(f"SELECT * FROM {DATASET}.{name}")
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def left_over(self) -> list[str]:
        """Return what a finished load must not leave: rows of people in the staging dataset."""
        with self.connect() as database, database.cursor() as cursor:
            left = []
            for name in TABLES:
                cursor.execute("SELECT to_regclass(%s)", [f"{DATASET}_staging.{name}"])
                if cursor.fetchone() != (None,):
                    cursor.execute(f"SELECT count(*) FROM {DATASET}_staging.{name}")
                    left += [f"{n} rows in staging {name}" for (n,) in cursor.fetchall() if n]
            return left

    @contextlib.contextmanager
    def held(self) -> Iterator[Holder]:
        """Have another connection hold a table that is replaced."""
        with self.connect() as holder, self.connect() as looker:
            holder.autocommit = False
            holder.cursor().execute(f"LOCK TABLE {DATASET}.user_query IN ACCESS EXCLUSIVE MODE")

            def waited_for(_said: str) -> bool:
                with looker.cursor() as cursor:
                    cursor.execute(
                        "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database "
                        "WHERE NOT granted AND datname = current_database()"
                    )
                    return cursor.fetchone()[0] > 0

            yield Holder(holder.rollback, waited_for)

    def cut(self) -> int:
        """End every other connection; return how many there were."""
        with self.connect() as database, database.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            return len(cursor.fetchall())


Warehouse = DuckDb | Postgres
