"""API keys of end users, and how often they are validated."""

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

END_USER_API_KEY_USAGE = Table(
    name="end_user_api_key_usage",
    scan="api_key_usage",
    group="api_keys",
    path=f"{API}/end_user_api_keys/usage",
    key=("date", "api_key_id"),
    description="How often API keys were validated per day: all keys together, and each key where the run asks for it.",
    columns=(
        date("date", "The day. PropelAuth does not document the time zone.", required=True),
        identifier("api_key_id", "The key, or `all` for all keys together.", required=True, person="subject"),
        integer("count", "Validations on that day.", required=True),
    ),
    shape=Custom("api_key_usage"),
    doc=DOC,
    load="merge",
    feature=API_KEYS,
    options=("per_key",),
)
