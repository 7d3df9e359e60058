"""Working folders: private, one for each run, removed at its end. dlt extracts personal data into them."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from propel_assets.errors import SettingsError

PREFIX = "propel-assets-run-"
"""Of folders with a lock. Those of earlier versions, `propel-assets-<process id>-`, have none, and may be in use."""


@contextlib.contextmanager
def working_folder() -> Iterator[str]:
    """Create a private folder, and remove it at the end.

    A killed process cannot remove its folder; the next process does, because the folder is not locked any more.

    Raises:
        SettingsError: the temporary folder cannot be used.
    """
    try:
        parent = tempfile.gettempdir()  # the first call in a process writes a file
        if "%" in parent:  # dlt formats the paths of its files with the operator %
            raise SettingsError(
                f"The temporary folder {parent} has a percent sign in its path, which dlt cannot use. "
                "Set TMPDIR to another folder."
            )
        _remove_abandoned_folders(parent)
        folder, lock = _create_locked_folder(parent)
    except OSError as error:
        raise SettingsError(
            f"Cannot write a temporary file: {error.strerror}. Free disk space, or set TMPDIR to another folder."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _create_locked_folder(parent: str) -> tuple[str, int]:
    """Return a new folder, and the descriptor that holds its lock: without one, another process would remove it."""
    while True:
        folder = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
        with contextlib.suppress(FileNotFoundError):  # another process removed it before it was locked
            lock = os.open(folder, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks: no folder is removed there
                fcntl.flock(lock, fcntl.LOCK_EX)
            if Path(folder).exists():
                return folder, lock
            os.close(lock)


def _remove_abandoned_folders(parent: str) -> None:
    for folder in Path(parent).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # a process holds its lock, or it is of another user
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
