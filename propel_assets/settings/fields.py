"""The settings: for each its default, limits and description; and the parts that code takes.

The documentation is generated from the metadata of these fields.
"""

import re
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any

from propel_assets.errors import SettingsError

PIPELINE = "propel_auth_pipeline"
DATASET = "propel_auth_data"
WEBHOOK_STORE = "sqlite:///{}.db"
ENVIRONMENT_NAME = re.compile(r"[a-z][a-z0-9_]{0,19}")


def _setting(
    default: Any,
    description: str,
    *,
    secret: bool = False,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    metadata = {"description": description, "secret": secret}
    limits = {"minimum": minimum, "maximum": maximum, "choices": choices}
    return field(default=default, repr=not secret, metadata=metadata | limits)


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """One PropelAuth environment, and how it is read. What `source/` needs."""

    auth_url: str
    api_key: str = field(repr=False)
    oauth_token: str = field(default="", repr=False)
    page_size: int = 100
    max_concurrency: int = 12
    max_rps: float = 0.0
    retry_seconds: float = 300.0
    scan_seconds: float = 86_400.0
    max_loss: float = 0.2
    allow_loss: bool = False
    environment: str = ""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where tables are written. What `warehouse/` and `marts/` need."""

    destination: str = "duckdb"
    table_format: str = "delta"
    staging: str = ""
    lock_seconds: float = 600.0
    max_age_hours: float = 26.0
    environment: str = ""

    @property
    def max_age(self) -> timedelta:
        """Return the age above which the data of a table that is loaded by default is too old."""
        return timedelta(hours=self.max_age_hours)

    def named(self, name: str) -> str:
        """Return ``name`` for this environment: `staging_propel_auth_data`.

        The environment comes first: dlt keeps rows that it merges in a dataset whose name ends in `_staging`.
        """
        return f"{self.environment}_{name}" if self.environment else name


@dataclass(frozen=True, kw_only=True)
class PrivacySettings:
    """The privacy policy by name or file (empty: open), and the key of keyed hashes. What `privacy/` needs."""

    policy: str = ""
    key: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class AlertSettings:
    """Where alerts are sent. What `reporting/delivery.py` needs."""

    webhook: str = field(default="", repr=False)
    smtp: str = field(default="", repr=False)
    sender: str = ""
    recipients: str = ""
    apprise: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting, resolved once at the entry point. Inner functions take the part they need, never all of them."""

    environment: str = _setting(
        "",
        "Name of the PropelAuth environment, if there are several. It becomes part of the names of datasets and files.",
    )
    auth_url: str = _setting("", "Auth URL of the environment, for example https://auth.example.com. Required.")
    api_key: str = _setting(
        "", "Backend integration key of that environment; 'Read and Validate' is enough. Required.", secret=True
    )
    oauth_token: str = _setting(
        Tenant.oauth_token, "An end user's OAuth access token, for the table oauth_userinfo only.", secret=True
    )
    destination: str = _setting(Target.destination, "A dlt destination, or one named in .dlt/config.toml.")
    table_format: str = _setting(
        Target.table_format,
        "Format of the files of the destination filesystem: delta, or parquet for plain files, with limits.",
        choices=("delta", "parquet"),
    )
    staging: str = _setting(
        Target.staging, "A dlt destination, usually filesystem, whose bucket the warehouse loads from. Empty: none."
    )
    page_size: int = _setting(Tenant.page_size, "Rows requested per page. The server may return fewer.", minimum=1)
    max_concurrency: int = _setting(
        Tenant.max_concurrency, "Maximum number of requests in flight, per process.", minimum=1
    )
    max_rps: float = _setting(
        Tenant.max_rps,
        "Maximum number of requests per second, per process. Scans in several processes, as with the executors "
        "multiprocess, celery and k8s, each have this limit. 0: as the server allows.",
        minimum=0,
    )
    retry_seconds: float = _setting(
        Tenant.retry_seconds, "How long one request is retried, time in rate limits included.", minimum=0
    )
    scan_seconds: float = _setting(
        Tenant.scan_seconds, "How long one scan may take, retries and rate limits included.", minimum=0
    )
    max_loss: float = _setting(
        Tenant.max_loss,
        "Maximum share of rows that users, orgs, memberships and tables with one request per user or org may lose in "
        "one load. A load that loses more replaces nothing and fails. A loss of up to 50 rows is accepted, unless the "
        "table would be empty.",
        minimum=0,
        maximum=1,
    )
    allow_loss: bool = _setting(
        Tenant.allow_loss,
        "Set to true for one run to accept a loss above PROPELAUTH_MAX_LOSS, a report or SCIM groups of an org that "
        "are not available any more, or rows of another tenant.",
    )
    max_age_hours: float = _setting(
        Target.max_age_hours,
        "Age in hours of the last full load above which the check `up_to_date` warns, for tables that are loaded by "
        "default. Set it to the interval of your full loads plus 2 hours for the load: 170 if they are weekly.",
        minimum=1,
        maximum=87_600,
    )
    lock_seconds: float = _setting(
        Target.lock_seconds,
        "How long to wait for another process that has the DuckDB file open or writes to PostgreSQL.",
        minimum=0,
    )
    recent_minutes: float = _setting(
        60.0, "Minimum time between two loads of recent changes that the change sensor starts.", minimum=0
    )
    privacy: str = _setting(
        PrivacySettings.policy,
        "Which personal data is stored: open (also if it is not set), strict, or a file of rules.",
    )
    privacy_key: str = _setting(
        "", "Secret key of keyed hashes. Required by rules that hash and to erase a person.", secret=True
    )
    alert_webhook: str = _setting(
        "",
        "URL that alerts are posted to, in the format of Slack's incoming webhooks. Its path is a secret.",
        secret=True,
    )
    alert_smtp: str = _setting(
        "",
        "The server that sends alerts by e-mail, for example smtp://user:password@smtp.example.com:587.",
        secret=True,
    )
    alert_from: str = _setting("", "Sender of alerts by e-mail.")
    alert_to: str = _setting("", "Recipients of alerts by e-mail, separated by commas.")
    alert_apprise: str = _setting(
        "",
        "URLs of apprise that alerts are sent to, at most 10, separated by spaces. Requires the extra `apprise`.",
        secret=True,
    )
    webhook_secret: str = _setting(
        "",
        "Signing secret of the webhook endpoint (whsec_...). Several during a rotation, separated by commas.",
        secret=True,
    )
    webhook_store: str = _setting(
        WEBHOOK_STORE.format("propel_auth_webhooks"),
        "SQLAlchemy URL of the webhook store: SQLite or PostgreSQL. The default file of an environment begins with its "
        "name: `staging_propel_auth_webhooks.db`.",
        secret=True,
    )
    erasure_days: float = _setting(
        30.0,
        "Days from the deletion of a user at PropelAuth to the due date of the erasure that it proposes.",
        minimum=0,
        maximum=36_500,
    )
    erase_deleted: bool = _setting(
        False,
        "Set to true to erase deleted users when the erasure is due, whenever webhook events are applied; on "
        "PostgreSQL at most once a day.",
    )
    executor: str = _setting(
        "in_process",
        "Dagster executor of the stand-alone code location: in_process, multiprocess, celery or k8s. Not used by "
        "build_definitions: there your project's executor runs the jobs.",
        choices=("in_process", "multiprocess", "celery", "k8s"),
    )

    def __post_init__(self) -> None:
        """Refuse values that are not allowed.

        Raises:
            SettingsError: with the variable, the value and the allowed values.
        """
        for setting in fields(self):
            check_value(setting.name, getattr(self, setting.name))
        if self.webhook_store == FIELDS["webhook_store"].default:  # one environment must not load another's events
            object.__setattr__(self, "webhook_store", self._default_webhook_store)
        if self.environment and not ENVIRONMENT_NAME.fullmatch(self.environment):
            raise SettingsError(
                f"{variable_of('environment')} is {self.environment!r}; a name has at most 20 lowercase letters, "
                "digits and _, and begins with a letter."
            )

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
            webhook=self.alert_webhook,
            smtp=self.alert_smtp,
            sender=self.alert_from,
            recipients=self.alert_to,
            apprise=self.alert_apprise,
        )

    @property
    def _default_webhook_store(self) -> str:
        return WEBHOOK_STORE.format(self.target.named("propel_auth_webhooks"))

    @property
    def has_webhooks(self) -> bool:
        """Whether webhooks are configured: there is a secret, or a store other than the default one."""
        return bool(self.webhook_secrets) or self.webhook_store != self._default_webhook_store

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """Return the signing secrets of the webhook endpoint."""
        return tuple(filter(None, (secret.strip() for secret in self.webhook_secret.split(","))))


FIELDS = {setting.name: setting for setting in fields(Settings)}


def name_prefix(environment: str) -> str:
    """Return the default prefix of the names of jobs, schedules, sensors, resources, ops and pools in Dagster."""
    return f"propel_auth_{environment}" if environment else "propel_auth"


def variable_of(name: str) -> str:
    """Return the environment variable of a field of `Settings`: `PROPELAUTH_MAX_RPS` of `max_rps`."""
    return "PROPEL_EXECUTOR" if name == "executor" else f"PROPELAUTH_{FIELDS[name].name.upper()}"


def check_value(name: str, value: Any) -> None:
    """Refuse a value that is outside the limits or the choices of a field.

    Raises:
        SettingsError: with the variable, the value and the allowed values.
    """
    minimum, maximum, choices = (FIELDS[name].metadata[limit] for limit in ("minimum", "maximum", "choices"))
    if choices and value not in choices:
        raise SettingsError(f"{variable_of(name)} is {value!r}; choose one of {', '.join(choices)}.")
    # Written so that it refuses nan too.
    if (minimum is not None and not value >= minimum) or (maximum is not None and not value <= maximum):
        allowed = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise SettingsError(f"{variable_of(name)} is {value}; it must be {allowed}.")
