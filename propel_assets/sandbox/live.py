"""Live mode: changes of the state that go on while the sandbox runs, drawn from a seed.

The first changes cover all types of webhook events, in the order of ``CHANGES``. Then follows a mix as in a small
product: mostly log-ins, some sign-ups and changes of profiles, a few changes of orgs, roles, API keys and SCIM groups.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Self

from propel_assets.sandbox.roles import MAPPINGS
from propel_assets.sandbox.store import Store

MAX_DRAWS = 20
Candidates = Callable[[Store, Random], Sequence[Any]]


@dataclass(frozen=True)
class Change:
    """One kind of change. ``weight``: its share of the mix. ``candidates``: what it can be applied to."""

    weight: float
    candidates: Candidates
    apply: Callable[[Store, Random, Any], object]


def _users(**fields: Any) -> Candidates:
    """Return the candidates: ids of users whose fields have these values."""
    return lambda store, _: [u.user_id for u in store.users.values() if _has(u.wire, fields)]


def _orgs(**fields: Any) -> Candidates:
    """Return the candidates: ids of orgs whose fields have these values."""
    return lambda store, _: [o.org_id for o in store.orgs.values() if _has(o.wire, fields)]


def _has(wire: dict[str, Any], fields: dict[str, Any]) -> bool:
    return all(wire.get(name) == value for name, value in fields.items())


def _memberships(store: Store, _: Random | None = None) -> list[tuple[str, str]]:
    return [(user_id, org_id) for user_id, orgs in store.of_user.items() for org_id in orgs]


def _possible_memberships(store: Store, rng: Random) -> list[tuple[str, str]]:
    """Return the candidates for one org: all orgs times all users could be very many."""
    org_id = rng.choice(list(store.of_org)) if store.of_org else ""
    members = store.of_org.get(org_id, store.users)
    return [(user_id, org_id) for user_id in store.users if user_id not in members]


def _pending_invites(store: Store, _: Random) -> list[tuple[str, str]]:
    """Return org and address of the invites of people who are not in the org."""
    members = {(org_id, store.users[user_id].wire["email"]) for user_id, org_id in _memberships(store)}
    return [i for invite in store.invites if (i := (invite["org_id"], invite["invitee_email"])) not in members]


def _api_keys(owner: str) -> Candidates:
    """Return the candidates: ids of current API keys of orgs (`org_id`) or of users alone (`user_id`)."""
    other = {"org_id": "", "user_id": "org_id"}[owner]
    return lambda store, _: [
        key.api_key_id
        for key in store.api_keys.values()
        if key.archived_at is None and key.wire[owner] and not key.wire.get(other)
    ]


def _group_members(store: Store, _: Random) -> list[tuple[str, str]]:
    return [(user_id, group_id) for group_id, group in store.groups.items() for user_id in group.member_ids]


def _possible_group_members(store: Store, _: Random) -> list[tuple[str, str]]:
    return [
        (user_id, group_id)
        for group_id, group in store.groups.items()
        for user_id in store.of_org[group.org_id]
        if user_id not in group.member_ids
    ]


def _change_role(store: Store, rng: Random, membership: tuple[str, str]) -> None:
    user_id, org_id = membership
    present = store.of_user[user_id][org_id].role
    roles = MAPPINGS[store.orgs[org_id].role_mapping].roles
    store.change_role(user_id, org_id, rng.choice([role for role in roles if role != present]))


def _invite(store: Store, rng: Random, membership: tuple[str, str]) -> None:
    inviter_id, org_id = membership
    store.invite(org_id, f"guest.{rng.getrandbits(48):012x}@mail.example", inviter_id)


CHANGES = {
    "sign up": Change(8, lambda *_: [None], lambda store, _, __: store.add_user()),
    "log in": Change(
        46,
        _users(enabled=True, locked=False),
        lambda store, rng, user: store.log_in(user, rng.choice([*store.of_user[user], None])),
    ),
    "create an org": Change(2, lambda *_: [None], lambda store, _, __: store.add_org()),
    "update a user": Change(
        10, _users(), lambda store, rng, user: store.update_user(user, first_name=f"Noor {rng.randrange(1_000)}")
    ),
    "join an org": Change(6, _possible_memberships, lambda store, _, pair: store.add_membership(*pair)),
    "change a role": Change(4, _memberships, _change_role),
    "update an org": Change(
        3, _orgs(), lambda store, rng, org: store.update_org(org, metadata={"plan": "pro", "seats": rng.random()})
    ),
    "invite": Change(3, _memberships, _invite),
    "accept an invite": Change(2, _pending_invites, lambda store, _, invite: store.accept_invite(*invite)),
    "impersonate": Change(
        1, _users(), lambda store, rng, user: store.impersonate(user, rng.choice(list(store.employees)))
    ),
    "send a code": Change(2, _users(), lambda store, _, user: store.send_mfa_phone_code(user)),
    "disable a user": Change(1, _users(enabled=True), lambda store, _, user: store.update_user(user, enabled=False)),
    "enable a user": Change(1, _users(enabled=False), lambda store, _, user: store.update_user(user, enabled=True)),
    "lock a user": Change(0.5, _users(locked=False), lambda store, _, user: store.update_user(user, locked=True)),
    "unlock a user": Change(0.5, _users(locked=True), lambda store, _, user: store.update_user(user, locked=False)),
    "create an API key of an org": Change(1, _orgs(), lambda store, _, org: store.add_api_key(org_id=org)),
    "delete an API key of an org": Change(1, _api_keys("org_id"), lambda store, _, key: store.delete_api_key(key)),
    "create an API key of a user": Change(1, _users(), lambda store, _, user: store.add_api_key(user_id=user)),
    "delete an API key of a user": Change(1, _api_keys("user_id"), lambda store, _, key: store.delete_api_key(key)),
    "set up SAML": Change(
        0.5,
        _orgs(is_saml_configured=False),
        lambda store, _, org: store.update_org(org, is_saml_configured=True, is_saml_in_test_mode=True),
    ),
    "take SAML live": Change(
        0.5,
        _orgs(is_saml_configured=True, is_saml_in_test_mode=True),
        lambda store, _, org: store.update_org(org, is_saml_in_test_mode=False),
    ),
    "remove SAML": Change(
        0.5,
        _orgs(is_saml_configured=True),
        lambda store, _, org: store.update_org(org, is_saml_configured=False, is_saml_in_test_mode=False),
    ),
    "create a SCIM key": Change(0.5, _orgs(), lambda store, _, org: store.add_scim_key(org)),
    "revoke a SCIM key": Change(
        0.5, lambda store, _: list(store.scim_keys), lambda store, _, key: store.revoke_scim_key(key)
    ),
    "create a SCIM group": Change(
        1, _memberships, lambda store, rng, pair: store.add_scim_group(pair[1], f"Team {rng.randrange(1_000)}")
    ),
    "join a SCIM group": Change(2, _possible_group_members, lambda store, _, pair: store.add_to_scim_group(*pair)),
    "rename a SCIM group": Change(
        1,
        lambda store, _: list(store.groups),
        lambda store, rng, group: store.rename_scim_group(group, f"Team {rng.randrange(1_000)}"),
    ),
    "leave a SCIM group": Change(1, _group_members, lambda store, _, pair: store.remove_from_scim_group(*pair)),
    "delete a SCIM group": Change(
        0.5, lambda store, _: list(store.groups), lambda store, _, group: store.delete_scim_group(group)
    ),
    "log out": Change(8, _users(), lambda store, _, user: store.log_out(user)),
    "leave an org": Change(2, _memberships, lambda store, _, pair: store.remove_membership(*pair)),
    "delete a user": Change(3, _users(), lambda store, _, user: store.delete_user(user)),
    "delete an org": Change(0.2, _orgs(), lambda store, _, org: store.delete_org(org)),
}


class LiveMode:
    """The changes of one sandbox.

    While the ``with`` block lasts, a thread makes ``per_minute`` changes; 0: only ``step`` makes some.
    """

    def __init__(self, store: Store, *, seed: int, per_minute: float = 0) -> None:
        """Change ``store``."""
        self._store, self._per_minute = store, per_minute
        self._rng = Random(f"{seed} live")  # noqa: S311 - reproducible, no secrets
        self._opening = list(CHANGES)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def __enter__(self) -> Self:
        """Start."""
        if self._per_minute:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def step(self) -> str:
        """Make the next change and return its name. Instead of one that is impossible, another is drawn."""
        with self._store.lock:
            names = self._rng.choices(list(CHANGES), [change.weight for change in CHANGES.values()], k=MAX_DRAWS)
            if self._opening:
                names.insert(0, self._opening.pop(0))
            for name in [*names, "sign up"]:  # a sign-up is always possible
                if candidates := CHANGES[name].candidates(self._store, self._rng):
                    CHANGES[name].apply(self._store, self._rng, self._rng.choice(candidates))
                    return name
        raise AssertionError("unreachable")

    def _run(self) -> None:
        while not self._stop.wait(self._rng.expovariate(self._per_minute / 60)):
            self.step()
