"""What each endpoint answers: one method for each, from the state alone.

Source: PropelAuth/propelauth-py 20487b0 (``api/*.py``), PropelAuth/node-apis f3609bd, and
PropelAuth's Postman collection. Unknown there, so decided here: pages past the last one are empty,
the members of an unknown org are a 404, filters by part of a name ignore case.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

from propel_assets.sandbox import insights, parameters
from propel_assets.sandbox.belongings import ApiKey, calls_on
from propel_assets.sandbox.faults import Struck
from propel_assets.sandbox.pages import Paging
from propel_assets.sandbox.parameters import Refusal, refuse
from propel_assets.sandbox.people import DAY, SOCIAL_PROVIDERS, Org, User
from propel_assets.sandbox.roles import MAPPINGS
from propel_assets.sandbox.store import ORG_ORDERS, USER_ORDERS, Store

ORG_LIST_FIELDS = (
    "org_id",
    "name",
    "is_saml_configured",
    "max_users",
    "metadata",
    "custom_role_mapping_name",
    "legacy_org_id",
)
NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as the endpoints see it."""

    path: Mapping[str, str]
    query: Mapping[str, Any]
    body: Mapping[str, Any]
    base_url: str
    struck: Struck

    def paging(self) -> Paging:
        """Return which page is wanted."""
        return Paging.read(self.query, self.struck)


