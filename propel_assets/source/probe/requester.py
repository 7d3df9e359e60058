"""The requests of the probe: one at a time, at most `MAX_REQUESTS`, and what is kept of the responses."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import urlencode

import urllib3

from propel_assets.catalog.model import API
from propel_assets.errors import TransientApiError, Unreachable
from propel_assets.settings import Tenant, variable_to_set
from propel_assets.source.client import MAX_ERROR_BYTES, MEDIA_TYPES, REQUEST_SECONDS, USER_AGENT
from propel_assets.source.connections import connection_pool
from propel_assets.source.stream import Progress

MAX_REQUESTS = 52
PAUSE_SECONDS = 0.2
RETRY_PAUSE_SECONDS = 2.0
MAX_RETRIES = 2
"""Retries of the whole probe. The fixed requests and these retries together are at most `MAX_REQUESTS`."""
TRANSIENT = frozenset({500, 502, 503, 504})
MAX_BODY_BYTES = 8 * 2**20
WRONG_KEY = "propel-assets-probe-is-not-a-key"
LIMIT_HEADER = re.compile(r"retry-after|(x-)?rate-?limit(-(limit|policy|remaining|reset|used))*", re.IGNORECASE)
FIELD_NAME = re.compile(r"[a-z][a-z_]{0,39}")
KNOWN_TEXTS = ("Rate limit exceeded", "No authorization header found")
"""Texts of errors that PropelAuth's clients have. Any other text can quote a row or a key."""
MAX_DEPTH = 4

Auth = Literal["key", "none", "wrong"]


@dataclass(frozen=True)
class Response:
    """One response. ``body``: its JSON value; None if it is not JSON. ``text``: the shape of the body of an error.

    ``is_truncated``: the body has more than `MAX_BODY_BYTES`, so it was not read to its end.
    """

    status: int
    headers: Mapping[str, str]
    body: Any = None
    text: str = ""
    is_json: bool = False
    is_truncated: bool = False

    @property
    def is_ok_object(self) -> bool:
        """Whether the status is 200 and the body an object."""
        return self.status == HTTPStatus.OK and isinstance(self.body, dict)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return the objects in the list ``name``."""
        found = self.body.get(name) if isinstance(self.body, dict) else None
        return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []

    def get(self, name: str) -> Any:
        """Return a field of the body; None if it is absent."""
        return self.body.get(name) if isinstance(self.body, dict) else None

    def as_text(self, name: str) -> str:
        """Return a number or another simple value of the body as text; of anything else the type."""
        value = self.get(name)
        return str(value if value is None or isinstance(value, bool | int | float) else type(value).__name__)


class Requester:
    """Sends one request at a time, and no more than `MAX_REQUESTS`.

    ``limit_headers``: headers about rate limits. ``errors``: the shape of an error response, by status. ``statuses``:
    the first status, by endpoint.
    """

    def __init__(self, tenant: Tenant, progress: Progress) -> None:
        """Prepare connections; send nothing. ``progress`` is called before each request."""
        self.tenant, self._progress = tenant, progress
        self._pool = connection_pool(
            tenant.auth_url,
            lambda: False,
            retries=False,
            timeout=urllib3.Timeout(connect=10, total=REQUEST_SECONDS),
            headers={"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "gzip"},
        )
        self.sent = self.retries = 0
        self.limit_headers: dict[str, str] = {}
        self.errors: dict[int, dict[str, str]] = {}
        self.statuses: dict[str, int] = {}

    def get(self, path: str, *, record_as: str | None = "", auth: Auth = "key", **params: Any) -> Response:
        """Return the response to GET ``path`` below the backend API. Transient failures are retried a few times.

        ``record_as``: the name of its status, by default ``path``; None: it is not recorded.
        """
        while True:
            is_last = self.retries == MAX_RETRIES
            response = self._get(path, auth, params, raises=is_last)
            if response is not None and (is_last or response.status not in TRANSIENT):
                break
            self.retries += 1
            time.sleep(RETRY_PAUSE_SECONDS)
        self._record_error(response)
        if record_as is not None:
            self.statuses.setdefault(record_as or path, response.status)
        return response

    def _get(self, path: str, auth: Auth, params: Mapping[str, Any], *, raises: bool) -> Response | None:
        """Return the response to one request; None, or with ``raises`` an error, if it could not be read."""
        if self.sent >= MAX_REQUESTS:
            raise AssertionError("the probe has a fixed number of requests")
        if self.sent:
            time.sleep(PAUSE_SECONDS)  # polite: no tenant limits 5 requests a second
        self.sent += 1
        self._progress("requests", self.sent, MAX_REQUESTS)
        headers = dict(self._pool.headers)
        if auth != "none":
            headers["Authorization"] = f"Bearer {self.tenant.api_key if auth == 'key' else WRONG_KEY}"
        url = f"{API}/{path}" + (f"?{urlencode(params)}" if params else "")
        try:
            response = self._pool.urlopen("GET", url, headers=headers, redirect=False, preload_content=False)
            limit = MAX_BODY_BYTES if response.status == HTTPStatus.OK else MAX_ERROR_BYTES
            content = response.read(limit + 1, decode_content=True)
            response.close()
        except urllib3.exceptions.HTTPError as error:
            if not raises and not isinstance(error, urllib3.exceptions.NewConnectionError):
                return None
            variable = variable_to_set("auth_url", self.tenant.environment)
            raise Unreachable(
                f"The probe could not read GET {API}/{path} ({type(error).__name__}). Check that {variable} is right: "
                f"{self.tenant.auth_url}."
            ) from None
        for name, value in response.headers.items():
            if LIMIT_HEADER.fullmatch(name):
                self.limit_headers[name.lower()] = value if value.isdigit() else "(not a number)"
        if response.status == HTTPStatus.TOO_MANY_REQUESTS:
            has_header = "with" if "retry-after" in self.limit_headers else "without"
            raise TransientApiError(
                f"The probe stopped after {self.sent} requests: GET {API}/{path} returned 429 {has_header} "
                "Retry-After. Run again later."
            )
        return _decode(response.status, response.headers, content[:limit], is_truncated=len(content) > limit)

    def _record_error(self, response: Response) -> None:
        """Record the shape of an error response in the profile."""
        # The body of a 400 depends on the request.
        if response.status not in (HTTPStatus.OK, HTTPStatus.BAD_REQUEST, *TRANSIENT):
            kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
            kind = kind if kind in MEDIA_TYPES else ""
            self.errors.setdefault(response.status, {"content_type": kind, "body": response.text})


def _decode(status: int, headers: Mapping[str, str], content: bytes, *, is_truncated: bool) -> Response:
    try:
        body, is_json = json.loads(content), True
    except (ValueError, RecursionError):
        body, is_json = None, False
    text = content.decode(errors="replace").strip()
    if status == HTTPStatus.OK:
        text = ""
    elif is_json:
        text = json.dumps(_shape(body))
    elif text:
        text = text if text in KNOWN_TEXTS else "text"
    return Response(status, headers, body, text, is_json, is_truncated)


def _shape(value: Any, depth: int = 0) -> Any:
    """Return a JSON value with its field names and types, and without its texts and numbers."""
    if depth == MAX_DEPTH:
        return None
    if isinstance(value, dict):
        return {field_name(name): _shape(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shape(inner, depth + 1) for inner in value[:1]]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return 0
    return value if value in KNOWN_TEXTS else "text"


def field_name(name: str) -> str:
    """Return the name of a field, unless it is longer than a name or has other characters."""
    return name if FIELD_NAME.fullmatch(name) else "other"
