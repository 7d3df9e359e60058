"""Users, their memberships, lookups of single users, and details that take one request per user."""

from dataclasses import replace

from propel_assets.catalog.model import (
    API,
    DOCS,
    ORGS,
    Column,
    Custom,
    Document,
    Lookup,
    PagedList,
    PerParent,
    PrivacyClass,
    Reference,
    Table,
    boolean,
    identifier,
    json,
    json_list,
    text,
    timestamp,
)

DOC = f"{DOCS}/user"
USERS_IN_ORG = f"{API}/user/org/{{org_id}}"
"""The users of one org. Only its total is used, to compare isolated orgs with the list of all users."""

USER_COLUMNS = (
    identifier("user_id", "The user's id, a v4 UUID.", required=True, person="subject"),
    text(
        "email",
        "E-mail address. Not unique in projects with isolated orgs.",
        "direct_identifier",
        required=True,
    ),
    boolean("email_confirmed", "Whether the address has been confirmed.", required=True),
    boolean("has_password", "Whether the user can log in with a password.", required=True),
    boolean("locked", "Whether the user is locked out.", required=True),
    boolean("enabled", "False for a disabled user. Disabled users stay in the list.", required=True),
    boolean("mfa_enabled", "Whether the user has set up a second factor.", required=True),
    boolean("can_create_orgs", "Whether the user may create orgs."),
    boolean("update_password_required", "Whether the user must change the password at the next login."),
    text("username", "Username, in projects that use them.", "direct_identifier"),
    text("first_name", "First name, in projects that ask for it.", "personal"),
    text("last_name", "Last name, in projects that ask for it.", "personal"),
    text("picture_url", "URL of the profile picture.", "personal"),
    json("properties", "Custom properties, as configured in the dashboard.", "free_form"),
    json("metadata", "Free-form data of older projects.", "free_form"),
    timestamp("created_at", "When the user signed up (UTC; epoch seconds in the API).", required=True),
    timestamp(
        "last_active_at", "When the user was last active (UTC; epoch seconds in the API).", required=True, tracked=False
    ),
    # A migration can bring ids that name a person, such as a login name.
    identifier("legacy_user_id", "The user's id before a migration. Not guaranteed to be unique.", strict="hash"),
    identifier("impersonator_user_id", "The employee who is impersonating the user.", person="mention"),
)

MEMBERSHIP_COLUMNS = (
    identifier("user_id", "The member.", required=True, person="subject"),
    identifier("org_id", "The org.", required=True),
    text("org_name", "The org's name.", required=True, tracked=False),
    json("org_metadata", "The org's free-form data.", "free_form", tracked=False),
    text("url_safe_org_name", "The org's name in URLs.", tracked=False),
    text("org_role_structure", "`single_role_in_hierarchy` or `multi_role`."),
    text("user_role", "The member's role. In a multi-role org, the first role.", required=True),
    json_list(
        "inherited_user_roles_plus_current_role",
        "List of roles: the member's own role and, in a hierarchy, all roles below it.",
    ),
    json_list("user_permissions", "List of the member's permissions, as resolved by PropelAuth."),
    json_list("additional_roles", "List of further roles, in a multi-role org."),
    identifier("legacy_org_id", "The org's id before a migration."),
)

USER_QUERY = Table(
    name="user_query",
    scan="users",
    group="users",
    path=f"{API}/user/query",
    items="users",
    key=("user_id",),
    description="All current users, including disabled and locked users.",
    columns=USER_COLUMNS,
    shape=PagedList("total_users", order="CREATED_AT_ASC", signals_changes=True),
    doc=DOC,
    guarded=True,
    recent=True,
    options=("recent",),
)

