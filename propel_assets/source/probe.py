"""Measure the behaviour of a tenant that PropelAuth's documentation does not specify: at most 52 read-only requests.

`probe` returns findings, each with what the project does about it, and a profile that the sandbox replays. Neither has
personal data, ids, keys, or a host: of bodies only field names, types, counts and statuses are kept. A text of an error
is kept only if it is one that PropelAuth's clients know.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import urlencode

import urllib3

from propel_assets import __version__
from propel_assets.catalog.model import API, INSIGHTS
from propel_assets.errors import KeyRefused, TransientApiError, Unreachable
from propel_assets.settings import Tenant, variable_to_set
from propel_assets.source.client import MAX_ERROR_BYTES, REQUEST_SECONDS, USER_AGENT
from propel_assets.source.connections import connection_pool
from propel_assets.source.stream import Progress

MAX_REQUESTS = 52
PAUSE_SECONDS = 0.2
RETRY_PAUSE_SECONDS = 2.0
MAX_RETRIES = 2
"""Retries of the whole probe. The fixed requests and these retries together are at most `MAX_REQUESTS`."""
TRANSIENT = frozenset({500, 502, 503, 504})
NOT_ENABLED = INSIGHTS.statuses
MAX_BODY_BYTES = 8 * 2**20
WHOLE_PAGE, LARGE_PAGE, BEYOND = 100, 1_000, 1_000_000
UNKNOWN_UUID = "00000000-0000-4000-8000-000000000000"
UNKNOWN_KEY = "0" * 32
WRONG_KEY = "propel-assets-probe-is-not-a-key"
LIMIT_HEADER = re.compile(r"retry-after|(x-)?rate-?limit(-(limit|policy|remaining|reset|used))*", re.IGNORECASE)
FIELD_NAME = re.compile(r"[a-z][a-z_]{0,39}")
MEDIA_TYPES = ("application/json", "application/problem+json", "text/html", "text/plain")
KNOWN_TEXTS = ("Rate limit exceeded", "No authorization header found")
"""Texts of errors that PropelAuth's clients have. Any other text can quote a row or a key."""
MAX_DEPTH = 4
FORMAT = 1

Auth = Literal["key", "none", "wrong"]


@dataclass(frozen=True)
class ProbeFinding:
    """An open question about the API, and what this tenant shows.

    Attributes:
        number: the number of the question.
        question: what the documentation does not specify.
        answer: the behaviour; empty if GET requests cannot show it, or the tenant has no such data.
        action: what the project does about it, for any answer.
    """

    number: int
    question: str
    answer: str
    action: str


@dataclass(frozen=True)
class ProbeResult:
    """What the probe found. ``profile``: JSON values for `propel-assets sandbox --profile`."""

    findings: Sequence[ProbeFinding]
    profile: Mapping[str, Any]
    requests: int


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


def probe(tenant: Tenant, progress: Progress) -> ProbeResult:
    """Send the requests and return what they show. ``progress`` is called before each.

    Raises:
        KeyRefused: the tenant does not accept the key.
        Unreachable: there is no connection to the tenant.
        TransientApiError: the tenant limits the rate of these few requests, or returns 5xx for the list of users.
    """
    requester = _Requester(tenant, progress)
    run = _Probe(requester)
    findings = list(run.findings())
    return ProbeResult(findings, run.profile(), requester.sent)


