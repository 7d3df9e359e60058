"""The responses are those of the real API: shapes, omitted fields, paging, filters, orders, statuses."""

import base64
import signal
import socket
import subprocess
import sys
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

USER_REQUIRED = {
    "user_id", "email", "email_confirmed", "has_password", "locked", "enabled", "mfa_enabled",
    "can_create_orgs", "update_password_required", "properties", "metadata", "created_at",
    "last_active_at",
}  # fmt: skip
USER_OPTIONAL = {
    "username", "first_name", "last_name", "picture_url", "legacy_user_id", "impersonator_user_id",
}  # fmt: skip
MEMBER_REQUIRED = {
    "org_id", "org_name", "org_metadata", "url_safe_org_name", "org_role_structure", "user_role",
    "inherited_user_roles_plus_current_role", "user_permissions", "additional_roles",
}  # fmt: skip
ORG_ITEM_REQUIRED = {"org_id", "name", "is_saml_configured", "created_at"}
ORG_OPTIONAL = {"max_users", "metadata", "custom_role_mapping_name", "legacy_org_id"}
ORG_REQUIRED = {
    "org_id", "name", "url_safe_org_slug", "can_setup_saml", "is_saml_configured",
    "is_saml_in_test_mode", "extra_domains", "domain_autojoin", "domain_restrict",
    "password_rotation_enabled", "password_rotation_history_size", "password_rotation_period",
    "isolated",
}  # fmt: skip
KEY_REQUIRED = {"api_key_id", "created_at", "expires_at_seconds", "metadata", "user_id", "org_id"}
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


# Users


def test_a_user_has_every_required_field_and_optional_ones_only_when_set(read_all) -> None:
    users = read_all("user/query", "users")
    for user in users:
        assert set(user) >= USER_REQUIRED
        assert set(user) <= USER_REQUIRED | USER_OPTIONAL
        assert all(user[name] is not None for name in set(user) - {"metadata"})
    for name in USER_OPTIONAL:
        assert 0 < sum(name in user for user in users) < len(users), name
    assert {type(user["metadata"]) for user in users} == {type(None), dict}


def test_memberships_are_sent_only_when_requested_and_as_an_object(ask, sandbox) -> None:
    assert "org_id_to_org_info" not in ask("user/query")["users"][0]
    assert "org_id_to_org_info" not in ask("user/query", include_orgs="false")["users"][0]
    users = ask("user/query", include_orgs="true", page_size=100)["users"]
    members = [m for user in users for m in user["org_id_to_org_info"].values()]
    assert all(set(member) - {"legacy_org_id"} == MEMBER_REQUIRED for member in members)
    assert {} in [user["org_id_to_org_info"] for user in users]
    for user in users:
        assert set(user["org_id_to_org_info"]) == set(sandbox.store.of_user[user["user_id"]])


def test_roles_are_inherited_in_a_hierarchy_and_added_otherwise(read_all) -> None:
    users = read_all("user/query", "users", include_orgs="true")
    members = [m for user in users for m in user["org_id_to_org_info"].values()]
    single = [m for m in members if m["org_role_structure"] == "single_role_in_hierarchy"]
    multi = [m for m in members if m["org_role_structure"] == "multi_role"]
    assert {len(m["inherited_user_roles_plus_current_role"]) for m in single} >= {1, 3}
    assert all(m["additional_roles"] == [] for m in single)
    for member in single:
        inherited = member["inherited_user_roles_plus_current_role"]
        assert inherited[0] == member["user_role"]
        assert inherited[-1] in ("Member", "Viewer")
    assert all(m["inherited_user_roles_plus_current_role"] == [m["user_role"]] for m in multi)
    assert any(m["additional_roles"] for m in multi)
    assert any("propelauth::can_invite" in m["user_permissions"] for m in members)


def test_a_page_has_10_rows_by_default_and_pages_count_from_0(ask) -> None:
    first = ask("user/query")
    assert (len(first["users"]), first["page_size"], first["current_page"]) == (10, 10, 0)
    assert (first["total_users"], first["has_more_results"]) == (300, True)
    assert ask("user/query", page_number=0) == first
    second = ask("user/query", page_number=1)
    assert second["current_page"] == 1
    assert ask("user/query", page_size=20)["users"] == first["users"] + second["users"]


