"""The state: a script of events replayed, the queries on it, and the changes tests make to it.

Everything is guarded by one lock, since the server answers from another thread. Every change is an
event appended to ``history``, at a clock that moves one second for each, so what happened and what
is there cannot disagree.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from random import Random
from threading import RLock
from typing import Any

from propel_assets.sandbox.belongings import ApiKey, ScimGroup, draw_belongings
from propel_assets.sandbox.people import DAY, Org, User, draw_org, draw_user
from propel_assets.sandbox.roles import MAPPINGS, Membership, member_info
from propel_assets.sandbox.seed import Event, Kind, write_script

# (sort key, descending) by the order_by of user/query and org/query
USER_ORDERS: dict[str, tuple[Callable[[User], Any], bool]] = {
    "CREATED_AT_ASC": (lambda user: user.wire["created_at"], False),
    "CREATED_AT_DESC": (lambda user: user.wire["created_at"], True),
    "LAST_ACTIVE_AT_ASC": (lambda user: user.wire["last_active_at"], False),
    "LAST_ACTIVE_AT_DESC": (lambda user: user.wire["last_active_at"], True),
    "EMAIL": (lambda user: user.wire["email"], False),
    "USERNAME": (lambda user: ("username" not in user.wire, user.wire.get("username")), False),
}
ORG_ORDERS: dict[str, tuple[Callable[[Org], Any], bool]] = {
    "CREATED_AT_ASC": (lambda org: org.created_at, False),
    "CREATED_AT_DESC": (lambda org: org.created_at, True),
    "NAME": (lambda org: org.wire["name"], False),
}


class Store:
    """One PropelAuth environment.

    Attributes:
        now: the clock in Unix seconds; each change moves it by one second.
        users: present users by user_id, in the order they signed up.
        orgs: present orgs by org_id, in the order they were created.
        everyone, every_org: the same, with those that were deleted.
        of_user: present memberships by user_id, then org_id.
        of_org: the same memberships by org_id, then user_id.
        past_memberships: those that ended, with ``left_at``.
        history: everything that ever happened, in order. Deletion ends memberships silently.
        invites: pending invites as the API sends them.
        api_keys, groups, employees: see ``belongings.py``.
        version: changes whenever the state does.
    """

    def __init__(self, *, seed: int, now: date, users: int, orgs: int) -> None:
        """Replay the script that leads to ``users`` users and ``orgs`` orgs at noon of ``now``."""
        script = write_script(seed=seed, now=now, users=users, orgs=orgs)
        self.lock = RLock()
        self.seed, self.now, self.first_day = seed, script.now, script.first_day
        self.version = 0
        self.users: dict[str, User] = {}
        self.orgs: dict[str, Org] = {}
        self.everyone, self.every_org = script.users, script.orgs
        self.of_user: dict[str, dict[str, Membership]] = {}
        self.of_org: dict[str, dict[str, Membership]] = {}
        self.past_memberships: list[Membership] = []
        self.history: list[Event] = []
        self.invites: list[dict[str, Any]] = []
        self.api_keys: dict[str, ApiKey] = {}
        self.groups: dict[str, ScimGroup] = {}
        self._cache: dict[str, Any] = {}
        self._cached_version = 0
        for event in script.events:
            self._apply(event)
        self._rng = Random(f"{seed} changes")  # noqa: S311 - reproducible people, no secrets
        belongings = draw_belongings(self._rng, self.users, self.orgs, self.of_org, self.now)
        self.invites, self.api_keys = belongings.invites, belongings.api_keys
        self.groups, self.employees = belongings.groups, belongings.employees

    # Queries

    def user_object(self, user_id: str, *, include_orgs: bool = False) -> dict[str, Any]:
        """Return a user as the API sends it. The object is the caller's own."""
        wire = dict(self.users[user_id].wire)
        if include_orgs:
            wire["org_id_to_org_info"] = {
                org_id: member_info(membership, self.orgs[org_id])
                for org_id, membership in self.of_user[user_id].items()
            }
        return wire

    def sorted_users(self, order_by: str) -> list[User]:
        """Return present users by ``UserQueryOrderBy``; ties stay in the order of sign-up."""
        key, descending = USER_ORDERS[order_by]
        return self.cached(
            f"users {order_by}",
            lambda: sorted(self.users.values(), key=key, reverse=descending),
        )

    def sorted_orgs(self, order_by: str) -> list[Org]:
        """Return present orgs by ``OrgQueryOrderBy``; ties stay in the order of creation."""
        key, descending = ORG_ORDERS[order_by]
        return self.cached(
            f"orgs {order_by}",
            lambda: sorted(self.orgs.values(), key=key, reverse=descending),
        )

    def user_by(self, name: str, value: str) -> User | None:
        """Return the user whose ``email`` or ``username`` is ``value``, whatever its case."""
        index: dict[str, User] = self.cached(
            f"by {name}",
            lambda: {u.wire[name].lower(): u for u in self.users.values() if name in u.wire},
        )
        return index.get(value.lower())

    def cached(self, name: str, build: Callable[[], Any]) -> Any:
        """Return what ``build`` returned when first asked for ``name`` since the last change."""
        if self._cached_version != self.version:
            self._cache.clear()
            self._cached_version = self.version
        if name not in self._cache:
            self._cache[name] = build()
        return self._cache[name]

    # Changes

    def add_user(self, **fields: Any) -> str:
        """Sign up a user; ``fields`` replace what was drawn, by wire name. Return the user_id."""
        with self.lock:
            serial, at = len(self.everyone), self.now + 1
            user = draw_user(self._rng, serial, at, domain=None, late=True)
            user.wire |= {"last_active_at": fields.get("created_at", at)} | fields
            self._settle(user)
            self.everyone[user.user_id] = user
            self._happen("signed_up", user.user_id)
            return user.user_id

    def update_user(self, user_id: str, **fields: Any) -> None:
        """Set fields of a user, by wire name. Neither an event nor an activity."""
        with self.lock:
            self.now += 1
            self.version += 1
            self.users[user_id].wire |= fields
            self._settle(self.users[user_id])

    def touch_user(self, user_id: str) -> None:
        """Let a user be active now."""
        with self.lock:
            self.update_user(user_id, last_active_at=self.now + 1)

    def delete_user(self, user_id: str) -> None:
        """Delete a user, the memberships, and the personal API keys."""
        with self.lock:
            self._happen("deleted", self.users[user_id].user_id)

    def add_org(self, **fields: Any) -> str:
        """Create an org; ``fields`` replace what was drawn, by wire name. Return the org_id."""
        with self.lock:
            org = draw_org(self._rng, len(self.every_org), self.now + 1)
            org.wire |= fields
            self.every_org[org.org_id] = org
            self._happen("org_created", org_id=org.org_id)
            return org.org_id

    def update_org(self, org_id: str, **fields: Any) -> None:
        """Set fields of an org, by wire name."""
        with self.lock:
            self.now += 1
            self.version += 1
            self.orgs[org_id].wire |= fields

    def delete_org(self, org_id: str) -> None:
        """Delete an org, its memberships, invites, keys and groups. Its members stay."""
        with self.lock:
            self._happen("org_deleted", org_id=self.orgs[org_id].org_id)

    def add_membership(self, user_id: str, org_id: str, *roles: str) -> None:
        """Let a user join an org with these roles, the first its ``user_role``.

        Without roles: the lowest one of the org.
        """
        with self.lock:
            role, *additional = roles or MAPPINGS[self.orgs[org_id].role_mapping].roles[-1:]
            if org_id in self.of_user[user_id]:
                raise ValueError(f"{user_id} is a member of {org_id} already")
            self._check_roles(org_id, roles)
            self._happen("joined_org", user_id, org_id, role, tuple(additional))

    def remove_membership(self, user_id: str, org_id: str) -> None:
        """Let a user leave an org."""
        with self.lock:
            membership = self.of_user[user_id][org_id]
            self._happen("left_org", membership.user_id, membership.org_id)

    def change_role(self, user_id: str, org_id: str, *roles: str) -> None:
        """Give a member these roles, the first its ``user_role``."""
        with self.lock:
            role, *additional = roles
            previous = self.of_user[user_id][org_id].role
            self._check_roles(org_id, roles)
            self._happen("role_changed", user_id, org_id, role, tuple(additional), previous)

    def advance(self, days: int) -> None:
        """Let ``days`` days pass in which nothing happens."""
        with self.lock:
            self.now += days * DAY
            self.version += 1

    # What events do

    def _happen(
        self,
        kind: Kind,
        user_id: str | None = None,
        org_id: str | None = None,
        role: str | None = None,
        additional_roles: tuple[str, ...] = (),
        previous_role: str | None = None,
    ) -> None:
        self.now += 1
        self._apply(Event(self.now, kind, user_id, org_id, role, additional_roles, previous_role))

    def _apply(self, event: Event) -> None:
        """Do to the state what the event says, and remember it."""
        self.version += 1
        self.history.append(event)
        match event:
            case Event(kind="signed_up", user_id=str(user_id)):
                self.users[user_id] = self.everyone[user_id]
                self.of_user[user_id] = {}
            case Event(kind="org_created", org_id=str(org_id)):
                self.orgs[org_id] = self.every_org[org_id]
                self.of_org[org_id] = {}
            case Event(kind="deleted", user_id=str(user_id)):
                self._forget_user(user_id, event.at)
            case Event(kind="org_deleted", org_id=str(org_id)):
                self._forget_org(org_id, event.at)
            case Event(kind="joined_org", user_id=str(user_id), org_id=str(org_id), role=str(role)):
                self._enter(Membership(user_id, org_id, role, event.additional_roles, event.at))
            case Event(kind="left_org", user_id=str(user_id), org_id=str(org_id)):
                self._leave(user_id, org_id, event.at)
            case Event(kind="role_changed", user_id=str(user_id), org_id=str(org_id)):
                self._enter(
                    replace(
                        self.of_user[user_id][org_id],
                        role=event.role,
                        additional_roles=event.additional_roles,
                    )
                )

    def _enter(self, membership: Membership) -> None:
        self.of_user[membership.user_id][membership.org_id] = membership
        self.of_org[membership.org_id][membership.user_id] = membership

    def _leave(self, user_id: str, org_id: str, at: int) -> None:
        membership = self.of_user[user_id].pop(org_id)
        del self.of_org[org_id][user_id]
        self.past_memberships.append(replace(membership, left_at=at))
        for group in self.groups.values():
            if group.org_id == org_id and user_id in group.member_ids:
                group.member_ids.remove(user_id)

    def _forget_user(self, user_id: str, at: int) -> None:
        for org_id in list(self.of_user[user_id]):
            self._leave(user_id, org_id, at)
        del self.users[user_id], self.of_user[user_id]
        for invite in self.invites:
            if invite["inviter_user_id"] == user_id:
                invite |= {"inviter_user_id": None, "inviter_email": None}
        self._drop_api_keys("user_id", user_id)

    def _forget_org(self, org_id: str, at: int) -> None:
        for user_id in list(self.of_org[org_id]):
            self._leave(user_id, org_id, at)
        del self.orgs[org_id], self.of_org[org_id]
        self.invites = [invite for invite in self.invites if invite["org_id"] != org_id]
        self.groups = {key: group for key, group in self.groups.items() if group.org_id != org_id}
        self._drop_api_keys("org_id", org_id)

    def _drop_api_keys(self, owner: str, value: str) -> None:
        for key_id in [key_id for key_id, key in self.api_keys.items() if key.wire[owner] == value]:
            del self.api_keys[key_id]

    def _check_roles(self, org_id: str, roles: tuple[str, ...]) -> None:
        known = MAPPINGS[self.orgs[org_id].role_mapping].roles
        if unknown := set(roles) - set(known):
            raise ValueError(f"org {org_id} has the roles {known}, not {unknown}")

    def _settle(self, user: User) -> None:
        """Make the days of activity end where ``last_active_at`` says."""
        first = user.wire["created_at"] // DAY - self.first_day
        last = user.wire["last_active_at"] // DAY - self.first_day
        if not 0 <= first <= last:
            raise ValueError("created_at <= last_active_at must lie within the history")
        earlier = user.activity & ((1 << last) - 1) & -(1 << first)
        user.activity = earlier | 1 << first | 1 << last
