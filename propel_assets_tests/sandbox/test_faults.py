"""Every switch over a real socket: its effect, and that it can be turned off."""

import json
from email.utils import parsedate_to_datetime
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from propel_assets.sandbox.faults import Faults
from propel_assets.sandbox.running import Sandbox
from propel_assets.sandbox.switches import FIELDS, SWITCHES

USERS = "/api/backend/v1/user/query"
ORGS = "/api/backend/v1/org/query"
SCAN = {"page_size": 100, "order_by": "CREATED_AT_ASC", "include_orgs": "true"}


def ids(page: httpx.Response) -> list[str]:
    return [user["user_id"] for user in page.json()["users"]]


def scan(http: httpx.Client, *, page_size: int = 10, pages: int = 30) -> list[str]:
    """Read so many pages forward, without any check."""
    query = {"page_size": page_size}
    return [i for n in range(pages) for i in ids(http.get(USERS, params={**query, "page_number": n}))]


# Setting switches


def test_a_fault_affects_the_next_requests_and_is_off_again(sandbox, http) -> None:
    sandbox.faults.set("server_error", 503, requests=2)
    assert [http.get(USERS).status_code for _ in range(4)] == [503, 503, 200, 200]
    assert sandbox.faults.describe() == {}


def test_a_fault_affects_only_its_paths(sandbox, http) -> None:
    sandbox.faults.set("server_error", 500, path="/api/backend/v1/org")
    assert (http.get(ORGS).status_code, http.get(USERS).status_code) == (500, 200)
    sandbox.faults.clear("server_error")
    assert http.get(ORGS).status_code == 200


def test_a_fault_begins_after_so_many_requests_and_is_counted(sandbox, http) -> None:
    sandbox.faults.parse(f"server_error=503,path={USERS},after=2,requests=1")
    assert [http.get(path).status_code for path in (USERS, ORGS, USERS, USERS, USERS)] == [200, 200, 200, 503, 200]
    assert sandbox.faults.hits == {"server_error": 1}


def test_a_share_of_the_requests_is_drawn_from_the_seed() -> None:
    def statuses() -> list[int]:
        with Sandbox(users=3, orgs=1, seed=5, faults=["server_error=502,share=0.3"]) as sandbox:
            headers = {"Authorization": f"Bearer {sandbox.api_key}"}
            with httpx.Client(base_url=sandbox.url, headers=headers) as http:
                return [http.get(USERS).status_code for _ in range(100)]

    first = statuses()
    assert 15 < first.count(502) < 45
    assert statuses() == first


def test_faults_are_shown_and_set_over_http(sandbox, http) -> None:
    switches = {"latency_ms": 1, "server_error": {"value": 503, "requests": 1, "path": ORGS}}
    shown = http.post("/sandbox/faults", json=switches).json()
    assert shown == http.get("/sandbox/faults").json()
    assert shown["server_error"] == {"value": 503, "requests": 1, "path": ORGS, "share": 1.0, "after": 0}
    assert http.get(ORGS).status_code == 503
    assert set(http.get("/sandbox").json()["faults"]) == {"latency_ms"}
    http.post("/sandbox/faults", json={"latency_ms": None})
    assert http.get("/sandbox/faults").json() == {}


