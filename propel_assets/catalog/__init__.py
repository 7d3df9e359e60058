"""The catalogue: one record per table. Everything else is derived from it.

dlt resources, Dagster assets, descriptions, checks, lineage and the table in the README all read `TABLES`; to add a
table, add a record here and, when its shape is new, a reader in `readers.py`. Imports neither dlt nor Dagster.

Source of every field: PropelAuth's own clients and documentation. Optional fields are left out of an answer until
somebody has them, so columns are declared here and never inferred from a page.
"""

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

ColumnType = Literal["text", "bigint", "double", "bool", "timestamp", "date", "json"]
Feature = Literal["orgs", "insights", "api_keys", "scim"]

P = "/api/backend/v1"
DOCS = "https://docs.propelauth.com/reference/api"


@dataclass(frozen=True)
class Column:
    """One column: what it holds, and the API field it is read from.

    ``required``: PropelAuth sends it on every row, so a load without it is an error.
    ``personal``: the value tells who somebody is; it is never shown in a log or as evidence.
    ``api_field``: the field's name in the answer, where it is not the column's.
    """

    name: str
    type: ColumnType
    description: str
    required: bool = False
    personal: bool = False
    api_field: str = ""


@dataclass(frozen=True)
class Reference:
    """Rows whose ``columns`` must be found in ``table``; ``blocking`` when one scan reads both."""

    columns: tuple[str, ...]
    table: str
    blocking: bool = False


@dataclass(frozen=True)
class Table:
    """One table.

    ``scan``: tables of one scan are read together, by one op. ``path``: the endpoint, for people and for lineage.
    ``items``: the key of the rows in an answer, empty where an answer is one row. ``load``: ``replace`` holds what
    PropelAuth has now, ``merge`` adds and corrects by key. ``feature``: what a tenant must have switched on.
    ``guarded``: a sudden loss of rows is refused. ``proof``: what a complete reading can show, see docs/scan.md.
    ``default``: loaded unless asked for by name.
    """

    name: str
    scan: str
    group: str
    path: str
    key: tuple[str, ...]
    description: str
    columns: tuple[Column, ...]
    doc: str
    items: str = ""
    load: Literal["replace", "merge"] = "replace"
    feature: Feature | None = None
    guarded: bool = False
    proof: Literal["proved", "counted"] = "counted"
    references: tuple[Reference, ...] = field(default=())
    default: bool = True

    @property
    def personal_key(self) -> bool:
        """Whether the primary key tells who somebody is."""
        return any(c.personal for c in self.columns if c.name in self.key)

    def column(self, name: str) -> Column:
        """Return the column called ``name``; KeyError if there is none."""
        return {c.name: c for c in self.columns}[name]

    def path_of(self, **values: str) -> str:
        """Return the path for ``values``: each of them is one segment of it, and can name no other endpoint."""
        return self.path.format(**{name: quote(v, safe="").replace(".", "%2E") for name, v in values.items()})


def _text(name: str, description: str, *, required: bool = False, personal: bool = False) -> Column:
    return Column(name, "text", description, required=required, personal=personal)


def _bool(name: str, description: str, *, required: bool = False) -> Column:
    return Column(name, "bool", description, required=required)


def _time(name: str, description: str, *, required: bool = False, api_field: str = "") -> Column:
    return Column(name, "timestamp", description, required=required, api_field=api_field)


def _json(name: str, description: str, *, required: bool = False, personal: bool = False) -> Column:
    return Column(name, "json", description, required=required, personal=personal)


def _count(name: str, description: str, *, required: bool = False) -> Column:
    return Column(name, "bigint", description, required=required)