def test_the_last_page_is_short_and_pages_after_it_are_empty(ask) -> None:
    last = ask("user/query", page_size=90, page_number=3)
    assert (len(last["users"]), last["has_more_results"]) == (30, False)
    exact = ask("user/query", page_size=100, page_number=2)
    assert (len(exact["users"]), exact["has_more_results"]) == (100, False)
    behind = ask("user/query", page_size=90, page_number=9)
    assert (behind["users"], behind["has_more_results"], behind["total_users"]) == ([], False, 300)


def test_a_page_size_above_100_is_reduced(ask) -> None:
    page = ask("user/query", page_size=1000)
    assert (page["page_size"], len(page["users"])) == (100, 100)


@pytest.mark.parametrize(
    ("order_by", "field", "descending"),
    [
        ("CREATED_AT_ASC", "created_at", False),
        ("CREATED_AT_DESC", "created_at", True),
        ("LAST_ACTIVE_AT_ASC", "last_active_at", False),
        ("LAST_ACTIVE_AT_DESC", "last_active_at", True),
        ("EMAIL", "email", False),
    ],
)
def test_users_are_sent_in_the_requested_order(order_by, field, descending, read_all) -> None:
    values = [user[field] for user in read_all("user/query", "users", order_by=order_by)]
    assert values == sorted(values, reverse=descending)
    assert len(values) == 300


def test_users_without_a_username_come_last_when_ordered_by_it(read_all) -> None:
    names = [u.get("username") for u in read_all("user/query", "users", order_by="USERNAME")]
    present = [name for name in names if name is not None]
    assert names == sorted(present) + [None] * (300 - len(present))


def test_created_at_asc_is_the_default_order(read_all) -> None:
    ascending = read_all("user/query", "users", order_by="CREATED_AT_ASC", page_size=7)
    assert read_all("user/query", "users") == ascending


def test_users_are_found_by_part_of_email_or_username_in_any_case(ask, sandbox) -> None:
    user = next(u.wire for u in sandbox.store.users.values() if "username" in u.wire)
    for part in (user["email"].upper(), user["username"], user["email"][3:12]):
        found = ask("user/query", email_or_username=part, page_size=100)
        assert user in found["users"]
        assert found["total_users"] == len(found["users"]) < 300


def test_users_are_found_by_legacy_id(ask, sandbox) -> None:
    user = next(u.wire for u in sandbox.store.users.values() if "legacy_user_id" in u.wire)
    assert ask("user/query", legacy_user_id=user["legacy_user_id"])["users"] == [user]
    assert ask("user/query", legacy_user_id="none such")["total_users"] == 0


@pytest.mark.parametrize("kind", ["user_id", "email", "username"])
def test_one_user_is_looked_up(kind, ask, status_of, sandbox) -> None:
    user = next(u.wire for u in sandbox.store.users.values() if "username" in u.wire)
    path = f"user/{user['user_id']}" if kind == "user_id" else f"user/{kind}"
    query = {} if kind == "user_id" else {kind: user[kind]}
    assert ask(path, **query) == user
    with_orgs = ask(path, **query, include_orgs="true")
    assert with_orgs == sandbox.store.user_object(user["user_id"], include_orgs=True)
    unknown = f"user/{UNKNOWN_ID}" if kind == "user_id" else path
    assert status_of(unknown, **({} if kind == "user_id" else {kind: "nobody"})) == 404


@pytest.mark.parametrize("kind", ["user_id", "email", "username"])
def test_many_users_are_looked_up_and_unknown_ones_left_out(kind, http, sandbox) -> None:
    users = [u.wire for u in sandbox.store.users.values() if "username" in u.wire][:3]
    url = f"/api/backend/v1/user/{kind}s"
    body = {f"{kind}s": [*(user[kind] for user in users), "unknown"]}
    assert http.post(url, json=body).json() == users
    with_orgs = http.post(url, json=body, params={"include_orgs": "true"}).json()
    assert all("org_id_to_org_info" in user for user in with_orgs)
    refused = http.post(url, json={})
    assert (refused.status_code, list(refused.json())) == (400, ["query"])


