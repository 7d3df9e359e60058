"""Where the ops of a run work: the executors of Dagster and of its libraries, by the name in PROPEL_EXECUTOR."""

import importlib

import dagster as dg

from propel_assets.errors import SettingsError
from propel_assets.settings import executor_name

# Each in an extra of its name, and imported only when asked for.
OF_EXTRAS = {"celery": ("dagster_celery", "celery_executor"), "k8s": ("dagster_k8s", "k8s_job_executor")}


def executor() -> dg.ExecutorDefinition:
    """Return the executor the environment names.

    Raises:
        SettingsError: there is none of that name, or its extra is not installed.
    """
    name = executor_name()
    if name not in OF_EXTRAS:
        return {"in_process": dg.in_process_executor, "multiprocess": dg.multiprocess_executor}[name]
    module, attribute = OF_EXTRAS[name]
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError:
        raise SettingsError(
            f"PROPEL_EXECUTOR is {name!r}, which is not installed. Install it: pip install 'propel-assets[{name}]'"
        ) from None
