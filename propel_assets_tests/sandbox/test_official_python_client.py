"""PropelAuth's own Python client reads everything from the sandbox, sync and async.

Each function is compared, field by field, with what plain HTTP answers. A function the client gains
and this file does not cover fails here.
"""

import asyncio
import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from datetime import date
from enum import Enum
from typing import Any

import propelauth_py
import pytest
from propelauth_py import Auth, api
from propelauth_py.errors import RateLimitedException
from propelauth_py.types import user_insights as reports

DEFAULT_URL = "https://propelauth-api.com"
# attribute of the client's OrgMemberInfo -> name in the response
RENAMED = {
    "user_assigned_role": "user_role",
    "user_inherited_roles_plus_current_role": "inherited_user_roles_plus_current_role",
    "assigned_additional_roles": "additional_roles",
}
FUNCTIONS = sorted(name for name in vars(Auth) if name.startswith("fetch_"))
# passes the date as the parameters: end_user_api_keys.py:326 of 4.4.0
BROKEN = "fetch_api_key_usage"
# with few users, these reports may be empty
SELDOM = {"fetch_org_churn_report", "fetch_org_reengagement_report"}


@dataclasses.dataclass
class Case:
    """How to call one function, and the same request by plain HTTP."""

    arguments: dict[str, Any]
    path: str
    query: dict[str, Any] = dataclasses.field(default_factory=dict)
    body: dict[str, list[str]] | None = None


@pytest.fixture
def client_url(sandbox, monkeypatch) -> str:
    """Send every call of the client to the sandbox. Its host is a constant in each module."""
    prefix = f"{api.__name__}."
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(api.__path__, prefix)]
    for module in [api, *modules]:
        for name, value in list(vars(module).items()):
            if isinstance(value, str) and value.startswith(DEFAULT_URL):
                monkeypatch.setattr(module, name, sandbox.url + value.removeprefix(DEFAULT_URL))
    return sandbox.url


@pytest.fixture
def auth(client_url, sandbox) -> Auth:
    return propelauth_py.init_base_auth(client_url, sandbox.api_key)