def test_members_of_an_org_have_their_role_in_it(ask, read_all, status_of, sandbox) -> None:
    org_id, members = max(sandbox.store.of_org.items(), key=lambda item: len(item[1]))
    users = read_all(f"user/org/{org_id}", "users", page_size=7)
    assert {user["user_id"] for user in users} == set(members)
    for user in users:
        assert user["role_in_org"] == members[user["user_id"]].role
        assert isinstance(user["additional_roles_in_org"], list)
        assert "org_id_to_org_info" not in user
    role = users[0]["role_in_org"]
    of_role = ask(f"user/org/{org_id}", role=role, page_size=100)["users"]
    assert len(of_role) == sum(user["role_in_org"] == role for user in users)
    assert ask(f"user/org/{org_id}", role=role.lower())["total_users"] == 0
    assert "org_id_to_org_info" in ask(f"user/org/{org_id}", include_orgs="true")["users"][0]
    assert status_of(f"user/org/{UNKNOWN_ID}") == 404


def test_details_of_a_user_have_their_own_endpoints(ask, status_of, sandbox) -> None:
    setups = []
    for user_id, user in sandbox.store.users.items():
        answer = ask(f"user/{user_id}/signup_query_parameters")
        assert answer == {"user_signup_query_parameters": user.signup_query_parameters}
        setups.append(ask(f"user/{user_id}/mfa")["mfa_setup"])
        assert (setups[-1] is not None) == user.wire["mfa_enabled"]
    assert {None, "Totp", "Phone"} == {setup and setup["type"] for setup in setups}
    assert status_of(f"user/{UNKNOWN_ID}/mfa") == 404
    assert status_of(f"user/{UNKNOWN_ID}/signup_query_parameters") == 404


# Orgs


def test_the_list_of_orgs_has_fewer_fields_than_an_org(read_all, ask) -> None:
    items = read_all("org/query", "orgs", page_size=5)
    assert len(items) == 24
    for item in items:
        assert set(item) - ORG_OPTIONAL == ORG_ITEM_REQUIRED
        org = ask(f"org/{item['org_id']}")
        assert set(org) - ORG_OPTIONAL - {"domain"} == ORG_REQUIRED
        assert {**item, **org} == {**org, "created_at": item["created_at"]}
    for name in ORG_OPTIONAL - {"legacy_org_id"}:
        assert 0 < sum(name in item for item in items) < len(items), name


@pytest.mark.parametrize(
    ("order_by", "field", "descending"),
    [
        ("CREATED_AT_ASC", "created_at", False),
        ("CREATED_AT_DESC", "created_at", True),
        ("NAME", "name", False),
    ],
)
def test_orgs_are_sent_in_the_requested_order(order_by, field, descending, read_all) -> None:
    values = [org[field] for org in read_all("org/query", "orgs", order_by=order_by)]
    assert values == sorted(values, reverse=descending)


def test_orgs_are_queried_by_get_and_by_post(http) -> None:
    query = {"page_size": 3, "page_number": 1, "order_by": "NAME"}
    url = "/api/backend/v1/org/query"
    assert http.get(url, params=query).json() == http.post(url, json=query).json()
    assert http.post(url, json={}).json()["page_size"] == 10
    assert http.post(url, content=b"no json").status_code == 400
    assert http.post(url, json=["no object"]).status_code == 400


def test_orgs_are_found_by_name_domain_and_legacy_id(ask, sandbox) -> None:
    orgs = [org.wire for org in sandbox.store.orgs.values()]
    domain = next(org["domain"] for org in orgs if "domain" in org)
    found = ask("org/query", domain=domain)["orgs"]
    assert [org["org_id"] for org in found] == [org["org_id"] for org in orgs if org.get("domain") == domain]
    part = orgs[0]["name"][1:4].upper()
    names = {org["name"] for org in ask("org/query", name=part, page_size=100)["orgs"]}
    assert names == {org["name"] for org in orgs if part.lower() in org["name"].lower()}
    sandbox.store.add_org(legacy_org_id="old-1")
    assert ask("org/query", legacy_org_id="old-1")["total_orgs"] == 1


