"""The DuckDB file itself: why it cannot be opened, and a compacted copy without the bytes of deleted rows."""

import contextlib
import os
import shutil
import struct
from collections.abc import Callable, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import duckdb as engine

from propel_assets.errors import WarehouseClosed
from propel_assets.privacy.redaction import describe_error
from propel_assets.warehouse.dlt_compat import DuckDbSqlClient

# The main header of a file: a checksum of 8 bytes, the magic bytes, the storage version as an unsigned integer.
HEADER, MAGIC = struct.Struct("<8x4sQ"), b"DUCK"
NEWEST_VERSION = 68  # of the storage versions that DuckDB 1.x reads; DuckDB 2.0 writes 69
ANOTHER_FILE = "set another file in DESTINATION__DUCKDB__CREDENTIALS"


def sql_literal(text: str) -> str:
    """Return ``text`` as a literal in SQL."""
    return "'" + text.replace("'", "''") + "'"


def refuse_path(file: Path) -> None:
    """Refuse a path for which DuckDB writes its log to another place: it takes a question mark for a query in a URL.

    Raises:
        WarehouseClosed: the path has a question mark.
    """
    if "?" in str(file):
        raise WarehouseClosed(
            f"DuckDB cannot write to {file}: its path has a question mark. Rename the folder, or {ANOTHER_FILE}."
        )


def is_writable(file: Path) -> bool:
    """Return whether this user may write to ``file`` and create files beside it, as DuckDB does.

    Call it only after opening the database has failed: closing a file ends all POSIX locks of this process on it.
    """
    try:
        with file.open("r+b"):
            return os.access(file.parent, os.W_OK)
    except OSError:
        return False


def describe_open_error(file: Path, error: engine.Error) -> WarehouseClosed:
    """Return the error to raise for a database that DuckDB cannot open: the reason, and what to do."""
    try:
        with file.open("rb") as opened:
            header = opened.read(HEADER.size)
    except OSError as refused:
        return WarehouseClosed(
            f"DuckDB cannot open {file}: {refused.strerror}. Correct its path or its permissions, or {ANOTHER_FILE}."
        )
    magic, version = HEADER.unpack(header) if len(header) == HEADER.size else (b"", 0)
    if magic != MAGIC:
        return WarehouseClosed(f"{file} is not a DuckDB database. Move it away, or {ANOTHER_FILE}.")
    if version > NEWEST_VERSION:
        return WarehouseClosed(
            f"{file} was written by DuckDB 2 or later, which DuckDB {engine.__version__} "
            f"cannot read. Export its tables with that version, or {ANOTHER_FILE}."
        )
    return WarehouseClosed(
        f"DuckDB cannot open {file}: {describe_error(error)}. Free disk space, restore a backup, or {ANOTHER_FILE}."
    )


def request_compaction(file: Path) -> None:
    """Note that the file has to be compacted: the folder of the copy exists until the copy has replaced the file.

    Only its owner can read the folder, so the copy is never more readable than the file.
    """
    _copy_of(file).parent.mkdir(mode=0o700, exist_ok=True)


def needs_compaction(file: Path) -> bool:
    """Return whether an erasure has deleted rows, and was stopped before the file was compacted."""
    return _copy_of(file).parent.is_dir()


def remove_abandoned_copy(file: Path) -> None:
    """Remove what a compaction that was stopped has written. It is as large as the database."""
    for leftover in _copy_of(file).parent.glob("*"):
        leftover.unlink(missing_ok=True)