@pytest.mark.parametrize("body", ['{"no_such": 1}', '{"reset": {"for": 2}}', "[]", "nonsense", "1"])
def test_a_switch_that_does_not_exist_is_refused(body, http) -> None:
    answer = http.post("/sandbox/faults", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_options_of_the_command_line_are_parsed() -> None:
    faults = Faults(1)
    for option in (
        "latency_ms=20",
        "truncated",
        "retry_after=date,path=/api/backend/v1/user,requests=3,share=0.5",
        'missing_field=["users.email","orgs.name"]',
    ):
        faults.parse(option)
    plain = {"requests": None, "path": "", "share": 1.0, "after": 0}
    assert faults.describe() == {
        "latency_ms": {"value": 20, **plain},
        "truncated": {"value": True, **plain},
        "retry_after": {
            "value": "date",
            "path": "/api/backend/v1/user",
            "requests": 3,
            "share": 0.5,
            "after": 0,
        },
        "missing_field": {"value": ["users.email", "orgs.name"], **plain},
    }
    for option in ("nothing=1", "latency_ms=1,for=3", "rate_limit=fast", "delete_every=0"):
        with pytest.raises(ValueError, match=r"[Ff]ault"):
            faults.parse(option)


NOT_ALLOWED = [
    ("scim_off", "1", "a whole number from 400 to 599; true: 403."),
    ("scim_off", '"403"', "a whole number from 400 to 599; true: 403."),
    ("server_error", "200", "from 400 to 599"),
    ("html", "204", "200, or a whole number from 400 to 599"),
    ("latency_ms", "true", "a number from 0 to 3,600,000."),
    ("latency_ms", "NaN", "a number from 0 to 3,600,000."),
    ("rate_limit", "0", "a number from 0.001"),
    ("page_size_cap", "2.5", "a whole number from 1"),
    ("delete_every", "0", "a whole number from 1"),
    ("reset", "1", "Allowed: true."),
    ("retry_after", '"minutes"', "Allowed: seconds, date, none."),
    ("retry_after", "true", "Allowed: seconds, date, none."),
    ("redirect", '"elsewhere"', "a URL that starts with http:// or https://"),
    ("wrong_json", "NaN", "any JSON value"),
    ("unknown_field", "1", "one of users, orgs, memberships"),
    ("unknown_field", '"org"', "Did you mean 'orgs'?"),
    ("unknown_field", '["users", "ogs"]', "Did you mean 'orgs'?"),
    ("unknown_field", "[]", "a JSON list of them"),
    ("missing_field", '"users.emial"', "Did you mean 'users.email'?"),
    ("retyped_field", '"email"', "a field such as users.email"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), NOT_ALLOWED)
def test_a_value_that_is_not_allowed_is_refused_alike_from_code_options_and_json(name, value, allowed, http) -> None:
    refusals = set()
    for faults_set in (lambda f: f.set(name, json.loads(value)), lambda f: f.parse(f"{name}={value}")):
        faults = Faults(1)
        with pytest.raises(ValueError, match=f"Fault {name}: .* is not allowed") as refused:
            faults_set(faults)
        assert faults.describe() == {}
        refusals.add(str(refused.value))
    for body in (f'{{"{name}": {value}}}', f'{{"{name}": {{"value": {value}}}}}'):
        answer = http.post("/sandbox/faults", content=body)
        assert (answer.status_code, answer.json()["faults"]) == (400, {})
        refusals.add(answer.json()["error"])
    (refusal,) = refusals
    assert allowed in refusal


@pytest.mark.parametrize(
    ("limit", "value", "allowed"),
    [
        ("requests", "0", "from 1"),
        ("requests", '"many"', "from 1"),
        ("after", "-1", "from 0"),
        ("share", "0", "above 0"),
        ("share", "2", "up to 1"),
        ("path", '"user/query"', "starts with /"),
        ("path", "5", "starts with /"),
        ("often", "1", "path, after, requests, share"),
    ],
)
def test_a_limit_that_is_not_allowed_is_refused_alike_from_code_options_and_json(limit, value, allowed, http) -> None:
    for faults_set in (
        lambda faults: faults.set("reset", **{limit: json.loads(value)}),
        lambda faults: faults.parse(f"reset,{limit}={value}"),
    ):
        with pytest.raises(ValueError, match=f"Fault reset.*{limit}.*{allowed}"):
            faults_set(Faults(1))
    answer = http.post("/sandbox/faults", content=f'{{"reset": {{"{limit}": {value}}}}}')
    assert (answer.status_code, answer.json()["faults"]) == (400, {})
    assert allowed in answer.json()["error"]


def test_a_refused_switch_leaves_all_others_unchanged(http) -> None:
    http.post("/sandbox/faults", json={"latency_ms": 1})
    refused = http.post("/sandbox/faults", json={"latency_ms": 2, "scim_of": True})
    assert refused.json()["error"] == "No fault is named 'scim_of'. Did you mean 'scim_off'?"
    assert refused.json()["faults"]["latency_ms"]["value"] == 1


def test_switches_are_turned_off_by_false_by_null_and_all_by_delete(http) -> None:
    shown = http.post("/sandbox/faults", json={"latency_ms": 1, "reset": True, "wrong_json": {"value": None}}).json()
    assert set(shown) == {"latency_ms", "reset", "wrong_json"}
    assert http.post("/sandbox/faults", json=shown).json() == shown
    assert set(http.post("/sandbox/faults", json={"latency_ms": None, "reset": False}).json()) == {"wrong_json"}
    assert http.delete("/sandbox/faults").json() == {}


@pytest.mark.parametrize("name", [n for n in SWITCHES if n not in ("latency_ms", "slow_body_ms", "reset", "truncated")])
def test_the_sandbox_responds_with_every_accepted_value(name, http) -> None:
    values = [
        "true",
        "0",
        "1",
        "-1",
        "2.5",
        "404",
        "1e999",
        "NaN",
        '""',
        '"orgs"',
        '"orgs.name"',
        '"\\ud800"',
        "[]",
        "[1]",
    ]
    for value in [*values, '"date"', '"http://a/\\n"', '["users", "orgs"]', '["users.email"]', "[[]]"]:
        accepted = http.post("/sandbox/faults", content=f'{{"{name}": {{"value": {value}}}}}')
        assert accepted.status_code in (200, 400), value
        if accepted.status_code == 400:
            continue  # it has changed nothing
        for path in (USERS, ORGS):
            assert http.get(path, params=SCAN if path == USERS else {}).text != "Internal Server Error", value
        assert http.delete("/sandbox/faults").json() == {}


def test_the_fields_that_switches_can_change_are_those_of_the_api() -> None:
    objects: dict[str, list[dict[str, Any]]] = {}
    with Sandbox(users=1000, orgs=150, seed=3) as sandbox:
        backend, headers = f"{sandbox.url}/api/backend/v1", {"Authorization": f"Bearer {sandbox.api_key}"}
        with httpx.Client(base_url=backend, headers=headers) as http:
            reports = [f"user_report/{kind}" for kind in ("top_inviter", "reengagement")]
            reports += [f"org_report/{kind}" for kind in ("growth", "churn")]
            lists = ["user/query", "org/query", "pending_org_invites", "end_user_api_keys", *reports]
            for path in lists + [f"scim/{org_id}/groups" for org_id in sandbox.store.orgs]:
                for number in range(10):
                    query = {"page_size": 100, "page_number": number}
                    page = http.get(path, params=query | ({"include_orgs": "true"} if path == "user/query" else {}))
                    for kind, rows in page.json().items():
                        objects.setdefault(kind, []).extend(rows if isinstance(rows, list) else [])
                    if not page.json().get("has_more_results"):
                        break
            objects["orgs"] += [http.get(f"org/{org_id}").json() for org_id in sandbox.store.orgs]
    objects["memberships"] = [row for user in objects["users"] for row in user["org_id_to_org_info"].values()]
    found = {kind: {field for row in rows for field in row} for kind, rows in objects.items() if rows}
    assert found == {kind: set(fields.split()) for kind, fields in FIELDS.items()}


# The response as a whole


def test_latency_delays_the_response_and_does_not_change_it(sandbox, http) -> None:
    before = http.get(USERS).json()
    sandbox.faults.set("latency_ms", 300)
    with pytest.raises(httpx.ReadTimeout):
        http.get(USERS, timeout=0.05)
    assert http.get(USERS).json() == before


@pytest.mark.parametrize("kind", ["none", "seconds", "date"])
def test_too_many_requests_get_429_with_the_kind_of_retry_after_that_is_set(kind, sandbox, http) -> None:
    sandbox.faults.set("retry_after", kind)
    sandbox.faults.set("rate_limit", 0.001)
    first, second = http.get(USERS), http.get(USERS)
    assert (first.status_code, second.status_code) == (200, 429)
    assert second.headers["content-type"].startswith("text/plain")
    given = second.headers.get("retry-after")
    if kind == "none":
        assert given is None
    elif kind == "seconds":
        assert 990 <= int(given) <= 1000
    else:
        assert parsedate_to_datetime(given).tzinfo is not None
    sandbox.faults.clear("rate_limit")
    assert http.get(USERS).status_code == 200


def test_the_bucket_holds_a_second_of_requests(sandbox, http) -> None:
    sandbox.faults.set("rate_limit", 5)
    statuses = [http.get("/.well-known/jwks.json").status_code for _ in range(12)]
    assert statuses[:5] == [200] * 5
    assert 429 in statuses


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_server_errors_carry_no_json(status, sandbox, http) -> None:
    sandbox.faults.set("server_error", status)
    answer = http.get(USERS)
    assert answer.status_code == status
    with pytest.raises(json.JSONDecodeError):
        answer.json()


def test_503_has_a_retry_after_header_if_that_is_set(sandbox, http) -> None:
    sandbox.faults.update({"server_error": 503, "retry_after": "seconds"})
    assert http.get(USERS).headers["retry-after"] == "1"


def test_a_reset_is_a_tcp_reset(sandbox, http) -> None:
    sandbox.faults.set("reset", requests=1)
    with pytest.raises(httpx.ReadError, match="reset by peer"):
        http.get(USERS)
    assert http.get(USERS).status_code == 200


def test_a_truncated_body_is_shorter_than_announced(sandbox, http) -> None:
    sandbox.faults.set("truncated", requests=1)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        http.get(USERS)
    assert http.get(USERS).json()["total_users"] == 300


def test_a_slow_body_arrives_whole(sandbox, http) -> None:
    before = http.get(USERS).json()
    sandbox.faults.set("slow_body_ms", 40, requests=1)
    with http.stream("GET", USERS) as answer:
        chunks = list(answer.iter_raw())
    assert len(chunks) > 2
    assert json.loads(b"".join(chunks)) == before


@pytest.mark.parametrize("status", [200, 502])
def test_the_response_is_html_instead_of_json(status, sandbox, http) -> None:
    sandbox.faults.set("html", status)
    answer = http.get(USERS)
    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "text/html; charset=utf-8",
    )
    assert answer.text.startswith("<html>")