@pytest.fixture
def cases(sandbox) -> dict[str, Case]:
    """One case for each function of the client."""
    store = sandbox.store
    users = [user for user in store.users.values() if "username" in user.wire]
    user = next(user for user in users if user.wire["mfa_enabled"] and store.of_user[user.user_id])
    social = next(user for user in users if user.social_provider)
    org_id = max(store.of_org, key=lambda org_id: len(store.of_org[org_id]))
    group = max(store.groups.values(), key=lambda group: len(group.member_ids))
    key_id = next(iter(store.api_keys))
    employee_id = next(iter(store.employees))
    of_user = {"user_id": user.user_id}
    paged = {"page_size": 3, "page_number": 1}
    with_orgs = {"include_orgs": True}
    return {
        **_user_cases(user.wire, [user.wire for user in users[:5]]),
        "fetch_users_by_query": Case(
            {**paged, **with_orgs, "email_or_username": "a"},
            "user/query",
            {**paged, "include_orgs": "true", "email_or_username": "a"},
        ),
        "fetch_users_in_org": Case({"org_id": org_id, "page_size": 5}, f"user/org/{org_id}", {"page_size": 5}),
        "fetch_user_signup_query_params_by_user_id": Case(of_user, f"user/{user.user_id}/signup_query_parameters"),
        "fetch_user_mfa_methods": Case(of_user, f"user/{user.user_id}/mfa"),
        "fetch_user_oauth_tokens": Case({"user_id": social.user_id}, f"user/{social.user_id}/oauth_token"),
        "fetch_fresh_token_from_provider": Case(
            {"user_id": social.user_id, "provider": social.social_provider},
            f"user/{social.user_id}/{social.social_provider}/fresh_token",
        ),
        "fetch_org": Case({"org_id": org_id}, f"org/{org_id}"),
        "fetch_org_by_query": Case(
            {**paged, "order_by": propelauth_py.OrgQueryOrderBy.NAME},
            "org/query",
            {**paged, "order_by": "NAME"},
        ),
        "fetch_custom_role_mappings": Case({}, "custom_role_mappings"),
        "fetch_pending_invites": Case({"page_size": 3}, "pending_org_invites", {"page_size": 3}),
        "fetch_saml_sp_metadata": Case({"org_id": org_id}, f"saml_sp_metadata/{org_id}"),
        "fetch_api_key": Case({"api_key_id": key_id}, f"end_user_api_keys/{key_id}"),
        "fetch_current_api_keys": Case(paged, "end_user_api_keys", paged),
        "fetch_archived_api_keys": Case(
            {"page_size": 3, "page_number": 0}, "end_user_api_keys/archived", {"page_size": 3}
        ),
        "fetch_api_key_usage": Case({"date": "2026-11-20"}, "end_user_api_keys/usage", {"date": "2026-11-20"}),
        "fetch_employee_by_id": Case({"employee_id": employee_id}, f"employee/{employee_id}"),
        "fetch_org_scim_groups": Case(
            {"org_id": group.org_id, "page_size": 2},
            f"scim/{group.org_id}/groups",
            {"page_size": 2},
        ),
        "fetch_scim_group": Case(
            {
                "org_id": group.org_id,
                "group_id": group.wire["group_id"],
                "members_page_number": 1,
            },
            f"scim/{group.org_id}/groups/{group.wire['group_id']}",
            {"members_page_number": 1},
        ),
        **_report_cases(),
        "fetch_chart_metric_data": Case(
            {
                "chart_metric": reports.ChartMetric.ACTIVE_ORGS,
                "cadence": reports.ChartMetricCadence.WEEKLY,
                "start_date": date(2026, 1, 1),
                "end_date": date(2026, 6, 30),
            },
            "chart_metrics/active_orgs",
            {"cadence": "Weekly", "start_date": "2026-01-01", "end_date": "2026-06-30"},
        ),
    }


def _user_cases(user: dict[str, Any], users: list[dict[str, Any]]) -> dict[str, Case]:
    orgs = {"include_orgs": "true"}
    cases = {
        "fetch_user_metadata_by_user_id": Case(
            {"user_id": user["user_id"], "include_orgs": True}, f"user/{user['user_id']}", orgs
        )
    }
    for name in ("email", "username"):
        cases[f"fetch_user_metadata_by_{name}"] = Case(
            {name: user[name], "include_orgs": True}, f"user/{name}", {name: user[name], **orgs}
        )
    for name in ("user_id", "email", "username"):
        values = [user[name] for user in users]
        cases[f"fetch_batch_user_metadata_by_{name}s"] = Case(
            {f"{name}s": values, "include_orgs": True},
            f"user/{name}s",
            orgs,
            {f"{name}s": values},
        )
    return cases


def _report_cases() -> dict[str, Case]:
    intervals = {
        "user_top_inviter": reports.TopInviterReportInterval.NINETY_DAYS,
        "user_champion": reports.ChampionReportInterval.SIXTY_DAYS,
        "user_churn": reports.ChurnReportInterval.FOURTEEN_DAYS,
        "user_reengagement": reports.ReengagementReportInterval.MONTHLY,
        "org_churn": reports.ChurnReportInterval.SEVEN_DAYS,
        "org_reengagement": reports.ReengagementReportInterval.WEEKLY,
        "org_growth": reports.GrowthReportInterval.NINETY_DAYS,
        "org_attrition": reports.AttritionReportInterval.NINETY_DAYS,
    }
    return {
        f"fetch_{name}_report": Case(
            {"report_interval": interval, "page_size": 4},
            name.replace("_", "_report/", 1),
            {"report_interval": interval.value, "page_size": 4},
        )
        for name, interval in intervals.items()
    }


