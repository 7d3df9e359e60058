"""HTTP client for one PropelAuth environment: authentication, retries, limits and typed errors. GET requests only.

The client has no knowledge of tables. It retries 408, 425, 429, 5xx, network failures, truncated responses and bodies
that are not JSON, within `Tenant.retry_seconds`. Every other failure is permanent. No request takes longer than
`REQUEST_SECONDS` once the host name is resolved, no body is read beyond `MAX_BODY_BYTES`, and a client sends no request
after `Tenant.scan_seconds`.
"""

import http.client
import logging
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import inf
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
import urllib3

from propel_assets import __version__
from propel_assets.errors import KeyRefused, PermanentApiError, ResponseTooLarge, TransientApiError, Unreachable
from propel_assets.settings import Tenant, is_loopback, variable_to_set
from propel_assets.source.connections import connection_pool
from propel_assets.source.throttle import Throttle

T = TypeVar("T")
Params = Mapping[str, str | int]

USER_AGENT = f"propel-assets/{__version__}"
MAX_TRIES = 8
CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 60.0
"""Total time of one request: connecting, headers and body."""
MAX_BODY_BYTES = 64 * 2**20
"""The largest body, after decompression."""
CHUNK_BYTES = 2**20
MAX_ERROR_BYTES = 64 * 2**10
"""How much of the body of an error response is read."""
RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
NO_AUTH, BACKEND_KEY = "", "backend key"
SANDBOX = "propel-assets-sandbox/"
MEDIA_TYPES = ("application/json", "application/problem+json", "text/html", "text/plain")
"""The types of bodies that messages name. The header of any other type can have any content."""
PLACEHOLDER = ".example.com"
"""Of the auth URL in the documentation. The domain is reserved: no tenant can have it."""
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError)
NESTING = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]')
"""A text, or the start or end of an array or object."""
NO_USABLE_CONNECTION = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.SSLError,
)


@dataclass
class Traffic:
    """Totals of a client. ``waited_seconds`` is the sum over all workers."""

    requests: int = 0
    retries: int = 0
    rate_limited: int = 0
    waited_seconds: float = 0.0
    concurrency: int = 0


def _remove_queries(record: logging.LogRecord) -> bool:
    """Remove query strings from the URLs that urllib3 logs: they can contain e-mail addresses."""
    if isinstance(record.args, tuple):
        record.args = tuple(arg.split("?")[0] if isinstance(arg, str) else arg for arg in record.args)
    return True


