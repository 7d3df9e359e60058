"""Every setting, and the only reader of the environment.

A setting comes from the first place that has it: an argument, the environment, then, for the auth URL and the keys,
dlt's own config and secrets (`[sources.propel_auth_source]` in `.dlt/*.toml`). Nothing is read at import.

A process works for one environment of PropelAuth. Where PROPELAUTH_ENVIRONMENT names it (staging), variables that
begin with STAGING__ come before those of all, and its tables, files and assets are named after it.
"""

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from propel_assets.errors import SettingsError

SOURCE_SECTION = "sources.propel_auth_source"
PIPELINE = "propel_auth_pipeline"
DATASET = "propel_auth_data"
ENVIRONMENT = "PROPELAUTH_ENVIRONMENT"
ENVIRONMENT_NAME = re.compile(r"[a-z][a-z0-9_]{0,19}")
NOT_SHARED = ("auth_url", "api_key", "oauth_token")  # between environments: one's key must never go to another
TABLE_FORMATS = ("delta", "parquet")
EXECUTORS = ("in_process", "multiprocess", "celery", "k8s")
HOW_TO_TRY = "To try without a tenant: make demo."


def _setting(variable: str, default: Any, description: str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"variable": variable, "description": description})


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """One PropelAuth environment, and how it is read. What `source/` needs."""

    auth_url: str
    api_key: str = field(repr=False)
    oauth_token: str = field(default="", repr=False)
    page_size: int = 100
    max_concurrency: int = 8
    max_rps: float = 0.0
    retry_seconds: float = 300.0
    max_loss: float = 0.2
    allow_loss: bool = False


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where tables are written. What `warehouse/` and `marts/` need."""

    destination: str = "duckdb"
    table_format: str = "delta"
    staging: str = ""
    lock_seconds: float = 600.0
    environment: str = ""

    def named(self, name: str) -> str:
        """Return ``name`` for this environment: `staging_propel_auth_data`.

        The environment comes first: dlt keeps rows that it merges in a dataset whose name ends in `_staging`.
        """
        return f"{self.environment}_{name}" if self.environment else name


@dataclass(frozen=True, kw_only=True)
class PrivacySettings:
    """The privacy policy by name or file, and the key of keyed hashes. What `privacy/` needs."""

    policy: str = "open"
    key: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class AlertSettings:
    """Where alerts are sent. What `reporting/delivery.py` needs."""

    webhook: str = field(default="", repr=False)
    smtp: str = field(default="", repr=False)
    sender: str = ""
    recipients: str = ""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting, resolved once at the entry point. Inner functions take the part they need, never all of them."""

    environment: str = _setting(
        "PROPELAUTH_ENVIRONMENT",
        "",
        "Which of several PropelAuth environments: part of the names of datasets and files.",
    )

    auth_url: str = _setting(
        "PROPELAUTH_AUTH_URL", "", "Auth URL of the environment, for example https://auth.example.com. Required."
    )
    api_key: str = _setting(
        "PROPELAUTH_API_KEY",
        "",
        "Backend integration key of that environment; 'Read and Validate' is enough. Required.",
        secret=True,
    )
    oauth_token: str = _setting(
        "PROPELAUTH_OAUTH_TOKEN",
        "",
        "An end user's OAuth access token, for the table oauth_userinfo only.",
        secret=True,
    )
    destination: str = _setting(
        "PROPELAUTH_DESTINATION", "duckdb", "A dlt destination, or one named in .dlt/config.toml."
    )
    table_format: str = _setting(
        "PROPELAUTH_TABLE_FORMAT",
        "delta",
        "Files of the destination filesystem: delta, or parquet for plain files, whose limits docs/destinations.md "
        "tells.",
    )
    staging: str = _setting(
        "PROPELAUTH_STAGING",
        "",
        "A dlt destination, usually filesystem, whose bucket the warehouse loads from. Empty: none.",
    )
    page_size: int = _setting("PROPELAUTH_PAGE_SIZE", 100, "Rows asked for per request; the server may give fewer.")
    max_concurrency: int = _setting("PROPELAUTH_MAX_CONCURRENCY", 8, "Requests in flight at most.")
    max_rps: float = _setting("PROPELAUTH_MAX_RPS", 0.0, "Requests per second at most; 0: as the server allows.")
    retry_seconds: float = _setting(
        "PROPELAUTH_RETRY_SECONDS", 300.0, "How long one request is retried, and a rate limit waited for, in all."
    )
    max_loss: float = _setting(
        "PROPELAUTH_MAX_LOSS",
        0.2,
        "Share of the last load's rows that users, orgs and memberships may lose (and at least 50 rows) before a load "
        "stops and asks.",
    )
    allow_loss: bool = _setting(
        "PROPELAUTH_ALLOW_LOSS", False, "Set to true for one run: the loss is real, replace the rows."
    )
    lock_seconds: float = _setting(
        "PROPELAUTH_LOCK_SECONDS",
        600.0,
        "How long to wait for another process to let go of the DuckDB file, or to finish writing to PostgreSQL.",
    )
    recent_minutes: float = _setting(
        "PROPELAUTH_RECENT_MINUTES",
        60.0,
        "How long the change sensor waits between two loads of what changed, while somebody is always active.",
    )
    privacy: str = _setting(
        "PROPELAUTH_PRIVACY", "open", "What is stored of people: open, strict, or a file of rules: docs/privacy.md."
    )
    privacy_key: str = _setting(
        "PROPELAUTH_PRIVACY_KEY",
        "",
        "Secret that values are hashed with. Needed once a rule hashes, or somebody is erased.",
        secret=True,
    )
    alert_webhook: str = _setting(
        "PROPELAUTH_ALERT_WEBHOOK",
        "",
        "Where alerts are posted as Slack's incoming webhooks take them. Its path is a secret.",
        secret=True,
    )
    alert_smtp: str = _setting(
        "PROPELAUTH_ALERT_SMTP",
        "",
        "The server that sends alerts by e-mail, for example smtp://user:password@smtp.example.com:587.",
        secret=True,
    )
    alert_from: str = _setting("PROPELAUTH_ALERT_FROM", "", "The sender of these e-mails.")
    alert_to: str = _setting("PROPELAUTH_ALERT_TO", "", "Who gets them: addresses with commas between them.")
    executor: str = _setting(
        "PROPEL_EXECUTOR", "in_process", "Dagster executor of the jobs: in_process, multiprocess, celery or k8s."
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work, naming the variable."""
        least_values = {"page_size": 1, "max_concurrency": 1, "max_rps": 0, "retry_seconds": 0, "lock_seconds": 0}
        for name, least in least_values.items():
            if not getattr(self, name) >= least:  # so written, it refuses nan too
                raise SettingsError(f"{variable_of(name)} is {getattr(self, name)}; it must be at least {least}.")
        if not 0 <= self.max_loss <= 1:
            raise SettingsError(f"{variable_of('max_loss')} is {self.max_loss}; it is a share, from 0 to 1.")
        if self.table_format not in TABLE_FORMATS:
            choice = " or ".join(TABLE_FORMATS)
            raise SettingsError(f"{variable_of('table_format')} is {self.table_format!r}; choose {choice}.")

    @property
    def tenant(self) -> Tenant:
        """Return what the source needs."""
        return Tenant(**{f.name: getattr(self, f.name) for f in fields(Tenant)})

    @property
    def target(self) -> Target:
        """Return what the warehouse needs."""
        return Target(**{f.name: getattr(self, f.name) for f in fields(Target)})

    @property
    def privacy_settings(self) -> PrivacySettings:
        """Return what the privacy policy needs."""
        return PrivacySettings(policy=self.privacy, key=self.privacy_key)

    @property
    def alert_settings(self) -> AlertSettings:
        """Return what the delivery of alerts needs."""
        return AlertSettings(
            webhook=self.alert_webhook, smtp=self.alert_smtp, sender=self.alert_from, recipients=self.alert_to
        )


def variable_of(name: str) -> str:
    """Return the environment variable of a field of `Settings`."""
    return next(f.metadata["variable"] for f in fields(Settings) if f.name == name)


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of the environment, under ``overrides`` that are not empty.

    Raises:
        SettingsError: a value is not of its type, or impossible.
    """
    values: dict[str, Any] = {}
    for setting in fields(Settings):
        if found := _found(setting.name):
            values[setting.name] = _parse(*found, type(setting.default))
    values.update({name: value for name, value in (overrides or {}).items() if value not in (None, "")})
    return Settings(**values)


def _found(name: str) -> tuple[str, str] | None:
    """Return the variable a setting has its text from, and the text."""
    for variable in _variables(name):
        if text := os.environ.get(variable, "").strip():
            return variable, text
    return None


def _variables(name: str) -> list[str]:
    """Return the variables a setting may come from, the first one first."""
    plain, environment = variable_of(name), environment_name()
    own = [f"{environment.upper()}__{plain}"] if environment else []
    return own if own and name in NOT_SHARED else [*own, plain]


def environment_name() -> str:
    """Return the name of the environment this process works for; empty where there is only one.

    Raises:
        SettingsError: it cannot be part of a table's name.
    """
    return _checked_environment(os.environ.get(ENVIRONMENT, "").strip())


def _checked_environment(name: str) -> str:
    if name and not ENVIRONMENT_NAME.fullmatch(name):
        raise SettingsError(
            f"{ENVIRONMENT} is {name!r}; a name has at most 20 small letters, digits and _, and begins with a letter."
        )
    return name


def work_for(environment: str) -> None:
    """Have this process work for ``environment``, before it makes assets.

    Raises:
        SettingsError: the name is not one, or the process works for another environment.
    """
    before = environment_name()
    if before not in ("", environment):
        raise SettingsError(f"This process works for {before}. Give {environment} one of its own.")
    os.environ[ENVIRONMENT] = _checked_environment(environment)


def named(name: str) -> str:
    """Return ``name`` as the environment of this process has it: staging_propel_auth_data.

    Not the other way round: dlt keeps rows it is about to merge in a dataset that ends in _staging.
    """
    environment = environment_name()
    return f"{environment}_{name}" if environment else name


def _parse(variable: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() in {"1", "true", "yes"}:
            return True
        if text.lower() in {"0", "false", "no"}:
            return False
        raise SettingsError(f"{variable} must be true or false.")
    try:
        return kind(text)
    except ValueError:
        raise SettingsError(f"{variable} must be {'a whole' if kind is int else 'a'} number.") from None


def connected(settings: Settings) -> Settings:
    """Return ``settings`` with the auth URL and the keys resolved and checked; dlt's files are asked last.

    Raises:
        SettingsError: one is missing, or the URL is not of the form `https://auth.example.com`.
    """
    found = {name: getattr(settings, name) or _from_dlt(name) for name in ("auth_url", "api_key", "oauth_token")}
    for name in ("auth_url", "api_key"):
        if not found[name]:
            raise SettingsError(_missing(name))
    found["auth_url"] = checked_auth_url(found["auth_url"])
    return Settings(**{f.name: found.get(f.name, getattr(settings, f.name)) for f in fields(Settings)})


def _from_dlt(name: str) -> str:
    disable_dlt_telemetry()
    import dlt

    field = f"{_section()}.{name}"
    if name == "auth_url":
        return dlt.config.get(field, str) or ""
    # Without a type: by dlt's own it is a secret then, and vaults are asked for nothing else.
    return str(dlt.secrets.get(field) or "")  # pyright: ignore[reportArgumentType]


def _section() -> str:
    return ".".join(filter(None, (SOURCE_SECTION, environment_name())))


def _missing(name: str) -> str:
    what = {"auth_url": "auth URL", "api_key": "API key"}[name]
    file = {"auth_url": "config.toml", "api_key": "secrets.toml"}[name]
    return (
        f"No PropelAuth {what}. Set {_variables(name)[0]}, or {name} under [{_section()}] in .dlt/{file}, "
        f"or the field {name} of the Dagster resource propel_auth. {HOW_TO_TRY}"
    )


def checked_auth_url(url: str) -> str:
    """Return ``url`` without a trailing slash, or refuse it: no request must go to a wrong host."""
    expected = f"{variable_of('auth_url')} must look like https://auth.example.com"
    try:
        parts = urlsplit(url.strip())
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise SettingsError(f"{expected}; its host or its port cannot be read.") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise SettingsError(f"{expected}; it has no http(s) scheme or no host.")
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password:
        raise SettingsError(f"{expected}, without a path, query or user name.")
    if parts.scheme == "http" and not is_loopback(host):
        raise SettingsError(f"{expected}; plain http is only for a server on this machine.")
    return f"{parts.scheme}://{parts.netloc}"


def is_loopback(host: str) -> bool:
    """Tell whether ``host`` is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def environment_of(auth_url: str) -> str:
    """Return what to call the environment of a checked auth URL: its host; every sandbox is this machine."""
    parts = urlsplit(auth_url)
    return "this machine" if is_loopback(parts.hostname or "") else parts.netloc


def set_default_environment(values: Mapping[str, str]) -> None:
    """Set environment variables that are not set: what dlt and Dagster read only there."""
    for name, value in values.items():
        os.environ.setdefault(name, value)


def disable_dlt_telemetry() -> None:
    """Disable dlt telemetry unless it is explicitly enabled. dlt reads this when its configuration is first used."""
    set_default_environment({"RUNTIME__DLTHUB_TELEMETRY": "false"})


def destination_name() -> str:
    """Return the destination named by the environment, for labels: unlike `load_settings` it refuses nothing."""
    _, name = _found("destination") or ("", "duckdb")
    return name


def executor_name() -> str:
    """Return the Dagster executor named by the environment.

    Raises:
        SettingsError: there is no such executor.
    """
    _, name = _found("executor") or ("", "in_process")
    if name not in EXECUTORS:
        raise SettingsError(f"{variable_of('executor')} is {name!r}; choose one of {', '.join(EXECUTORS)}.")
    return name


def dagster_home() -> str:
    """Return DAGSTER_HOME, or nothing."""
    return os.environ.get("DAGSTER_HOME", "")


def environment_with(values: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process we start, with ``values``."""
    return {**os.environ, **values}


def cache_folder() -> Path:
    """Return the folder for what can be made again: XDG_CACHE_HOME, or .cache in the home folder."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if named else Path.home() / ".cache") / "propel-assets"


@contextmanager
def environment_extended(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while: for a library in this process that is told things only so."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
