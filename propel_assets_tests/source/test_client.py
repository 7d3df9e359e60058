"""The client over real HTTP: which failures are retried, which are permanent, and what error texts contain."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest

from propel_assets.errors import ApiError, PermanentApiError, TransientApiError, Unreachable
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import Tenant
from propel_assets.source import client as client_module
from propel_assets.source.client import MAX_TRIES, NO_AUTH, USER_AGENT, Client

USERS = "/api/backend/v1/user/query"
BY_EMAIL = "/api/backend/v1/user/email"
EMAIL = "private.person@example.org"


class Users(msgspec.Struct):
    users: list[dict[str, Any]]
    total_users: int


decode = msgspec.json.Decoder(Users).decode
Connect = Callable[..., Client]


@pytest.fixture
def connect(sandbox: Sandbox) -> Connect:
    """Return a function that makes a client of the sandbox with these settings."""

    def connect_with(**settings: Any) -> Client:
        return Client(
            Tenant(**{"auth_url": sandbox.url, "api_key": sandbox.api_key, "retry_seconds": 20.0, **settings})
        )

    return connect_with


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_backoff_seconds", lambda attempts: 0.01 * attempts)


@pytest.fixture(autouse=True)
def only_get(sandbox: Sandbox) -> Iterator[None]:
    """After each test, check that only GET requests were received."""
    yield
    assert {request.method for request in sandbox.requests} <= {"GET"}


def read(client: Client) -> Users:
    return client.get(USERS, decode, {"page_size": 10, "email_or_username": EMAIL})


def error_of(client: Client, path: str = USERS) -> ApiError:
    with pytest.raises(ApiError) as caught:
        client.get(path, decode, {"email": EMAIL, "email_or_username": EMAIL})
    return caught.value


# Retried failures


@pytest.mark.parametrize(
    ("fault", "value"),
    [
        *[("server_error", status) for status in (408, 425, 429, 500, 502, 503, 504, 520)],
        ("reset", True),
        ("truncated", True),
        ("html", True),
        ("html", 502),
    ],
)
def test_a_transient_failure_is_retried_and_counted(fault, value, sandbox, connect) -> None:
    sandbox.faults.set(fault, value, requests=2)
    client = connect()
    assert read(client).total_users == 0
    assert (client.traffic.requests, client.traffic.retries) == (3, 2)
    assert client.traffic.rate_limited == (2 if value == 429 else 0)
    assert len(sandbox.requests) == 3


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_respected(form, sandbox, connect) -> None:
    sandbox.faults.set("rate_limit", 1)
    sandbox.faults.set("retry_after", form)
    client = connect()
    for _ in range(3):
        read(client)
    assert 1 <= client.traffic.rate_limited <= 4


@pytest.mark.parametrize(
    ("fault", "value", "text"),
    [
        ("server_error", 503, "503"),
        ("html", True, "not JSON"),
        ("reset", True, "connection reset"),
        ("truncated", True, "response truncated"),
    ],
)
def test_retries_end_after_the_maximum_number_of_attempts(fault, value, text, sandbox, connect) -> None:
    sandbox.faults.set(fault, value)
    error = error_of(connect())
    assert isinstance(error, TransientApiError)
    assert error.retry_may_help
    assert len(sandbox.requests) == MAX_TRIES
    assert text in str(error)
    assert "Run again later" in str(error)


@pytest.mark.parametrize("status", [429, 503])
def test_retries_end_after_retry_seconds(status, sandbox, connect) -> None:
    sandbox.faults.set("server_error", status)
    assert isinstance(error_of(connect(retry_seconds=0.2)), TransientApiError)
    assert 1 < len(sandbox.requests) <= 30


def test_a_retry_after_above_retry_seconds_fails_immediately(sandbox, connect, monkeypatch) -> None:
    monkeypatch.setattr(client_module, "_retry_after", lambda header: 3600.0)
    sandbox.faults.set("server_error", 429)
    error = error_of(connect(retry_seconds=20))
    assert isinstance(error, TransientApiError)
    assert len(sandbox.requests) == 1
    assert "3600" in str(error)
    assert "PROPELAUTH_RETRY_SECONDS" in str(error)


def test_a_refused_connection_is_transient(connect) -> None:
    error = error_of(connect(auth_url="http://127.0.0.1:9"))
    assert isinstance(error, TransientApiError)
    assert "connection refused" in str(error)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        *[(header, None) for header in (None, "", "0", "-3", "soon", "nan", "inf", "1e999", "99999999999 GMT")],
        *[(f"Tue, 24 Nov 2015 06:00:00{zone}", None) for zone in ("", " GMT", " +0100")],
        ("Mon, 01 Jan 99999999999999 00:00:00 GMT", None),
    ],
)
def test_a_retry_after_that_is_not_a_positive_time_counts_as_absent(header, seconds) -> None:
    assert client_module._retry_after(header) == seconds


def test_a_retry_after_date_gives_the_seconds_until_then() -> None:
    at = datetime.now(UTC) + timedelta(seconds=90)
    assert client_module._retry_after(format_datetime(at, usegmt=True)) == pytest.approx(90, abs=5)


# Permanent failures


@pytest.mark.parametrize("status", [400, 403, 404, 422, 426])
def test_a_client_error_is_permanent(status, sandbox, connect) -> None:
    sandbox.faults.set("server_error", status)
    error = error_of(connect())
    assert isinstance(error, PermanentApiError)
    assert not error.retry_may_help
    assert error.status == status
    assert str(error).startswith(f"GET {USERS} returned {status}")
    assert len(sandbox.requests) == 1


def test_a_public_document_that_asks_for_a_login_is_not_blamed_on_a_token(sandbox, connect) -> None:
    sandbox.faults.set("server_error", 401)
    with pytest.raises(PermanentApiError, match=r"it needs no key\. Check that PROPELAUTH_AUTH_URL is the auth URL"):
        connect().get("/.well-known/jwks.json", msgspec.json.decode, auth=NO_AUTH)


def test_a_wrong_key_fails_after_one_request_with_instructions(sandbox, connect) -> None:
    error = error_of(connect(api_key="wrong-key"))
    assert isinstance(error, PermanentApiError)
    assert (error.status, len(sandbox.requests)) == (401, 1)
    assert "PROPELAUTH_API_KEY" in str(error)
    assert "Backend Integration page" in str(error)


def test_a_revoked_end_user_token_names_its_setting(sandbox, connect) -> None:
    sandbox.faults.set("key_revoked")
    with pytest.raises(PermanentApiError, match="PROPELAUTH_OAUTH_TOKEN") as caught:
        connect().get("/propelauth/oauth/userinfo", decode, auth="token-of-a-user")
    assert "PROPELAUTH_API_KEY" not in str(caught.value)
    assert "token-of-a-user" not in str(caught.value)


def test_an_unexpected_json_shape_is_permanent(sandbox, connect) -> None:
    sandbox.faults.set("wrong_json")
    error = error_of(connect())
    assert isinstance(error, PermanentApiError)
    assert error.status == 0
    assert "unexpected shape" in str(error)
    assert len(sandbox.requests) == 1


def test_a_redirect_is_not_followed(sandbox, connect) -> None:
    with Sandbox(users=1, orgs=1) as elsewhere:
        sandbox.faults.set("redirect", elsewhere.url)
        error = error_of(connect())
        assert isinstance(error, PermanentApiError)
        assert "PROPELAUTH_AUTH_URL" in str(error)
        assert (len(sandbox.requests), len(elsewhere.requests)) == (1, 0)


# No secrets and no personal data in texts


@pytest.mark.parametrize(
    ("fault", "value"),
    [
        *[("server_error", status) for status in (400, 401, 403, 404, 418, 426, 429, 500)],
        *[(fault, True) for fault in ("reset", "truncated", "html", "wrong_json", "redirect", "key_revoked")],
    ],
)
@pytest.mark.parametrize("path", [USERS, BY_EMAIL])
def test_no_error_contains_a_key_an_address_or_a_query(fault, value, path, sandbox, connect) -> None:
    sandbox.faults.set(fault, value)
    error = error_of(connect(retry_seconds=0.1), path)
    chain = f"{error} {error!r} {error.__cause__!r}"
    for secret in (sandbox.api_key, EMAIL, EMAIL.replace("@", "%40"), "email=", "?"):
        assert secret not in chain


def test_a_refusal_names_fields_without_their_values(sandbox, connect) -> None:
    with pytest.raises(PermanentApiError) as caught:
        connect().get(USERS, decode, {"page_size": -4711})
    assert caught.value.status == 400
    assert "page_size" in str(caught.value)
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "value"), [(None, None), ("server_error", 503), ("server_error", 400), ("reset", True)]
)
def test_no_log_record_contains_a_key_an_address_or_a_query(fault, value, sandbox, connect, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="urllib3")  # dagster-k8s makes it quieter
    client = connect(retry_seconds=0.1)
    if fault:
        sandbox.faults.set(fault, value)
        error_of(client)
    else:
        read(client)
    ours = [record for record in caplog.records if not record.name.startswith("uvicorn")]  # the sandbox's
    assert "urllib3.connectionpool" in {record.name for record in ours}
    for secret in (sandbox.api_key, EMAIL, EMAIL.replace("@", "%40"), "email_or_username", "?"):
        assert secret not in " ".join(record.getMessage() for record in ours)


def test_the_repr_of_tenant_and_client_does_not_contain_the_key(sandbox, connect) -> None:
    client = connect()
    assert sandbox.api_key not in f"{client!r} {client.tenant!r} {vars(client)!r}"


def test_no_key_is_sent_to_public_endpoints(sandbox, connect) -> None:
    sandbox.faults.set("key_revoked", path=USERS)
    client = connect(api_key="wrong-key")
    known = client.get("/.well-known/jwks.json", msgspec.json.decode, auth=NO_AUTH)
    assert known["keys"]


class Listener(BaseHTTPRequestHandler):
    """Records the headers of every request."""

    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        body = b'{"users": [], "total_users": 0}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: Any) -> None:
        pass


@pytest.fixture
def headers() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The URL of a server that accepts every request, and the headers it received."""
    seen: list[dict[str, str]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Listening", (Listener,), {"seen": seen}))
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()
    server.server_close()


def test_a_request_has_a_user_agent_and_the_right_key(headers, connect) -> None:
    url, seen = headers
    client = connect(auth_url=url, api_key="the-key")
    client.get(USERS, decode)
    client.get(USERS, decode, auth=NO_AUTH)
    client.get(USERS, decode, auth="token-of-a-user")
    assert [sent.get("authorization") for sent in seen] == ["Bearer the-key", None, "Bearer token-of-a-user"]
    assert {sent["user-agent"] for sent in seen} == {USER_AGENT}
    assert USER_AGENT.startswith("propel-assets/")


@pytest.fixture
def behind_tls(certificate) -> Iterator[tuple[str, Path, list[dict[str, str]]]]:
    """The URL of such a server with a self-signed certificate, the certificate file, and the headers it received."""
    file, context = certificate
    seen: list[dict[str, str]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Listening", (Listener,), {"seen": seen}))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_address[1]}", file, seen
    server.shutdown()
    server.server_close()


def test_no_key_is_sent_to_a_server_with_an_untrusted_certificate(behind_tls, connect, monkeypatch) -> None:
    url, certificate, seen = behind_tls
    error = error_of(connect(auth_url=url, retry_seconds=0.1))
    assert isinstance(error, Unreachable)
    assert "TLS certificate not trusted" in str(error)
    assert seen == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    connect(auth_url=url, api_key="the-key").get(USERS, decode)
    assert [sent["authorization"] for sent in seen] == ["Bearer the-key"]


# The tenant


def test_sandboxes_of_one_seed_are_one_tenant_on_every_port(connect) -> None:
    ids = []
    for seed in (1, 1, 2):
        with Sandbox(users=1, orgs=1, seed=seed) as sandbox:
            client = connect(auth_url=sandbox.url)
            assert client.tenant_id == ""
            read(client)
            ids.append(client.tenant_id)
    assert ids == ["propel-assets-sandbox/1", "propel-assets-sandbox/1", "propel-assets-sandbox/2"]


def test_another_server_on_this_machine_is_identified_by_its_port(headers, connect) -> None:
    url, _ = headers
    client = connect(auth_url=url)
    read(client)
    assert f"http://{client.tenant_id}" == url


def test_every_other_tenant_is_identified_by_its_host(connect) -> None:
    assert connect(auth_url="https://auth.example.com").tenant_id == "auth.example.com"


# Rate limits and concurrency


def test_a_rate_limit_of_ten_per_second_fails_no_request(sandbox, connect) -> None:
    sandbox.faults.set("rate_limit", 10)
    client = connect(max_concurrency=8)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: read(client), range(60)))
    assert len(answers) == 60
    assert 1 <= client.traffic.rate_limited <= 30
    assert client.traffic.requests == 60 + client.traffic.retries


def test_concurrency_never_exceeds_the_limit(sandbox, connect) -> None:
    sandbox.faults.set("latency_ms", 20)
    client = connect(max_concurrency=3)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: read(client), range(24)))
    assert client.traffic.concurrency == 3


def test_stopping_ends_all_waits_and_sends_nothing(sandbox, connect, monkeypatch) -> None:
    monkeypatch.setattr(client_module, "_backoff_seconds", lambda attempts: 0.01 if attempts < 4 else 200)
    sandbox.faults.set("server_error", 503)
    client = connect(retry_seconds=300.0)
    waiting = Thread(target=error_of, args=(client,), daemon=True)
    waiting.start()
    while client.traffic.retries < 3:
        time.sleep(0.01)
    with client.stopping():
        waiting.join(5)
        assert not waiting.is_alive()
        sent = len(sandbox.requests)
        assert isinstance(error_of(client), TransientApiError)
    assert len(sandbox.requests) == sent


def test_error_texts_are_sentences(sandbox, connect) -> None:
    sandbox.faults.set("server_error", 404)
    assert re.fullmatch(r"GET \S+ returned 404: .+\.", str(error_of(connect())))