def write_compacted_copy(client: DuckDbSqlClient, file: Path) -> None:
    """Copy the database into a new file: DuckDB keeps the bytes of deleted rows in the old file.

    Raises:
        WarehouseClosed: the copy cannot be written.
    """
    request_compaction(file)
    remove_abandoned_copy(file)
    connection = client.native_connection
    with contextlib.ExitStack() as undo:
        undo.callback(remove_abandoned_copy, file)
        try:
            connection.execute(f"ATTACH {sql_literal(str(_copy_of(file)))} AS propel_copy")
            _copy_tables(connection, client.escape_column_name)
            connection.execute("DETACH propel_copy")
            connection.execute("CHECKPOINT")  # so that closing this connection later writes nothing beside the new file
        except engine.Error as error:
            is_refused = isinstance(error, engine.ConstraintException | engine.BinderException)
            remedy = "Drop the foreign keys of its tables" if is_refused else "Free disk space beside it"
            raise WarehouseClosed(
                f"{file.name} could not be compacted, so the bytes of deleted rows are still in it: "
                f"{describe_error(error)}. {remedy} and run again."
            ) from None
        undo.pop_all()


def _copy_tables(connection: engine.DuckDBPyConnection, quote: Callable[[str], str]) -> None:
    """Copy everything. DuckDB does that in one transaction, in which a foreign key refuses all rows that it checks."""
    [(name,)] = connection.execute("SELECT current_database()").fetchall()
    keys = connection.execute(
        "SELECT schema_name, table_name, referenced_table, constraint_column_names, referenced_column_names "
        "FROM duckdb_constraints() WHERE constraint_type = 'FOREIGN KEY' AND database_name = ?",
        [name],
    ).fetchall()
    copy_all = f"COPY FROM DATABASE {quote(name)} TO propel_copy"
    if not keys:
        connection.execute(copy_all)
        return
    connection.execute(f"{copy_all} (SCHEMA)")
    tables = connection.execute("SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = ?", [name])
    referenced: dict[tuple[str, str], set[tuple[str, str]]] = {table: set() for table in tables.fetchall()}
    for schema, table, other, *_ in keys:
        referenced[schema, table] |= {(schema, other)} - {(schema, table)}
    for schema, table in TopologicalSorter(referenced).static_order():
        path = f"{quote(schema)}.{quote(table)}"
        insert = f"INSERT INTO propel_copy.{path} BY NAME SELECT * FROM {quote(name)}.{path}"  # noqa: S608 - quoted
        own = [(columns, others) for *key, columns, others in keys if key == [schema, table, table]]
        if not own:
            connection.execute(insert)
            continue
        copied = f"EXISTS (SELECT 1 FROM propel_copy.{path} c WHERE "  # noqa: S608 - quoted
        conditions = [f"NOT {copied}{_equal(own[0][1], own[0][1], quote)})"]
        for columns, others in own:
            has_null = " OR ".join(f"t.{quote(column)} IS NULL" for column in columns)
            conditions.append(f"({has_null} OR {copied}{_equal(columns, others, quote)}))")
        rows = 0
        while inserted := connection.execute(f"{insert} t WHERE {' AND '.join(conditions)}").fetchall()[0][0]:
            rows += inserted
        if [(rows,)] != connection.execute(f"SELECT count(*) FROM {path}").fetchall():  # noqa: S608 - quoted
            raise engine.ConstraintException(f"The foreign key of {path} refuses rows.")


def _equal(columns: Sequence[str], others: Sequence[str], quote: Callable[[str], str]) -> str:
    """Return the condition that ``columns`` are those of a row that is already copied."""
    pairs = zip(columns, others, strict=True)
    return " AND ".join(f"t.{quote(a)} IS NOT DISTINCT FROM c.{quote(b)}" for a, b in pairs)


def replace_with_compacted_copy(file: Path) -> None:
    """Put the compacted copy in the place of the database, in one step.

    The connection that wrote the copy must still be open: it holds DuckDB's lock. Without it, another program could
    open the old file and commit to it before it is replaced.
    """
    copy = _copy_of(file)
    shutil.copymode(file, copy)
    Path(f"{file}.wal").unlink(missing_ok=True)
    copy.replace(file)
    shutil.rmtree(copy.parent)


def _copy_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.compaction") / file.name
