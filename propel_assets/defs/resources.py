"""The systems a run talks to, configurable in the UI, by YAML or by code. Nothing is resolved before a run starts."""

from typing import Any

import dagster as dg
from pydantic import Field

from propel_assets.settings import Settings, load_settings

SECRET: dict[str, Any] = {"dagster__is_secret": True}


class PropelAuthApiKey(dg.ConfigurableResource):
    """One PropelAuth environment and the key to it. Fields left empty come from the environment or dlt's files."""

    auth_url: str = Field(default="", description="Auth URL, for example https://auth.example.com.")
    api_key: str = Field(
        default="", description="Backend integration key. Pass an EnvVar, not a value.", json_schema_extra=SECRET
    )
    oauth_token: str = Field(
        default="", description="An end user's access token, for oauth_userinfo only.", json_schema_extra=SECRET
    )


class Warehouse(dg.ConfigurableResource):
    """Where the tables are. Credentials follow dlt's own rules."""

    destination: str = Field(default="", description="A dlt destination, or one named in .dlt/config.toml.")


def settings_of(warehouse: Warehouse, propel_auth: PropelAuthApiKey | None = None) -> Settings:
    """Return the settings of a run: the resources' fields first, then the environment."""
    fields = {"destination": warehouse.destination}
    if propel_auth is not None:
        fields |= {
            "auth_url": propel_auth.auth_url,
            "api_key": propel_auth.api_key,
            "oauth_token": propel_auth.oauth_token,
        }
    return load_settings(fields)