class Client:
    """Sends the requests of one scan to one PropelAuth environment. Threads can share it."""

    def __init__(self, tenant: Tenant) -> None:
        """Prepare connections; send nothing. ``tenant`` must have passed `require_credentials`."""
        logging.getLogger("urllib3.connectionpool").addFilter(_remove_queries)  # once: it is always the same function
        self.tenant = tenant
        self.traffic = Traffic()
        self._server: str | None = None  # the header `Server` of the last response
        self._scan_ends = time.monotonic() + tenant.scan_seconds
        self._throttle = Throttle(tenant.max_concurrency, tenant.max_rps)
        self._traffic_lock = threading.Lock()
        self._pool = connection_pool(
            tenant.auth_url,
            lambda: self._throttle.stopped,
            maxsize=tenant.max_concurrency,
            block=False,
            retries=False,
            timeout=urllib3.Timeout(connect=min(CONNECT_SECONDS, REQUEST_SECONDS), total=REQUEST_SECONDS),
            headers={"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "gzip"},
        )

    def get(self, path: str, decode: Callable[[bytes], T], params: Params | None = None, auth: str = BACKEND_KEY) -> T:
        """Return ``decode(body)`` of GET ``path``.

        ``auth`` is `BACKEND_KEY`, `NO_AUTH` or the access token of an end user. ``decode`` raises msgspec.DecodeError
        for a body that is not JSON (retried), and msgspec.ValidationError for an unexpected JSON shape (permanent).

        Raises:
            PermanentApiError: a retry cannot help.
            ResponseTooLarge: the body exceeds the limit.
            TransientApiError: all retries failed.
        """
        request = _Request(path, params or {}, auth)
        tries = 0
        while True:
            if self._throttle.stopped:
                raise TransientApiError(f"{request} was not sent: the scan has failed.")
            if time.monotonic() > self._scan_ends:
                raise TransientApiError(
                    f"The scan was stopped before {request}: it took longer than {self.tenant.scan_seconds:.0f} s "
                    "(PROPELAUTH_SCAN_SECONDS). The previous data is kept. Run again, or raise the limit."
                )
            outcome = self._send(request, decode)
            if not isinstance(outcome, _Failure):
                return outcome
            tries += 1
            self._back_off(request, outcome, tries)

    @property
    def tenant_id(self) -> str:
        """The identity of the tenant: its host; for a server on this machine, host and port.

        The port of a sandbox is not always the same, so a sandbox is identified by its `Server` header. For a server on
        this machine, the property is empty until the first response.
        """
        host = urlsplit(self.tenant.auth_url)
        if not is_loopback(host.hostname or ""):
            return host.netloc
        if self._server is None:
            return ""
        return self._server if self._server.startswith(SANDBOX) else host.netloc

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """End all waits, retries and responses of the workers of a failed scan, so that they can be joined."""
        self._throttle.set_stopped(True)
        try:
            yield
        finally:
            self._throttle.set_stopped(False)

    def _send(self, request: "_Request", decode: Callable[[bytes], T]) -> "T | _Failure":
        """Send ``request`` once. Return the decoded body, or the failure that can be retried."""
        headers = dict(self._pool.headers)
        if request.auth != NO_AUTH:
            key = self.tenant.api_key if request.auth == BACKEND_KEY else request.auth
            headers["Authorization"] = f"Bearer {key}"
        waited = self._throttle.start_request()
        sent_at = time.monotonic()
        success = False
        try:
            response = self._pool.urlopen("GET", request.url, headers=headers, redirect=False, preload_content=False)
            if response.status in RETRIED_STATUSES:
                _read_error(response)
                pause = _retry_after(response.headers.get("Retry-After"))
                return _Failure(f"returned {response.status}", sent_at, response.status, pause)
            if response.status != HTTPStatus.OK:
                raise _refusal(request, response, self.tenant.environment)
            body = self._read(request, response)
            try:
                value = _decode(request, body, decode)
            except NOT_JSON as error:
                kind = _content_type(response)
                reason = f"invalid UTF-8 (byte {error.start})" if isinstance(error, UnicodeDecodeError) else error
                text = f"returned {response.status} with {kind} that is not JSON{request.page}: {reason}"
                return _Failure(text, sent_at)
            self._server = response.headers.get("Server", "")
            success = True
            return value
        except urllib3.exceptions.HTTPError as error:
            reason = _network_failure(error)
            return _Failure(f"failed: {reason}", sent_at, is_connected=not isinstance(error, NO_USABLE_CONNECTION))
        finally:
            self._throttle.end_request(sent_at, success=success)
            with self._traffic_lock:
                self.traffic.requests += 1
                self.traffic.waited_seconds += waited
                self.traffic.concurrency = self._throttle.peak_concurrency

    def _read(self, request: "_Request", response: urllib3.BaseHTTPResponse) -> bytes:
        """Return the body. A body above the limit is neither read nor decompressed further than one chunk beyond it."""
        chunks: list[bytes] = []
        size = 0
        while chunk := response.read(CHUNK_BYTES, decode_content=True):
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                _discard(response)
                raise ResponseTooLarge(
                    f"{request} failed: response larger than {MAX_BODY_BYTES / 2**20:.0f} MiB. The previous data "
                    "is kept. Run again; if it persists, report the request to PropelAuth."
                )
        return b"".join(chunks)

    def _back_off(self, request: "_Request", failure: "_Failure", tries: int) -> None:
        """Wait before the next attempt, or raise."""
        now, limit = time.monotonic(), self.tenant.retry_seconds
        rate_limited = failure.status == HTTPStatus.TOO_MANY_REQUESTS
        # While other requests succeed, a rate limit is not a failure.
        spent = now - (max(request.started, self._throttle.last_success) if rate_limited else request.started)
        requested = failure.retry_after or 0.0
        pause = requested if rate_limited else max(requested, _backoff_seconds(tries))
        if requested > limit:
            raise TransientApiError(
                f"{request} {failure.reason} with Retry-After {requested:.0f} s, longer than "
                f"PROPELAUTH_RETRY_SECONDS ({limit:.0f}). The previous data is kept. Run again later, or raise "
                "PROPELAUTH_RETRY_SECONDS."
            )
        is_placeholder = not failure.is_connected and self._pool.host.endswith(PLACEHOLDER)
        is_last = is_placeholder or (tries >= MAX_TRIES and not rate_limited)
        if self._throttle.stopped or is_last or spent + pause > limit:
            tried = f"{tries} attempt{'' if tries == 1 else 's'} in {now - request.started:.0f} s"
            text = f"{request} {failure.reason} ({tried})."
            variable, url = variable_to_set("auth_url", self.tenant.environment), self.tenant.auth_url
            if is_placeholder:
                raise Unreachable(
                    f"{text} {url} is a placeholder: set {variable} to the auth URL of your environment, which the "
                    "PropelAuth dashboard shows on the Frontend Integration page."
                )
            text += " The previous data is kept. Run again later."
            if failure.is_connected:
                raise TransientApiError(text)
            raise Unreachable(f"{text} Check that {variable} is right: {url}.")
        with self._traffic_lock:
            self.traffic.retries += 1
            self.traffic.rate_limited += rate_limited
        if rate_limited:
            self._throttle.refuse(failure.sent_at, requested)
        elif failure.retry_after is not None:
            self._throttle.pause(pause)
        else:
            self._throttle.wait(pause)


class _Request:
    """One GET request. Its text has the path only: a query can contain an e-mail address."""

    def __init__(self, path: str, params: Params, auth: str) -> None:
        self.auth, self.params = auth, params
        self.started = time.monotonic()
        quoted = quote(path, safe="/%")
        self.url = f"{quoted}?{urlencode(params)}" if params else quoted
        self.page = f" (page {params['page_number']})" if "page_number" in params else ""
        self._text = f"GET {path}"

    def __str__(self) -> str:
        return self._text


@dataclass(frozen=True)
class _Failure:
    """A failed attempt that can be retried: what happened, when it was sent, and the pause the server requested."""

    reason: str
    sent_at: float
    status: int = 0
    retry_after: float | None = None
    is_connected: bool = True


def _decode(request: _Request, body: bytes, decode: Callable[[bytes], T]) -> T:
    """Return the decoded body.

    Raises:
        PermanentApiError: it is JSON that cannot be used.
        msgspec.DecodeError, UnicodeDecodeError: it is not JSON.
    """
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise PermanentApiError(
            f"{request} returned JSON of an unexpected shape{request.page}: {error}. The previous data is kept. If it "
            "persists, report the request to PropelAuth."
        ) from None
    except RecursionError:
        raise PermanentApiError(
            f"{request} returned JSON that cannot be parsed{request.page}: {_deepest_nesting(body)}. "
            "The previous data is kept. Correct the record with this value in the PropelAuth dashboard."
        ) from None


def _backoff_seconds(tries: int) -> float:
    return min(30.0, 0.25 * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of a `Retry-After` header; None if it is absent, unreadable, or not in the future."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        seconds = (at - datetime.now(UTC)).total_seconds()
    return seconds if 0 < seconds < inf else None


def _content_type(response: urllib3.BaseHTTPResponse) -> str:
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    return kind if kind in MEDIA_TYPES else "a body of another type" if kind else "a body without a type"


def _deepest_nesting(body: bytes) -> str:
    """Return how deeply the JSON text is nested, and where."""
    depth = deepest = position = 0
    for token in NESTING.finditer(body):
        if token[0] in b"[{":
            depth += 1
            if depth > deepest:
                deepest, position = depth, token.start()
        elif token[0] in b"]}":
            depth -= 1
    return f"{deepest:,} levels of nesting (byte {position})"


def _network_failure(error: urllib3.exceptions.HTTPError) -> str:
    """Return what happened, decided by the types of the error and of its cause."""
    cause = error.__cause__ or error.__context__
    if isinstance(error, urllib3.exceptions.SSLError):
        return "TLS certificate not trusted" if isinstance(cause, ssl.SSLCertVerificationError) else "TLS error"
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "host name not found"
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "connection refused" if isinstance(cause, ConnectionRefusedError) else "no connection"
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError):
        return f"connection timed out after {min(CONNECT_SECONDS, REQUEST_SECONDS):g} s"
    if isinstance(error, urllib3.exceptions.ReadTimeoutError):
        return f"timed out after {REQUEST_SECONDS:g} s"
    if isinstance(error, urllib3.exceptions.DecodeError):
        return "response cannot be decompressed"
    if isinstance(error, http.client.IncompleteRead) or isinstance(cause, http.client.IncompleteRead):
        return "response truncated"
    if isinstance(cause, ConnectionResetError):  # includes a connection that was closed before any response
        return "connection reset"
    return "connection broken"


def _read_error(response: urllib3.BaseHTTPResponse) -> bytes:
    """Return the start of the body of an error response. The status counts even if the body cannot be read."""
    try:
        body = response.read(MAX_ERROR_BYTES, decode_content=True)
    except urllib3.exceptions.HTTPError:
        return b""
    if len(body) == MAX_ERROR_BYTES:
        _discard(response)
    return body


def _discard(response: urllib3.BaseHTTPResponse) -> None:
    """Close the connection of a response that is not read to its end."""
    response.close()
    response.release_conn()


def _refusal(request: _Request, response: urllib3.BaseHTTPResponse, environment: str) -> PermanentApiError:
    """Return the error for a status that is not retried. The body is not quoted: it can repeat the query."""
    body, status = _read_error(response), response.status
    url, key, token = (variable_to_set(name, environment) for name in ("auth_url", "api_key", "oauth_token"))
    returned = f"{request} returned {status}"
    if response.get_redirect_location():
        return PermanentApiError(
            f"{returned}, a redirect. Redirects are not followed, so that the key is sent to one host only. Set "
            f"{url} to the host that does not redirect.",
            status,
        )
    if status == HTTPStatus.UNAUTHORIZED and request.auth == NO_AUTH:
        return PermanentApiError(
            f"{returned}, and it needs no key. Check that {url} is the auth URL of this environment, and that no proxy "
            "asks for a login.",
            status,
        )
    if status == HTTPStatus.UNAUTHORIZED and request.auth != BACKEND_KEY:
        return PermanentApiError(
            f"{returned}: {token} is not a valid access token of an end user. Log in again for a new one.",
            status,
        )
    if status == HTTPStatus.UNAUTHORIZED:
        return KeyRefused(
            f"{returned}: {key} is not a key of this environment. Copy one from the Backend Integration "
            "page of the PropelAuth dashboard; test, staging and prod have their own.",
            status,
        )
    hints: dict[int, str] = {
        HTTPStatus.BAD_REQUEST: f": invalid {_refused_parameters(body, request.params)}.",
        HTTPStatus.FORBIDDEN: ": the key may not read this. Add the permission on the Backend Integration page.",
        HTTPStatus.NOT_FOUND: f": not found, or {url} is not the auth URL of this environment.",
        HTTPStatus.UPGRADE_REQUIRED: ": orgs (B2B) are not enabled for this project.",
    }
    return PermanentApiError(returned + hints.get(status, "."), status)


def _refused_parameters(body: bytes, params: Params) -> str:
    """Return the parameters of the request that the body of a 400 names, in either of PropelAuth's two formats."""
    try:
        errors = msgspec.json.decode(body, type=dict[str, Any])
    except (*NOT_JSON, RecursionError):
        return "request"
    nested = [errors.get(name) for name in ("field_errors", "user_facing_errors")]
    names = {name for found in [errors, *nested] if isinstance(found, dict) for name in found}
    return ", ".join(sorted(names & {*params})) or "request"
