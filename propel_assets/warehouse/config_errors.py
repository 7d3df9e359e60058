"""Errors of dlt's configuration, as the settings to set or the package to install."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import dlt
from dlt.common.configuration.exceptions import ConfigFieldMissingException, LookupTrace, LookupTraces
from dlt.common.configuration.providers import EnvironProvider

from propel_assets.errors import NotInstalled, SettingsError
from propel_assets.warehouse.destinations.policies import extra_of

ENVIRONMENT_VARIABLES = EnvironProvider().name


@contextlib.contextmanager
def explain_config_errors(destination: str, kind: str) -> Iterator[None]:
    """Raise `SettingsError` where dlt reports a missing setting or a missing package of a destination."""
    try:
        yield
    except ConfigFieldMissingException as error:
        choices = list(dict.fromkeys(" and ".join(names) for names in missing_variables(error.traces)))
        raise SettingsError(
            f"The destination {destination} is not configured. Set {', or '.join(choices)}, or the same in "
            ".dlt/secrets.toml."
        ) from None
    except ImportError as error:
        extra = extra_of(kind, dlt.config.get("destination.filesystem.bucket_url", str) or "")
        missing = f"The destination {destination} is not installed ({' '.join(str(error).split())})"
        if extra:
            raise NotInstalled(missing, extra) from None
        raise SettingsError(f"{missing}. Install it: pip install 'dlt[{kind}]'") from None


def missing_variables(traces: Mapping[str, Sequence[LookupTrace | LookupTraces]]) -> list[list[str]]:
    """Return the environment variables that dlt did not find: one list for each way to configure the destination."""
    choices: list[list[str]] = [[]]
    for tried in traces.values():
        nested = [
            names for trace in tried if isinstance(trace, LookupTraces) for names in missing_variables(trace.traces)
        ]
        variables = [
            trace.key for trace in tried if isinstance(trace, LookupTrace) and trace.provider == ENVIRONMENT_VARIABLES
        ]
        general = [name for name in variables if name.startswith("DESTINATION__")]  # others are for one pipeline
        choices = [[*choice, *names] for choice in choices for names in nested or [general[:1]]]
    return choices
