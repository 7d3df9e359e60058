"""Environment variables of this process and of those that it starts."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def dagster_home() -> str:
    """Return DAGSTER_HOME; an empty text when it is not set."""
    return os.environ.get("DAGSTER_HOME", "")


def cache_folder() -> Path:
    """Return the folder for files that can be rebuilt: in XDG_CACHE_HOME, or in .cache of the home folder."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if named else Path.home() / ".cache") / "propel-assets"


def child_environment(values: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables for a child process: those of this process and ``values``."""
    return {**os.environ, **values}


@contextmanager
def without_environment(prefix: str) -> Iterator[None]:
    """Remove the environment variables that begin with ``prefix``; restore them at the end."""
    before = {name: value for name, value in os.environ.items() if name.startswith(prefix)}
    for name in before:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)
