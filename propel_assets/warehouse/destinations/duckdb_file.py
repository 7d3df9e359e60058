"""The DuckDB file itself: why it cannot be opened, and a compacted copy without the bytes of deleted rows."""

import shutil
import struct
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


def describe_open_error(file: Path, error: engine.Error) -> WarehouseClosed:
    """Return the error to raise for a database that DuckDB cannot open: the reason, and what to do."""
    try:
        with file.open("r+b") as opened:
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


def write_compacted_copy(client: DuckDbSqlClient, file: Path) -> None:
    """Copy the database into a new file beside it: DuckDB keeps the bytes of deleted rows in the old file.

    Raises:
        WarehouseClosed: the copy cannot be written.
    """
    copy = _copy_of(file)
    for leftover in (copy, Path(f"{copy}.wal")):
        leftover.unlink(missing_ok=True)
    connection = client.native_connection
    [(name,)] = connection.execute("SELECT current_database()").fetchall()
    try:
        connection.execute(f"ATTACH {sql_literal(str(copy))} AS propel_copy")
        connection.execute(f"COPY FROM DATABASE {client.escape_column_name(name)} TO propel_copy")
        connection.execute("DETACH propel_copy")
        connection.execute("CHECKPOINT")  # so that closing this connection later writes nothing beside the new file
    except engine.Error as error:
        raise WarehouseClosed(
            f"The rows were deleted, but {file.name} could not be compacted, so their bytes are still in it: "
            f"{describe_error(error)}. Free disk space beside it and run again."
        ) from None


def replace_with_compacted_copy(file: Path) -> None:
    """Put the compacted copy in the place of the database, in one step.

    The connection that wrote the copy must still be open: it holds DuckDB's lock. Without it, another program could
    open the old file and commit to it before it is replaced.
    """
    shutil.copymode(file, _copy_of(file))
    Path(f"{file}.wal").unlink(missing_ok=True)
    _copy_of(file).replace(file)


def _copy_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.rewritten")
