"""Any response gives rows, or an error of one sentence without content. Fuzzed by hypothesis, over a real socket."""

import json
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, cast
from urllib.parse import unquote

import msgspec
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from propel_assets.catalog import BY_NAME
from propel_assets.errors import PropelError, SettingsError
from propel_assets.settings import Settings, load_settings, normalize_auth_url, require_credentials
from propel_assets.source.client import Client
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets.source.readers import ScanContext, read_scan
from propel_assets.source.stream import ReadOptions, Rows
from propel_assets_tests.cases import cases

CANARY = "canary@example.org"
MANY_REQUESTS = 500
SCANS = (
    "users",
    "orgs",
    "invites",
    "role_mappings",
    "end_user_api_keys",
    "openid_configuration",
    "jwks",
    "org_reports",
)
PEOPLE = {
    "user_id": "11111111-1111-4111-8111-111111111111",
    "email": CANARY,
    "created_at": 1_700_000_000,
    "last_active_at": 1_700_000_100,
    "org_id_to_org_info": {"o": {"org_id": "o", "org_name": CANARY, "user_role": "Owner"}},
}
PAGE = {
    **{name: [PEOPLE] for name in ("users", "orgs", "invites", "api_keys", "user_reports", "org_reports")},
    **{f"total_{name}": 1 for name in ("users", "orgs", "invites", "api_keys", "reports")},
    "current_page": 0,
    "page_size": 100,
    "has_more_results": False,
}

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(CANARY)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3))


def changed(of: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return ``of`` with some fields of any other value."""
    return st.dictionaries(st.sampled_from(sorted(of)), values, max_size=3).map(lambda new: {**of, **new})


def with_row(page: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """Return the page with ``row`` instead of each of its rows that was left alone."""
    return {name: [row] if value == [PEOPLE] else value for name, value in page.items()}


pages = st.builds(with_row, changed(PAGE), changed(PEOPLE))
bodies = st.binary() | (values | pages).map(lambda value: json.dumps(value).encode())


class Answers(ThreadingHTTPServer):
    body = b""
    requests = 0
    path = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        answers = cast(Answers, self.server)
        answers.requests += 1
        answers.path = self.path
        self.send_response(200 if answers.requests < MANY_REQUESTS else 400)
        self.send_header("Content-Length", str(len(answers.body)))
        self.end_headers()
        self.wfile.write(answers.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[Answers]:
    with Answers(("127.0.0.1", 0), _Handler) as answers:
        thread = Thread(target=answers.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield answers
        answers.shutdown()
        thread.join()


@pytest.mark.parametrize("scan", SCANS)
@settings(max_examples=cases(60))
@given(body=bodies)
@example(body=json.dumps(PAGE).encode())
@example(body=b"\xff" + CANARY.encode())
@example(body=json.dumps({**PAGE, "total_users": 10**18, "total_orgs": 10**18, "has_more_results": True}).encode())
def test_any_body_gives_rows_or_an_error_without_content(scan, server, body) -> None:
    server.body, server.requests = body, 0
    url = f"http://127.0.0.1:{server.server_port}"
    client = Client(require_credentials(Settings(auth_url=url, api_key="k", retry_seconds=0, max_concurrency=2)).tenant)
    text = "No error."
    try:
        items = list(read_scan(scan, ScanContext(client=client)))
        assert all(isinstance(item.data, pa.Table) for item in items if isinstance(item, Rows))
    except PropelError as error:
        text = str(error)
    assert CANARY not in text
    assert text.endswith(".")
    assert server.requests < MANY_REQUESTS


DECODED = [table for table in BY_NAME.values() if table.items and table.path]  # read from the API


@given(table=st.sampled_from(DECODED), body=bodies)
@example(table=BY_NAME["pending_org_invites"], body=b'{"invites": [{"new": 1}], "tota\x8a": 1}')
def test_any_body_is_decoded_whole_or_refused(table, body) -> None:
    row_type = RowType(table)
    try:
        rows = PageDecoder(row_type, table.items)(body).items
    except msgspec.DecodeError:
        return
    assert row_type.to_arrow(rows).num_rows == len(rows)


@given(value=st.text(min_size=1))
@example(value="../../org/query")
@example(value="..")
@example(value="a/b?c=d#e%2F")
def test_a_path_with_any_value_stays_at_its_endpoint(server, value) -> None:
    server.body, server.requests = b"{}", 0
    client = client_of(server)
    with suppress(PropelError):
        client.get(BY_NAME["user_by_id"].path_of(user_id=value), bytes)
    assert server.requests == 1
    before, _, segment = server.path.partition("?")[0].rpartition("/")
    assert before == "/api/backend/v1/user"
    assert unquote(segment) == value


@pytest.mark.parametrize("value", ["ann@x.test", "ann", "../../org/query", ""])
def test_only_an_id_is_looked_up_by_a_path(server, value) -> None:
    """A path is in URLs, and in errors."""
    server.requests = 0
    known = "8d4cd5a4-57a8-4a57-8a2f-3ac8a2d2a5ee"
    context = ScanContext(client=client_of(server), options=ReadOptions(lookups={"user_by_id": [known, value]}))
    with pytest.raises(
        SettingsError, match=r"user_by_id: not a UUID: value number 2\. Nothing was requested\."
    ) as refused:
        list(read_scan("user_by_id", context))
    assert server.requests == 0
    assert "ann" not in str(refused.value)


def client_of(server: Any) -> Client:
    settings = Settings(auth_url=f"http://127.0.0.1:{server.server_port}", api_key="k", retry_seconds=0)
    return Client(require_credentials(settings).tenant)


VARIABLES = ["PROPELAUTH_PAGE_SIZE", "PROPELAUTH_MAX_RPS", "PROPELAUTH_ALLOW_LOSS", "PROPELAUTH_TABLE_FORMAT"]
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(variable=st.sampled_from(VARIABLES), text=texts | st.sampled_from(["nan", "-1", "1e999", "٣", "0x10"]))
def test_any_setting_is_read_or_refused_by_its_name(variable, text, monkeypatch) -> None:
    with monkeypatch.context() as context:
        context.setenv(variable, text)
        message = variable
        try:
            load_settings()
        except SettingsError as error:
            message = str(error)
        assert variable in message


@given(url=texts | texts.map("https://{}".format) | texts.map("http://localhost{}".format))
def test_any_auth_url_is_plain_or_refused(url) -> None:
    message = ""
    try:
        checked = normalize_auth_url(url)
        assert normalize_auth_url(checked) == checked
    except SettingsError as error:
        message = str(error)
    assert not message or "must look like https://auth.example.com" in message
