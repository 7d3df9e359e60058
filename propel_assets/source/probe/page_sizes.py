"""How many users a tenant returns per page, and which parameters of `user/query` it refuses."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from propel_assets.catalog.model import API
from propel_assets.errors import KeyRefused, TransientApiError
from propel_assets.settings import variable_to_set
from propel_assets.source.probe import requester
from propel_assets.source.probe.requester import TRANSIENT, Requester, Response

WHOLE_PAGE, LARGE_PAGE = 100, 1_000


@dataclass
class PageSizes:
    """Measures the page sizes. ``faults``: the profile, as faults of the sandbox.

    ``page``: rows per page. Smaller than `WHOLE_PAGE` if that is refused, or if the response is too large.
    ``cap``, ``refused``: the largest page_size below `WHOLE_PAGE`, and the status that refuses a larger one; 0: none.
    ``include_orgs``: the parameter; empty if it is refused.
    """

    http: Requester
    faults: dict[str, Any]
    page: int = WHOLE_PAGE
    cap: int = 0
    refused: int = 0
    include_orgs: dict[str, Any] = field(default_factory=lambda: {"include_orgs": "true"})

    def users(self, page_size: int = 0, record_as: str | None = "") -> Response:
        """Return the oldest users; by default a page of ``page`` rows."""
        params = {"page_size": page_size or self.page, "order_by": "CREATED_AT_ASC", **self.include_orgs}
        return self.http.get("user/query", record_as=record_as, **params)

    def first_page(self) -> Response:
        """Return the oldest users, and find out whether page_size or include_orgs is refused.

        Raises:
            KeyRefused: the key is not accepted.
            TransientApiError: the list could not be read, for a reason that can pass.
        """
        first = self._first_response()
        while first.is_truncated and self.page > 1:
            self.page = max(1, self.page // 10)
            first = self.users()
        return first

    def _first_response(self) -> Response:
        first = self.users()
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
            first = self.users(record_as=None)
            if self._status_of_one_user() != HTTPStatus.OK:
                self.include_orgs = with_orgs  # the list is refused with any parameters
                return first
            self.faults["include_orgs_off"] = refused
        if self._require_not_transient(first).status != HTTPStatus.OK:
            self.refused = first.status
            self.cap = self.page = self._largest_accepted(1, WHOLE_PAGE)
            first = self._require_not_transient(self.users(record_as=None))
        self.http.statuses["user/query"] = first.status
        return first

    def _status_of_one_user(self) -> int:
        """Return the status of a page with one user, which no limit of page_size refuses."""
        return self._require_not_transient(self.users(1, None)).status

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
            response = self._require_not_transient(self.http.get("user/query", record_as=None, page_size=middle))
            low, high = (middle, high) if response.status == HTTPStatus.OK else (low, middle)
        return low

    def measure_cap(self, first: Response) -> tuple[str, dict[str, Any]]:
        """Return what a page_size of `LARGE_PAGE` does, and the faults that replay it."""
        if not first.is_ok_object:
            return "", {}
        if self.refused:
            return self._refused_cap(WHOLE_PAGE, self.refused)
        large = self.http.get("user/query", page_size=LARGE_PAGE)
        if large.status != HTTPStatus.OK:
            return self._refused_cap(LARGE_PAGE, large.status)
        total, cap, rows = first.get("total_users") or 0, large.get("page_size"), len(large.rows("users"))
        answer = f"a page_size of {LARGE_PAGE}"
        if large.is_truncated:
            answer += f" returns more than {requester.MAX_BODY_BYTES >> 20} MiB, which are not read: not settled"
            return answer, {}
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
