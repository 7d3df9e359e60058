"""PropelAuth's own Node client reads everything from the sandbox.

Every fetch function is compared with what plain HTTP answers, after the renaming the client does.
A function the client gains and this file does not cover fails here.
"""

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.node

PACKAGE = "@propelauth/node-apis@2.1.36"
SCRIPT = Path(__file__).with_name("official_node_client.cjs")
UNTOUCHED = {"metadata", "org_metadata"}
RENAMED = {
    "user_role": "userAssignedRole",
    "inherited_user_roles_plus_current_role": "userInheritedRolesPlusCurrentRole",
    "additional_roles": "userAssignedAdditionalRoles",
}
# fetchOrgByQuery renames these alone
RENAMED_IN_ORG_QUERY = {
    "org_id": "orgId",
    "max_users": "maxUsers",
    "legacy_org_id": "legacyOrgId",
    "created_at": "createdAt",
    "total_orgs": "totalOrgs",
    "current_page": "currentPage",
    "page_size": "pageSize",
    "has_more_results": "hasMoreResults",
}


@dataclass
class Case:
    """The arguments of one function, and the same request by plain HTTP."""

    arguments: list[Any]
    path: str
    query: dict[str, Any] = field(default_factory=dict)
    body: dict[str, list[str]] | None = None


