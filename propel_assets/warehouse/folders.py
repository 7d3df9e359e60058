"""Working folders: private, one for each run, removed at its end. dlt extracts personal data into them."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from propel_assets.errors import SettingsError

PREFIX = "propel-assets-"


@contextlib.contextmanager
def working_folder() -> Iterator[str]:
    """Create a private folder, and remove it at the end.

    A killed process cannot remove its folder; the next process does.

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
        folder = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent)
    except OSError as error:
        raise SettingsError(
            f"Cannot write a temporary file: {error.strerror}. Free disk space, or set TMPDIR to another folder."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned_folders(parent: str) -> None:
    for folder in Path(parent).glob(f"{PREFIX}*-*"):
        process_id = folder.name.removeprefix(PREFIX).split("-")[0]
        if process_id.isdigit() and not psutil.pid_exists(int(process_id)):
            shutil.rmtree(folder, ignore_errors=True)