USER_COLUMNS = (
    _text("user_id", "The user's id, a v4 UUID.", required=True),
    _text("email", "E-mail address. Not unique once isolated orgs exist.", required=True, personal=True),
    _bool("email_confirmed", "Whether the address has been confirmed.", required=True),
    _bool("has_password", "Whether the user can log in with a password.", required=True),
    _bool("locked", "Whether the user is locked out.", required=True),
    _bool("enabled", "False for a user who was disabled; disabled users stay in the list.", required=True),
    _bool("mfa_enabled", "Whether the user has set up a second factor.", required=True),
    _bool("can_create_orgs", "Whether the user may create orgs."),
    _bool("update_password_required", "Whether the password must be changed at the next login."),
    _text("username", "Username, where the project uses them.", personal=True),
    _text("first_name", "First name, where the project asks for it.", personal=True),
    _text("last_name", "Last name, where the project asks for it.", personal=True),
    _text("picture_url", "Address of the profile picture.", personal=True),
    _json("properties", "Custom properties, as configured in the dashboard.", personal=True),
    _json("metadata", "Free-form data of older projects.", personal=True),
    _time("created_at", "When the user signed up (UTC; epoch seconds in the API).", required=True),
    _time("last_active_at", "When the user was last active (UTC; epoch seconds in the API).", required=True),
    _text("legacy_user_id", "The id the user had before a migration. Not guaranteed unique."),
    _text("impersonator_user_id", "The employee who is impersonating this user."),
)

MEMBERSHIP_COLUMNS = (
    _text("user_id", "The member.", required=True),
    _text("org_id", "The org.", required=True),
    _text("org_name", "The org's name.", required=True),
    _json("org_metadata", "The org's free-form data."),
    _text("url_safe_org_name", "The org's name as it stands in URLs."),
    _text("org_role_structure", "`single_role_in_hierarchy` or `multi_role`."),
    _text("user_role", "The member's role; the first one in a multi-role org.", required=True),
    _json(
        "inherited_user_roles_plus_current_role", "List of roles: the member's own and, in a hierarchy, all below it."
    ),
    _json("user_permissions", "List of permissions, already resolved for this member."),
    _json("additional_roles", "List of further roles, in a multi-role org."),
    _text("legacy_org_id", "The id the org had before a migration."),
)

ORG_COLUMNS = (
    _text("org_id", "The org's id, a v4 UUID.", required=True),
    _text("name", "The org's name.", required=True),
    _bool("is_saml_configured", "Whether members can log in by SAML.", required=True),
    _count("max_users", "Seats: how many users the org may have. Null: no cap."),
    _json("metadata", "The org's free-form data."),
    _text("custom_role_mapping_name", "The role mapping the org is on."),
    _text("legacy_org_id", "The id the org had before a migration."),
)

KEY_COLUMNS = (
    _text("api_key_id", "The key's id, 32 hex digits. Not a secret: the key itself is never returned.", required=True),
    _time("created_at", "When the key was made (UTC).", required=True),
    _time("expires_at", "When the key expires (UTC). Null: never.", api_field="expires_at_seconds"),
    _json("metadata", "The key's free-form data."),
    _text("user_id", "The owner of a personal key."),
    _text("org_id", "The owner of an organization key."),
    _text("display_name", "The key's name, where it has one."),
)

REPORT_COLUMNS = (
    _text("type", "Which report.", required=True),
    _text("interval", "The report's interval, as PropelAuth names it.", required=True),
    _text("report_id", "The report this row belongs to.", required=True),
    _text("id", "The row's id within its report.", required=True),
    _time("report_time", "When PropelAuth computed the report (UTC).", required=True),
)

LOOKUP_COLUMNS = tuple(
    Column(c.name, c.type, c.description, personal=c.personal) for c in USER_COLUMNS if c.name != "impersonator_user_id"
)


def _lookup(kind: str, path: str, *, personal: bool) -> Table:
    return Table(
        name=f"user_by_{kind}",
        scan=f"user_by_{kind}",
        group="lookups",
        path=path,
        key=("looked_up",),
        description=f"Users looked up by {kind}: one row per value asked for, found or not. "
        "What to look up is given in the run's config; none given: skipped.",
        columns=(
            _text("looked_up", f"The {kind} asked for.", required=True, personal=personal),
            _bool("found", "Whether PropelAuth knows such a user.", required=True),
            *LOOKUP_COLUMNS,
        ),
        doc=f"{DOCS}/user",
        proof="proved",
    )


def _keys(name: str, path: str, description: str) -> Table:
    return Table(
        name=name,
        scan=name,
        group="api_keys",
        path=path,
        items="api_keys",
        key=("api_key_id",),
        description=description,
        columns=KEY_COLUMNS,
        doc=f"{DOCS}/apikey",
        feature="api_keys",
        references=(Reference(("user_id",), "user_query"), Reference(("org_id",), "org_query")),
    )