@pytest.mark.parametrize("value", [[], "text", 7, {"detail": "no users here"}])
def test_the_response_is_json_of_another_shape(value, sandbox, http) -> None:
    sandbox.faults.set("wrong_json", value)
    answer = http.get(USERS)
    assert (answer.status_code, answer.json()) == (200, value)


def test_a_redirect_leads_to_another_host(sandbox, http) -> None:
    sandbox.faults.set("redirect")
    answer = http.get(USERS)
    assert answer.status_code == 302
    assert answer.headers["location"] == f"http://elsewhere.example{USERS}"


def test_a_revoked_key_can_read_only_public_documents(sandbox, http) -> None:
    sandbox.faults.set("key_revoked")
    assert http.get(USERS).status_code == 401
    assert http.get("/.well-known/jwks.json").status_code == 200


# Features that are not enabled


@pytest.mark.parametrize("status", [402, 403, 404])
@pytest.mark.parametrize(
    ("switch", "paths"),
    [
        ("insights_off", ["user_report/churn", "org_report/churn", "chart_metrics/signups"]),
        (
            "api_keys_off",
            [
                "end_user_api_keys",
                "end_user_api_keys/archived",
                "end_user_api_keys/usage?date=2026-11-01",
            ],
        ),
        ("scim_off", ["scim/{org}/groups"]),
    ],
)
def test_a_feature_is_not_enabled(switch, paths, status, sandbox, http) -> None:
    urls = [f"/api/backend/v1/{path.format(org=next(iter(sandbox.store.orgs)))}" for path in paths]
    assert {http.get(url).status_code for url in urls} == {200}
    sandbox.faults.set(switch, status)
    assert {http.get(url).status_code for url in urls} == {status}
    assert http.get(USERS).status_code == 200


