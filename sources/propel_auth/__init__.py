"""PropelAuth: users, organizations, memberships, roles, API keys and reports, by the package propel-assets."""

import dlt

from propel_assets.source import propel_auth_source as complete_source
from propel_assets.source.dlt_source import complete_schema


@dlt.source(schema=complete_schema(), max_table_nesting=0)
def propel_auth_source(auth_url: str = dlt.config.value, api_key: dlt.TSecretStrValue = dlt.secrets.value) -> list:
    """Return every table PropelAuth has, by the key of a backend integration."""
    return list(complete_source(auth_url, api_key).resources.values())