def test_role_mappings_count_their_orgs(ask, read_all) -> None:
    mappings = ask("custom_role_mappings")["custom_role_mappings"]
    counts = {m["custom_role_mapping_name"]: m["num_orgs_subscribed"] for m in mappings}
    orgs = read_all("org/query", "orgs")
    assert Counter(org.get("custom_role_mapping_name") for org in orgs) == {
        **{name: count for name, count in counts.items() if count},
        None: len(orgs) - sum(counts.values()),
    }
    assert 0 in counts.values()


def test_invites_are_pending_and_may_lack_an_inviter(ask, read_all, sandbox) -> None:
    invites = read_all("pending_org_invites", "invites", page_size=4)
    for invite in invites:
        assert invite["created_at"] <= sandbox.store.now <= invite["expires_at"]
        assert invite["expires_at"] - invite["created_at"] == 5 * 86_400
        assert isinstance(invite["additional_roles_in_org"], list)
        assert (invite["inviter_email"] is None) == (invite["inviter_user_id"] is None)
    assert {invite["inviter_email"] is None for invite in invites} == {True, False}
    assert {bool(invite["additional_roles_in_org"]) for invite in invites} == {True, False}
    keys = {(invite["org_id"], invite["invitee_email"]) for invite in invites}
    assert len(keys) == len(invites)
    org_id = invites[0]["org_id"]
    of_org = ask("pending_org_invites", org_id=org_id)
    assert of_org["total_invites"] == sum(invite["org_id"] == org_id for invite in invites)


def test_saml_metadata_is_of_the_org(ask, status_of, sandbox) -> None:
    org_id = next(iter(sandbox.store.orgs))
    metadata = ask(f"saml_sp_metadata/{org_id}")
    assert set(metadata) == {"entity_id", "acs_url", "logout_url"}
    assert all(org_id in value for value in metadata.values())
    assert status_of(f"saml_sp_metadata/{UNKNOWN_ID}") == 404
    assert status_of(f"org/{UNKNOWN_ID}") == 404


# API keys, employees, SCIM


def test_api_keys_are_personal_of_orgs_or_generic_and_current_or_archived(read_all, sandbox):
    current = read_all("end_user_api_keys", "api_keys", page_size=7)
    archived = read_all("end_user_api_keys/archived", "api_keys")
    keys = current + archived
    assert {key["api_key_id"] for key in keys} == set(sandbox.store.api_keys)
    assert len({key["api_key_id"] for key in keys}) == len(keys)
    for key in keys:
        assert set(key) - {"display_name"} == KEY_REQUIRED
        assert len(key["api_key_id"]) == 32
        assert int(key["api_key_id"], 16)
    kinds = {(key["user_id"] is not None, key["org_id"] is not None) for key in keys}
    assert kinds == {(True, False), (False, True), (True, True), (False, False)}
    now = sandbox.store.now
    assert all((key["expires_at_seconds"] or now + 1) > now for key in current)
    assert all((key["expires_at_seconds"] or now) <= now for key in archived)
    assert {key["expires_at_seconds"] is None for key in current} == {True, False}


def test_api_keys_are_filtered_and_looked_up(ask, read_all, status_of, sandbox) -> None:
    keys = read_all("end_user_api_keys", "api_keys")
    personal = next(key for key in keys if key["user_id"])
    email = sandbox.store.users[personal["user_id"]].wire["email"]
    of_org = next(key for key in keys if key["org_id"])
    for query in ({"user_id": personal["user_id"]}, {"user_email": email}):
        assert personal in ask("end_user_api_keys", **query)["api_keys"]
    found = ask("end_user_api_keys", org_id=of_org["org_id"])["api_keys"]
    assert found == [key for key in keys if key["org_id"] == of_org["org_id"]]
    assert ask("end_user_api_keys", user_email="nobody@mail.example")["total_api_keys"] == 0
    assert ask(f"end_user_api_keys/{personal['api_key_id']}") == personal
    assert status_of(f"end_user_api_keys/{'0' * 32}") == 404