TABLES: tuple[Table, ...] = (
    # --- people ---
    Table(
        name="user_query",
        scan="users",
        group="users",
        path=f"{P}/user/query",
        items="users",
        key=("user_id",),
        description="Every user PropelAuth has now, disabled and locked ones included.",
        columns=USER_COLUMNS,
        doc=f"{DOCS}/user",
        guarded=True,
        proof="proved",
    ),
    Table(
        name="org_membership",
        scan="users",
        group="users",
        path=f"{P}/user/query",
        items="org_id_to_org_info",
        key=("user_id", "org_id"),
        description="Who is in which org, with which role: one row per entry of a user's `org_id_to_org_info`.",
        columns=MEMBERSHIP_COLUMNS,
        doc=f"{DOCS}/user",
        feature="orgs",
        guarded=True,
        proof="proved",
        references=(Reference(("user_id",), "user_query", blocking=True), Reference(("org_id",), "org_query")),
    ),
    # --- orgs ---
    Table(
        name="org_query",
        scan="orgs",
        group="orgs",
        path=f"{P}/org/query",
        items="orgs",
        key=("org_id",),
        description="Every org PropelAuth has now.",
        columns=(*ORG_COLUMNS, _time("created_at", "When the org was created (UTC). Null on some old orgs.")),
        doc=f"{DOCS}/org",
        feature="orgs",
        guarded=True,
        proof="proved",
    ),
    Table(
        name="org_by_id",
        scan="org_details",
        group="orgs",
        path=f"{P}/org/{{org_id}}",
        key=("org_id",),
        description="Each org in detail: domains, slug, SSO flags, limits. One request per org.",
        columns=(
            *ORG_COLUMNS,
            _text("url_safe_org_slug", "The org's name as it stands in URLs."),
            _bool("can_setup_saml", "Whether the org may set up SAML."),
            _bool("is_saml_in_test_mode", "Whether SAML is set up but not live."),
            _text("domain", "The org's e-mail domain."),
            _json("extra_domains", "List of further e-mail domains."),
            _bool("domain_autojoin", "Whether users of the domain join by themselves."),
            _bool("domain_restrict", "Whether only users of the domain may join."),
            _bool("password_rotation_enabled", "Whether passwords must be changed regularly."),
            _count("password_rotation_history_size", "How many old passwords may not be used again."),
            _count("password_rotation_period", "How long a password lasts, in seconds."),
            _bool("isolated", "Whether the org's users are kept apart from all others."),
        ),
        doc=f"{DOCS}/org",
        feature="orgs",
        guarded=True,
        proof="proved",
        references=(Reference(("org_id",), "org_query"),),
    ),
    Table(
        name="pending_org_invites",
        scan="invites",
        group="orgs",
        path=f"{P}/pending_org_invites",
        items="invites",
        key=("org_id", "invitee_email"),
        description="Invitations nobody has accepted yet.",
        columns=(
            _text("org_id", "The org that invites.", required=True),
            _text("invitee_email", "Who is invited.", required=True, personal=True),
            _text("org_name", "The org's name.", required=True),
            _text("role_in_org", "The role the invitee will have.", required=True),
            _json("additional_roles_in_org", "List of further roles, in a multi-role org."),
            _time("created_at", "When the invitation was sent (UTC).", required=True),
            _time("expires_at", "When it expires (UTC).", required=True),
            _text("inviter_email", "Who invites. Null when an API did.", personal=True),
            _text("inviter_user_id", "Who invites. Null when an API did."),
        ),
        doc=f"{DOCS}/org",
        feature="orgs",
        references=(Reference(("org_id",), "org_query"),),
    ),
    Table(
        name="custom_role_mappings",
        scan="role_mappings",
        group="orgs",
        path=f"{P}/custom_role_mappings",
        items="custom_role_mappings",
        key=("custom_role_mapping_name",),
        description="The role mappings of the project, and how many orgs are on each.",
        columns=(
            _text("custom_role_mapping_name", "The mapping's name.", required=True),
            _count("num_orgs_subscribed", "How many orgs are on it.", required=True),
        ),
        doc=f"{DOCS}/org",
        feature="orgs",
        proof="proved",
    ),
    # --- end users' API keys ---
    _keys("end_user_api_keys", f"{P}/end_user_api_keys", "API keys in use: personal, organization and generic ones."),
    _keys("end_user_api_keys_archived", f"{P}/end_user_api_keys/archived", "API keys that expired or were deleted."),
    Table(
        name="end_user_api_key_usage",
        scan="api_key_usage",
        group="api_keys",
        path=f"{P}/end_user_api_keys/usage",
        key=("date", "api_key_id"),
        description="How often API keys were validated, per day: all keys together, or each key where asked for.",
        columns=(
            Column("date", "date", "The day. PropelAuth does not say in which time zone.", required=True),
            _text("api_key_id", "The key, or `all` for all keys together.", required=True),
            _count("count", "Validations on that day.", required=True),
        ),
        doc=f"{DOCS}/apikey",
        load="merge",
        feature="api_keys",
        proof="proved",
    ),
    # --- insights ---
    Table(
        name="user_report",
        scan="user_reports",
        group="insights",
        path=f"{P}/user_report/{{type}}",
        items="user_reports",
        key=("type", "interval", "report_id", "id"),
        description="PropelAuth's reports on users: re-engagement, churn, top inviters, champions; the latest of each.",
        columns=(
            *REPORT_COLUMNS,
            _text("user_id", "The user reported.", required=True),
            _text("email", "The user's e-mail address.", required=True, personal=True),
            _time("user_created_at", "When the user signed up (UTC).", required=True),
            _time("last_active_at", "When the user was last active (UTC).", required=True),
            _text("username", "Username.", personal=True),
            _text("first_name", "First name.", personal=True),
            _text("last_name", "Last name.", personal=True),
            _json("org_data", "List of the user's orgs: name, id, role. Null for none."),
            _json("extra_properties", "What the report counted, for instance `num_invites`."),
        ),
        doc=f"{DOCS}/insights",
        feature="insights",
        references=(Reference(("user_id",), "user_query"),),
    ),
    Table(
        name="org_report",
        scan="org_reports",
        group="insights",
        path=f"{P}/org_report/{{type}}",
        items="org_reports",
        key=("type", "interval", "report_id", "id"),
        description="PropelAuth's reports on orgs: re-engagement, churn, growth, attrition; the latest of each.",
        columns=(
            *REPORT_COLUMNS,
            _text("org_id", "The org reported.", required=True),
            _text("name", "The org's name.", required=True),
            _count("num_users", "Users in the org.", required=True),
            _time("org_created_at", "When the org was created (UTC).", required=True),
            _json("extra_properties", "What the report counted."),
        ),
        doc=f"{DOCS}/insights",
        feature="insights",
        references=(Reference(("org_id",), "org_query"),),
    ),
    Table(
        name="chart_metrics",
        scan="chart_metrics",
        group="insights",
        path=f"{P}/chart_metrics/{{metric}}",
        items="metrics",
        key=("metric", "cadence", "date"),
        description="PropelAuth's own figures: signups, orgs created, active users and active orgs, "
        "per day, week and month.",
        columns=(
            _text("metric", "`signups`, `orgs_created`, `active_users` or `active_orgs`.", required=True),
            _text("cadence", "`Daily`, `Weekly` or `Monthly`.", required=True),
            Column("date", "date", "The first day of the period.", required=True),
            _count("result", "The figure.", required=True),
            _bool("cadence_completed", "False while the period is not over.", required=True),
            _text("chart_type", "The metric as the answer names it."),
        ),
        doc=f"{DOCS}/insights",
        load="merge",
        feature="insights",
        proof="proved",
    ),
    # --- SCIM ---
    Table(
        name="scim_groups",
        scan="scim",
        group="scim",
        path=f"{P}/scim/{{org_id}}/groups",
        items="groups",
        key=("org_id", "group_id"),
        description="Groups an org's identity provider has sent by SCIM. One request per org.",
        columns=(
            _text("org_id", "The org.", required=True),
            _text("group_id", "The group.", required=True),
            _text("display_name", "The group's name.", required=True),
            _text("external_id_from_idp", "The group's id at the identity provider."),
        ),
        doc=f"{DOCS}/getting-started",
        feature="scim",
        references=(Reference(("org_id",), "org_query"),),
    ),
    Table(
        name="scim_group_members",
        scan="scim",
        group="scim",
        path=f"{P}/scim/{{org_id}}/groups/{{group_id}}",
        items="members",
        key=("org_id", "group_id", "user_id"),
        description="Who is in which SCIM group. One request per group.",
        columns=(
            _text("org_id", "The org.", required=True),
            _text("group_id", "The group.", required=True),
            _text("user_id", "The member.", required=True),
        ),
        doc=f"{DOCS}/getting-started",
        feature="scim",
        references=(
            Reference(("org_id", "group_id"), "scim_groups", blocking=True),
            Reference(("user_id",), "user_query"),
        ),
    ),
    # --- public documents ---
    Table(
        name="openid_configuration",
        scan="openid_configuration",
        group="public",
        path="/.well-known/openid-configuration",
        key=("issuer",),
        description="The tenant's OpenID Connect discovery document.",
        columns=(
            _text("issuer", "The issuer of tokens.", required=True),
            _text("authorization_endpoint", "Where a user is asked to log in."),
            _text("token_endpoint", "Where a code is exchanged for tokens."),
            _text("userinfo_endpoint", "Where a token is exchanged for its user."),
            _text("jwks_uri", "Where the signing keys are published."),
            *(
                _json(name, "List, as published.")
                for name in (
                    "scopes_supported",
                    "claims_supported",
                    "grant_types_supported",
                    "response_types_supported",
                    "code_challenge_methods_supported",
                    "id_token_signing_alg_values_supported",
                    "subject_types_supported",
                    "token_endpoint_auth_methods_supported",
                )
            ),
        ),
        doc=f"{DOCS}/oauth2",
        proof="proved",
    ),
    Table(
        name="jwks",
        scan="jwks",
        group="public",
        path="/.well-known/jwks.json",
        items="keys",
        key=("kid",),
        description="The public keys that tokens are signed with.",
        columns=(
            _text("kid", "The key's id.", required=True),
            _text("kty", "The key's family, for instance `RSA`.", required=True),
            _text("use", "What it is for."),
            _text("alg", "The algorithm."),
            _text("n", "RSA modulus (public)."),
            _text("e", "RSA exponent (public)."),
        ),
        doc=f"{DOCS}/oauth2",
        proof="proved",
    ),
    Table(
        name="oauth_userinfo",
        scan="oauth_userinfo",
        group="lookups",
        path="/propelauth/oauth/userinfo",
        key=("user_id",),
        description="The one user an end user's OAuth access token belongs to. "
        "Without such a token it is skipped: the backend key is not accepted there.",
        columns=(*USER_COLUMNS, _json("org_id_to_org_info", "The user's orgs, by org id.")),
        doc=f"{DOCS}/oauth2",
        proof="proved",
    ),
    # --- look-ups, by the run's config ---
    _lookup("id", f"{P}/user/{{user_id}}", personal=False),
    _lookup("email", f"{P}/user/email", personal=True),
    _lookup("username", f"{P}/user/username", personal=True),
    # --- one request per user or org: only when asked for by name ---
    Table(
        name="user_signup_query_parameters",
        scan="signup_query_parameters",
        group="users",
        path=f"{P}/user/{{user_id}}/signup_query_parameters",
        key=("user_id",),
        description="The query parameters of the page a user signed up from (UTM tags). One request per user.",
        columns=(
            _text("user_id", "The user.", required=True),
            _json("user_signup_query_parameters", "Parameter to value.", required=True, personal=True),
        ),
        doc=f"{DOCS}/user",
        proof="proved",
        references=(Reference(("user_id",), "user_query"),),
        default=False,
    ),
    Table(
        name="user_mfa",
        scan="mfa",
        group="users",
        path=f"{P}/user/{{user_id}}/mfa",
        key=("user_id",),
        description="How a user's second factor is set up. One request per user.",
        columns=(
            _text("user_id", "The user.", required=True),
            _json("mfa_setup", "Null, or the type and the last digits of phone numbers.", personal=True),
        ),
        doc=f"{DOCS}/user",
        proof="proved",
        references=(Reference(("user_id",), "user_query"),),
        default=False,
    ),
    Table(
        name="saml_sp_metadata",
        scan="saml",
        group="orgs",
        path=f"{P}/saml_sp_metadata/{{org_id}}",
        key=("org_id",),
        description="What an org's identity provider must be told about PropelAuth. One request per org.",
        columns=(
            _text("org_id", "The org.", required=True),
            _text("entity_id", "The service provider's entity id.", required=True),
            _text("acs_url", "Where SAML answers are sent.", required=True),
            _text("logout_url", "Where a logout is sent.", required=True),
        ),
        doc=f"{DOCS}/org",
        feature="orgs",
        proof="proved",
        references=(Reference(("org_id",), "org_query"),),
        default=False,
    ),
    Table(
        name="employee",
        scan="employees",
        group="users",
        path=f"{P}/employee/{{employee_id}}",
        key=("employee_id",),
        description="Employees who impersonate a user: PropelAuth has no list of them, so those named by "
        "`impersonator_user_id` are looked up.",
        columns=(
            _text("employee_id", "The employee.", required=True),
            _bool("found", "Whether PropelAuth knows the employee.", required=True),
            _text("email", "The employee's e-mail address.", personal=True),
        ),
        doc=f"{DOCS}/user",
        proof="proved",
        default=False,
    ),
)

