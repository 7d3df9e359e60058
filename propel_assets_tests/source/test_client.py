"""The client over real HTTP: what is asked again, what is final, and what an error text gives away."""

import logging
import re
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from propel_assets.errors import ApiError, PermanentApiError, TransientApiError, Unreachable
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import Settings
from propel_assets.source import client as client_module
from propel_assets.source.client import MAX_TRIES, NO_AUTH, USER_AGENT, Client

USERS = "/api/backend/v1/user/query"
BY_EMAIL = "/api/backend/v1/user/email"
EMAIL = "somebody.private@example.org"


class Users(msgspec.Struct):
    users: list[dict[str, Any]]
    total_users: int


decode = msgspec.json.Decoder(Users).decode
Connect = Callable[..., Client]


@pytest.fixture
def connect(sandbox: Sandbox) -> Connect:
    """Return a client of the sandbox; settings as given."""

    def connect_with(**settings: Any) -> Client:
        given = {"auth_url": sandbox.url, "api_key": sandbox.api_key, "retry_seconds": 20.0, **settings}
        return Client(Settings(**given))

    return connect_with


@pytest.fixture(autouse=True)
def quick_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_backoff_seconds", lambda tries: 0.01 * tries)


@pytest.fixture(autouse=True)
def only_get(sandbox: Sandbox) -> Iterator[None]:
    """Whatever a test does: nothing but GET arrives."""
    yield
    assert {request.method for request in sandbox.requests} <= {"GET"}


def read(client: Client) -> Users:
    return client.get(USERS, decode, {"page_size": 10, "email_or_username": EMAIL})


def error_of(client: Client, path: str = USERS) -> ApiError:
    with pytest.raises(ApiError) as caught:
        client.get(path, decode, {"email": EMAIL, "email_or_username": EMAIL})
    return caught.value


# What is asked again


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
def test_a_passing_failure_is_asked_again_and_counted(fault, value, sandbox, connect) -> None:
    sandbox.faults.set(fault, value, requests=2)
    client = connect()
    assert read(client).total_users == 0
    assert (client.traffic.requests, client.traffic.retries) == (3, 2)
    assert client.traffic.rate_limited == (2 if value == 429 else 0)
    assert len(sandbox.requests) == 3


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_wait_the_server_asks_for_is_kept(form, sandbox, connect) -> None:
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
        ("reset", True, "broken connection"),
        ("truncated", True, "half a body"),
    ],
)
def test_retries_end_by_count(fault, value, text, sandbox, connect) -> None:
    sandbox.faults.set(fault, value)
    error = error_of(connect())
    assert isinstance(error, TransientApiError)
    assert error.retry_may_help
    assert len(sandbox.requests) == MAX_TRIES
    assert text in str(error)
    assert "run again later" in str(error)


@pytest.mark.parametrize("status", [429, 503])
def test_retries_end_by_time(status, sandbox, connect) -> None:
    sandbox.faults.set("server_error", status)
    assert isinstance(error_of(connect(retry_seconds=0.2)), TransientApiError)
    assert 1 < len(sandbox.requests) <= 30


def test_a_wait_longer_than_the_budget_fails_at_once(sandbox, connect, monkeypatch) -> None:
    monkeypatch.setattr(client_module, "_retry_after", lambda header: 3600.0)
    sandbox.faults.set("server_error", 429)
    error = error_of(connect(retry_seconds=20))
    assert isinstance(error, TransientApiError)
    assert len(sandbox.requests) == 1
    assert "3600" in str(error)
    assert "PROPELAUTH_RETRY_SECONDS" in str(error)


def test_nobody_listening_is_transient_and_says_so(connect) -> None:
    error = error_of(connect(auth_url="http://127.0.0.1:9"))
    assert isinstance(error, TransientApiError)
    assert "no server accepts connections" in str(error)


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("", None), (None, None), ("soon", None)]
)
def test_retry_after_in_seconds(header, seconds) -> None:
    assert client_module._retry_after(header) == seconds


