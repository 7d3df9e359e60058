"""API keys of end users, and how often they are validated."""

from dataclasses import replace

from propel_assets.catalog.model import (
    API,
    API_KEYS,
    DOCS,
    Custom,
    PagedList,
    Reference,
    Table,
    date,
    identifier,
    integer,
    json,
    text,
    timestamp,
)

DOC = f"{DOCS}/apikey"

KEY_COLUMNS = (
    identifier("api_key_id", "The key's id, 32 hex digits. The API never returns the key itself.", required=True),
    timestamp("created_at", "When the key was created (UTC).", required=True),
    timestamp("expires_at", "When the key expires (UTC). Null: never.", api_field="expires_at_seconds"),
    json("metadata", "The key's free-form data.", "free_form"),
    identifier("user_id", "The owner of a personal key.", person="subject"),
    identifier("org_id", "The owner of an organization key."),
    text("display_name", "The key's name, if it has one.", "free_form"),
)


def _keys(name: str, path: str, description: str, *, signals_changes: bool) -> Table:
    return Table(
        name=name,
        scan=name,
        group="api_keys",
        path=path,
        items="api_keys",
        key=("api_key_id",),
        description=description,
        columns=KEY_COLUMNS,
        shape=PagedList("total_api_keys", signals_changes=signals_changes),
        doc=DOC,
        feature=API_KEYS,
        references=(Reference(("user_id",), "user_query"), Reference(("org_id",), "org_query")),
    )


END_USER_API_KEYS = _keys(
    "end_user_api_keys",
    f"{API}/end_user_api_keys",
    "Active API keys: personal, organization and generic keys.",
    signals_changes=True,
)
END_USER_API_KEYS_ARCHIVED = _keys(
    "end_user_api_keys_archived",
    f"{API}/end_user_api_keys/archived",
    "API keys that have expired or were deleted.",
    signals_changes=False,
)

USAGE_DAY = date("date", "The day. PropelAuth does not document the time zone.", required=True)
USAGE_COUNT = integer("count", "Validations on that day.", required=True)

END_USER_API_KEY_USAGE_TOTAL = Table(
    name="end_user_api_key_usage_total",
    scan="api_key_usage",
    group="api_keys",
    path=f"{API}/end_user_api_keys/usage",
    key=("date",),
    description="How often API keys were validated per day: all keys together.",
    columns=(USAGE_DAY, USAGE_COUNT),
    shape=Custom("api_key_usage"),
    doc=DOC,
    load="merge",
    feature=API_KEYS,
)
END_USER_API_KEY_USAGE = replace(
    END_USER_API_KEY_USAGE_TOTAL,
    name="end_user_api_key_usage",
    key=("date", "api_key_id"),
    description="How often each API key was validated per day. Empty unless a run reads usage per key.",
    columns=(USAGE_DAY, identifier("api_key_id", "The key.", required=True, person="subject"), USAGE_COUNT),
    options=("per_key",),
)