BOOKS: tuple[Table, ...] = (
    Table(
        name="propel_scans",
        scan="",
        group="books",
        path="",
        key=("load_id", "table_name"),
        description="One row per load and table: how it was read, and what was expected of it.",
        columns=(
            _text(
                "load_id", "dlt's id of the load; the load is complete once it stands in `_dlt_loads`.", required=True
            ),
            _text("table_name", "The table.", required=True),
            _text("mode", "`full`, or `recent`: only what changed was read."),
            _text("verdict", "`proved`, `counted` or `skipped`.", required=True),
            _text("reason", "Why skipped, or why no more than counted."),
            _count("rows_expected", "Rows the table must hold after the load. Null where it was skipped or merged."),
            _count("rows_read", "Rows read, each counted once."),
            _count("total_min", "Smallest total PropelAuth gave while reading."),
            _count("total_max", "Largest total PropelAuth gave while reading."),
            _count("passes", "How many times the list was read."),
            _count("pages", "Answers with rows."),
            _count("requests", "Requests sent by the whole scan."),
            _count("retries", "Requests sent again."),
            _count("rate_limited", "Answers of 429."),
            Column("waited_seconds", "double", "Seconds waited for the rate limit, summed over workers."),
            _count("concurrency", "Requests in flight at most."),
            _json(
                "unknown_fields",
                "Fields that are not as the catalog declares them: how each differs and the column that stores it.",
            ),
            _json("values_read", "Non-null values read of each column, those in `__v_text` included."),
            _json(
                "variants",
                "Values that their column cannot hold and that are in `__v_text`: column, reason, number of values.",
            ),
            _json("memory", "What the next load of the table starts from: rows, and how far was read."),
            _time("started_at", "When reading began (UTC).", required=True),
            _time("finished_at", "When reading ended (UTC).", required=True),
        ),
        doc="",
    ),
    Table(
        name="propel_checks",
        scan="",
        group="books",
        path="",
        key=("load_id", "table_name", "check_name"),
        description="One row per check evaluated: what was promised, and whether it held.",
        columns=(
            _text("load_id", "The load that was checked.", required=True),
            _text("table_name", "The table.", required=True),
            _text("check_name", "The promise.", required=True),
            _bool("passed", "Whether it held.", required=True),
            _text("severity", "`ERROR` or `WARN`.", required=True),
            _text("summary", "One sentence, without personal data.", required=True),
            _time("checked_at", "When it was evaluated (UTC).", required=True),
        ),
        doc="",
    ),
)

BY_NAME: dict[str, Table] = {table.name: table for table in TABLES}
SCANS: tuple[str, ...] = tuple(dict.fromkeys(table.scan for table in TABLES))


def tables_of(scan: str) -> tuple[Table, ...]:
    """Return the tables that one scan reads together."""
    return tuple(table for table in TABLES if table.scan == scan)
