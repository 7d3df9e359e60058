"""Roles, their permissions, and a member of an org as in ``org_id_to_org_info``.

Source: PropelAuth/propelauth-py 20487b0, ``user.py:192`` (``OrgMemberInfo``). In a hierarchy, the
inherited roles are the member's role and all inferior ones. With several roles per member, they are that role only, and
the others are in ``additional_roles``.
"""

from dataclasses import dataclass
from typing import Any

from propel_assets.sandbox.people import Org

SINGLE_ROLE = "single_role_in_hierarchy"
MULTI_ROLE = "multi_role"


@dataclass(frozen=True)
class RoleMapping:
    """The roles of the members of an org that uses this mapping."""

    name: str
    structure: str
    permissions: dict[str, tuple[str, ...]]
    """The permissions of each role beyond those of inferior roles, superior roles first."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Superior roles first: the first for the creator of an org, the last for new members."""
        return tuple(self.permissions)


@dataclass(frozen=True, slots=True)
class Membership:
    """One user in one org, from ``joined_at`` on. Times are Unix seconds."""

    user_id: str
    org_id: str
    role: str
    additional_roles: tuple[str, ...]
    joined_at: int
    left_at: int | None = None


def _builtin(*names: str) -> tuple[str, ...]:
    return tuple(f"propelauth::{name}" for name in names)


MAPPINGS = {
    mapping.name: mapping
    for mapping in (
        RoleMapping(
            "Default",
            SINGLE_ROLE,
            {
                "Owner": _builtin("can_delete_org", "can_setup_saml", "can_edit_org_access"),
                "Admin": (
                    *_builtin("can_invite", "can_change_roles", "can_remove_users"),
                    *_builtin("can_manage_api_keys", "can_update_org_metadata"),
                ),
                "Member": _builtin("can_view_other_members"),
            },
        ),
        RoleMapping(
            "Enterprise",
            SINGLE_ROLE,
            {
                "Owner": _builtin("can_delete_org", "can_setup_saml"),
                "Manager": (*_builtin("can_invite", "can_remove_users"), "reports::approve"),
                "Analyst": ("reports::write",),
                "Viewer": (*_builtin("can_view_other_members"), "reports::read"),
            },
        ),
        RoleMapping(
            "Project teams",
            MULTI_ROLE,
            {
                "Owner": _builtin("can_delete_org", "can_invite", "can_change_roles"),
                "Editor": (*_builtin("can_view_other_members"), "pages::write"),
                "Billing": ("invoices::pay",),
                "Contributor": (),
            },
        ),
        RoleMapping("Unused", SINGLE_ROLE, {"Owner": (), "Member": ()}),
    )
}


def member_info(membership: Membership, org: Org) -> dict[str, Any]:
    """Return the entry of ``org_id_to_org_info`` for one membership."""
    mapping = MAPPINGS[org.role_mapping]
    held = _held_roles(mapping, membership)
    single = mapping.structure == SINGLE_ROLE
    return {
        "org_id": org.org_id,
        "org_name": org.wire["name"],
        "org_metadata": org.wire.get("metadata", {}),
        "url_safe_org_name": org.wire["url_safe_org_slug"],
        "org_role_structure": mapping.structure,
        "user_role": membership.role,
        "inherited_user_roles_plus_current_role": list(held) if single else [membership.role],
        "user_permissions": [name for role in held for name in mapping.permissions[role]],
        "additional_roles": list(membership.additional_roles),
        **{key: org.wire[key] for key in ("legacy_org_id",) if key in org.wire},
    }


def _held_roles(mapping: RoleMapping, membership: Membership) -> tuple[str, ...]:
    """Return every role whose permissions the member has, the member's own first."""
    if mapping.structure == SINGLE_ROLE:
        return mapping.roles[mapping.roles.index(membership.role) :]
    return (membership.role, *membership.additional_roles)