class _Requester:
    """Sends one request at a time, and no more than `MAX_REQUESTS`."""

    def __init__(self, tenant: Tenant, progress: Progress) -> None:
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

    def get(self, path: str, auth: Auth = "key", **params: Any) -> Response:
        """Return the response to GET ``path`` below the backend API. Transient failures are retried a few times."""
        while True:
            is_last = self.retries == MAX_RETRIES
            response = self._get(path, auth, params, raises=is_last)
            if response is not None and (is_last or response.status not in TRANSIENT):
                self._record_error(response)
                return response
            self.retries += 1
            time.sleep(RETRY_PAUSE_SECONDS)

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
        return {_field(name): _shape(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shape(inner, depth + 1) for inner in value[:1]]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return 0
    return value if value in KNOWN_TEXTS else "text"


def _field(name: str) -> str:
    """Return the name of a field, unless it is longer than a name or has other characters."""
    return name if FIELD_NAME.fullmatch(name) else "other"


@dataclass
class _Probe:
    """The questions. ``profile_faults``: the profile, as faults of the sandbox.

    ``page``: rows per page. Smaller than `WHOLE_PAGE` if that is refused, or if the response is too large.
    ``cap``, ``refused``: the largest page_size below `WHOLE_PAGE`, and the status that refuses a larger one; 0: none.
    ``include_orgs``: the parameter; empty if it is refused.
    ``statuses``: the first status, by endpoint.
    ``fields``: the fields of each list, for the profile.
    """

    http: _Requester
    page: int = WHOLE_PAGE
    cap: int = 0
    refused: int = 0
    include_orgs: dict[str, Any] = field(default_factory=lambda: {"include_orgs": "true"})
    profile_faults: dict[str, Any] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)

    def findings(self) -> Iterator[ProbeFinding]:
        """Yield the findings."""
        first = self._first_page()
        while first.is_truncated and self.page > 1:
            self.page = max(1, self.page // 10)
            first = self._users(self.page)
        orgs = self._read("org/query", page_size=self.page, order_by="CREATED_AT_ASC")
        org_ids = [str(row["org_id"]) for row in orgs.rows("orgs") if "org_id" in row]
        details = [self._read(f"org/{org_id}", record_as="org/{org_id}") for org_id in org_ids[:5]]
        keys = self._read("end_user_api_keys", page_size=self.page)
        yield self._page_cap(first)
        yield self._past_the_end(first)
        yield from self._errors()
        yield self._ties(first, org_ids)
        yield self._api_keys(keys)
        yield self._isolated(first, details)
        yield self._org_created_at(orgs, details)
        yield self._omissions(first, orgs, details, keys)
        yield self._disabled(first)
        yield self._activity(first)
        yield self._insights()
        yield self._scim(org_ids)
        yield self._permissions()
        yield self._host()
        yield ProbeFinding(
            15,
            "further fields in webhook payloads",
            "",
            "Webhooks are sent, not read. The receiver stores each payload whole, so that further fields are kept.",
        )
        yield ProbeFinding(
            16,
            "whether org/query can be read with GET",
            f"GET org/query returned {orgs.status}",
            "The project sends GET requests only. If GET is refused, org tables are not loaded and keep their rows.",
        )

    def _users(self, page_size: int, record_as: str | None = "") -> Response:
        """Return the oldest users."""
        params = {"page_size": page_size, "order_by": "CREATED_AT_ASC", **self.include_orgs}
        return self._read("user/query", record_as=record_as, **params)

    def _first_page(self) -> Response:
        """Return the oldest users, and find out whether page_size or include_orgs is refused.

        Raises:
            KeyRefused: the key is not accepted.
            TransientApiError: the list could not be read, for a reason that can pass.
        """
        first = self._users(self.page)
        if first.status == HTTPStatus.UNAUTHORIZED:
            variable = variable_to_set("api_key", self.http.tenant.environment)
            raise KeyRefused(
                f"GET {API}/user/query returned 401: {variable} is not a key of this environment.",
                HTTPStatus.UNAUTHORIZED,
            )
        if self._require_not_transient(first).status == HTTPStatus.OK:
            return first
        if (refused := self._status_of_one_user()) != HTTPStatus.OK:  # page_size is not the reason
            with_orgs, self.include_orgs = self.include_orgs, {}
            first = self._users(self.page, None)
            if self._status_of_one_user() != HTTPStatus.OK:
                self.include_orgs = with_orgs  # the list is refused with any parameters
                return first
            self.profile_faults["include_orgs_off"] = refused
        if self._require_not_transient(first).status != HTTPStatus.OK:
            self.refused = first.status
            self.cap = self.page = self._largest_accepted(1, WHOLE_PAGE)
            first = self._require_not_transient(self._users(self.page, None))
        self.statuses["user/query"] = first.status
        return first

    def _status_of_one_user(self) -> int:
        """Return the status of a page with one user, which no limit of page_size refuses."""
        return self._require_not_transient(self._users(1, None)).status

    def _require_not_transient(self, response: Response) -> Response:
        if response.status in TRANSIENT:
            raise TransientApiError(
                f"The probe stopped after {self.http.sent} requests: GET {API}/user/query returned {response.status} "
                "repeatedly. Run again later."
            )
        return response

    def _largest_accepted(self, low: int, high: int) -> int:
        """Return the largest accepted page_size from ``low``, which is accepted, to ``high``, which is not."""
        while high - low > 1:
            middle = (low + high) // 2
            response = self._require_not_transient(self._read("user/query", record_as=None, page_size=middle))
            low, high = (middle, high) if response.status == HTTPStatus.OK else (low, middle)
        return low

    def _read(self, path: str, *, record_as: str | None = "", auth: Auth = "key", **params: Any) -> Response:
        """Return a response. ``record_as``: the name of its status, by default ``path``; None: it is not recorded."""
        response = self.http.get(path, auth, **params)
        if record_as is not None:
            self.statuses.setdefault(record_as or path, response.status)
        return response

    def _page_cap(self, first: Response) -> ProbeFinding:
        answer, faults = self._measure_cap(first)
        self.profile_faults |= faults
        return ProbeFinding(
            1,
            "page_size cap, and what happens above it",
            answer,
            "PROPELAUTH_PAGE_SIZE is 100. Pages are computed from the size that the response echoes; a refused size is "
            "halved. Batch reads are POST requests, which the project does not send.",
        )

    def _measure_cap(self, first: Response) -> tuple[str, dict[str, Any]]:
        """Return what a page_size of `LARGE_PAGE` does, and the faults that replay it."""
        if not first.is_ok_object:
            return "", {}
        if self.refused:
            return self._refused_cap(WHOLE_PAGE, self.refused)
        large = self._read("user/query", page_size=LARGE_PAGE)
        if large.status != HTTPStatus.OK:
            return self._refused_cap(LARGE_PAGE, large.status)
        total, cap, rows = first.get("total_users") or 0, large.get("page_size"), len(large.rows("users"))
        answer = f"a page_size of {LARGE_PAGE}"
        if large.is_truncated:
            return f"{answer} returns more than {MAX_BODY_BYTES >> 20} MiB, which are not read: not settled", {}
        if isinstance(cap, int) and 0 < cap != LARGE_PAGE:
            return f"{answer} is reduced to {cap}", {"page_size_cap": cap}
        if total > rows:
            answer += f" returns {rows} rows, and page_size echoes {large.as_text('page_size')}"
            return (answer, {"page_size_cap": rows}) if rows else (f"{answer}: not settled", {})
        answer += f" is accepted; there are only {total} users, so the cap is not known"
        return answer, {"page_size_cap": LARGE_PAGE}

    def _refused_cap(self, size: int, status: int) -> tuple[str, dict[str, Any]]:
        """Return the largest page_size that is accepted, where ``size`` is refused with ``status``."""
        if self.refused or self.page == WHOLE_PAGE:
            cap = self.cap or self._largest_accepted(WHOLE_PAGE, LARGE_PAGE)
            accepted = f"{cap} is accepted, {cap + 1} is not"
        else:  # pages of so many bytes are not read repeatedly
            cap = WHOLE_PAGE
            accepted = f"{cap} is accepted, and sizes between are not known"
        answer = f"a page_size of {size} is refused with {status}; {accepted}"
        return answer, {"page_size_cap": cap, "page_size_refused": True}

    def _past_the_end(self, first: Response) -> ProbeFinding:
        beyond = self._read("user/query", page_size=self.page, page_number=BEYOND)
        if beyond.status != HTTPStatus.OK:
            if first.is_ok_object and beyond.status not in TRANSIENT:
                self.profile_faults["past_end"] = beyond.status
            answer = f"status {beyond.status}"
        else:
            echo = "echoed" if beyond.get("current_page") == BEYOND else beyond.as_text("current_page")
            more = beyond.as_text("has_more_results")
            answer = f"{len(beyond.rows('users'))} rows, current_page {echo}, has_more_results {more}"
            answer += ", the same total" if beyond.get("total_users") == first.get("total_users") else ", another total"
        return ProbeFinding(
            2,
            "a page past the last one",
            answer,
            "A scan reads from the last page backwards and past it only once, to find new rows. An error there ends "
            "the scan, and the previous data is kept.",
        )

    def _errors(self) -> Iterator[ProbeFinding]:
        wanted = {
            "no key": self._read("user/query", record_as=None, auth="none"),
            "a wrong key": self._read("user/query", record_as=None, auth="wrong"),
            "page_size=0": self._read("user/query", record_as=None, page_size=0),
            "an unknown order": self._read("user/query", record_as=None, order_by="NOT_AN_ORDER"),
            "an unknown user": self._read(f"user/{UNKNOWN_UUID}", record_as="user/{user_id}"),
            "an unknown org": self._read(f"org/{UNKNOWN_UUID}", record_as=None),
            "an unknown API key": self._read(f"end_user_api_keys/{UNKNOWN_KEY}", record_as=None),
            "an unknown employee": self._read(f"employee/{UNKNOWN_UUID}", record_as="employee/{employee_id}"),
        }
        texts = [f"{what}: {_describe(response)}" for what, response in wanted.items()]
        limits = ", ".join(sorted(self.http.limit_headers)) or "none"
        yield ProbeFinding(
            3,
            "error bodies; rate limit headers",
            f"{'; '.join(texts)}. Headers about limits: {limits}. No response had status 429",
            "Statuses decide, bodies do not: the names of refused fields are shown, and no other text. After 429 "
            "and 503, all requests pause for the time in Retry-After, and at least for a backoff that doubles.",
        )
        members = self._read(f"user/org/{UNKNOWN_UUID}", record_as="user/org/{org_id}", page_size=1)
        if members.status == HTTPStatus.OK:
            self.profile_faults["unknown_org_empty"] = True
        yield ProbeFinding(
            17,
            "user/org of an unknown org",
            _describe(members) + (f", {members.as_text('total_users')} users" if members.is_ok_object else ""),
            "Only the total of the orgs that are isolated is read. 404 counts as an org that was deleted meanwhile.",
        )

    def _ties(self, first: Response, org_ids: Sequence[str]) -> ProbeFinding:
        again = self._users(self.page)
        before, after = (_ids(response.rows("users"), "user_id") for response in (first, again))
        times = [row.get("created_at") for row in first.rows("users")]
        ties = sum(count for count in Counter(times).values() if count > 1)
        same = before == after
        if not same:
            self.profile_faults["shuffled_ties"] = True
        answer = f"{ties} of {len(times)} users have the created_at of another; " + (
            "two reads had the same order" if same else "two reads had different orders"
        )
        if org_ids:
            by_order = [
                self._read(f"user/org/{org_ids[0]}", record_as="user/org/{org_id}", page_size=self.page, order_by=order)
                for order in ("CREATED_AT_ASC", "CREATED_AT_DESC")
            ]
            if not all(members.is_ok_object for members in by_order):
                answer += f"; user/org refuses order_by with {by_order[0].status}"
            elif len(by_order[0].rows("users")) < 2:
                answer += "; the first org has too few members to see whether user/org follows order_by"
            else:
                one, other = (_ids(members.rows("users"), "user_id") for members in by_order)
                answer += f"; user/org {'ignores' if one == other else 'follows'} order_by"
        for path, name in (("pending_org_invites", "invites"), ("end_user_api_keys/archived", "api_keys")):
            listed = self._read(path, page_size=self.page)
            answer += f"; {path}: {_describe_order([row.get('created_at') for row in listed.rows(name)])}"
        return ProbeFinding(
            4,
            "order of rows with the same created_at; order of other lists",
            answer,
            "A scan needs no order among equal times: it re-reads ties until they are complete. A list without a "
            "documented order is `counted` if it has more than one page.",
        )

    def _api_keys(self, keys: Response) -> ProbeFinding:
        types = self._read("end_user_api_keys", record_as=None, page_size=1, api_key_type="NOT_A_TYPE")
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).date()
        usage = self._read("end_user_api_keys/usage", date=tomorrow.isoformat())
        if keys.status in NOT_ENABLED:
            self.profile_faults["api_keys_off"] = keys.status
        return ProbeFinding(
            5,
            "values of api_key_type; the day boundary of usage",
            f"an unknown api_key_type: {_describe(types)}; usage of tomorrow (UTC): {_describe(usage)}. The time "
            "zone of a day cannot be settled by reading",
            "api_key_type is not sent: all types are loaded together. Usage of the last days is read again by each "
            "load, so that a day that ends later is corrected.",
        )

    def _isolated(self, first: Response, details: Sequence[Response]) -> ProbeFinding:
        shown = [detail for detail in details if detail.is_ok_object]
        has_field = any("isolated" in detail.body for detail in shown)
        isolated = [detail.get("org_id") for detail in shown if detail.get("isolated") is True]
        is_sent = "sent" if has_field else "absent"
        answer = f"{len(shown)} orgs read, the field isolated is {is_sent}, {len(isolated)} isolated"
        if isolated:
            members = self._read(f"user/org/{isolated[0]}", record_as="user/org/{org_id}", page_size=1)
            filtered = self._read("user/query", record_as=None, page_size=1, isolated_org_id=isolated[0])
            answer += (
                f"; its members: {members.as_text('total_users')}, by isolated_org_id: "
                f"{filtered.as_text('total_users')}, in the list of all: {first.as_text('total_users')}"
            )
        return ProbeFinding(
            6,
            "isolated orgs: whether user/query lists their users",
            answer,
            "Each full load compares the members of isolated orgs with the orgs' own totals. It is `counted`, with the "
            "number of missing users, if the list of all users lacks them.",
        )

    def _org_created_at(self, orgs: Response, details: Sequence[Response]) -> ProbeFinding:
        listed = orgs.rows("orgs")
        without = sum(row.get("created_at") is None for row in listed)
        in_detail = sum("created_at" in detail.body for detail in details if detail.is_ok_object)
        if in_detail:
            self.profile_faults["org_detail_created_at"] = True
        return ProbeFinding(
            7,
            "created_at of orgs",
            f"{without} of {len(listed)} listed orgs have none; GET org/{{org_id}} "
            f"{'sends it' if in_detail else 'does not send it'}",
            "created_at comes from the list and may be null. The order of the list is not used then: the scan is "
            "`counted`.",
        )

    def _omissions(self, users: Response, orgs: Response, details: Sequence[Response], keys: Response) -> ProbeFinding:
        lists = {
            "users": users.rows("users"),
            "memberships": [
                info
                for row in users.rows("users")
                for info in (row.get("org_id_to_org_info") or {}).values()
                if isinstance(info, dict)
            ],
            "orgs in the list": orgs.rows("orgs"),
            "details of orgs": [detail.body for detail in details if detail.is_ok_object],
            "api_keys": keys.rows("api_keys"),
        }
        texts: list[str] = []
        for name, rows in lists.items():
            if not rows:
                continue
            present = {field for row in rows for field in row}
            omitted = sorted(f for f in present if any(f not in row for row in rows))
            null = sorted(f for f in present if any(row.get(f, 0) is None for row in rows))
            self.fields[name] = {"rows": len(rows), "fields": sorted(present), "omitted": omitted, "null": null}
            texts.append(f"{name} ({len(rows)}): sometimes omitted {_join(omitted)}, sometimes null {_join(null)}")
        return ProbeFinding(
            8,
            "whether optional fields are omitted or null",
            "; ".join(texts),
            "Columns are declared; an omitted field is loaded as null. A field that the catalog lacks gets a column.",
        )

    def _disabled(self, first: Response) -> ProbeFinding:
        rows = first.rows("users")
        disabled, locked = sum(r.get("enabled") is False for r in rows), sum(r.get("locked") is True for r in rows)
        return ProbeFinding(
            9,
            "whether user/query lists disabled and locked users",
            f"{disabled} disabled and {locked} locked among the oldest {len(rows)} users"
            + ("" if disabled or locked else ": not settled"),
            "They are loaded with `enabled` and `locked`. If the list lacked them, a disabled user would look deleted.",
        )

    def _activity(self, first: Response) -> ProbeFinding:
        newest = self._read("user/query", page_size=1, order_by="LAST_ACTIVE_AT_DESC").rows("users")
        at = newest[0].get("last_active_at") if newest else None
        answer = "no activity was returned"
        if isinstance(at, int | float):
            hours = (time.time() - at) / 3600
            answer = f"the newest activity is {f'{hours:.1f} hours old' if hours >= 0 else 'in the future'}"
        impersonated = sum("impersonator_user_id" in row for row in first.rows("users"))
        return ProbeFinding(
            10,
            "when last_active_at is updated",
            f"{answer}; {impersonated} users show an impersonator. When last_active_at is updated cannot be measured",
            "A recent load reads back to the newest activity of the previous one. A value in the future is not used.",
        )

    def _insights(self) -> ProbeFinding:
        texts = []
        for path, name in (("user_report/churn", "user_reports"), ("org_report/churn", "org_reports")):
            report = self._read(path, page_size=self.page)
            if report.is_ok_object:
                at = report.get("report_time")
                age = (
                    f"{(time.time() - at) / 3600:.0f} hours old"
                    if isinstance(at, int | float)
                    else "without report_time"
                )
                texts.append(f"{path}: {age}, extra_properties {_extra_properties(report, name)}")
            else:
                texts.append(f"{path}: status {report.status}")
        champion = self._read("user_report/champion", page_size=self.page)
        extra = _extra_properties(champion, "user_reports")
        texts.append(f"user_report/champion: {_describe(champion)}, extra_properties {extra}")
        chart = self._read("chart_metrics/signups")
        texts.append(f"chart_metrics: {_describe(chart)}")
        statuses = {self.statuses["user_report/churn"], self.statuses["chart_metrics/signups"]}
        if statuses <= NOT_ENABLED:
            self.profile_faults["insights_off"] = min(statuses)
        return ProbeFinding(
            11,
            "insight reports: age, extra_properties, whether the plan has them",
            "; ".join(texts),
            "With 402, 403, 404 or 426 the tables are skipped and keep their rows. extra_properties is JSON.",
        )

    def _scim(self, org_ids: Sequence[str]) -> ProbeFinding:
        unknown = self._read(f"scim/{UNKNOWN_UUID}/groups", record_as=None)
        answer = f"an unknown org: {_describe(unknown)}"
        if org_ids:
            groups = self._read(f"scim/{org_ids[0]}/groups", record_as="scim/{org_id}/groups", page_size=self.page)
            answer += f"; groups: {_describe(groups)}"
            if groups.is_ok_object:
                answer += f", has_more_results {'sent' if 'has_more_results' in groups.body else 'absent'}"
                none = self._read(f"scim/{org_ids[0]}/groups", record_as=None, page_size=1, user_id=UNKNOWN_UUID)
                totals = groups.as_text("total_groups"), none.as_text("total_groups")
                answer += f", total_groups {totals[0]}, with the filter user_id {totals[1]}"
            elif groups.status in NOT_ENABLED:
                self.profile_faults["scim_off"] = groups.status
        return ProbeFinding(
            12,
            "SCIM: has_more_results, 404, total_groups",
            answer,
            "Groups are read until total_groups are read, members until an empty page. The filter user_id is not used.",
        )

    def _permissions(self) -> ProbeFinding:
        self._read("custom_role_mappings")
        refused = [f"{path} {status}" for path, status in self.statuses.items() if status in (401, 402, 403, 426)]
        if self.statuses["org/query"] == 426:
            self.profile_faults["orgs_off"] = 426
        return ProbeFinding(
            13,
            "which endpoints this key may read",
            f"{sum(status == HTTPStatus.OK for status in self.statuses.values())} endpoints return 200"
            + (f"; refused: {', '.join(sorted(refused))}" if refused else ""),
            "403 is reported as a missing permission of the key, 402 and 426 as a feature that is not enabled, and 401 "
            "as a refused key.",
        )

    def _host(self) -> ProbeFinding:
        is_served = HTTPStatus.OK in self.statuses.values()
        return ProbeFinding(
            14,
            "whether the auth URL serves the backend API directly",
            "yes: it returned 200 to requests of this probe" if is_served else "not known: no request returned 200",
            "The key is sent to the auth URL only. If PropelAuth ends direct access, requests fail with 404.",
        )

    def profile(self) -> dict[str, Any]:
        """Return the profile. ``value`` separates a fault whose value is an object from its limits."""
        headers = {name: value for name, value in self.http.limit_headers.items() if value.isdigit()}
        faults = dict(self.profile_faults)
        if headers:
            faults["response_headers"] = {"value": headers}
        errors = {str(status): error for status, error in sorted(self.http.errors.items())}
        if errors:
            faults["error_bodies"] = {"value": errors}
        return {
            "format": FORMAT,
            "made_by": f"propel-assets {__version__}",
            "made_on": datetime.now(UTC).date().isoformat(),
            "requests": self.http.sent,
            "fields": self.fields,
            "faults": faults,
        }


def _ids(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return [row.get(name) for row in rows]


def _describe(response: Response) -> str:
    if response.status == HTTPStatus.OK:
        return "200"
    if not response.text:
        return f"{response.status} with an empty body"
    if response.is_json and isinstance(response.body, dict):
        return f"{response.status} with a JSON object of {_join(sorted({*map(_field, response.body)}))}"
    return f"{response.status} with {'JSON' if response.is_json else 'text'}"


def _describe_order(times: Sequence[Any]) -> str:
    known = [at for at in times if isinstance(at, int | float)]
    if len({*known}) < 2:
        return "too few rows to see an order"
    if known == sorted(known):
        return "by created_at, ascending"
    return "by created_at, descending" if known == sorted(known, reverse=True) else "not by created_at"


def _extra_properties(response: Response, name: str) -> str:
    """Return the keys of `extra_properties` in the rows ``name``."""
    return _join(sorted({key for row in response.rows(name) for key in row.get("extra_properties") or {}}))


def _join(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