def test_usage_of_a_day_is_the_sum_over_its_keys(ask, status_of, sandbox) -> None:
    usage = "end_user_api_keys/usage"
    total = ask(usage, date="2026-11-20")["count"]
    per_key = [ask(usage, date="2026-11-20", api_key_id=k)["count"] for k in sandbox.store.api_keys]
    assert total == sum(per_key) > 0
    assert ask(usage, date="2026-11-21")["count"] != total
    assert ask(usage, date="2026-11-25") == {"count": 0}
    keys = sandbox.store.api_keys.values()
    archived = next(key for key in keys if key.archived_at and key.archived_at < 1_790_000_000)
    assert ask(usage, date="2026-11-20", api_key_id=archived.api_key_id) == {"count": 0}
    born = datetime.fromtimestamp(archived.wire["created_at"], UTC).date() - timedelta(days=1)
    assert ask(usage, date=str(born), api_key_id=archived.api_key_id) == {"count": 0}
    assert status_of(usage) == 400
    assert status_of(usage, date="2026-02-30") == 400
    assert status_of(usage, date="20261120") == 400


def test_an_employee_resolves_an_impersonator(ask, status_of, read_all) -> None:
    users = read_all("user/query", "users")
    employee_id = next(u["impersonator_user_id"] for u in users if "impersonator_user_id" in u)
    assert ask(f"employee/{employee_id}")["email"].endswith("@vendor.example")
    assert status_of(f"employee/{UNKNOWN_ID}") == 404


def test_scim_lists_have_no_has_more_results(ask, status_of, sandbox) -> None:
    group = max(sandbox.store.groups.values(), key=lambda group: len(group.member_ids))
    page = ask(f"scim/{group.org_id}/groups", page_size=1)
    assert set(page) == {"groups", "total_groups", "page_number", "page_size"}
    assert (page["page_number"], page["page_size"], len(page["groups"])) == (0, 1, 1)
    path = f"scim/{group.org_id}/groups/{group.wire['group_id']}"
    assert len(group.member_ids) > 10
    first = ask(path)
    assert set(first) - {"external_id_from_idp"} == {"group_id", "display_name", "members"}
    second = ask(path, members_page_number=1)
    members = [member["user_id"] for member in first["members"] + second["members"]]
    assert members == group.member_ids[:20]
    assert ask(path, members_page_number=99)["members"] == []
    of_user = ask(f"scim/{group.org_id}/groups", user_id=group.member_ids[0])
    assert group.wire in of_user["groups"]
    assert status_of(f"scim/{UNKNOWN_ID}/groups") == 404
    assert status_of(f"scim/{group.org_id}/groups/{UNKNOWN_ID}") == 404


# Insights


@pytest.mark.parametrize(
    ("kind", "report_type", "intervals"),
    [
        ("user", "reengagement", ("Weekly", "Monthly")),
        ("user", "churn", ("7", "14", "30")),
        ("user", "top_inviter", ("30", "60", "90")),
        ("user", "champion", ("30", "60", "90")),
        ("org", "reengagement", ("Weekly", "Monthly")),
        ("org", "churn", ("7", "14", "30")),
        ("org", "growth", ("30", "60", "90")),
        ("org", "attrition", ("30", "60", "90")),
    ],
)
def test_every_report_has_its_intervals(kind, report_type, intervals, ask, http, sandbox) -> None:
    path, name = f"{kind}_report/{report_type}", f"{kind}_reports"
    for interval in intervals:
        page = ask(path, report_interval=interval, page_size=2)
        assert set(page) == {
            name, "current_page", "total_count", "page_size", "has_more_results", "report_time",
        }  # fmt: skip
        assert page["report_time"] == sandbox.store.now
        for row in page[name]:
            assert row["report_id"] == page[name][0]["report_id"] != row["id"]
    assert ask(path) == ask(path, report_interval=intervals[0])
    refused = http.get(f"/api/backend/v1/{path}", params={"report_interval": "5"})
    assert (refused.status_code, list(refused.json())) == (400, ["report_interval"])


def test_report_rows_are_as_documented(read_all) -> None:
    users = read_all("user_report/churn", "user_reports")
    required = {
        "id", "report_id", "user_id", "email", "user_created_at", "last_active_at", "org_data",
        "extra_properties",
    }  # fmt: skip
    assert all(set(u) - {"username", "first_name", "last_name"} == required for u in users)
    assert {type(user["org_data"]) for user in users} == {list, type(None)}
    orgs = read_all("org_report/growth", "org_reports", report_interval="90")
    assert {frozenset(org) for org in orgs} == {
        frozenset(("id", "report_id", "org_id", "name", "num_users", "org_created_at", "extra_properties"))
    }
    inviters = read_all("user_report/top_inviter", "user_reports", report_interval="90")
    assert all(user["extra_properties"]["num_invites"] > 0 for user in inviters)