class Endpoints:
    """The backend API of one environment. The caller holds the store's lock."""

    def __init__(self, store: Store) -> None:
        """Answer from ``store``."""
        self._store = store
        self._rng = Random(f"{store.seed} ties")  # noqa: S311 - reproducible, no secrets

    # Users

    def user_query(self, call: Call) -> dict[str, Any]:
        """GET user/query."""
        order_by = parameters.choice(call.query, "order_by", tuple(USER_ORDERS))
        part = (parameters.text(call.query, "email_or_username") or "").lower()
        legacy_id = parameters.text(call.query, "legacy_user_id")
        users = self._store.sorted_users(order_by)
        if "shuffled_ties" in call.struck:
            users = self._shuffle_ties(users, USER_ORDERS[order_by])
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
        members = self._store.of_org[self._org(call).org_id]
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
        """GET user/{user_id}/oauth_token. The tokens open nothing."""
        provider = self._user(call).social_provider
        return {provider: _social_token(provider)} if provider else {}

    def fresh_token(self, call: Call) -> dict[str, Any]:
        """GET user/{user_id}/{provider}/fresh_token. The token opens nothing."""
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

    # Orgs

    def org_query(self, call: Call) -> dict[str, Any]:
        """GET or POST org/query."""
        order_by = parameters.choice(call.query, "order_by", tuple(ORG_ORDERS))
        orgs = self._store.sorted_orgs(order_by)
        if "shuffled_ties" in call.struck:
            orgs = self._shuffle_ties(orgs, ORG_ORDERS[order_by])
        if part := parameters.text(call.query, "name"):
            orgs = [org for org in orgs if part.lower() in org.wire["name"].lower()]
        for name in ("legacy_org_id", "domain"):
            if value := parameters.text(call.query, name):
                orgs = [org for org in orgs if org.wire.get(name) == value]
        paging = call.paging()
        rows = [_shape("orgs", _org_list_item(org), call.struck) for org in paging.cut(orgs)]
        return {"orgs": rows, **paging.envelope("total_orgs", len(orgs))}

    def org_by_id(self, call: Call) -> dict[str, Any]:
        """GET org/{org_id}."""
        return _shape("orgs", dict(self._org(call).wire), call.struck)

    def custom_role_mappings(self, call: Call) -> dict[str, Any]:
        """GET custom_role_mappings."""
        subscribed = [org.role_mapping for org in self._store.orgs.values()]
        return {
            "custom_role_mappings": [
                {"custom_role_mapping_name": name, "num_orgs_subscribed": subscribed.count(name)}
                for name in MAPPINGS
                if name != "Default"
            ]
        }

    def pending_org_invites(self, call: Call) -> dict[str, Any]:
        """GET pending_org_invites."""
        org_id = parameters.text(call.query, "org_id")
        invites = [i for i in self._store.invites if org_id in (None, i["org_id"])]
        return self._page(call, "invites", invites, total_name="total_invites")

    def saml_sp_metadata(self, call: Call) -> dict[str, Any]:
        """GET saml_sp_metadata/{org_id}."""
        base = f"{call.base_url}/saml/{self._org(call).org_id}"
        return {
            "entity_id": f"{base}/metadata",
            "acs_url": f"{base}/acs",
            "logout_url": f"{base}/logout",
        }

    # End-user API keys

    def api_keys(self, call: Call) -> dict[str, Any]:
        """GET end_user_api_keys."""
        return self._api_key_page(call, archived=False)

    def archived_api_keys(self, call: Call) -> dict[str, Any]:
        """GET end_user_api_keys/archived."""
        return self._api_key_page(call, archived=True)

    def api_key(self, call: Call) -> dict[str, Any]:
        """GET end_user_api_keys/{api_key_id}."""
        key = self._store.api_keys.get(call.path["api_key_id"])
        if key is None:
            raise Refusal(NOT_FOUND)
        return _shape("api_keys", dict(key.wire), call.struck)

    def api_key_usage(self, call: Call) -> dict[str, Any]:
        """GET end_user_api_keys/usage."""
        parameters.required_text(call.query, "date")
        day = parameters.day(call.query, "date", date.min)
        key_id = parameters.text(call.query, "api_key_id")
        if key_id is not None and key_id not in self._store.api_keys:
            raise Refusal(NOT_FOUND)
        keys = [k for k in self._keys_of(call) if key_id in (None, k.api_key_id)]
        number = (day - date(1970, 1, 1)).days
        past = number <= self._store.now // DAY
        return {"count": sum(calls_on(key, number) for key in keys) if past else 0}

    # Employees and SCIM

    def employee(self, call: Call) -> dict[str, Any]:
        """GET employee/{employee_id}."""
        email = self._store.employees.get(call.path["employee_id"])
        if email is None:
            raise Refusal(NOT_FOUND)
        return {"email": email}

    def scim_groups(self, call: Call) -> dict[str, Any]:
        """GET scim/{org_id}/groups. No has_more_results, and page_number by its own name."""
        org_id = self._org(call).org_id
        user_id = parameters.text(call.query, "user_id")
        groups = [group for group in self._store.groups.values() if group.org_id == org_id]
        groups = [group for group in groups if user_id is None or user_id in group.member_ids]
        paging = call.paging()
        return {
            "groups": [_shape("groups", dict(g.wire), call.struck) for g in paging.cut(groups)],
            "total_groups": len(groups),
            "page_number": paging.number,
            "page_size": paging.size,
        }

    def scim_group(self, call: Call) -> dict[str, Any]:
        """GET scim/{org_id}/groups/{group_id}. Members are paged, without total or has_more."""
        group = self._store.groups.get(call.path["group_id"])
        if group is None or group.org_id != self._org(call).org_id:
            raise Refusal(NOT_FOUND)
        paging = Paging.read(call.query, call.struck, prefix="members_")
        members = [{"user_id": user_id} for user_id in paging.cut(group.member_ids)]
        return {**group.wire, "members": members}

    # Insights

    def user_report(self, call: Call) -> dict[str, Any]:
        """GET user_report/{report_type}."""
        return self._report(call, "user_reports", insights.USER_REPORTS, insights.user_report)

    def org_report(self, call: Call) -> dict[str, Any]:
        """GET org_report/{report_type}."""
        return self._report(call, "org_reports", insights.ORG_REPORTS, insights.org_report)

    def chart_metrics(self, call: Call) -> dict[str, Any]:
        """GET chart_metrics/{metric}."""
        metric = call.path["metric"]
        if metric not in insights.CHART_TYPES:
            raise refuse("chart_metric", "unknown")
        cadence = parameters.choice(call.query, "cadence", insights.CADENCES)
        today = datetime.fromtimestamp(self._store.now, UTC).date()
        start = parameters.day(call.query, "start_date", today - timedelta(days=30))
        end = parameters.day(call.query, "end_date", today)
        if start > end:
            raise refuse("start_date", "must not be after end_date")
        return {
            "chart_type": insights.CHART_TYPES[metric],
            "cadence": cadence,
            "metrics": insights.chart_metrics(self._store, metric, cadence, start, end),
        }

    # Parts of answers

    def _user(self, call: Call) -> User:
        user = self._store.users.get(call.path["user_id"])
        if user is None:
            raise Refusal(NOT_FOUND)
        return user

    def _org(self, call: Call) -> Org:
        org = self._store.orgs.get(call.path["org_id"])
        if org is None or "orgs_off" in call.struck:
            raise Refusal(NOT_FOUND)
        return org

    def _user_object(self, call: Call, user_id: str) -> dict[str, Any]:
        include = parameters.flag(call.query, "include_orgs") and "orgs_off" not in call.struck
        user = self._store.user_object(user_id, include_orgs=include)
        for membership in user.get("org_id_to_org_info", {}).values():
            _shape("memberships", membership, call.struck)
        return _shape("users", user, call.struck)

    def _user_page(self, call: Call, users: Sequence[User]) -> dict[str, Any]:
        paging = call.paging()
        parameters.flag(call.query, "include_orgs")  # refuse nonsense on empty pages, too
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

    def _page(
        self, call: Call, name: str, rows: Sequence[dict[str, Any]], *, total_name: str
    ) -> dict[str, Any]:
        paging = call.paging()
        shown = [_shape(name, dict(row), call.struck) for row in paging.cut(rows)]
        return {name: shown, **paging.envelope(total_name, len(rows))}

    def _keys_of(self, call: Call) -> list[ApiKey]:
        keys = list(self._store.api_keys.values())
        for name in ("org_id", "user_id"):
            if value := parameters.text(call.query, name):
                keys = [key for key in keys if key.wire[name] == value]
        if email := parameters.text(call.query, "user_email"):
            user = self._store.user_by("email", email)
            keys = [key for key in keys if user and key.wire["user_id"] == user.user_id]
        return keys

    def _api_key_page(self, call: Call, *, archived: bool) -> dict[str, Any]:
        keys = [key for key in self._keys_of(call) if (key.archived_at is not None) == archived]
        keys.sort(key=lambda key: key.wire["created_at"])
        rows = [key.wire for key in keys]
        return self._page(call, "api_keys", rows, total_name="total_api_keys")

    def _report(
        self,
        call: Call,
        name: str,
        types: Mapping[str, Mapping[str, int]],
        compute: Callable[[Store, str, str], list[dict[str, Any]]],
    ) -> dict[str, Any]:
        report_type = call.path["report_type"]
        if report_type not in types:
            raise refuse("report_type", f"must be one of {', '.join(types)}")
        interval = parameters.choice(call.query, "report_interval", tuple(types[report_type]))
        rows = self._store.cached(
            f"{name} {report_type} {interval}",
            lambda: compute(self._store, report_type, interval),
        )
        page = self._page(call, name, rows, total_name="total_count")
        return {**page, "report_time": self._store.now}

    def _shuffle_ties(
        self, items: Sequence[Any], order: tuple[Callable[[Any], Any], bool]
    ) -> list[Any]:
        key, descending = order
        return sorted(self._rng.sample(items, len(items)), key=key, reverse=descending)


