"""The endpoints of orgs, API keys and SCIM groups.

Source: PropelAuth/propelauth-py 20487b0 (``api/org.py``, ``api/end_user_api_keys.py``,
``api/scim.py``), PropelAuth/node-apis f3609bd, and PropelAuth's Postman collection.
"""

from datetime import date
from random import Random
from typing import Any

from propel_assets.sandbox import parameters
from propel_assets.sandbox.belongings import ApiKey, calls_on
from propel_assets.sandbox.calls import NOT_FOUND, Call, find_org, page, shape, shuffle_ties
from propel_assets.sandbox.pages import Paging
from propel_assets.sandbox.parameters import Refusal
from propel_assets.sandbox.people import DAY, Org
from propel_assets.sandbox.roles import MAPPINGS
from propel_assets.sandbox.store import ORG_ORDERS, Store

LIST_FIELDS = (
    "org_id",
    "name",
    "is_saml_configured",
    "max_users",
    "metadata",
    "custom_role_mapping_name",
    "legacy_org_id",
)


class OrgEndpoints:
    """Orgs, API keys and SCIM groups. The caller holds the store's lock."""

    def __init__(self, store: Store) -> None:
        """Read from ``store``."""
        self._store = store
        self._rng = Random(f"{store.seed} ties")  # noqa: S311 - reproducible, no secrets

    def org_query(self, call: Call) -> dict[str, Any]:
        """GET or POST org/query."""
        order_by = parameters.choice(call.query, "order_by", tuple(ORG_ORDERS))
        orgs = self._store.sorted_orgs(order_by)
        if "shuffled_ties" in call.active:
            orgs = shuffle_ties(self._rng, orgs, ORG_ORDERS[order_by])
        if part := parameters.text(call.query, "name"):
            orgs = [org for org in orgs if part.lower() in org.wire["name"].lower()]
        for name in ("legacy_org_id", "domain"):
            if value := parameters.text(call.query, name):
                orgs = [org for org in orgs if org.wire.get(name) == value]
        paging = call.paging()
        rows = [shape("orgs", _org_list_item(org), call.active) for org in paging.cut(orgs)]
        return {"orgs": rows, **paging.envelope("total_orgs", len(orgs))}

    def org_by_id(self, call: Call) -> dict[str, Any]:
        """GET org/{org_id}."""
        org = find_org(self._store, call)
        created = {"created_at": org.created_at} if "org_detail_created_at" in call.active else {}
        return shape("orgs", {**org.wire, **created}, call.active)

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
        return page(call, "invites", invites, total_name="total_invites")

    def saml_sp_metadata(self, call: Call) -> dict[str, Any]:
        """GET saml_sp_metadata/{org_id}."""
        base = f"{call.base_url}/saml/{find_org(self._store, call).org_id}"
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
        return shape("api_keys", dict(key.wire), call.active)

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

    # SCIM

    def scim_groups(self, call: Call) -> dict[str, Any]:
        """GET scim/{org_id}/groups. No has_more_results, and page_number by its own name."""
        org_id = find_org(self._store, call).org_id
        user_id = parameters.text(call.query, "user_id")
        groups = [group for group in self._store.groups.values() if group.org_id == org_id]
        groups = [group for group in groups if user_id is None or user_id in group.member_ids]
        paging = call.paging()
        return {
            "groups": [shape("groups", dict(g.wire), call.active) for g in paging.cut(groups)],
            "total_groups": len(groups),
            "page_number": paging.number,
            "page_size": paging.size,
        }

    def scim_group(self, call: Call) -> dict[str, Any]:
        """GET scim/{org_id}/groups/{group_id}. Members are paged, without total or has_more."""
        group = self._store.groups.get(call.path["group_id"])
        if group is None or group.org_id != find_org(self._store, call).org_id:
            raise Refusal(NOT_FOUND)
        paging = Paging.read(call.query, call.active, prefix="members_")
        members = [{"user_id": user_id} for user_id in paging.cut(group.member_ids)]
        return {**group.wire, "members": members}

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
        return page(call, "api_keys", rows, total_name="total_api_keys")


def _org_list_item(org: Org) -> dict[str, Any]:
    item = {name: org.wire[name] for name in LIST_FIELDS if name in org.wire}
    return {**item, "created_at": org.created_at}
