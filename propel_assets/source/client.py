"""HTTP to one PropelAuth environment: the key, retries, politeness, typed errors. Only reads.

Nothing here knows a table. A request is given up on by its kind: 408, 429, 5xx, resets, time-outs, truncated answers
and bodies that are not JSON are asked again within `Settings.retry_seconds`; everything else at once is final.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec
import urllib3

from propel_assets import __version__
from propel_assets.errors import KeyRefused, PermanentApiError, TransientApiError, Unreachable
from propel_assets.settings import Settings
from propel_assets.source.throttle import Throttle

T = TypeVar("T")
Params = Mapping[str, str | int]

USER_AGENT = f"propel-assets/{__version__}"
MAX_TRIES = 8
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
TIMEOUT = urllib3.Timeout(connect=10, read=60)
NO_AUTH, BACKEND_KEY = "", "backend key"


@dataclass
class Traffic:
    """What was sent and waited for, in all. ``waited_seconds`` sums over workers."""

    requests: int = 0
    retries: int = 0
    rate_limited: int = 0
    waited_seconds: float = 0.0
    concurrency: int = 0


class _WithoutQueries(logging.Filter):
    """Cuts the query off the addresses urllib3 logs: it can hold an e-mail address."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change ``record``; it is always logged."""
        if isinstance(record.args, tuple):
            record.args = tuple(arg.split("?")[0] if isinstance(arg, str) else arg for arg in record.args)
        return True


class Client:
    """Reads from one PropelAuth environment. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        """Prepare connections; nothing is sent. ``settings`` must have the credentials: `require_credentials`."""
        log = logging.getLogger("urllib3.connectionpool")
        if not any(isinstance(known, _WithoutQueries) for known in log.filters):
            log.addFilter(_WithoutQueries())
        self.settings = settings
        self.traffic = Traffic()
        self._throttle = Throttle(settings.max_concurrency, settings.max_rps)
        self._counting = threading.Lock()
        self._pool = urllib3.connection_from_url(
            settings.auth_url,
            maxsize=settings.max_concurrency,
            block=False,
            retries=False,
            timeout=TIMEOUT,
            headers={"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "gzip"},
        )

    def get(self, path: str, decode: Callable[[bytes], T], params: Params | None = None, auth: str = BACKEND_KEY) -> T:
        """Return ``decode`` of the body of GET ``path``.

        ``auth`` is `BACKEND_KEY`, `NO_AUTH` or an end user's token. ``decode`` raises msgspec.DecodeError on a body
        that is not JSON (asked again) and ValidationError on JSON of the wrong shape (final).

        Raises:
            PermanentApiError: asking again cannot help.
            TransientApiError: retries are spent.
        """
        headers = dict(self._pool.headers)
        if auth != NO_AUTH:
            headers["Authorization"] = f"Bearer {self.settings.api_key if auth == BACKEND_KEY else auth}"
        started, tries = time.monotonic(), 0
        while True:
            outcome = self._ask(path, params, headers, decode, auth)
            if not isinstance(outcome, _Retry):
                return outcome
            tries += 1
            self._back_off(path, outcome, tries=tries, started=started)

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Stop waiting and retrying while the workers of a failed reading come home."""
        self._throttle.stop(True)
        try:
            yield
        finally:
            self._throttle.stop(False)

    def _ask(
        self, path: str, params: Params | None, headers: Mapping[str, str], decode: Callable[[bytes], T], auth: str
    ) -> "T | _Retry":
        """Send one request and decode its body, or say why to send it again."""
        waited = self._throttle.enter()
        sent_at = time.monotonic()
        success = False
        try:
            quoted = quote(path, safe="/%")
            url = f"{quoted}?{urlencode(params)}" if params else quoted
            response = self._pool.urlopen("GET", url, headers=headers, redirect=False)
            if response.status in RETRIED:
                pause = _retry_after(response.headers.get("Retry-After"))
                return _Retry(str(response.status), sent_at, response.status, pause)
            if response.status != OK:
                raise _refusal(path, response, auth)
            try:
                value = decode(response.data)
            except msgspec.ValidationError as error:
                message = f"GET {path} answered JSON of another shape than documented: {error}."
                raise PermanentApiError(message) from None
            except NOT_JSON:
                return _Retry(f"{response.status} with {_kind(response)} that is not JSON", sent_at)
            success = True
            return value
        except urllib3.exceptions.HTTPError as error:
            return _Retry(_network_failure(error), sent_at, reached=not isinstance(error, NOT_REACHED))
        finally:
            self._throttle.leave(sent_at, success=success)
            with self._counting:
                self.traffic.requests += 1
                self.traffic.waited_seconds += waited
                self.traffic.concurrency = self._throttle.peak

    def _back_off(self, path: str, retry: "_Retry", *, tries: int, started: float) -> None:
        """Pause before the next try, or give up."""
        limited = retry.status == TOO_MANY_REQUESTS
        budget = self.settings.retry_seconds
        # A rate limit is not a failure while somebody still gets through.
        spent = time.monotonic() - (max(started, self._throttle.last_success) if limited else started)
        pause = retry.pause if retry.pause is not None else _backoff_seconds(min(tries, 3) if limited else tries)
        asked = f"GET {path} answered {retry.came_back}"
        if retry.pause is not None and pause > budget:
            raise TransientApiError(
                f"{asked} and asked to wait {pause:.0f} s, longer than PROPELAUTH_RETRY_SECONDS ({budget:.0f}). "
                "Run again later, or allow more."
            )
        if self._throttle.stopped or spent + pause > budget or (tries >= MAX_TRIES and not limited):
            text = (
                f"{asked}, {tries} times in {time.monotonic() - started:.0f} s. Nothing was replaced; run again later."
            )
            if retry.reached:
                raise TransientApiError(text)
            raise Unreachable(f"{text} {self.settings.auth_url} is PROPELAUTH_AUTH_URL; see that it is the right one.")
        with self._counting:
            self.traffic.retries += 1
            self.traffic.rate_limited += limited
        if limited or retry.pause is not None:
            self._throttle.slow_down(retry.sent_at, pause, limited=limited)
        else:
            self._throttle.wait(pause)