@pytest.mark.parametrize("header", ["Tue, 24 Nov 2015 06:00:00 GMT", "Tue, 24 Nov 2015 06:00:00", "nan", "inf"])
def test_retry_after_that_is_over_or_no_time_does_not_crash(header) -> None:
    seconds = client_module._retry_after(header)
    assert seconds is None or seconds >= 0


# What is final


@pytest.mark.parametrize("status", [400, 403, 404, 422, 426])
def test_a_refusal_is_final(status, sandbox, connect) -> None:
    sandbox.faults.set("server_error", status)
    error = error_of(connect())
    assert isinstance(error, PermanentApiError)
    assert not error.retry_may_help
    assert error.status == status
    assert str(error).startswith(f"GET {USERS} answered {status}")
    assert len(sandbox.requests) == 1


def test_a_wrong_key_is_one_request_and_says_where_to_find_one(sandbox, connect) -> None:
    error = error_of(connect(api_key="wrong-key"))
    assert isinstance(error, PermanentApiError)
    assert (error.status, len(sandbox.requests)) == (401, 1)
    assert "PROPELAUTH_API_KEY" in str(error)
    assert "Backend Integration page" in str(error)


def test_a_revoked_token_of_an_end_user_names_its_own_setting(sandbox, connect) -> None:
    sandbox.faults.set("key_revoked")
    with pytest.raises(PermanentApiError, match="PROPELAUTH_OAUTH_TOKEN") as caught:
        connect().get("/propelauth/oauth/userinfo", decode, auth="token-of-a-user")
    assert "PROPELAUTH_API_KEY" not in str(caught.value)
    assert "token-of-a-user" not in str(caught.value)


def test_json_of_another_shape_is_final(sandbox, connect) -> None:
    sandbox.faults.set("wrong_json")
    error = error_of(connect())
    assert isinstance(error, PermanentApiError)
    assert error.status == 0
    assert "another shape" in str(error)
    assert len(sandbox.requests) == 1


def test_a_redirect_is_refused_and_the_key_goes_nowhere(sandbox, connect) -> None:
    with Sandbox(users=1, orgs=1) as elsewhere:
        sandbox.faults.set("redirect", elsewhere.url)
        error = error_of(connect())
        assert isinstance(error, PermanentApiError)
        assert "PROPELAUTH_AUTH_URL" in str(error)
        assert (len(sandbox.requests), len(elsewhere.requests)) == (1, 0)


# What is never said


@pytest.mark.parametrize(
    ("fault", "value"),
    [
        *[("server_error", status) for status in (400, 401, 403, 404, 418, 426, 429, 500)],
        *[(fault, True) for fault in ("reset", "truncated", "html", "wrong_json", "redirect", "key_revoked")],
    ],
)
@pytest.mark.parametrize("path", [USERS, BY_EMAIL])
def test_no_error_tells_a_key_an_address_or_a_query(fault, value, path, sandbox, connect) -> None:
    sandbox.faults.set(fault, value)
    error = error_of(connect(retry_seconds=0.1), path)
    chain = f"{error} {error!r} {error.__cause__!r}"
    for secret in (sandbox.api_key, EMAIL, EMAIL.replace("@", "%40"), "email=", "?"):
        assert secret not in chain


def test_a_refusal_names_fields_and_not_what_was_in_them(sandbox, connect) -> None:
    with pytest.raises(PermanentApiError) as caught:
        connect().get(USERS, decode, {"page_size": -4711})
    assert caught.value.status == 400
    assert "page_size" in str(caught.value)
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "value"), [(None, None), ("server_error", 503), ("server_error", 400), ("reset", True)]
)
def test_no_log_tells_a_key_an_address_or_a_query(fault, value, sandbox, connect, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="urllib3")  # dagster-k8s makes it quieter
    client = connect(retry_seconds=0.1)
    if fault:
        sandbox.faults.set(fault, value)
        error_of(client)
    else:
        read(client)
    ours = [record for record in caplog.records if not record.name.startswith("uvicorn")]  # that is the server
    assert "urllib3.connectionpool" in {record.name for record in ours}
    for secret in (sandbox.api_key, EMAIL, EMAIL.replace("@", "%40"), "email_or_username", "?"):
        assert secret not in " ".join(record.getMessage() for record in ours)


