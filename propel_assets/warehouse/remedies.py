"""What to do about an error of the destination, by SQLSTATE, error number of the system, or class.

The text of a driver's error is never shown, because it may quote rows. These sentences replace it, and decide whether
the load is retried.
"""

import errno
import os

from propel_assets.errors import (
    PropelError,
    WarehouseClosed,
    WarehouseConflict,
    WarehouseError,
    WarehouseUnreachable,
    find_cause,
)
from propel_assets.privacy.redaction import describe_error, innermost_error, is_defect, sqlstate_of, unexpected_error

LOGIN = "Check the user and the password in the credentials of the destination"
GRANT = "Grant the user of the destination the right to create and to write tables in the schemas of this project"
MISSING = "Create the database, or correct its name in the credentials of the destination"
CONSTRAINT = "Drop the constraint, index or trigger that was added to the table: the tables of this project have none"
RESOURCES = "Free disk space or memory at the destination"
READ_ONLY = "Make the database writable: it refuses changes"
SCHEMA = "A table or column was changed by hand: restore it, or drop the table and load it again"
REACHABLE = "Check that the destination is reachable and accepts connections"
CONNECT = "Check that the destination accepts connections, and the host, database, user and password in its credentials"
TIMEOUT = "The destination cancelled the statement: raise its time limit"
CONFLICT = "Wait until other work on the same tables has ended"
WRITE_FILES = "Give the user who runs this the right to write to that file or folder"
WRITE_DUCKDB = "Give the user who runs this the right to write to the DuckDB file and its folder"
FILE_SIZE = "Raise the limit of the size of a file, of the system (`ulimit -f`) or of the file system"
CREATED = "Another load created the same schema, table or column at the same time: wait for it"

# A longer SQLSTATE counts before its class, which is its first two characters.
BY_SQLSTATE = {
    "08": REACHABLE,
    "23": CONSTRAINT,
    "25006": READ_ONLY,
    "28": LOGIN,
    "3D": MISSING,
    "3F": SCHEMA,
    "40": CONFLICT,
    "42501": GRANT,
    **dict.fromkeys(("42701", "42710", "42P06", "42P07"), CREATED),  # it exists already
    "42": SCHEMA,
    "53": RESOURCES,
    "55": CONFLICT,
    "57014": TIMEOUT,
    "57": REACHABLE,
    "58": RESOURCES,
}
BY_ERRNO = {
    errno.ENOSPC: RESOURCES,
    errno.EDQUOT: RESOURCES,
    errno.EFBIG: FILE_SIZE,
    errno.EACCES: WRITE_FILES,
    errno.EPERM: WRITE_FILES,
    errno.EROFS: READ_ONLY,
    errno.ECONNREFUSED: REACHABLE,
    errno.ETIMEDOUT: REACHABLE,
}
FILE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
# DuckDB and deltalake. Drivers of servers quote the reason of a refused connection instead.
FILE_DRIVERS = ("duckdb", "_duckdb", "_internal")
BY_TEXT = {os.strerror(code): BY_ERRNO[code] for code in FILE_ERRORS} | {"attached in read-only mode": WRITE_DUCKDB}
"""Of errors whose reason is only in their text: DuckDB raises several classes for a full disk."""
BY_CLASS = {  # of drivers without SQLSTATE
    "ConstraintException": CONSTRAINT,
    "OutOfMemoryException": RESOURCES,
    "CatalogException": SCHEMA,
    "BinderException": SCHEMA,
    "ConversionException": SCHEMA,
    "TransactionException": CONFLICT,
    "DestinationConnectionError": CONNECT,
    "OperationalError": CONNECT,
    "TimeoutError": REACHABLE,
}


ERROR_TYPES: dict[str, type[WarehouseError]] = {
    **dict.fromkeys((REACHABLE, CONNECT), WarehouseUnreachable),
    **dict.fromkeys((CONFLICT, CREATED), WarehouseConflict),
}
"""The errors after which a later run may succeed, by remedy."""


def as_propel_error(error: Exception, what_failed: str, outcome: str = "", again: str = "run again") -> PropelError:
    """Return the `PropelError` inside ``error``, or one that describes it without its text, which may quote rows.

    ``outcome``: what the tables have after it.
    """
    if cause := find_cause(error):
        return cause.with_outcome(outcome) if isinstance(cause, WarehouseClosed) else cause
    return unexpected_error(error) if is_defect(error) else explain(error, what_failed, outcome, again)


def explain(error: BaseException, what_failed: str, outcome: str = "", again: str = "run again") -> WarehouseError:
    """Return the error to raise for ``error`` of the destination. ``outcome``: what the tables have after it."""
    texts = [f"{what_failed}: {describe_error(error)}.", outcome, f"{remedy_of(error)}, and {again}."]
    return error_type_of(error)(" ".join(filter(None, texts)))


def error_type_of(error: BaseException) -> type[WarehouseError]:
    """Return the class of the `WarehouseError` to raise for ``error`` of the destination."""
    return ERROR_TYPES.get(remedy_of(error), WarehouseError)


def remedy_of(error: BaseException) -> str:
    """Return what to do about ``error``, without a full stop."""
    inner = innermost_error(error)
    state = sqlstate_of(inner)
    for known in (BY_SQLSTATE.get(state), BY_SQLSTATE.get(state[:2])):
        if known:
            return known
    if isinstance(inner, OSError) and inner.errno in BY_ERRNO:
        return BY_ERRNO[inner.errno]
    if type(inner).__module__ in FILE_DRIVERS:
        for text, remedy in BY_TEXT.items():
            if text in str(inner):
                return remedy
    return BY_CLASS.get(type(inner).__name__, "Look up that class in the documentation of the destination")
