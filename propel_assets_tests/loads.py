"""Loads that several tests share."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from propel_assets.settings import Settings
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.session import open_session


def load_scans(settings: Settings, *scans: str) -> None:
    """Load ``scans`` in one session, as `propel-assets load` does."""
    with open_session(settings.target) as session:
        for scan in scans:
            load_scan(scan, settings, session=session)


def build_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Path:
    """Return a copy of the folder that ``build`` fills. One worker of the test run fills it, the others wait.

    Each worker has its own copy: a process that writes to a DuckDB file locks out all others.
    """
    temporary = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        temporary = temporary.parent
    shared = temporary / f"{name}-built-once"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            incomplete = Path(tempfile.mkdtemp(dir=temporary))
            build(incomplete)
            incomplete.rename(shared)
    return shutil.copytree(shared, factory.mktemp(name), dirs_exist_ok=True)