def test_neither_settings_nor_client_show_the_key(sandbox, connect) -> None:
    client = connect()
    assert sandbox.api_key not in f"{client!r} {client.settings!r} {vars(client)!r}"


def test_the_key_is_sent_only_where_it_is_wanted(sandbox, connect) -> None:
    sandbox.faults.set("key_revoked", path=USERS)
    client = connect(api_key="wrong-key")
    known = client.get("/.well-known/jwks.json", msgspec.json.decode, auth=NO_AUTH)
    assert known["keys"]


class Listener(BaseHTTPRequestHandler):
    """Keeps the headers of every request."""

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
    """The URL of a server that answers everything, and the headers of what it was asked."""
    seen: list[dict[str, str]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Listening", (Listener,), {"seen": seen}))
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()
    server.server_close()


def test_a_request_says_who_asks_and_with_which_key(headers, connect) -> None:
    url, seen = headers
    client = connect(auth_url=url, api_key="the-key")
    client.get(USERS, decode)
    client.get(USERS, decode, auth=NO_AUTH)
    client.get(USERS, decode, auth="token-of-a-user")
    assert [sent.get("authorization") for sent in seen] == ["Bearer the-key", None, "Bearer token-of-a-user"]
    assert {sent["user-agent"] for sent in seen} == {USER_AGENT}
    assert USER_AGENT.startswith("propel-assets/")


@pytest.fixture
def behind_tls(tmp_path) -> Iterator[tuple[str, Path, list[dict[str, str]]]]:
    """The URL of that server behind a certificate nobody has signed, the certificate, and what it was asked."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "certificate.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(certificate.public_bytes(Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    seen: list[dict[str, str]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Listening", (Listener,), {"seen": seen}))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_address[1]}", file, seen
    server.shutdown()
    server.server_close()


def test_a_certificate_that_nobody_vouches_for_gets_no_key(behind_tls, connect, monkeypatch) -> None:
    url, certificate, seen = behind_tls
    error = error_of(connect(auth_url=url, retry_seconds=0.1))
    assert isinstance(error, Unreachable)
    assert "a TLS certificate that could not be verified" in str(error)
    assert seen == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    connect(auth_url=url, api_key="the-key").get(USERS, decode)
    assert [sent["authorization"] for sent in seen] == ["Bearer the-key"]


# Politeness


def test_a_rate_limit_of_ten_a_second_fails_nothing(sandbox, connect) -> None:
    sandbox.faults.set("rate_limit", 10)
    client = connect(max_concurrency=8)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: read(client), range(60)))
    assert len(answers) == 60
    assert 1 <= client.traffic.rate_limited <= 30
    assert client.traffic.requests == 60 + client.traffic.retries


def test_never_more_at_once_than_allowed(sandbox, connect) -> None:
    sandbox.faults.set("latency_ms", 20)
    client = connect(max_concurrency=3)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: read(client), range(24)))
    assert client.traffic.concurrency == 3


def test_stopping_ends_every_wait(sandbox, connect) -> None:
    sandbox.faults.set("server_error", 503)
    client = connect(retry_seconds=300.0)
    with client.stopping():
        assert isinstance(error_of(client), TransientApiError)
    assert len(sandbox.requests) == 1


def test_error_texts_are_sentences(sandbox, connect) -> None:
    sandbox.faults.set("server_error", 404)
    assert re.fullmatch(r"GET \S+ answered 404: .+\.", str(error_of(connect())))