def test_a_chart_covers_the_last_30_days_by_default(ask) -> None:
    chart = ask("chart_metrics/active_orgs")
    assert (chart["chart_type"], chart["cadence"]) == ("ActiveOrgs", "Daily")
    days = [point["date"] for point in chart["metrics"]]
    assert (days[0], days[-1], len(days)) == ("2026-10-25", "2026-11-24", 31)
    assert [point["date"] for point in chart["metrics"] if not point["cadence_completed"]] == ["2026-11-24"]
    weekly = ask("chart_metrics/signups", cadence="Weekly", start_date="2026-11-01")
    assert {date.fromisoformat(p["date"]).weekday() for p in weekly["metrics"]} == {0}
    monthly = ask("chart_metrics/signups", cadence="Monthly", start_date="2025-12-15")
    assert [p["date"] for p in monthly["metrics"]][:2] == ["2025-12-01", "2026-01-01"]


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("user/query", {"page_size": "0"}, "page_size"),
        ("user/query", {"page_size": "ten"}, "page_size"),
        ("user/query", {"page_number": "-1"}, "page_number"),
        ("user/query", {"order_by": "created_at_asc"}, "order_by"),
        ("user/query", {"include_orgs": "True"}, "include_orgs"),
        ("user/query", {"include_orgs": "1"}, "include_orgs"),
        ("user/email", {}, "email"),
        ("user/username", {}, "username"),
        ("org/query", {"order_by": "EMAIL"}, "order_by"),
        ("pending_org_invites", {"page_size": "1.5"}, "page_size"),
        ("end_user_api_keys", {"page_number": "x"}, "page_number"),
        ("user_report/unknown", {}, "report_type"),
        ("chart_metrics/unknown", {}, "chart_metric"),
        ("chart_metrics/signups", {"cadence": "daily"}, "cadence"),
        ("chart_metrics/signups", {"start_date": "yesterday"}, "start_date"),
        ("chart_metrics/signups", {"start_date": "2026-11-25"}, "start_date"),
    ],
)
def test_bad_parameters_are_refused_by_field(path, query, field, http) -> None:
    response = http.get(f"/api/backend/v1/{path}", params=query)
    assert response.status_code == 400
    assert list(response.json()) == [field]
    assert all(isinstance(message, str) for message in response.json()[field])


# Keys, documents, and what does not exist


def test_the_backend_requires_the_key(sandbox) -> None:
    url = f"{sandbox.url}/api/backend/v1/user/query"
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": sandbox.api_key}):
        assert httpx.get(url, headers=headers).status_code == 401
    token = {"Authorization": f"Bearer {sandbox.user_token}"}
    assert httpx.get(url, headers=token).status_code == 401


def test_requests_of_the_clients_to_another_host_work_too(sandbox) -> None:
    headers = {
        "Authorization": f"Bearer {sandbox.api_key}",
        "X-Propelauth-url": "auth.example.com",
        "Content-Type": "application/json",
    }
    assert httpx.get(f"{sandbox.url}/api/backend/v1/user/query", headers=headers).is_success


def test_userinfo_is_for_end_users_only(http, sandbox) -> None:
    url = "/propelauth/oauth/userinfo"
    assert http.get(url).status_code == 401
    user = http.get(url, headers={"Authorization": f"Bearer {sandbox.user_token}"}).json()
    assert user == sandbox.store.user_object(user["user_id"], include_orgs=True)
    assert user["org_id_to_org_info"]


