"""The options of `build_definitions` and of the component: the same fields, each with its description."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import dagster as dg
from dagster.components.utils.translation import TranslationFn, TranslationFnResolver
from pydantic import ConfigDict, Field, field_validator

from propel_assets.catalog import BY_NAME
from propel_assets.settings import ENVIRONMENT_NAME

Layer: TypeAlias = Literal["api", "raw", "history", "marts"]

DAILY = "15 4 * * *"  # not on the hour, when most schedules start
HOURLY = "45 * * * *"
OWNERS = ("team:data",)


def _option(description: str, *examples: Any, model_field_type: Any = None) -> dg.Resolver:
    return dg.Resolver.default(
        description=description, examples=list(examples) or None, model_field_type=model_field_type
    )


def _translation(description: str, *examples: Any) -> dg.Resolver:
    resolver = TranslationFnResolver[Layer](lambda layer: {"layer": layer})
    resolver.description, resolver.examples = description, list(examples)
    return resolver


class PropelAuthConfig(dg.Model, dg.Resolvable):
    """One PropelAuth environment as Dagster definitions: credentials, names, and what is included.

    Credentials, destination and privacy policy that are left out come from environment variables and dlt's files, as
    for the command line. They are resolved when a run starts.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    environment: Annotated[
        str,
        _option(
            "Name of the PropelAuth environment. It becomes part of the names of assets, jobs, tables and files, and "
            "selects environment variables such as STAGING__PROPELAUTH_API_KEY; auth URL, keys and webhook settings "
            "are then read with this prefix only. Default: PROPELAUTH_ENVIRONMENT; empty where there is only one.",
            "staging",
        ),
    ] = ""
    auth_url: Annotated[
        str | dg.EnvVar,
        _option(
            "Auth URL. Default: PROPELAUTH_AUTH_URL, then .dlt/config.toml.",
            "https://auth.example.com",
            model_field_type=str,
        ),
    ] = ""
    api_key: Annotated[
        str | dg.EnvVar,
        _option(
            "Backend integration key: a template or an EnvVar, not the key itself. Default: PROPELAUTH_API_KEY, then "
            ".dlt/secrets.toml.",
            "{{ env.PROPELAUTH_API_KEY }}",
            model_field_type=str,
        ),
    ] = Field(default="", repr=False)
    oauth_token: Annotated[
        str | dg.EnvVar,
        _option(
            "Access token of an end user, for the table oauth_userinfo only. Default: PROPELAUTH_OAUTH_TOKEN, then "
            ".dlt/secrets.toml.",
            "{{ env.PROPELAUTH_OAUTH_TOKEN }}",
            model_field_type=str,
        ),
    ] = Field(default="", repr=False)
    destination: Annotated[
        str,
        _option(
            "A dlt destination, or one named in .dlt/config.toml. Default: PROPELAUTH_DESTINATION, then duckdb.",
            "postgres",
        ),
    ] = ""
    privacy: Annotated[
        str,
        _option("Privacy policy: open, strict, or a file of rules. Default: PROPELAUTH_PRIVACY, then open.", "strict"),
    ] = ""
    tables: Annotated[
        Sequence[str] | None,
        _option(
            "Raw tables to include. A mart is included if all its raw tables are. Default: all.",
            ["user_query", "org_membership", "org_query"],
        ),
    ] = None
    marts: Annotated[
        bool,
        _option(
            "Include histories and marts. They need the extra `marts`, and DuckDB or PostgreSQL as the destination."
        ),
    ] = True
    key_prefix: Annotated[
        Sequence[str] | None,
        _option("Prefix of every asset key. Default: the name of the environment, if it has one.", ["auth"]),
    ] = None
    name_prefix: Annotated[
        str,
        _option(
            "Prefix of the name of every op, job, schedule, sensor, resource and pool. Default: propel_auth, followed "
            "by the name of the environment.",
            "propel_auth_staging",
        ),
    ] = ""
    group_prefix: Annotated[
        str, _option("Prefix of the name of every asset group. Default: `name_prefix`.", "auth")
    ] = ""
    owners: Annotated[Sequence[str], _option("Owners of every asset.", ["team:data", "data@example.com"])] = OWNERS
    tags: Annotated[Mapping[str, str], _option("Tags of every asset.", {"domain": "auth"})] = {}
    kinds: Annotated[
        Sequence[str] | None,
        _option("Kinds of every asset. Default: the tools that build it and the destination.", ["propelauth"]),
    ] = None
    daily_cron: Annotated[
        str | None,
        _option(
            "Cron schedule that loads the default tables and builds the marts; null for none. It is off until it is "
            "turned on in Dagster. If the schedule is not daily, set max_age_hours too.",
            DAILY,
        ),
    ] = DAILY
    max_age_hours: Annotated[
        float | None,
        _option(
            "Age in hours of the last full load above which the check up_to_date warns, and of the last "
            "materialization above which the freshness policies warn. Set it to the interval of your full loads plus "
            "2 hours for the load. Default: PROPELAUTH_MAX_AGE_HOURS, then 26.",
            170,
        ),
    ] = None
    recent_cron: Annotated[
        str | None,
        _option(
            "Cron schedule that loads recent changes; null for none. It is off until it is turned on in Dagster.",
            HOURLY,
        ),
    ] = HOURLY
    timezone: Annotated[str, _option("Time zone of the cron schedules.", "Europe/Berlin")] = "Etc/UTC"
    changes_sensor: Annotated[
        bool, _option("Include the sensor that starts a job when PropelAuth's totals change.")
    ] = True
    events_sensor: Annotated[bool, _option("Include the sensor that applies webhook events.")] = True
    automation: Annotated[
        bool,
        _option(
            "Include automation conditions and the sensor that evaluates them. Set it to false where a sensor of your "
            "own targets all assets: Dagster allows one per asset."
        ),
    ] = True
    alerts: Annotated[bool, _option("Include the sensor that sends alerts.")] = True
    translation: Annotated[
        TranslationFn[Layer] | None,
        _translation(
            "Attributes for the spec of every asset. In a template, `spec` is the spec of the asset, and `layer` is "
            "api, raw, history or marts. In Python, a function `(spec, layer)` that returns the spec.",
            {"tags": {"layer": "{{ layer }}"}},
        ),
    ] = None

    @field_validator("auth_url", "api_key", "oauth_token", mode="before")
    @classmethod
    def _allow_none(cls, value: Any) -> Any:
        """Return an empty text for the template of an environment variable that is not set."""
        return "" if value is None else value

    @field_validator("environment")
    @classmethod
    def _check_environment(cls, name: str) -> str:
        if name and not ENVIRONMENT_NAME.fullmatch(name):
            raise ValueError("a name has at most 20 lowercase letters, digits and _, and begins with a letter")
        return name

    @field_validator("tables")
    @classmethod
    def _check_tables(cls, names: Sequence[str] | None) -> Sequence[str] | None:
        if unknown := sorted({*(names or ())} - {*BY_NAME}):
            raise ValueError(f"no such table: {', '.join(unknown)}. `propel-assets tables` lists all")
        return names
