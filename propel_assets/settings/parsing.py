"""Environment variables and arguments to `Settings`."""

import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from propel_assets.errors import SettingsError
from propel_assets.settings.fields import FIELDS, Settings, check_value, variable_of

PER_ENVIRONMENT = ("auth_url", "api_key", "oauth_token", "webhook_secret", "webhook_store")
"""Settings without a common value: the key of one environment must never be sent to another."""
PRIVACY_VARIABLE = re.compile(r"(?:\w+__)?(PROPELAUTH_PRIV\w*)")
SIMILARITY = 0.8
"""How similar two names must be, from 0 to 1, so that one counts as a misspelling of the other."""
_reported: set[str] = set()
"""Misspelled variables that were logged in this process."""
TRUE, FALSE = ("1", "true", "yes"), ("0", "false", "no")


def load_settings(overrides: Mapping[str, Any] | None = None, environment: str | None = None) -> Settings:
    """Return the settings: from ``overrides`` that are not empty, else from environment variables, else the defaults.

    Args:
        overrides: values by field name.
        environment: the environment's name; when empty, PROPELAUTH_ENVIRONMENT has it.

    Raises:
        SettingsError: a value is not allowed.
    """
    environment = _environment(environment)
    _refuse_unknown_privacy_variables()
    values: dict[str, Any] = {}
    for name, setting in FIELDS.items():
        if found := _find(name, environment):
            values[name] = _parse(*found, type(setting.default))
    values.update({name: value for name, value in (overrides or {}).items() if value not in (None, "")})
    values["environment"] = environment
    return Settings(**values)


def environment_name() -> str:
    """Return the environment that PROPELAUTH_ENVIRONMENT names."""
    return Settings(environment=_environment(None)).environment


def read_setting(name: str, environment: str | None = None) -> Any:
    """Return one setting. Others can have values that are not allowed.

    Raises:
        SettingsError: the value is not allowed.
    """
    found = _find(name, _environment(environment))
    value = _parse(*found, type(FIELDS[name].default)) if found else FIELDS[name].default
    check_value(name, value)
    return value


def monitoring_settings(environment: str | None = None) -> Settings:
    """Return the settings of alerts and of the webhook store; all others are the defaults.

    Those can have values that are not allowed, which an alert must be able to report.
    """
    names = ("alert_webhook", "alert_smtp", "alert_from", "alert_to", "alert_apprise", "webhook_store")
    environment = _environment(environment)
    values: dict[str, Any] = {name: read_setting(name, environment) for name in names}
    return Settings(environment=environment, **values)


def _variables_of(name: str, environment: str) -> list[str]:
    """Return the environment variables that a field of `Settings` is read from, the first one first."""
    variable = variable_of(name)
    if not environment:
        return [variable]
    own = f"{environment.upper()}__{variable}"
    return [own] if name in PER_ENVIRONMENT else [own, variable]


def variable_to_set(name: str, environment: str) -> str:
    """Return the environment variable that sets a field of `Settings` for ``environment``, whatever others have."""
    return _variables_of(name, environment)[0]


def report_misspelled_variables(log: Callable[[str], None], environment: str | None = None) -> None:
    """Log a message for each environment variable that is not a setting, and whose name is close to one.

    Each is logged once per process. Unknown variables that are close to no setting can belong to another program.

    Args:
        log: receives the messages.
        environment: the environment's name; when empty, PROPELAUTH_ENVIRONMENT has it.
    """
    environment = _environment(environment)
    prefix = f"{environment.upper()}__" if environment else ""
    known = {variable_of(name) for name in FIELDS}
    by_name = {variable.partition("_")[2]: variable for variable in known}  # DESTINATION of PROPELAUTH_DESTINATION
    for variable, value in sorted(os.environ.items()):
        own_prefix = prefix if prefix and variable.startswith(prefix) else ""
        name = variable.removeprefix(own_prefix)
        is_candidate = own_prefix or name.startswith("PROPELAUTH_")
        if not is_candidate or name in known or not value.strip() or variable in _reported:
            continue
        if close := get_close_matches(name.removeprefix("PROPELAUTH_"), by_name, n=1, cutoff=SIMILARITY):
            _reported.add(variable)
            log(f"{variable} is not a setting. Did you mean {own_prefix}{by_name[close[0]]}?")


def _environment(name: str | None) -> str:
    return name or os.environ.get(variable_of("environment"), "").strip()


def _find(name: str, environment: str) -> tuple[str, str] | None:
    """Return the environment variable that has a value for a field, and the value."""
    for variable in _variables_of(name, environment):
        if text := os.environ.get(variable, "").strip():
            return variable, text
    return None


def _refuse_unknown_privacy_variables() -> None:
    """Refuse a misspelled privacy setting. Without it, the default policy would store personal data as it is.

    Other unknown variables that begin with `PROPELAUTH_` can belong to another program.
    """
    known = {variable_of("privacy"), variable_of("privacy_key")}
    for variable in sorted(os.environ):
        found = PRIVACY_VARIABLE.fullmatch(variable)
        if found and found[1] not in known and os.environ[variable].strip():
            raise SettingsError(f"{variable} is not a setting. Those of privacy are {' and '.join(sorted(known))}.")


def _parse(variable: str, text: str, kind: type) -> Any:
    """Return ``text`` as a value of a field's type."""
    if kind is bool:
        if text.lower() not in TRUE + FALSE:
            raise SettingsError(f"{variable} is {text!r}; set it to true or false.")
        return text.lower() in TRUE
    try:
        return kind(text)
    except ValueError:
        raise SettingsError(f"{variable} is {text!r}; it must be a {'whole ' * (kind is int)}number.") from None
