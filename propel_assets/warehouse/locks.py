"""Locks between processes: one load at a time for each DuckDB file, with a time limit for the wait.

Every lock ends with its process, so a killed process leaves none behind.
"""

import contextlib
import fcntl
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from propel_assets.errors import WarehouseBusy, WarehouseClosed
from propel_assets.warehouse.destinations.duckdb_file import remove_abandoned_copy

Log = Callable[[str], None]

POLL_SECONDS = 0.25


@dataclass(frozen=True)
class LockTimeout:
    """How long to wait for a lock, and where to log the wait."""

    seconds: float
    log: Log


def wait_for_lock(acquire: Callable[[], str], timeout: LockTimeout) -> None:
    """Call ``acquire`` until it returns an empty text; any other text says which lock is held, and by what.

    Raises:
        WarehouseBusy: the lock was not released in time.
    """
    deadline, logged = time.monotonic() + timeout.seconds, set[str]()
    while held := acquire():
        if time.monotonic() >= deadline:
            raise WarehouseBusy(
                f"Waited {timeout.seconds:.0f} s (PROPELAUTH_LOCK_SECONDS): {held}. "
                "Wait until that process has ended, or close it, and run again. For a long load of another step, "
                "raise PROPELAUTH_LOCK_SECONDS."
            )
        if held not in logged:
            logged.add(held)
            timeout.log(
                f"Waiting: {held}. Waits up to {timeout.seconds:.0f} s (PROPELAUTH_LOCK_SECONDS) until that process "
                "has ended. If it is not a load, close it."
            )
        time.sleep(POLL_SECONDS)  # neither DuckDB nor the file system has a wait with a time limit


@contextlib.contextmanager
def file_lock(database: Path, timeout: LockTimeout) -> Iterator[None]:
    """Hold the right to load into ``database``: one load at a time, in any process.

    Raises:
        WarehouseBusy: another load held it until the time limit.
        WarehouseClosed: no file can be written beside the database.
    """
    lock, owner_file = FileLock(f"{database}.lock"), Path(f"{database}.lock.holder")
    try:
        Path(lock.lock_file).touch()  # FileLock reports a folder without write permission as a held lock
    except OSError as error:
        raise WarehouseClosed(
            f"Cannot write to the folder of the DuckDB file, {database.parent}: {error.strerror}. "
            "Give this user write permission, or set another file in DESTINATION__DUCKDB__CREDENTIALS."
        ) from error
    if database.exists() and not os.access(database, os.W_OK):
        raise WarehouseClosed(
            f"Cannot write to the DuckDB file {database}. Give this user write permission on the file and its folder, "
            "or set another file in DESTINATION__DUCKDB__CREDENTIALS."
        )

    def acquire() -> str:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return f"{_read(owner_file) or 'another process'} holds the lock of {database.name}"
        return ""

    wait_for_lock(acquire, timeout)
    try:
        remove_abandoned_copy(database)
        owner_file.write_text(_describe(psutil.Process()), encoding="utf-8")
        yield
    finally:
        owner_file.unlink(missing_ok=True)
        lock.release()


def lock_owner(file: Path) -> str:
    """Return the process that holds the POSIX lock on ``file``; empty: no other process holds it.

    Call it only after opening the database has failed: closing a file ends all POSIX locks of this process on it.
    """
    descriptor, kind = None, fcntl.LOCK_EX
    with contextlib.suppress(OSError):
        descriptor = os.open(file, os.O_RDWR)
    if descriptor is None:  # this user may only read the file
        kind = fcntl.LOCK_SH
        with contextlib.suppress(OSError):
            descriptor = os.open(file, os.O_RDONLY)
    if descriptor is None:
        return ""
    try:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return _describe_owner(descriptor)
    finally:
        os.close(descriptor)
    return ""


def _describe_owner(descriptor: int) -> str:
    """Return the process that holds a lock on an open file, as the operating system names it."""
    if sys.platform == "linux":
        layout, fields, position = "hhxxxxqqixxxx", (fcntl.F_WRLCK, 0, 0, 0, 0), 4
    elif sys.platform == "darwin":
        layout, fields, position = "qqihh", (0, 0, 0, fcntl.F_WRLCK, 0), 2
    else:
        return "another process"
    with contextlib.suppress(OSError, psutil.Error):
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(layout, *fields))
        process_id = struct.unpack(layout, answer)[position]
        if process_id > 0:  # 0 or less: a process of another machine or container
            return _describe(psutil.Process(process_id))
    return "another process"


def _describe(process: psutil.Process) -> str:
    return f"process {process.pid} ({process.name()})"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