@dataclass(frozen=True)
class _Retry:
    """A request to send again: what came back, when it was sent, and how long the server asked to wait."""

    came_back: str
    sent_at: float
    status: int = 0
    pause: float | None = None
    reached: bool = True


NOT_REACHED = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.SSLError,
)
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError)
OK, TOO_MANY_REQUESTS = 200, 429


def _backoff_seconds(tries: int) -> float:
    return min(30.0, 0.25 * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)  # noqa: S311 - spread, not secrecy


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header: a number, or a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


def _kind(response: urllib3.BaseHTTPResponse) -> str:
    return response.headers.get("Content-Type", "a body without a type").split(";")[0]


def _network_failure(error: urllib3.exceptions.HTTPError) -> str:
    if isinstance(error, urllib3.exceptions.SSLError):
        return "with a TLS certificate that could not be verified"
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "nothing: no server accepts connections there"
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError | urllib3.exceptions.ReadTimeoutError):
        return "nothing in time"
    if isinstance(error, urllib3.exceptions.IncompleteRead) or "IncompleteRead" in str(error):
        return "half a body"
    return "a broken connection"


def _refusal(path: str, response: urllib3.BaseHTTPResponse, auth: str) -> PermanentApiError:
    """Say what a status that will not change means. A body is never quoted: it may repeat what was asked."""
    asked = f"GET {path} answered {response.status}"
    if response.get_redirect_location():
        hint = "a redirect. PROPELAUTH_AUTH_URL must name the host that answers itself; the key goes nowhere else."
        return PermanentApiError(f"{asked}, {hint}", response.status)
    if response.status == 401 and auth != BACKEND_KEY:
        return PermanentApiError(
            f"{asked}: PROPELAUTH_OAUTH_TOKEN is not a valid access token of an end user. Log in again for a new one.",
            response.status,
        )
    if response.status == 401:
        return KeyRefused(
            f"{asked}: PROPELAUTH_API_KEY is not a key of this environment. Copy one from the Backend Integration page "
            "of the PropelAuth dashboard; test, staging and prod have their own.",
            response.status,
        )
    hints = {
        400: f": it does not accept {_refused_fields(response.data)}.",
        403: ": the key may not read this. Give it the permission on the Backend Integration page.",
        404: ": no such thing, or PROPELAUTH_AUTH_URL is not the auth URL of this environment.",
        426: ": orgs (B2B) are not switched on for this project.",
    }
    return PermanentApiError(asked + hints.get(response.status, "."), response.status)


def _refused_fields(body: bytes) -> str:
    try:
        fields = sorted(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))
    except NOT_JSON:
        return "the request"
    return ", ".join(fields) or "the request"
