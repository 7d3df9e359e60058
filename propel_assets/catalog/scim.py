"""Groups that identity providers send by SCIM, and their members."""

from propel_assets.catalog.model import API, DOCS, SCIM, Custom, Reference, Table, identifier, text

DOC = f"{DOCS}/getting-started"

SCIM_GROUPS = Table(
    name="scim_groups",
    scan="scim",
    group="scim",
    path=f"{API}/scim/{{org_id}}/groups",
    items="groups",
    key=("org_id", "group_id"),
    description="The groups that each org's identity provider has sent by SCIM. One request per org.",
    columns=(
        identifier("org_id", "The org.", required=True),
        identifier("group_id", "The group.", required=True),
        text("display_name", "The group's name.", required=True),
        identifier("external_id_from_idp", "The group's id at the identity provider."),
    ),
    shape=Custom("scim"),
    doc=DOC,
    feature=SCIM,
    references=(Reference(("org_id",), "org_query"),),
)

SCIM_GROUP_MEMBERS = Table(
    name="scim_group_members",
    scan="scim",
    group="scim",
    path=f"{API}/scim/{{org_id}}/groups/{{group_id}}",
    items="members",
    key=("org_id", "group_id", "user_id"),
    description="The members of each SCIM group. One request per group.",
    columns=(
        identifier("org_id", "The org.", required=True),
        identifier("group_id", "The group.", required=True),
        identifier("user_id", "The member.", required=True, person="subject"),
    ),
    shape=Custom("scim"),
    doc=DOC,
    feature=SCIM,
    references=(
        Reference(("org_id", "group_id"), "scim_groups", blocking=True),
        Reference(("user_id",), "user_query"),
    ),
)