def _named_like(user: User, part: str) -> bool:
    names = (user.wire["email"], user.wire.get("username", ""))
    return any(part in name.lower() for name in names)


def _org_list_item(org: Org) -> dict[str, Any]:
    item = {name: org.wire[name] for name in ORG_LIST_FIELDS if name in org.wire}
    return {**item, "created_at": org.created_at}


def _social_token(provider: str) -> dict[str, Any]:
    return {
        "access_token": "sandbox-opens-nothing",
        "token_provider": provider,
        "authorized_scopes": ["email", "profile"],
    }


def _shape(kind: str, row: dict[str, Any], struck: Struck) -> dict[str, Any]:
    """Change the fields of ``row`` as the switches say; the row is the caller's own."""
    if kind in _names(struck.get("unknown_field")):
        row["new_scalar"] = "not seen before"
        row["new_object"] = {"since": 2026, "tags": ["new", None]}
    for name in _names(struck.get("missing_field")):
        if name.startswith(f"{kind}."):
            row.pop(name.removeprefix(f"{kind}."), None)
    for name in _names(struck.get("retyped_field")):
        field = name.removeprefix(f"{kind}.")
        if name.startswith(f"{kind}.") and field in row:
            row[field] = {"value": row[field]} if isinstance(row[field], str) else str(row[field])
    return row


def _names(value: str | Iterable[str] | None) -> Iterable[str]:
    return [value] if isinstance(value, str) else value or ()