@pytest.fixture(scope="session")
def client_folder(tmp_path_factory) -> Path:
    """Install the client outside the project, without a trace in it."""
    folder = tmp_path_factory.mktemp("node")
    # In the folder itself: with --prefix npm would pass over the machine's own settings.
    (folder / "package.json").write_text("{}")
    subprocess.run(["npm", "install", "--no-save", PACKAGE], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def cases(sandbox) -> dict[str, Case]:
    """One case for each function of the client."""
    store = sandbox.store
    users = [user for user in store.users.values() if "username" in user.wire]
    user = next(user for user in users if user.wire["mfa_enabled"] and store.of_user[user.user_id])
    social = next(user for user in users if user.social_provider)
    provider = social.social_provider
    org_id = max(store.of_org, key=lambda org_id: len(store.of_org[org_id]))
    group = max(store.groups.values(), key=lambda group: len(group.member_ids))
    key_id, employee_id = next(iter(store.api_keys)), next(iter(store.employees))
    group_path = f"scim/{group.org_id}/groups"
    group_id = group.wire["group_id"]
    paged = ({"pageSize": 3, "pageNumber": 1}, {"page_size": 3, "page_number": 1})
    orgs = {"include_orgs": "true"}
    return {
        "fetchTokenVerificationMetadata": Case([], "token_verification_metadata"),
        "fetchUserMetadataByUserId": Case([user.user_id, True], f"user/{user.user_id}", orgs),
        "fetchUserMetadataByEmail": _look_up(user.wire, "email"),
        "fetchUserMetadataByUsername": _look_up(user.wire, "username"),
        "fetchBatchUserMetadataByUserIds": _batch(users, "user_id"),
        "fetchBatchUserMetadataByEmails": _batch(users, "email"),
        "fetchBatchUserMetadataByUsernames": _batch(users, "username"),
        "fetchUsersByQuery": Case(
            [{**paged[0], "includeOrgs": True, "orderBy": "EMAIL"}],
            "user/query",
            {**paged[1], **orgs, "order_by": "EMAIL"},
        ),
        "fetchUsersInOrg": Case([{"orgId": org_id, **paged[0]}], f"user/org/{org_id}", paged[1]),
        "fetchUserSignupQueryParams": Case([user.user_id], f"user/{user.user_id}/signup_query_parameters"),
        "fetchUserMfaMethods": Case([user.user_id], f"user/{user.user_id}/mfa"),
        "fetchUserOAuthTokens": Case([social.user_id], f"user/{social.user_id}/oauth_token"),
        "fetchFreshTokenFromProvider": Case(
            [social.user_id, provider], f"user/{social.user_id}/{provider}/fresh_token"
        ),
        "fetchOrg": Case([org_id], f"org/{org_id}"),
        "fetchOrgByQuery": Case([paged[0]], "org/query", paged[1]),
        "fetchCustomRoleMappings": Case([], "custom_role_mappings"),
        "fetchPendingInvites": Case([paged[0]], "pending_org_invites", paged[1]),
        "fetchSamlSpMetadata": Case([org_id], f"saml_sp_metadata/{org_id}"),
        "fetchApiKey": Case([key_id], f"end_user_api_keys/{key_id}"),
        "fetchCurrentApiKeys": Case([paged[0]], "end_user_api_keys", paged[1]),
        "fetchArchivedApiKeys": Case([{}], "end_user_api_keys/archived"),
        "fetchApiKeyUsage": Case([{"date": "2026-11-20"}], "end_user_api_keys/usage", {"date": "2026-11-20"}),
        "fetchEmployeeById": Case([employee_id], f"employee/{employee_id}"),
        "fetchOrgScimGroups": Case([{"orgId": group.org_id}], group_path),
        "fetchScimGroup": Case(
            [{"orgId": group.org_id, "groupId": group_id, "membersPageSize": 4}],
            f"{group_path}/{group_id}",
            {"members_page_size": 4},
        ),
        **{f"fetch{kind}Report": case for kind, case in _report_cases()},
        "fetchChartMetricData": Case(
            ["signups", "Monthly", {"$date": "2026-01-01"}, {"$date": "2026-06-30"}],
            "chart_metrics/signups",
            {"cadence": "Monthly", "start_date": "2026-01-01", "end_date": "2026-06-30"},
        ),
    }


def _look_up(user: dict[str, Any], name: str) -> Case:
    query = {name: user[name], "include_orgs": "true"}
    return Case([user[name], True], f"user/{name}", query)


def _batch(users: list[Any], name: str) -> Case:
    values = [user.wire[name] for user in users[:4]]
    return Case([values, True], f"user/{name}s", {"include_orgs": "true"}, {f"{name}s": values})


def _report_cases() -> list[tuple[str, Case]]:
    kinds = {
        "UserTopInviter": ("user_report/top_inviter", "90"),
        "UserChampion": ("user_report/champion", "60"),
        "UserReengagement": ("user_report/reengagement", "Monthly"),
        "UserChurn": ("user_report/churn", "14"),
        "OrgReengagement": ("org_report/reengagement", "Weekly"),
        "OrgChurn": ("org_report/churn", "7"),
        "OrgGrowth": ("org_report/growth", "90"),
        "OrgAttrition": ("org_report/attrition", "60"),
    }
    return [
        (
            kind,
            Case([interval, {"pageSize": 4}], path, {"report_interval": interval, "page_size": 4}),
        )
        for kind, (path, interval) in kinds.items()
    ]


def camelize(value: Any) -> Any:
    """Rename as the client does: everywhere, even inside ``properties``."""
    if isinstance(value, list):
        return [camelize(item) for item in value]
    if isinstance(value, dict):
        return {
            RENAMED.get(key) or _camel_case(key): item if key in UNTOUCHED else camelize(item)
            for key, item in value.items()
        }
    return value


def _camel_case(key: str) -> str:
    return re.sub("_([a-z])", lambda match: match[1].upper(), key)


def expected(function: str, case: Case, wire: Any, url: str) -> Any:
    """Return the client's object for the response ``wire``."""
    if function == "fetchTokenVerificationMetadata":
        return {"verifierKey": wire["public_key_pem"], "issuer": url}
    if function == "fetchUserSignupQueryParams":
        return {"userSignupQueryParameters": wire["user_signup_query_parameters"]}
    if function == "fetchOrgByQuery":
        orgs = [{RENAMED_IN_ORG_QUERY.get(k, k): v for k, v in o.items()} for o in wire["orgs"]]
        return {RENAMED_IN_ORG_QUERY.get(k, k): v for k, v in wire.items()} | {"orgs": orgs}
    if case.body:
        (values,) = case.body.values()
        return dict(zip(values, camelize(wire), strict=True))
    return camelize(wire)


def test_the_client_reads_everything(client_folder, cases, http, sandbox) -> None:
    calls = {name: case.arguments for name, case in cases.items()}
    task = {"folder": str(client_folder), "url": sandbox.url, "key": sandbox.api_key}
    done = subprocess.run(
        ["node", str(SCRIPT)],
        input=json.dumps({**task, "calls": calls}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert sorted(result["functions"]) == sorted(cases)
    for function, case in cases.items():
        url = f"/api/backend/v1/{case.path}"
        method = "POST" if case.body else "GET"
        wire = http.request(method, url, params=case.query, json=case.body).json()
        assert result["answers"][function] == expected(function, case, wire, sandbox.url), function