ORG_MEMBERSHIP = Table(
    name="org_membership",
    scan="users",
    group="users",
    path=f"{API}/user/query",
    items="org_id_to_org_info",
    key=("user_id", "org_id"),
    description="The orgs of each user, and the user's roles in them: "
    "one row per entry of a user's `org_id_to_org_info`.",
    columns=MEMBERSHIP_COLUMNS,
    shape=Custom("users"),
    doc=DOC,
    feature=ORGS,
    guarded=True,
    references=(Reference(("user_id",), "user_query", blocking=True), Reference(("org_id",), "org_query")),
    recent=True,
)

OAUTH_USERINFO = Table(
    name="oauth_userinfo",
    scan="oauth_userinfo",
    group="lookups",
    path="/propelauth/oauth/userinfo",
    key=("user_id",),
    description="The user of one OAuth access token. Skipped if `PROPELAUTH_OAUTH_TOKEN` is not set: "
    "the endpoint does not accept the API key.",
    columns=(
        *USER_COLUMNS,
        json(
            "org_id_to_org_info",
            "The user's orgs, by org id.",
            "identifier",
            strict_parts=(("*.org_metadata", "drop"),),
        ),
    ),
    shape=Document("user_token"),
    doc=f"{DOCS}/oauth2",
    default=False,
)


def _lookup(kind: str, path: str, parameter: str, privacy: PrivacyClass) -> Table:
    found = (replace(column, required=False) for column in USER_COLUMNS if column.name != "impersonator_user_id")
    columns: tuple[Column, ...] = (
        text("looked_up", f"The {kind} that was looked up.", privacy, required=True, person="subject"),
        boolean("found", "Whether PropelAuth has such a user.", required=True),
        *found,
    )
    return Table(
        name=f"user_by_{kind}",
        scan=f"user_by_{kind}",
        group="lookups",
        path=path,
        key=("looked_up",),
        description=f"Users looked up by {kind}: one row per value, whether or not a user was found. "
        "The values come from the run's configuration. Skipped without values.",
        columns=columns,
        shape=Lookup(parameter),
        doc=DOC,
        default=False,
        options=("values",),
    )


LOOKUPS = (
    _lookup("id", f"{API}/user/{{user_id}}", "user_id", "identifier"),
    _lookup("email", f"{API}/user/email", "email", "direct_identifier"),
    _lookup("username", f"{API}/user/username", "username", "direct_identifier"),
)

DETAILS = (
    Table(
        name="user_signup_query_parameters",
        scan="signup_query_parameters",
        group="users",
        path=f"{API}/user/{{user_id}}/signup_query_parameters",
        key=("user_id",),
        description="The query parameters of the page on which each user signed up (UTM tags). One request per user.",
        columns=(
            identifier("user_id", "The user.", required=True, person="subject"),
            json("user_signup_query_parameters", "Parameter to value.", "free_form", required=True),
        ),
        shape=PerParent("user_query"),
        guarded=True,
        doc=DOC,
        references=(Reference(("user_id",), "user_query"),),
        default=False,
    ),
    Table(
        name="user_mfa",
        scan="mfa",
        group="users",
        path=f"{API}/user/{{user_id}}/mfa",
        key=("user_id",),
        description="The second factor of each user. One request per user.",
        columns=(
            identifier("user_id", "The user.", required=True, person="subject"),
            json("mfa_setup", "Null, or the type and the last digits of phone numbers.", "personal"),
        ),
        shape=PerParent("user_query"),
        guarded=True,
        doc=DOC,
        references=(Reference(("user_id",), "user_query"),),
        default=False,
    ),
)

EMPLOYEE = Table(
    name="employee",
    scan="employees",
    group="users",
    path=f"{API}/employee/{{employee_id}}",
    key=("employee_id",),
    description="Employees who impersonate users. PropelAuth has no list of employees: those named by "
    "`impersonator_user_id` are looked up.",
    columns=(
        identifier("employee_id", "The employee.", required=True, person="subject"),
        boolean("found", "Whether PropelAuth has such an employee.", required=True),
        text("email", "The employee's e-mail address.", "direct_identifier", person="subject"),
    ),
    shape=Custom("employees"),
    doc=DOC,
    default=False,
)
