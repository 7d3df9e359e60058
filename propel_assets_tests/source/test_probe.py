"""The probe: every answer of a tenant that reading can settle, and a profile that the sandbox replays."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from propel_assets.errors import KeyRefused, PropelError, TransientApiError
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import load_settings, require_credentials
from propel_assets.source.probe import requester
from propel_assets.source.probe.questions import ProbeResult, probe
from propel_assets.source.probe.requester import MAX_REQUESTS, Requester, Response

TENANTS: dict[str, dict[str, Any]] = {
    "as documented": {},
    "another cap, refused": {"page_size_cap": 250, "page_size_refused": True},
    **{f"a cap of {n}, reduced": {"page_size_cap": n} for n in (10, 50, 99)},
    **{f"a cap of {n}, refused": {"page_size_cap": n, "page_size_refused": True} for n in (1, 10, 50, 99)},
    "a cap of 50, refused, and include_orgs refused": {
        "page_size_cap": 50,
        "page_size_refused": True,
        "include_orgs_off": 426,
    },
    "include_orgs refused": {"include_orgs_off": 400},
    "errors after the last page": {"past_end": 410},
    "no User Insights, no SCIM, no API keys": {"insights_off": 402, "scim_off": 404, "api_keys_off": 403},
    "no orgs": {"orgs_off": 426},
    "other errors and headers": {
        "error_bodies": {"value": {"404": {"content_type": "application/json", "body": '{"error_code": "not_found"}'}}},
        "response_headers": {"value": {"x-ratelimit-limit": "100"}},
    },
    "other details": {"org_detail_created_at": True, "unknown_org_empty": True},
}


def no_progress(*_: object) -> None:
    """Show nothing."""


@pytest.fixture(autouse=True)
def no_pause(monkeypatch) -> None:
    monkeypatch.setattr(requester, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(requester, "RETRY_PAUSE_SECONDS", 0)


def run_probe(sandbox: Sandbox) -> ProbeResult:
    return probe(
        require_credentials(load_settings({"auth_url": sandbox.url, "api_key": sandbox.api_key})).tenant,
        no_progress,
    )


def answers(result: ProbeResult) -> dict[int, str]:
    return {finding.number: finding.answer for finding in result.findings}


@pytest.mark.parametrize("behaviour", TENANTS.values(), ids=TENANTS)
def test_a_sandbox_replays_the_profile_of_a_tenant(behaviour, time_machine) -> None:
    time_machine.move_to(datetime.now(UTC), tick=False)
    with Sandbox(users=420, orgs=24, seed=7, profile=behaviour) as tenant:
        found = run_probe(tenant)
        assert len(tenant.requests) == found.requests <= MAX_REQUESTS
        assert {request.method for request in tenant.requests} == {"GET"}
    faults = found.profile["faults"]
    assert {name: value for name, value in faults.items() if name != "error_bodies"} == {
        "page_size_cap": 100,
        **{name: value for name, value in behaviour.items() if name != "error_bodies"},
    }, "each behaviour is found, and no other"
    with Sandbox(users=420, orgs=24, seed=7, profile=faults) as replay:
        again = run_probe(replay)
    assert answers(again) == answers(found)
    assert again.profile == found.profile


def test_every_question_that_reading_can_settle_is_settled() -> None:
    with Sandbox(users=1_200, orgs=24, seed=7) as tenant:
        found = run_probe(tenant)
    assert sorted(answers(found)) == list(range(1, 18))
    assert [number for number, answer in sorted(answers(found).items()) if not answer] == [15], (
        "webhooks are sent, not read"
    )
    by_number = answers(found)
    assert by_number[1] == "a page_size of 1000 is reduced to 100"
    assert by_number[2] == "0 rows, current_page echoed, has_more_results False, the same total"
    assert "no key: 401 with text" in by_number[3]
    assert "an unknown user: 404 with an empty body" in by_number[3]
    assert "two reads had the same order" in by_number[4]
    assert "user/org ignores order_by" in by_number[4]
    assert by_number[7].endswith("GET org/{org_id} does not send it")
    assert "has_more_results absent" in by_number[12]
    assert by_number[14] == "yes: it returned 200 to requests of this probe"
    assert by_number[16] == "GET org/query returned 200"
    assert by_number[17] == "404 with an empty body"
    assert all(finding.action for finding in found.findings)


def test_a_response_that_is_too_large_settles_nothing(monkeypatch) -> None:
    """The cap of such a tenant is not measured, and the users are read from smaller pages."""
    monkeypatch.setattr(requester, "MAX_BODY_BYTES", 2**20)
    with Sandbox(users=200, orgs=6, seed=7, profile={"page_size_cap": 1000}) as tenant:
        for user in tenant.store.users.values():
            user.wire["metadata"] = {"note": "a" * 20_000}
        tenant.store.version += 1
        found = run_probe(tenant)
    assert answers(found)[1] == "a page_size of 1000 returns more than 1 MiB, which are not read: not settled"
    assert "page_size_cap" not in found.profile["faults"]
    assert answers(found)[2].endswith("the same total")
    assert answers(found)[4].startswith("0 of 10 users have the created_at of another; two reads had the same order")
    assert found.profile["fields"]["users"]["rows"] == 10
    with Sandbox(users=60, orgs=6, seed=7, profile=found.profile["faults"]) as replay:
        run_probe(replay)


@pytest.mark.parametrize("fault", ["server_error=503,requests=1", "server_error=500,requests=2", "reset,requests=1"])
def test_a_transient_failure_is_retried_and_is_no_finding(fault) -> None:
    with Sandbox(users=300, orgs=6, seed=7) as tenant:
        undisturbed = run_probe(tenant)
        tenant.faults.parse(fault)
        found = run_probe(tenant)
    assert found.profile["faults"] == undisturbed.profile["faults"]
    assert answers(found) == answers(undisturbed)
    assert undisturbed.requests < found.requests <= MAX_REQUESTS


def test_a_list_of_users_that_keeps_failing_ends_the_probe() -> None:
    with Sandbox(users=30, orgs=3, seed=7) as tenant:
        tenant.faults.set("server_error", 503)
        with pytest.raises(TransientApiError, match=r"stopped after 3 requests: .* returned 503 repeatedly"):
            run_probe(tenant)


def test_a_feature_that_keeps_failing_is_not_a_feature_that_is_not_enabled() -> None:
    with Sandbox(users=30, orgs=3, seed=7) as tenant:
        tenant.faults.set("server_error", 500, path="/api/backend/v1/user_report")
        tenant.faults.set("html", 503, path="/api/backend/v1/end_user_api_keys")
        found = run_probe(tenant)
    assert not {"insights_off", "api_keys_off"} & found.profile["faults"].keys()
    assert "500" not in found.profile["faults"]["error_bodies"]["value"]
    assert found.requests <= MAX_REQUESTS


@pytest.mark.parametrize("readable", ["user_report", "chart_metrics"])
def test_a_key_that_may_read_some_insights_is_not_a_tenant_without_insights(readable, monkeypatch) -> None:
    def refuse(self, path, *args, **params):
        kept = not path.startswith(("user_report", "org_report", "chart_metrics")) or path.startswith(readable)
        return get(self, path, *args, **params) if kept else Response(403, {})

    get = Requester._get
    monkeypatch.setattr(Requester, "_get", refuse)
    with Sandbox(users=20, orgs=2, seed=7) as tenant:
        assert "insights_off" not in run_probe(tenant).profile["faults"]


def test_ties_that_change_places_are_found() -> None:
    with Sandbox(users=1_200, orgs=24, seed=7, profile={"shuffled_ties": True}) as tenant:
        oldest = next(iter(tenant.store.users.values()))
        for _ in range(20):
            tenant.store.add_user(created_at=oldest.wire["created_at"])
        found = run_probe(tenant)
    assert "21 of 100 users have the created_at of another; two reads had different orders" in answers(found)[4]
    assert found.profile["faults"]["shuffled_ties"] is True


def test_neither_findings_nor_profile_have_personal_data_ids_keys_or_the_host() -> None:
    text = "no {key} at {host} for jo@example.org, 5b1f0c1e-9f0d-4c64-8e0f-5f1c6c2d7a10"
    echo = {"401": {"content_type": "text/plain", "body": text}}
    with Sandbox(users=300, orgs=24, seed=7) as tenant:
        echo["401"]["body"] = echo["401"]["body"].format(key=tenant.api_key, host=tenant.url)
        tenant.faults.set("error_bodies", echo)
        found = run_probe(tenant)
        known = {
            value for user in tenant.store.users.values() for value in user.wire.values() if isinstance(value, str)
        }
        known |= {*tenant.store.orgs} | {org.wire["name"] for org in tenant.store.orgs.values()}
        text = json.dumps(found.profile) + " ".join(finding.answer for finding in found.findings)
        assert [value for value in known if len(value) > 5 and value in text] == []
        assert tenant.api_key not in text
    assert "127.0.0.1" not in text
    assert "@" not in text
    assert re.findall(r"[0-9a-f]{8}-", text) == []
    assert found.profile["faults"]["error_bodies"]["value"]["401"]["body"] == "text"


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("Key 'Production ETL of Jane Doe' is unknown; call +49 170 1234567, see acme-internal.example.net", "text"),
        ("Rate limit exceeded", "Rate limit exceeded"),
        ("", ""),
        (
            '{"error_code": "jane_doe", "user_facing_errors": {"Jane Doe": ["acme.example.net"]}, "wait_seconds": 3.5}',
            '{"error_code": "text", "user_facing_errors": {"other": ["text"]}, "wait_seconds": 0}',
        ),
        ("[" * 20 + "]" * 20, "[[[[null]]]]"),
    ],
)
def test_only_the_shape_of_an_error_is_kept(body, kept) -> None:
    error = {"content_type": "text/vnd.acme-internal; charset=utf-8", "body": body}
    with Sandbox(users=30, orgs=3, seed=7) as tenant:
        tenant.faults.set("error_bodies", {"401": error, "404": error})
        tenant.faults.set("response_headers", {"x-acme-internal-ratelimit": "jane", "x-ratelimit-limit": "jane"})
        found = run_probe(tenant)
    errors = found.profile["faults"]["error_bodies"]["value"]
    assert errors["401"] == errors["404"] == {"content_type": "", "body": kept}
    text = json.dumps(found.profile) + " ".join(finding.answer for finding in found.findings)
    assert [word for word in ("jane", "Jane", "acme", "+49") if word in text] == []


def test_a_key_that_is_refused_and_a_rate_limit_end_with_one_sentence() -> None:
    with Sandbox(users=30, orgs=3, seed=7) as tenant:
        tenant.faults.set("key_revoked")
        with pytest.raises(KeyRefused, match="not a key of this environment"):
            run_probe(tenant)
        tenant.faults.clear()
        tenant.faults.set("rate_limit", 3)
        tenant.faults.set("retry_after", "seconds")
        with pytest.raises(TransientApiError, match=r"stopped after \d+ requests: .* returned 429 with Retry-After"):
            run_probe(tenant)
        url = tenant.url
    with pytest.raises(PropelError, match="could not read GET"):
        probe(require_credentials(load_settings({"auth_url": url, "api_key": "x"})).tenant, no_progress)


def test_a_url_that_returns_404_for_every_request_is_not_said_to_serve_the_api() -> None:
    with Sandbox(users=20, orgs=2, seed=7, faults=["server_error=404"]) as wrong:
        found = run_probe(wrong)
    assert answers(found)[14] == "not known: no request returned 200"


def test_a_tenant_with_few_or_no_rows_can_be_probed() -> None:
    with Sandbox(users=0, orgs=0, seed=7) as tenant:
        found = run_probe(tenant)
    assert answers(found)[1] == "a page_size of 1000 is reduced to 100"
    assert answers(found)[10].startswith("no activity was returned; 0 users show an impersonator")
    with Sandbox(users=150, orgs=2, seed=7, profile={"page_size_cap": 10_000}) as tenant:
        found = run_probe(tenant)
    assert answers(found)[1].endswith("there are only 150 users, so the cap is not known")


def test_the_command_writes_the_profile_and_the_sandbox_reads_it(small, run_cli, tmp_path) -> None:
    ran = run_cli("probe", "--output", "profile.json")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("propel-assets: ") == 17
    assert re.search(r"^\d+ requests. The profile is in profile.json.$", ran.stderr, re.MULTILINE)
    with Sandbox(users=60, orgs=6, seed=7, profile=json.loads((tmp_path / "profile.json").read_text())["faults"]):
        pass
    (tmp_path / "other.json").write_text('{"faults": {}}')
    wrong = run_cli("sandbox", "--port", "0", "--profile", "other.json")
    assert wrong.returncode == 2
    assert "propel-assets probe --output" in wrong.stderr
