"""The executor of the stand-alone code location, by its name in PROPEL_EXECUTOR."""

import importlib

import dagster as dg

from propel_assets.errors import NotInstalled
from propel_assets.settings import read_setting

# Each comes with the extra of its name, and is imported only when it is used.
FROM_EXTRAS = {"celery": ("dagster_celery", "celery_executor"), "k8s": ("dagster_k8s", "k8s_job_executor")}


def with_executor(definitions: dg.Definitions, environment: str = "") -> dg.Definitions:
    """Return ``definitions`` with the executor of the settings.

    Raises:
        SettingsError: there is no such executor, or its extra is not installed.
    """
    return dg.Definitions.merge(definitions, dg.Definitions(executor=_executor(environment)))


def _executor(environment: str) -> dg.ExecutorDefinition:
    name = read_setting("executor", environment)
    if name not in FROM_EXTRAS:
        return {"in_process": dg.in_process_executor, "multiprocess": dg.multiprocess_executor}[name]
    module, attribute = FROM_EXTRAS[name]
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError:
        raise NotInstalled(f"PROPEL_EXECUTOR is {name!r}, which is not installed", name) from None