def test_without_orgs_users_have_no_memberships(sandbox, http) -> None:
    org_id = next(iter(sandbox.store.orgs))
    sandbox.faults.set("orgs_off")
    for path in (
        "org/query", f"org/{org_id}", f"user/org/{org_id}", "custom_role_mappings",
        "pending_org_invites", "org_report/churn",
    ):  # fmt: skip
        assert http.get(f"/api/backend/v1/{path}").status_code == 426, path
    for path in (f"scim/{org_id}/groups", f"saml_sp_metadata/{org_id}"):
        assert http.get(f"/api/backend/v1/{path}").status_code == 404, path
    users = http.get(USERS, params=SCAN).json()["users"]
    assert len(users) == 100
    assert not any("org_id_to_org_info" in user for user in users)
    sandbox.faults.set("include_orgs_off")
    assert http.get(USERS, params=SCAN).status_code == 426
    assert http.get(USERS).status_code == 200


# Pages


def test_a_large_page_size_is_reduced_or_refused(sandbox, http) -> None:
    sandbox.faults.set("page_size_cap", 25)
    page = http.get(USERS, params=SCAN).json()
    assert (page["page_size"], len(page["users"]), page["has_more_results"]) == (25, 25, True)
    sandbox.faults.set("page_size_refused")
    refused = http.get(USERS, params=SCAN)
    assert (refused.status_code, list(refused.json())) == (400, ["page_size"])
    assert http.get(USERS, params={**SCAN, "page_size": 25}).status_code == 200


