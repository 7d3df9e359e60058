"""Every setting. The only package that reads environment variables, and nothing is read at import.

A setting comes from the first place that has it: an argument, an environment variable, then, for the auth URL and the
keys only, dlt's config and secrets (`[sources.propel_auth_source]` in `.dlt/*.toml`).

Entry points call `load_settings` once and pass on the parts: `Tenant`, `Target`, `PrivacySettings`, `AlertSettings`.

The environment (`staging`) is a value, `Settings.environment`. With one, variables that begin with `STAGING__` come
first, and tables, files and assets are named after it. Several environments can be used in one process.
"""

from propel_assets.settings.credentials import is_loopback, normalize_auth_url, require_credentials
from propel_assets.settings.dlt_provider import disable_dlt_telemetry, dlt_file_errors
from propel_assets.settings.fields import (
    DATASET,
    ENVIRONMENT_NAME,
    FIELDS,
    PIPELINE,
    AlertSettings,
    PrivacySettings,
    Settings,
    Target,
    Tenant,
    name_prefix,
    variable_of,
)
from propel_assets.settings.parsing import (
    environment_name,
    load_settings,
    monitoring_settings,
    read_setting,
    report_misspelled_variables,
    variable_to_set,
)
from propel_assets.settings.process import (
    cache_folder,
    child_environment,
    dagster_home,
    without_environment,
)

__all__ = [
    "DATASET",
    "ENVIRONMENT_NAME",
    "FIELDS",
    "PIPELINE",
    "AlertSettings",
    "PrivacySettings",
    "Settings",
    "Target",
    "Tenant",
    "cache_folder",
    "child_environment",
    "dagster_home",
    "disable_dlt_telemetry",
    "dlt_file_errors",
    "environment_name",
    "is_loopback",
    "load_settings",
    "monitoring_settings",
    "name_prefix",
    "normalize_auth_url",
    "read_setting",
    "report_misspelled_variables",
    "require_credentials",
    "variable_of",
    "variable_to_set",
    "without_environment",
]
