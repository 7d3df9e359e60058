"""The state of the sandbox: a script of events that is replayed, queries on it, and changes.

One lock guards the state, because the server runs in another thread. A change of users, orgs and memberships is an
event of ``history``, so history and state cannot disagree. Every change that PropelAuth reports by a webhook is an
event of ``events`` too, and is passed on to the subscribers.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from random import Random
from threading import RLock
from typing import Any

from propel_assets.sandbox.belongings import ApiKey, ScimGroup, draw_belongings
from propel_assets.sandbox.events import WebhookEvent, make_event
from propel_assets.sandbox.people import DAY, Org, User, draw_org, draw_user, draw_uuid
from propel_assets.sandbox.roles import MAPPINGS, Membership, member_info
from propel_assets.sandbox.seed import Event, Kind, write_script

LOG_LENGTH = 100_000
INVITE_SECONDS = 5 * DAY
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
        now: the clock in Unix seconds. Each change moves it: by one second, or to the time of this machine if live.
        users: present users by user_id, in the order of sign-up.
        orgs: present orgs by org_id, in the order of creation.
        all_users, all_orgs: the same, including deleted ones.
        of_user: present memberships by user_id, then org_id.
        of_org: the same memberships by org_id, then user_id.
        past_memberships: memberships that ended, with ``left_at``.
        history: all changes of users, orgs and memberships, in order. Deletion ends memberships without an event.
        events: the last 100,000 webhook events since the start, in order.
        invites: pending invites as the API sends them.
        api_keys, groups, employees: see ``belongings.py``.
        scim_keys: org_id by the id of a SCIM key. No endpoint lists them.
        version: a number that is different after each change.
    """

    def __init__(self, *, seed: int, now: date, users: int, orgs: int, live: bool = False) -> None:
        """Replay the script that leads to ``users`` users and ``orgs`` orgs at noon of ``now``.

        Args:
            seed: decides every byte, with the three others.
            now: the current date.
            users: how many there are at noon.
            orgs: how many there are at noon.
            live: each change sets the clock to the time of this machine.
        """
        script = write_script(seed=seed, now=now, users=users, orgs=orgs)
        self.lock = RLock()
        self.seed, self.now, self.first_day = seed, script.now, script.first_day
        self.version = 0
        self.users: dict[str, User] = {}
        self.orgs: dict[str, Org] = {}
        self.all_users, self.all_orgs = script.users, script.orgs
        self.of_user: dict[str, dict[str, Membership]] = {}
        self.of_org: dict[str, dict[str, Membership]] = {}
        self.past_memberships: list[Membership] = []
        self.history: list[Event] = []
        self.invites: list[dict[str, Any]] = []
        self.api_keys: dict[str, ApiKey] = {}
        self.groups: dict[str, ScimGroup] = {}
        self.scim_keys: dict[str, str] = {}
        self.events: deque[WebhookEvent] = deque(maxlen=LOG_LENGTH)
        self._event_count = 0
        self._subscribers: list[Callable[[WebhookEvent], None]] = []
        self._live = live
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
        """Return a user as the API sends it, as a new object."""
        wire = dict(self.users[user_id].wire)
        if include_orgs:
            wire["org_id_to_org_info"] = {
                org_id: member_info(membership, self.orgs[org_id])
                for org_id, membership in self.of_user[user_id].items()
            }
        return wire

    def sorted_users(self, order_by: str) -> list[User]:
        """Return present users by ``UserQueryOrderBy``; ties are in the order of sign-up."""
        key, descending = USER_ORDERS[order_by]
        return self.cached(
            f"users {order_by}",
            lambda: sorted(self.users.values(), key=key, reverse=descending),
        )

    def sorted_orgs(self, order_by: str) -> list[Org]:
        """Return present orgs by ``OrgQueryOrderBy``; ties are in the order of creation."""
        key, descending = ORG_ORDERS[order_by]
        return self.cached(
            f"orgs {order_by}",
            lambda: sorted(self.orgs.values(), key=key, reverse=descending),
        )

    def user_by(self, name: str, value: str) -> User | None:
        """Return the user whose ``email`` or ``username`` is ``value``, in any case."""
        index: dict[str, User] = self.cached(
            f"by {name}",
            lambda: {u.wire[name].lower(): u for u in self.users.values() if name in u.wire},
        )
        return index.get(value.lower())

    def cached(self, name: str, build: Callable[[], Any]) -> Any:
        """Return the result of ``build``, which is called once per ``name`` and change of the state."""
        if self._cached_version != self.version:
            self._cache.clear()
            self._cached_version = self.version
        if name not in self._cache:
            self._cache[name] = build()
        return self._cache[name]

    # Changes of users

    def add_user(self, **fields: Any) -> str:
        """Sign up a user; ``fields`` replace what was drawn, by wire name. Return the user_id."""
        with self.lock:
            self._tick()
            user = draw_user(self._rng, len(self.all_users), self.now, domain=None, late=True)
            user.wire |= {"last_active_at": fields.get("created_at", self.now)} | fields
            self._align_activity(user)
            self.all_users[user.user_id] = user
            self._apply(Event(self.now, "signed_up", user.user_id))
            shown = ("user_id", "email", "email_confirmed", "first_name", "last_name", "username", "picture_url")
            self._emit("user.created", **{name: user.wire.get(name) for name in shown})
            return user.user_id

    def update_user(self, user_id: str, **fields: Any) -> None:
        """Set fields of a user, by wire name. It is not an activity of the user."""
        with self.lock:
            self._tick()
            user = self.users[user_id]
            changed = {name for name, value in fields.items() if user.wire.get(name) != value}
            user.wire |= fields
            self._align_activity(user)
            for event_type in _user_events(changed, user.wire):
                self._emit(event_type, user_id=user_id)

    def touch_user(self, user_id: str) -> None:
        """Let a user be active now. No webhook reports that."""
        with self.lock:
            self.update_user(user_id, last_active_at=self._next_time())

    def log_in(self, user_id: str, org_id: str | None = None) -> None:
        """Let a user log in, to an org or to none."""
        with self.lock:
            self.touch_user(user_id)
            self._emit("user.login", user_id=user_id, active_org_id=org_id)

    def log_out(self, user_id: str) -> None:
        """Let a user log out."""
        with self.lock:
            self._emit("user.logged_out", user_id=self.users[user_id].user_id)

    def send_mfa_phone_code(self, user_id: str) -> None:
        """Send a code to the phone of a user."""
        with self.lock:
            setup = self.users[user_id].mfa_setup or {}
            suffix = setup.get("phone_numbers", [{"mfa_phone_number_suffix": "0000"}])[0]["mfa_phone_number_suffix"]
            self._emit("user.send_mfa_phone_code", user_id=user_id, phone_number=f"+1555000{suffix}")

    def impersonate(self, user_id: str, employee_id: str) -> None:
        """Let an employee impersonate a user."""
        with self.lock:
            self.update_user(user_id, impersonator_user_id=employee_id)
            self._emit("user.impersonated", user_id=user_id, impersonator_user_id=employee_id)

    def delete_user(self, user_id: str) -> None:
        """Delete a user, the memberships, and the personal API keys."""
        with self.lock:
            self._record("deleted", self.users[user_id].user_id)
            self._emit("user.deleted", user_id=user_id)

    # Changes of orgs and memberships

    def add_org(self, **fields: Any) -> str:
        """Create an org; ``fields`` replace what was drawn, by wire name. Return the org_id."""
        with self.lock:
            self._tick()
            org = draw_org(self._rng, len(self.all_orgs), self.now)
            org.wire |= fields
            self.all_orgs[org.org_id] = org
            self._apply(Event(self.now, "org_created", org_id=org.org_id))
            self._emit("org.created", name=org.wire["name"], org_id=org.org_id)
            return org.org_id

    def update_org(self, org_id: str, **fields: Any) -> None:
        """Set fields of an org, by wire name."""
        with self.lock:
            self._tick()
            wire = self.orgs[org_id].wire
            changed = {name for name, value in fields.items() if wire.get(name) != value}
            wire |= fields
            for event_type in _org_events(changed, wire):
                self._emit(event_type, org_id=org_id)

    def delete_org(self, org_id: str) -> None:
        """Delete an org, its memberships, invites, keys and groups. Its members remain users."""
        with self.lock:
            self._record("org_deleted", org_id=self.orgs[org_id].org_id)
            self._emit("org.deleted", org_id=org_id)

    def add_membership(self, user_id: str, org_id: str, *roles: str) -> None:
        """Let a user join an org with these roles, the first its ``user_role``.

        Without roles: the lowest one of the org.
        """
        with self.lock:
            role, *additional = roles or self._lowest_roles(org_id)
            if org_id in self.of_user[user_id]:
                raise ValueError(f"{user_id} is a member of {org_id} already")
            self._check_roles(org_id, roles)
            self._record("joined_org", user_id, org_id, role, tuple(additional))
            self._emit("user.added_to_org", user_id=user_id, org_id=org_id, role=role)

    def remove_membership(self, user_id: str, org_id: str) -> None:
        """Let a user leave an org."""
        with self.lock:
            membership = self.of_user[user_id][org_id]
            self._record("left_org", membership.user_id, membership.org_id)
            self._emit("user.removed_from_org", removed_user_id=user_id, org_id=org_id)

    def change_role(self, user_id: str, org_id: str, *roles: str) -> None:
        """Give a member these roles, the first its ``user_role``."""
        with self.lock:
            role, *additional = roles
            previous = self.of_user[user_id][org_id].role
            self._check_roles(org_id, roles)
            self._record("role_changed", user_id, org_id, role, tuple(additional), previous)
            self._emit("user.role_changed_within_org", user_id=user_id, org_id=org_id, new_role=role)

    def invite(self, org_id: str, email: str, inviter_id: str | None = None) -> None:
        """Invite an address to an org with its lowest role, by a member or through the API."""
        with self.lock:
            self._tick()
            (role,) = self._lowest_roles(org_id)
            self.invites.append(
                {
                    "invitee_email": email,
                    "org_id": org_id,
                    "org_name": self.orgs[org_id].wire["name"],
                    "role_in_org": role,
                    "additional_roles_in_org": [],
                    "created_at": self.now,
                    "expires_at": self.now + INVITE_SECONDS,
                    "inviter_email": self.users[inviter_id].wire["email"] if inviter_id else None,
                    "inviter_user_id": inviter_id,
                }
            )
            invited = self.user_by("email", email)
            user_id = invited.user_id if invited else None
            self._emit("user.invited_to_org", user_id=user_id, org_id=org_id, role=role)

    def accept_invite(self, org_id: str, email: str) -> str:
        """Let an invited address sign up, if it has no user yet, and join the org. Return the user_id."""
        with self.lock:
            invite = next(i for i in self.invites if (i["org_id"], i["invitee_email"]) == (org_id, email))
            self.invites.remove(invite)
            user = self.user_by("email", email)
            user_id = user.user_id if user else self.add_user(email=email)
            self.add_membership(user_id, org_id, invite["role_in_org"])
            return user_id

    # Changes of API keys and SCIM

    def add_api_key(self, *, user_id: str | None = None, org_id: str | None = None) -> str:
        """Create an API key of a user, of an org, or of a member. Return its id. No webhook reports that."""
        with self.lock:
            self._tick()
            key_id = f"{self._rng.getrandbits(128):032x}"
            wire = {"api_key_id": key_id, "created_at": self.now, "expires_at_seconds": None, "metadata": None}
            self.api_keys[key_id] = ApiKey({**wire, "user_id": user_id, "org_id": org_id})
            return key_id

    def delete_api_key(self, api_key_id: str) -> None:
        """Delete an API key: it is listed as archived."""
        with self.lock:
            self._tick()
            key = self.api_keys[api_key_id]
            key.archived_at = self.now
            if key.wire["org_id"]:
                self._emit("org.api_key_deleted", org_id=key.wire["org_id"], api_key_id=api_key_id)
            elif key.wire["user_id"]:
                self._emit("user.deleted_personal_api_key", user_id=key.wire["user_id"], api_key_id=api_key_id)

    def add_scim_group(self, org_id: str, display_name: str) -> str:
        """Create a SCIM group without members. Return its id."""
        with self.lock:
            self._tick()
            wire = {"group_id": draw_uuid(self._rng), "display_name": display_name}
            self.groups[wire["group_id"]] = ScimGroup(self.orgs[org_id].org_id, wire, [])
            self._emit_of_group("org.scim_group_created", wire["group_id"], display_name=display_name)
            return wire["group_id"]

    def rename_scim_group(self, group_id: str, display_name: str) -> None:
        """Rename a SCIM group."""
        with self.lock:
            self._tick()
            self.groups[group_id].wire["display_name"] = display_name
            self._emit_of_group("org.scim_group_updated", group_id, display_name=display_name)

    def delete_scim_group(self, group_id: str) -> None:
        """Delete a SCIM group."""
        with self.lock:
            self._tick()
            self._emit_of_group("org.scim_group_deleted", group_id)
            del self.groups[group_id]

    def add_to_scim_group(self, user_id: str, group_id: str) -> None:
        """Add a member of the org to a SCIM group."""
        with self.lock:
            self._tick()
            self.groups[group_id].member_ids.append(self.users[user_id].user_id)
            self._emit_of_group("user.added_to_scim_group", group_id, user_id=user_id)

    def remove_from_scim_group(self, user_id: str, group_id: str) -> None:
        """Remove a user from a SCIM group."""
        with self.lock:
            self._tick()
            self.groups[group_id].member_ids.remove(user_id)
            self._emit_of_group("user.removed_from_scim_group", group_id, user_id=user_id)

    def add_scim_key(self, org_id: str) -> str:
        """Create a SCIM key of an org. Return its id."""
        with self.lock:
            key_id = draw_uuid(self._rng)
            self.scim_keys[key_id] = self.orgs[org_id].org_id
            self._emit("org.scim_key_created", org_id=org_id, scim_key_id=key_id)
            return key_id

    def revoke_scim_key(self, key_id: str) -> None:
        """Revoke a SCIM key."""
        with self.lock:
            self._emit("org.scim_key_revoked", org_id=self.scim_keys.pop(key_id), scim_key_id=key_id)

    # The clock and the events

    def advance(self, days: int) -> None:
        """Let ``days`` days pass without a change."""
        with self.lock:
            self.now += days * DAY
            self.version += 1

    def subscribe(self, subscriber: Callable[[WebhookEvent], None]) -> None:
        """Call ``subscriber`` with each webhook event from now on, while the lock is held."""
        with self.lock:
            self._subscribers.append(subscriber)

    def _next_time(self) -> int:
        return max(self.now, int(time.time())) if self._live else self.now + 1

    def _tick(self) -> None:
        self.now = self._next_time()
        self.version += 1

    def _emit(self, event_type: str, **fields: Any) -> None:
        event = make_event(self._event_count, time.time(), event_type, fields)
        self._event_count += 1
        self.events.append(event)
        for subscriber in self._subscribers:
            subscriber(event)

    def _emit_of_group(self, event_type: str, group_id: str, **fields: Any) -> None:
        self._emit(event_type, org_id=self.groups[group_id].org_id, scim_group_id=group_id, **fields)

    # Effects of events

    def _record(
        self,
        kind: Kind,
        user_id: str | None = None,
        org_id: str | None = None,
        role: str | None = None,
        additional_roles: tuple[str, ...] = (),
        previous_role: str | None = None,
    ) -> None:
        self._tick()
        self._apply(Event(self.now, kind, user_id, org_id, role, additional_roles, previous_role))

    def _apply(self, event: Event) -> None:
        """Change the state by an event, and append it to the history."""
        self.version += 1
        self.history.append(event)
        match event:
            case Event(kind="signed_up", user_id=str(user_id)):
                self.users[user_id] = self.all_users[user_id]
                self.of_user[user_id] = {}
            case Event(kind="org_created", org_id=str(org_id)):
                self.orgs[org_id] = self.all_orgs[org_id]
                self.of_org[org_id] = {}
            case Event(kind="deleted", user_id=str(user_id)):
                self._remove_user(user_id, event.at)
            case Event(kind="org_deleted", org_id=str(org_id)):
                self._remove_org(org_id, event.at)
            case Event(kind="joined_org", user_id=str(user_id), org_id=str(org_id), role=str(role)):
                self._set_membership(Membership(user_id, org_id, role, event.additional_roles, event.at))
            case Event(kind="left_org", user_id=str(user_id), org_id=str(org_id)):
                self._end_membership(user_id, org_id, event.at)
            case Event(kind="role_changed", user_id=str(user_id), org_id=str(org_id)):
                self._set_membership(
                    replace(
                        self.of_user[user_id][org_id],
                        role=event.role,
                        additional_roles=event.additional_roles,
                    )
                )

    def _set_membership(self, membership: Membership) -> None:
        self.of_user[membership.user_id][membership.org_id] = membership
        self.of_org[membership.org_id][membership.user_id] = membership

    def _end_membership(self, user_id: str, org_id: str, at: int) -> None:
        membership = self.of_user[user_id].pop(org_id)
        del self.of_org[org_id][user_id]
        self.past_memberships.append(replace(membership, left_at=at))
        for group in self.groups.values():
            if group.org_id == org_id and user_id in group.member_ids:
                group.member_ids.remove(user_id)

    def _remove_user(self, user_id: str, at: int) -> None:
        for org_id in list(self.of_user[user_id]):
            self._end_membership(user_id, org_id, at)
        del self.users[user_id], self.of_user[user_id]
        for invite in self.invites:
            if invite["inviter_user_id"] == user_id:
                invite |= {"inviter_user_id": None, "inviter_email": None}
        self._remove_api_keys("user_id", user_id)

    def _remove_org(self, org_id: str, at: int) -> None:
        for user_id in list(self.of_org[org_id]):
            self._end_membership(user_id, org_id, at)
        del self.orgs[org_id], self.of_org[org_id]
        self.invites = [invite for invite in self.invites if invite["org_id"] != org_id]
        self.groups = {key: group for key, group in self.groups.items() if group.org_id != org_id}
        self._remove_api_keys("org_id", org_id)

    def _remove_api_keys(self, owner: str, value: str) -> None:
        for key_id in [key_id for key_id, key in self.api_keys.items() if key.wire[owner] == value]:
            del self.api_keys[key_id]

    def _lowest_roles(self, org_id: str) -> tuple[str, ...]:
        return MAPPINGS[self.orgs[org_id].role_mapping].roles[-1:]

    def _check_roles(self, org_id: str, roles: tuple[str, ...]) -> None:
        known = MAPPINGS[self.orgs[org_id].role_mapping].roles
        if unknown := set(roles) - set(known):
            raise ValueError(f"org {org_id} has the roles {known}, not {unknown}")

    def _align_activity(self, user: User) -> None:
        """Make the days of activity end on the day of ``last_active_at``."""
        first = user.wire["created_at"] // DAY - self.first_day
        last = user.wire["last_active_at"] // DAY - self.first_day
        if not 0 <= first <= last:
            raise ValueError("created_at <= last_active_at must be within the history")
        earlier = user.activity & ((1 << last) - 1) & -(1 << first)
        user.activity = earlier | 1 << first | 1 << last


def _user_events(changed: set[str], wire: dict[str, Any]) -> list[str]:
    """Return the events of a user whose fields changed. Activity and impersonation are not reported by them."""
    events = []
    if "enabled" in changed:
        events.append("user.enabled" if wire["enabled"] else "user.disabled")
    if "locked" in changed and wire["locked"]:
        events.append("user.locked")
        changed = changed - {"locked"}
    if changed - {"enabled", "last_active_at", "impersonator_user_id"}:
        events.append("user.updated")
    return events


def _org_events(changed: set[str], wire: dict[str, Any]) -> list[str]:
    """Return the events of an org whose fields changed."""
    events = []
    if "is_saml_configured" in changed:
        events.append("org.saml_setup" if wire["is_saml_configured"] else "org.saml_removed")
    if "is_saml_in_test_mode" in changed and wire["is_saml_configured"] and not wire["is_saml_in_test_mode"]:
        events.append("org.saml_went_live")
    if changed - {"is_saml_configured", "is_saml_in_test_mode"}:
        events.append("org.updated")
    return events
