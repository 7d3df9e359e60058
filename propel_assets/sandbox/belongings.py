"""Invites, API keys, SCIM groups and employees.

Drawn once, from the state at the end of the script. They are not part of the history of events.

Source of the shapes: PropelAuth/propelauth-py 20487b0, ``api/org.py:318`` (invites),
``api/end_user_api_keys.py:36`` (keys: user_id and org_id are null unless they own the key),
``api/scim.py`` (groups).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from propel_assets.sandbox.people import DAY, Org, User, draw_uuid
from propel_assets.sandbox.roles import MAPPINGS, MULTI_ROLE, Membership

INVITE_DAYS = 5
GROUP_NAMES = ("Everyone", "Admins", "Contractors", "日本チーム", "R&D / Labs")


@dataclass(slots=True)
class ApiKey:
    """An end user's API key; never its token, which the real API shows only once."""

    wire: dict[str, Any]
    archived_at: int | None = None
    """Unix seconds when it expired or was deleted. None: a current key."""

    @property
    def api_key_id(self) -> str:
        """32 hexadecimal digits, lower case."""
        return self.wire["api_key_id"]


@dataclass(slots=True)
class ScimGroup:
    """A group that an org's identity provider pushed."""

    org_id: str
    wire: dict[str, Any]
    """The object as the list of groups sends it."""
    member_ids: list[str]


@dataclass(slots=True)
class Belongings:
    """Everything this module draws."""

    invites: list[dict[str, Any]] = field(default_factory=list)
    api_keys: dict[str, ApiKey] = field(default_factory=dict)
    groups: dict[str, ScimGroup] = field(default_factory=dict)
    employees: dict[str, str] = field(default_factory=dict)
    """E-mail address by employee_id."""


def draw_belongings(
    rng: Random,
    users: dict[str, User],
    orgs: dict[str, Org],
    members: dict[str, dict[str, Membership]],
    now: int,
) -> Belongings:
    """Return what present users and orgs own at ``now`` (Unix seconds).

    Args:
        rng: source of randomness.
        users: by user_id.
        orgs: by org_id.
        members: memberships by org_id, then user_id.
        now: the latest time that occurs.
    """
    belongings = Belongings()
    belongings.employees = {draw_uuid(rng): f"support-{i}@vendor.example" for i in range(4)}
    _impersonate(rng, users, list(belongings.employees))
    for org_id, org in orgs.items():
        emails = {user_id: users[user_id].wire["email"] for user_id in members[org_id]}
        belongings.invites += _draw_invites(rng, org, emails, now)
        if org.wire["is_saml_configured"]:
            for group in _draw_groups(rng, org_id, list(emails)):
                belongings.groups[group.wire["group_id"]] = group
    for user, org in _draw_key_owners(rng, users, orgs, members):
        key = _draw_api_key(rng, user, org, now)
        belongings.api_keys[key.api_key_id] = key
    return belongings


def calls_on(key: ApiKey, day: int) -> int:
    """Return how often ``key`` was used on ``day`` (days since 1970, UTC). The number never changes."""
    end = key.archived_at
    if day < key.wire["created_at"] // DAY or (end is not None and day > end // DAY):
        return 0
    busy = int(key.api_key_id[:6], 16) % 400
    return (int(key.api_key_id[-8:], 16) * (day + 1)) % 997 * busy // 997


def _draw_invites(rng: Random, org: Org, emails: dict[str, str], now: int) -> Iterator[dict[str, Any]]:
    """Yield an org's pending invites. No inviter: invited through the API."""
    mapping = MAPPINGS[org.role_mapping]
    for serial in range(int(rng.random() ** 2 * 5) if emails else 0):
        inviter = rng.choice(list(emails)) if rng.random() < 0.8 else None
        created_at = now - int(rng.random() * INVITE_DAYS * DAY)
        yield {
            "invitee_email": f"guest.{serial}@{org.wire.get('domain', 'mail.example')}",
            "org_id": org.org_id,
            "org_name": org.wire["name"],
            "role_in_org": mapping.roles[-1],
            "additional_roles_in_org": [mapping.roles[1]] * (mapping.structure == MULTI_ROLE),
            "created_at": created_at,
            "expires_at": created_at + INVITE_DAYS * DAY,
            "inviter_email": emails[inviter] if inviter else None,
            "inviter_user_id": inviter,
        }


def _draw_key_owners(
    rng: Random,
    users: dict[str, User],
    orgs: dict[str, Org],
    members: dict[str, dict[str, Membership]],
) -> Iterator[tuple[User | None, Org | None]]:
    """Yield the owners of generic keys, personal keys, keys of orgs, and of members in orgs."""
    yield from [(None, None)] * 3
    yield from ((user, None) for user in rng.sample(list(users.values()), len(users) // 25))
    yield from ((None, org) for org in rng.sample(list(orgs.values()), len(orgs) // 2))
    for org_id in rng.sample(list(orgs), len(orgs) // 4):
        if members[org_id]:
            yield users[rng.choice(list(members[org_id]))], orgs[org_id]


def _draw_api_key(rng: Random, user: User | None, org: Org | None, now: int) -> ApiKey:
    """Return one key, made after its owners were, and archived or current at ``now``."""
    born = max(user.wire["created_at"] if user else 0, org.created_at if org else 0)
    born = max(born, now - 600 * DAY)
    created_at = born + int(rng.random() * (now - born))
    archived = rng.random() < 1 / 3
    end = created_at + int(rng.random() * (now - created_at)) if archived else None
    expires = rng.random() < 0.5
    wire: dict[str, Any] = {
        "api_key_id": f"{rng.getrandbits(128):032x}",
        "created_at": created_at,
        "expires_at_seconds": (end or now + int(rng.random() * 90 * DAY)) if expires else None,
        "metadata": {"env": "prod", "scopes": ["read", "écrire"]} if rng.random() < 0.4 else None,
        "user_id": user.user_id if user else None,
        "org_id": org.org_id if org else None,
    }
    if rng.random() < 0.6:
        wire["display_name"] = f"CI key №{int(rng.random() * 100)}"
    return ApiKey(wire, end)


def _draw_groups(rng: Random, org_id: str, members: list[str]) -> Iterator[ScimGroup]:
    """Yield the groups of an org with SAML: one of all members, and smaller ones."""
    for place, name in enumerate(GROUP_NAMES[: 1 + int(rng.random() * len(GROUP_NAMES))]):
        wire = {"group_id": draw_uuid(rng), "display_name": name}
        if rng.random() < 0.7:
            wire["external_id_from_idp"] = f"idp-{wire['group_id'][:8]}"
        size = len(members) if place == 0 else int(len(members) * rng.random() * 0.5)
        yield ScimGroup(org_id, wire, rng.sample(members, size))


def _impersonate(rng: Random, users: dict[str, User], employee_ids: list[str]) -> None:
    """Let employees have impersonated one user in 400, at least one."""
    for user_id in rng.sample(list(users), min(len(users), 1 + len(users) // 400)):
        users[user_id].wire["impersonator_user_id"] = rng.choice(employee_ids)
