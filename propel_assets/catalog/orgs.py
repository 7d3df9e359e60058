"""Orgs, their details, invitations and role mappings."""

from propel_assets.catalog.model import (
    API,
    DOCS,
    ORGS,
    Document,
    PagedList,
    PerParent,
    Reference,
    Table,
    boolean,
    identifier,
    integer,
    json,
    json_list,
    text,
    timestamp,
)

DOC = f"{DOCS}/org"

ORG_COLUMNS = (
    identifier("org_id", "The org's id, a v4 UUID.", required=True),
    text("name", "The org's name.", required=True),
    boolean("is_saml_configured", "Whether members can log in by SAML.", required=True),
    integer("max_users", "Seats: how many users the org may have. Null: no limit."),
    json("metadata", "The org's free-form data.", "free_form"),
    text("custom_role_mapping_name", "The org's role mapping."),
    identifier("legacy_org_id", "The org's id before a migration."),
)

ORG_QUERY = Table(
    name="org_query",
    scan="orgs",
    group="orgs",
    path=f"{API}/org/query",
    items="orgs",
    key=("org_id",),
    description="All current orgs.",
    columns=(*ORG_COLUMNS, timestamp("created_at", "When the org was created (UTC). Null for some old orgs.")),
    shape=PagedList("total_orgs", order="CREATED_AT_ASC", signals_changes=True),
    doc=DOC,
    feature=ORGS,
    guarded=True,
)

ORG_BY_ID = Table(
    name="org_by_id",
    scan="org_details",
    group="orgs",
    path=f"{API}/org/{{org_id}}",
    key=("org_id",),
    description="The details of each org: domains, slug, SSO flags, limits. One request per org.",
    columns=(
        *ORG_COLUMNS,
        text("url_safe_org_slug", "The org's name in URLs."),
        boolean("can_setup_saml", "Whether the org may set up SAML."),
        boolean("is_saml_in_test_mode", "Whether SAML is set up but not live."),
        text("domain", "The org's e-mail domain."),
        json_list("extra_domains", "List of further e-mail domains."),
        boolean("domain_autojoin", "Whether users of the domain join the org automatically."),
        boolean("domain_restrict", "Whether only users of the domain may join."),
        boolean("password_rotation_enabled", "Whether passwords must be changed regularly."),
        integer("password_rotation_history_size", "How many old passwords may not be reused."),
        integer("password_rotation_period", "How long a password is valid, in seconds."),
        boolean("isolated", "Whether the org's users are separate from all other users."),
    ),
    shape=PerParent(
        "org_query",
        has_key=True,
        flag="isolated",
        flag_note="new isolated orgs: {}. The next full load of user_query compares their numbers of members",
    ),
    doc=DOC,
    feature=ORGS,
    guarded=True,
    references=(Reference(("org_id",), "org_query"),),
)

PENDING_ORG_INVITES = Table(
    name="pending_org_invites",
    scan="invites",
    group="orgs",
    path=f"{API}/pending_org_invites",
    items="invites",
    key=("org_id", "invitee_email"),
    description="Invitations that have not been accepted yet.",
    columns=(
        identifier("org_id", "The org of the invitation.", required=True),
        text("invitee_email", "The invited address.", "direct_identifier", required=True, person="subject"),
        text("org_name", "The org's name.", required=True),
        text("role_in_org", "The role that the invitee will have.", required=True),
        json_list("additional_roles_in_org", "List of further roles, in a multi-role org."),
        timestamp("created_at", "When the invitation was sent (UTC).", required=True),
        timestamp("expires_at", "When the invitation expires (UTC).", required=True),
        text(
            "inviter_email",
            "The inviter's address. Null for invitations sent through the API.",
            "direct_identifier",
            person="mention",
        ),
        identifier(
            "inviter_user_id",
            "The inviter. Null for invitations sent through the API.",
            person="mention",
        ),
    ),
    shape=PagedList("total_invites", signals_changes=True),
    doc=DOC,
    feature=ORGS,
    references=(Reference(("org_id",), "org_query"),),
)

CUSTOM_ROLE_MAPPINGS = Table(
    name="custom_role_mappings",
    scan="role_mappings",
    group="orgs",
    path=f"{API}/custom_role_mappings",
    items="custom_role_mappings",
    key=("custom_role_mapping_name",),
    description="The project's role mappings, and the number of orgs on each.",
    columns=(
        text("custom_role_mapping_name", "The mapping's name.", required=True),
        integer("num_orgs_subscribed", "How many orgs are on it.", required=True),
    ),
    shape=Document(),
    doc=DOC,
    feature=ORGS,
)

SAML_SP_METADATA = Table(
    name="saml_sp_metadata",
    scan="saml",
    group="orgs",
    path=f"{API}/saml_sp_metadata/{{org_id}}",
    key=("org_id",),
    description="The SAML service provider data that each org's identity provider needs. One request per org.",
    columns=(
        identifier("org_id", "The org.", required=True),
        text("entity_id", "The service provider's entity id.", required=True),
        text("acs_url", "Where SAML responses are sent.", required=True),
        text("logout_url", "Where a logout is sent.", required=True),
    ),
    shape=PerParent("org_query"),
    guarded=True,
    doc=DOC,
    feature=ORGS,
    references=(Reference(("org_id",), "org_query"),),
    default=False,
)