def test_a_repeated_page_hides_another(sandbox, http) -> None:
    whole = scan(http)
    sandbox.faults.set("repeated_page", 4)
    page = http.get(USERS, params={"page_number": 4})
    assert page.json()["current_page"] == 4
    assert ids(page) == ids(http.get(USERS, params={"page_number": 5}))
    assert set(whole) - set(scan(http)) == set(whole[40:50])


def test_ties_change_places_and_nothing_else_does(sandbox, http) -> None:
    query = {**SCAN, "page_size": 100}
    before = http.get(USERS, params=query).json()["users"]
    assert http.get(USERS, params=query).json()["users"] == before
    sandbox.store.add_org(name="Tie")
    sandbox.faults.set("shuffled_ties")
    moments = {}
    orders = set()
    for _ in range(5):
        users = [u for n in range(3) for u in _page(http, n)]
        orders.add(tuple(user["user_id"] for user in users))
        moments.setdefault(tuple(user["created_at"] for user in users))
        assert [u["created_at"] for u in users] == sorted(u["created_at"] for u in users)
    assert len(orders) == 5
    assert len(moments) == 1
    assert http.get(ORGS).status_code == 200


def _page(http: httpx.Client, number: int) -> list[dict[str, Any]]:
    return http.get(USERS, params={**SCAN, "page_number": number}).json()["users"]


# Changes of users


def test_users_are_deleted_in_the_middle_of_a_scan(sandbox, http) -> None:
    before = set(sandbox.store.users)
    sandbox.faults.set("delete_every", 3)
    seen = scan(http)
    after = set(sandbox.store.users)
    assert len(before - after) == 10
    assert after - set(seen), "a forward scan misses people who were there throughout"
    assert [event.kind for event in sandbox.store.history[-10:]] == ["deleted"] * 10


def test_users_sign_up_in_the_middle_of_a_scan(sandbox, http) -> None:
    sandbox.faults.set("signup_every", 2)
    newest_first = {"order_by": "CREATED_AT_DESC"}
    last = [http.get(USERS, params=newest_first).json() for _ in range(10)][-1]
    assert last["total_users"] == 305
    assert last["users"][0]["user_id"] == list(sandbox.store.users)[-1]


def test_a_user_is_inserted_among_the_oldest_during_a_scan(sandbox, http) -> None:
    sandbox.faults.set("insert_every", 2)
    known = set(sandbox.store.users)
    oldest_first = {"page_size": 100, "order_by": "CREATED_AT_ASC"}
    last = [http.get(USERS, params=oldest_first).json() for _ in range(4)][-1]
    assert last["total_users"] == 302
    assert len({user["user_id"] for user in last["users"][:40]} - known) == 2


# Fields


