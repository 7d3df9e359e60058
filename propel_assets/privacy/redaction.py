"""Redaction of text that reaches logs, errors, checks and alerts.

The text of a library's error is never copied: databases, parsers and dlt quote rows in it. `describe_error` describes
an error without its text. `describe_message` describes a text that came without its error: dbt returns only texts.
"""

import errno
import os
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from propel_assets.catalog import AUDIT_TABLES, TABLES, Table
from propel_assets.errors import UnexpectedError

ALL_TABLES = (*TABLES, *AUDIT_TABLES)
COLUMN = re.compile("|".join(rf"\b{t.name}\.(?:{'|'.join(c.name for c in t.columns)})\b" for t in ALL_TABLES))
SYSTEM_REASONS = sorted({os.strerror(code) for code in errno.errorcode if code}, key=len, reverse=True)
ERROR_NAME = re.compile(
    r"\b(?:Database|Runtime|Compilation|Parsing|Dependency|Binder|Catalog|Connection|Constraint|Conversion|HTTP|IO|"
    r"Internal|Interrupt|Invalid Input|Not implemented|Out of Memory|Out of Range|Parser|Permission|Serialization|"
    r"Syntax|TransactionContext|Type Mismatch) Error\b"
)
# Where dlt and drivers keep the error that they wrap; `__cause__` and `__context__` are followed after these.
WRAPPED = ("client_exception", "job_exception", "dbapi_exception", "inner_exc", "exception", "orig")
DIAGNOSTICS = {"table_name": "table", "column_name": "column", "constraint_name": "constraint"}  # of psycopg2
MAX_FRAMES = 8
EMAIL = re.compile(r"[^\s@'\"<>(),;:]+@[^\s@'\"<>(),;:]+")


def without_personal_data(text: str) -> str:
    """Return ``text`` on one line, without the e-mail addresses in it."""
    return EMAIL.sub("<e-mail>", " ".join(text.split()))


def describe_key(table: Table, columns: Sequence[str], values: Sequence[Any]) -> str:
    """Return ``values`` of ``columns`` without personal data: `org_id=1 invitee_email=(hidden)`."""
    pairs = zip(columns, values, strict=True)
    return " ".join(f"{name}={'(hidden)' if table.column(name).personal else value}" for name, value in pairs)


def describe_error(error: BaseException) -> str:
    """Return the class of ``error`` and its codes: `NotNullViolation (SQLSTATE 23502, column email)`.

    Errors that only wrap another one are looked through. Names of columns and reasons of the operating system are
    taken from lists of known ones, so that nothing else of a text can be quoted.
    """
    innermost = innermost_error(error)
    details = ", ".join(dict.fromkeys(filter(None, _details(innermost))))
    return f"{type(innermost).__name__} ({details})" if details else type(innermost).__name__


def innermost_error(error: BaseException) -> BaseException:
    """Return the error that ``error`` wraps, at any depth, or itself."""
    *_, innermost = _wrapped_errors(error)
    return innermost


def sqlstate_of(error: BaseException) -> str:
    """Return the SQLSTATE that the driver gives; empty if it gives none."""
    code = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
    return code if isinstance(code, str) and code.isalnum() else ""


def _wrapped_errors(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and the errors that it wraps, the innermost last."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        yield current
        seen.add(id(current))
        wrapped = (getattr(current, name, None) for name in WRAPPED)
        inner = next((e for e in wrapped if isinstance(e, BaseException)), None)
        current = inner or current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _details(error: BaseException) -> Iterator[str | None]:
    """Yield the codes of ``error``, and the names and reasons that are known."""
    code = sqlstate_of(error)
    yield f"SQLSTATE {code}" if code else None
    diagnostics = getattr(error, "diag", None)
    for name, title in DIAGNOSTICS.items():
        value = getattr(diagnostics, name, None)
        yield f"{title} {value}" if value else None
    yield from _known_names(str(error))
    if isinstance(error, OSError) and error.errno:
        yield os.strerror(error.errno)


def _known_names(text: str) -> Iterator[str]:
    """Yield the columns of the catalog and the reasons of the operating system that ``text`` contains."""
    yield from sorted(set(COLUMN.findall(text)))
    yield from (reason for reason in SYSTEM_REASONS if reason in text)


def describe_message(text: str) -> str:
    """Return the classes of errors, columns and system reasons that ``text`` contains: `Database Error, IO Error`."""
    return ", ".join(dict.fromkeys([*ERROR_NAME.findall(text), *_known_names(text)])) or "an unknown error"


def is_defect(error: BaseException) -> bool:
    """Return whether the innermost error is one of Python: not of a driver, of the operating system or for memory."""
    inner = innermost_error(error)
    return type(inner).__module__ == "builtins" and not isinstance(inner, OSError | MemoryError)


def unexpected_error(error: BaseException) -> UnexpectedError:
    """Return an error of ours for one that is a defect: its class and codes, and the lines of code it came through."""
    trace = traceback.extract_tb(innermost_error(error).__traceback__)
    frames = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in trace]
    return UnexpectedError(
        f"Unexpected {describe_error(error)} at {' < '.join(reversed(frames[-MAX_FRAMES:]))}. "
        "This is a defect: report it with this line. The text of the error is not shown, because it may quote rows."
    )
