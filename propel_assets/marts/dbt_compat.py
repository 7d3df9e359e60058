"""The parts of dbt that are not public API, each with the reason it is needed.

`dbtRunner`, its results, the artifacts and the command-line options are public and are used in `runner.py`.
Contract tests: `propel_assets_tests/marts/test_dbt_compat.py`. dagster-dbt is used through its public API only.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

ONE_INVOCATION = threading.Lock()
"""dbt keeps its adapters, flags and events in module globals: two invocations in one process must not overlap."""


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Import dbt without a side effect on logging.

    The tracker of usage statistics that dbt imports calls `logging.basicConfig` if the root logger has no handler, and
    then every library's log lines are printed. No option prevents it.
    """
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)


def close_connections() -> None:
    """Close every connection that dbt left open.

    dbt-duckdb keeps its environment, and with it the lock on the database file, until the process ends; there is no
    public call that closes it.
    """
    from dbt.adapters.factory import FACTORY

    FACTORY.cleanup_connections()
    for adapter in FACTORY.adapters.values():
        if close := getattr(adapter.connections, "close_all_connections", None):
            close()


def manifest_artifact(manifest: Any) -> dict[str, Any]:
    """Return the manifest that `dbtRunner` parsed, as in `manifest.json`. Writing and reading the file takes longer."""
    return manifest.writable_manifest().to_dict(omit_none=False)


def is_compilation_error(message: str) -> bool:
    """Return whether the message of a failed node is of dbt's compiler. The status does not tell."""
    return message.startswith("Compilation Error")