def test_an_unknown_field_appears_as_scalar_and_object(sandbox, http) -> None:
    sandbox.faults.set("unknown_field")
    user = next(u for u in http.get(USERS, params=SCAN).json()["users"] if u["org_id_to_org_info"])
    org = http.get(ORGS).json()["orgs"][0]
    membership = next(iter(user["org_id_to_org_info"].values()))
    by_id = http.get(f"/api/backend/v1/org/{org['org_id']}").json()
    for row in (user, membership, org, by_id):
        assert isinstance(row["new_scalar"], str)
        assert isinstance(row["new_object"], dict)
    sandbox.faults.set("unknown_field", "orgs")
    assert "new_scalar" not in http.get(USERS).json()["users"][0]
    assert "new_scalar" in http.get(ORGS).json()["orgs"][0]


def test_a_declared_field_is_left_out(sandbox, http) -> None:
    sandbox.faults.set("missing_field", ["users.email_confirmed", "memberships.user_role"])
    users = http.get(USERS, params=SCAN).json()["users"]
    assert not any("email_confirmed" in user for user in users)
    assert not any("user_role" in m for u in users for m in u["org_id_to_org_info"].values())
    assert all("email_confirmed" in user.wire for user in sandbox.store.users.values())


def test_a_declared_field_has_another_type(sandbox, http) -> None:
    before = http.get(USERS).json()["users"][0]
    sandbox.faults.set("retyped_field", ["users.created_at", "users.email", "orgs.created_at"])
    after = http.get(USERS).json()["users"][0]
    assert after["created_at"] == str(before["created_at"])
    assert after["email"] == {"value": before["email"]}
    assert isinstance(http.get(ORGS).json()["orgs"][0]["created_at"], str)
    sandbox.faults.clear()
    assert http.get(USERS).json()["users"][0] == before


# What `propel-assets probe` finds


def test_a_page_after_the_last_one_can_be_an_error(http, sandbox) -> None:
    assert http.get(USERS, params={"page_number": 30}).json()["users"] == []
    sandbox.faults.set("past_end")
    assert http.get(USERS, params={"page_number": 30}).status_code == 404
    assert http.get(USERS, params={"page_number": 29}).status_code == 200


def test_headers_and_error_bodies_are_those_of_a_profile(http, sandbox) -> None:
    sandbox.faults.set("response_headers", {"X-RateLimit-Limit": "100"})
    sandbox.faults.set("error_bodies", {"404": {"content_type": "application/json", "body": '{"error_code": "none"}'}})
    found, missing = http.get(USERS), http.get(f"{ORGS.rsplit('/', 1)[0]}/unknown")
    assert (found.status_code, found.headers["x-ratelimit-limit"]) == (200, "100")
    assert (missing.status_code, missing.headers["x-ratelimit-limit"]) == (404, "100")
    assert missing.json() == {"error_code": "none"}
    assert len(found.json()["users"]) == 10


def test_details_of_orgs_are_those_of_a_profile(http, sandbox) -> None:
    org_id = next(iter(sandbox.store.orgs))
    detail, members = f"{ORGS.rsplit('/', 1)[0]}/{org_id}", f"{USERS.rsplit('/', 1)[0]}/org/unknown"
    assert "created_at" not in http.get(detail).json()
    assert http.get(members).status_code == 404
    sandbox.faults.set("org_detail_created_at")
    sandbox.faults.set("unknown_org_empty")
    assert http.get(detail).json()["created_at"] == sandbox.store.orgs[org_id].created_at
    assert http.get(members).json()["total_users"] == 0


# All of them


def test_every_switch_of_requests_is_used_in_this_file() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in SWITCHES if f'"{name}' not in text and not name.startswith("webhook_")] == []


def test_it_stops_while_a_response_is_delayed() -> None:
    with Sandbox(users=3, orgs=1, faults=["latency_ms=60000"]) as sandbox:
        outcome = []

        def ask() -> None:
            try:
                httpx.get(f"{sandbox.url}{USERS}", timeout=120)
            except httpx.TransportError as error:
                outcome.append(error)

        asking = Thread(target=ask)
        asking.start()
        while not sandbox.requests:
            pass
    asking.join(timeout=30)
    assert len(outcome) == 1
