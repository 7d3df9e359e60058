"""The endpoints of users and employees: one method for each.

Source: PropelAuth/propelauth-py 20487b0 (``api/user.py``), PropelAuth/node-apis f3609bd, and
PropelAuth's Postman collection. Not documented, so decided here: pages after the last one are empty,
the members of an unknown org are a 404, names are searched in any case.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

from propel_assets.sandbox import parameters
from propel_assets.sandbox.calls import NOT_FOUND, Call, find_org, shape, shuffle_ties
from propel_assets.sandbox.parameters import Refusal
from propel_assets.sandbox.people import SOCIAL_PROVIDERS, User
from propel_assets.sandbox.store import USER_ORDERS, Store


class UserEndpoints:
    """Users and employees. The caller holds the store's lock."""

    def __init__(self, store: Store) -> None:
        """Read from ``store``."""
        self._store = store
        self._rng = Random(f"{store.seed} ties")  # noqa: S311 - reproducible, no secrets

    def user_query(self, call: Call) -> dict[str, Any]:
        """GET user/query."""
        order_by = parameters.choice(call.query, "order_by", tuple(USER_ORDERS))
        part = (parameters.text(call.query, "email_or_username") or "").lower()
        legacy_id = parameters.text(call.query, "legacy_user_id")
        users = self._store.sorted_users(order_by)
        if "shuffled_ties" in call.active:
            users = shuffle_ties(self._rng, users, USER_ORDERS[order_by])
        if part:
            users = [user for user in users if _named_like(user, part)]
        if legacy_id:
            users = [user for user in users if user.wire.get("legacy_user_id") == legacy_id]
        return self._user_page(call, users)

    def user_by_id(self, call: Call) -> dict[str, Any]:
        """GET user/{user_id}."""
        return self._user_object(call, self._user(call).user_id)

    def user_by_email(self, call: Call) -> dict[str, Any]:
        """GET user/email."""
        return self._user_by(call, "email")

    def user_by_username(self, call: Call) -> dict[str, Any]:
        """GET user/username."""
        return self._user_by(call, "username")

    def users_by_ids(self, call: Call) -> list[dict[str, Any]]:
        """POST user/user_ids."""
        known = self._store.users
        ids = [user_id for user_id in parameters.texts(call.body, "user_ids") if user_id in known]
        return [self._user_object(call, user_id) for user_id in ids]

    def users_by_emails(self, call: Call) -> list[dict[str, Any]]:
        """POST user/emails."""
        return self._users_by(call, "email")

    def users_by_usernames(self, call: Call) -> list[dict[str, Any]]:
        """POST user/usernames."""
        return self._users_by(call, "username")

    def users_in_org(self, call: Call) -> dict[str, Any]:
        """GET user/org/{org_id}."""
        if "unknown_org_empty" in call.active and call.path["org_id"] not in self._store.orgs:
            return self._user_page(call, [])
        members = self._store.of_org[find_org(self._store, call).org_id]
        role = parameters.text(call.query, "role")
        chosen = [m for m in members.values() if role in (None, m.role)]
        page = self._user_page(call, [self._store.users[m.user_id] for m in chosen])
        for user in page["users"]:
            membership = members[user["user_id"]]
            user["role_in_org"] = membership.role
            user["additional_roles_in_org"] = list(membership.additional_roles)
        return page

    def signup_query_parameters(self, call: Call) -> dict[str, Any]:
        """GET user/{user_id}/signup_query_parameters."""
        return {"user_signup_query_parameters": self._user(call).signup_query_parameters}

    def mfa(self, call: Call) -> dict[str, Any]:
        """GET user/{user_id}/mfa."""
        return {"mfa_setup": self._user(call).mfa_setup}

    def oauth_tokens(self, call: Call) -> dict[str, Any]:
        """GET user/{user_id}/oauth_token. The tokens are not valid anywhere."""
        provider = self._user(call).social_provider
        return {provider: _social_token(provider)} if provider else {}

    def fresh_token(self, call: Call) -> dict[str, Any]:
        """GET user/{user_id}/{provider}/fresh_token. The token is not valid anywhere."""
        provider = call.path["provider"]
        if provider not in SOCIAL_PROVIDERS or self._user(call).social_provider != provider:
            raise Refusal(NOT_FOUND)
        return _social_token(provider)

    def userinfo(self, call: Call) -> dict[str, Any]:
        """GET /propelauth/oauth/userinfo: the first user to sign up who is in an org."""
        for user_id in self._store.users:
            if self._store.of_user[user_id]:
                return self._store.user_object(user_id, include_orgs=True)
        raise Refusal(NOT_FOUND)

    def employee(self, call: Call) -> dict[str, Any]:
        """GET employee/{employee_id}."""
        email = self._store.employees.get(call.path["employee_id"])
        if email is None:
            raise Refusal(NOT_FOUND)
        return {"email": email}

    def _user(self, call: Call) -> User:
        user = self._store.users.get(call.path["user_id"])
        if user is None:
            raise Refusal(NOT_FOUND)
        return user

    def _user_object(self, call: Call, user_id: str) -> dict[str, Any]:
        include = parameters.flag(call.query, "include_orgs") and "orgs_off" not in call.active
        user = self._store.user_object(user_id, include_orgs=include)
        for membership in user.get("org_id_to_org_info", {}).values():
            shape("memberships", membership, call.active)
        return shape("users", user, call.active)

    def _user_page(self, call: Call, users: Sequence[User]) -> dict[str, Any]:
        paging = call.paging()
        parameters.flag(call.query, "include_orgs")  # refuse a wrong value on empty pages too
        rows = [self._user_object(call, user.user_id) for user in paging.cut(users)]
        return {"users": rows, **paging.envelope("total_users", len(users))}

    def _user_by(self, call: Call, name: str) -> dict[str, Any]:
        user = self._store.user_by(name, parameters.required_text(call.query, name))
        if user is None:
            raise Refusal(NOT_FOUND)
        return self._user_object(call, user.user_id)

    def _users_by(self, call: Call, name: str) -> list[dict[str, Any]]:
        found = [self._store.user_by(name, v) for v in parameters.texts(call.body, f"{name}s")]
        return [self._user_object(call, user.user_id) for user in found if user]


def _named_like(user: User, part: str) -> bool:
    names = (user.wire["email"], user.wire.get("username", ""))
    return any(part in name.lower() for name in names)


def _social_token(provider: str) -> dict[str, Any]:
    return {
        "access_token": "sandbox-opens-nothing",
        "token_provider": provider,
        "authorized_scopes": ["email", "profile"],
    }