@pytest.fixture
def plain_answer(http) -> Callable[[Case], Any]:
    """Return the response of plain HTTP to a case; for a batch read, by the value that is looked up."""

    def answer(case: Case) -> Any:
        url = f"/api/backend/v1/{case.path}"
        if case.body is None:
            return http.get(url, params=case.query).raise_for_status().json()
        rows = http.post(url, params=case.query, json=case.body).raise_for_status().json()
        (values,) = case.body.values()
        return dict(zip(values, rows, strict=True))

    return answer


def assert_equal(answer: Any, wire: Any) -> None:
    """Compare the client's object with the response. Fields that are absent are None."""
    if isinstance(answer, Enum):
        assert answer.value == wire
    elif dataclasses.is_dataclass(answer):
        for field in dataclasses.fields(answer):
            given = wire.get(RENAMED.get(field.name, field.name))
            assert_equal(getattr(answer, field.name), given)
    elif isinstance(answer, list):
        assert len(answer) == len(wire)
        for one, other in zip(answer, wire, strict=True):
            assert_equal(one, other)
    elif isinstance(answer, dict) and any(map(dataclasses.is_dataclass, answer.values())):
        assert answer.keys() == wire.keys()
        for key, value in answer.items():
            assert_equal(value, wire[key])
    else:
        assert answer == wire


def has_rows(wire: Any) -> bool:
    """Return whether a page has rows: only then does a comparison prove something."""
    lists = [value for value in wire.values() if isinstance(value, list)]
    return "page_size" not in wire or all(lists)


def test_every_function_has_a_case(cases) -> None:
    assert sorted(cases) == FUNCTIONS


@pytest.mark.parametrize("function", [name for name in FUNCTIONS if name != BROKEN])
def test_the_client_reads(function, auth, cases, plain_answer) -> None:
    case = cases[function]
    wire = plain_answer(case)
    assert_equal(getattr(auth, function)(**case.arguments), wire)
    assert has_rows(wire) or function in SELDOM


def test_the_known_bug_of_the_client_still_exists(auth, cases) -> None:
    with pytest.raises(AttributeError, match="'str' object has no attribute 'items'"):
        getattr(auth, BROKEN)(**cases[BROKEN].arguments)


def test_the_async_client_reads(client_url, sandbox, cases, plain_answer) -> None:
    async def read_everything() -> list[tuple[str, Any]]:
        async with propelauth_py.init_base_async_auth(client_url, sandbox.api_key) as auth:
            functions = {name: getattr(auth, name) for name in FUNCTIONS}
            assert all(map(inspect.iscoroutinefunction, functions.values()))
            return [(name, await fn(**cases[name].arguments)) for name, fn in functions.items()]

    for name, answer in asyncio.run(read_everything()):
        assert_equal(answer, plain_answer(cases[name]))


def test_the_client_reports_what_does_not_exist(auth) -> None:
    unknown = "00000000-0000-4000-8000-000000000000"
    assert auth.fetch_user_metadata_by_user_id(unknown) is None
    assert auth.fetch_user_metadata_by_email("nobody@mail.example") is None
    assert auth.fetch_org(unknown) is None
    assert auth.fetch_employee_by_id(unknown) is None
    assert auth.fetch_user_mfa_methods(unknown) is None
    assert auth.fetch_batch_user_metadata_by_user_ids([unknown]) == {}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("key_revoked", ValueError),
        ("rate_limit=0.001", RateLimitedException),
        ("orgs_off", RuntimeError),
        ("server_error=503", RuntimeError),
    ],
)
def test_the_client_raises_its_errors_for_refused_requests(fault, error, auth, sandbox) -> None:
    sandbox.faults.parse(fault)
    if fault.startswith("rate_limit"):
        auth.fetch_org_by_query()
    with pytest.raises(error):
        auth.fetch_org_by_query()


def test_a_wrong_key_of_the_client_is_refused(client_url) -> None:
    with pytest.raises(ValueError, match="integration_api_key is incorrect"):
        propelauth_py.init_base_auth(client_url, "wrong")