def test_public_documents_agree_on_the_key(http, sandbox) -> None:
    with httpx.Client(base_url=sandbox.url) as anyone:
        configuration = anyone.get("/.well-known/openid-configuration").json()
        assert configuration["issuer"] == sandbox.url
        (key,) = anyone.get(configuration["jwks_uri"]).json()["keys"]
        assert anyone.get("/api/v1/token_verification_metadata").status_code == 401
    pem = http.get("/api/v1/token_verification_metadata").json()["verifier_key_pem"]
    path = "/api/backend/v1/token_verification_metadata"
    assert http.get(path).json() == {"public_key_pem": pem}
    public_key = load_pem_public_key(pem.encode())
    assert isinstance(public_key, RSAPublicKey)
    numbers = public_key.public_numbers()
    modulus = numbers.n.to_bytes(256, "big")
    assert key["n"] == base64.urlsafe_b64encode(modulus).decode().rstrip("=")
    assert (key["e"], numbers.e) == ("AQAB", 65_537)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "user/"), ("PUT", "user/{user}"), ("DELETE", "user/{user}"),
        ("POST", "user/{user}/disable"), ("PUT", "user/{user}/email"), ("POST", "org/"),
        ("PUT", "org/{org}"), ("DELETE", "org/{org}"), ("POST", "org/add_user"),
        ("POST", "org/change_role"), ("POST", "invite_user"), ("POST", "magic_link"),
        ("POST", "access_token"), ("POST", "migrate_user/"), ("POST", "resend_email_confirmation"),
        ("POST", "end_user_api_keys"), ("POST", "end_user_api_keys/validate"),
        ("DELETE", "end_user_api_keys/{key}"), ("PATCH", "end_user_api_keys/{key}"),
        ("POST", "mfa/step-up/verify-totp"), ("POST", "org/{org}/create_saml_connection_link"),
        ("DELETE", "pending_org_invites"), ("GET", "nothing"), ("GET", "user/query/more"),
    ],
)  # fmt: skip
def test_other_paths_do_not_exist_and_change_nothing(method, path, http, sandbox) -> None:
    store = sandbox.store
    version = store.version
    ids = {"user": next(iter(store.users)), "org": next(iter(store.orgs))}
    url = f"/api/backend/v1/{path}".format(**ids, key=next(iter(store.api_keys)))
    body = {"json": {"email": "new@mail.example"}} if method != "DELETE" else {}
    assert http.request(method, url, **body).status_code in (404, 405)
    assert store.version == version


# State and server


def test_a_change_of_the_store_is_in_the_next_response(ask, status_of, sandbox) -> None:
    store = sandbox.store
    user_id = store.add_user(email="new@mail.example", username="new")
    org_id = store.add_org(name="New Org")
    store.add_membership(user_id, org_id, "Owner")
    assert ask("user/email", email="new@mail.example", include_orgs="true")["org_id_to_org_info"][
        org_id
    ]["user_role"] == "Owner"  # fmt: skip
    newest = ask("user/query", order_by="CREATED_AT_DESC")
    assert (newest["users"][0]["user_id"], newest["total_users"]) == (user_id, 301)
    store.update_user(user_id, email="newer@mail.example", enabled=False)
    assert status_of("user/email", email="new@mail.example") == 404
    oldest = ask("user/query")["users"][0]["user_id"]
    store.touch_user(oldest)
    active = ask("user/query", order_by="LAST_ACTIVE_AT_DESC")["users"][0]
    assert active["user_id"] == oldest
    store.delete_user(user_id)
    store.delete_org(org_id)
    assert (status_of(f"user/{user_id}"), status_of(f"org/{org_id}")) == (404, 404)
    assert ask("user/query")["total_users"] == 300


def test_requests_are_logged_for_counting(ask, http, sandbox) -> None:
    ask("user/query", page_size=3)
    ask("org/query")
    http.get("/sandbox/faults")
    assert [(r.method, r.path.rpartition("v1/")[2], r.query) for r in sandbox.requests] == [
        ("GET", "user/query", {"page_size": "3"}),
        ("GET", "org/query", {}),
    ]


def test_it_listens_on_loopback_only(sandbox) -> None:
    host, port = sandbox.url.removeprefix("http://").split(":")
    assert host == "127.0.0.1"
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", int(port)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_stops_at_a_signal(number) -> None:
    code = (
        "from datetime import date; from propel_assets.sandbox.running import serve;"
        "serve(port=0, users=3, orgs=1, seed=1, now=date(2026, 11, 24),"
        " on_ready=lambda url: print(url, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        status = httpx.get(f"{url}/sandbox").json()
        assert (status["users"], status["orgs"], status["seed"]) == (3, 1, 1)
        assert datetime.fromtimestamp(status["now"], UTC).date() == date(2026, 11, 24)
        server.send_signal(number)
        assert server.wait(timeout=30) == 0
