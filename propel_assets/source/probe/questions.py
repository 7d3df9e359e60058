"""What the probe asks a tenant, what the project does about each answer, and the profile that the sandbox replays."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

from propel_assets import __version__
from propel_assets.catalog.model import INSIGHTS
from propel_assets.settings import Tenant
from propel_assets.source.probe.page_sizes import PageSizes
from propel_assets.source.probe.requester import TRANSIENT, Requester, Response, field_name
from propel_assets.source.stream import Progress

NOT_ENABLED = INSIGHTS.statuses
BEYOND = 1_000_000
UNKNOWN_UUID = "00000000-0000-4000-8000-000000000000"
UNKNOWN_KEY = "0" * 32
FORMAT = 1
QUESTIONS = {
    1: (
        "page_size cap, and what happens above it",
        "PROPELAUTH_PAGE_SIZE is 100. Pages are computed from the size that the response echoes; a refused size is "
        "halved. Batch reads are POST requests, which the project does not send.",
    ),
    2: (
        "a page past the last one",
        "A scan reads from the last page backwards and past it only once, to find new rows. An error there ends "
        "the scan, and the previous data is kept.",
    ),
    3: (
        "error bodies; rate limit headers",
        "Statuses decide, bodies do not: the names of refused fields are shown, and no other text. After 429 "
        "and 503, all requests pause for the time in Retry-After, and at least for a backoff that doubles.",
    ),
    4: (
        "order of rows with the same created_at; order of other lists",
        "A scan needs no order among equal times: it re-reads ties until they are complete. A list without a "
        "documented order is `counted` if it has more than one page.",
    ),
    5: (
        "values of api_key_type; the day boundary of usage",
        "api_key_type is not sent: all types are loaded together. Usage of the last days is read again by each "
        "load, so that a day that ends later is corrected.",
    ),
    6: (
        "isolated orgs: whether user/query lists their users",
        "Each full load compares the members of isolated orgs with the orgs' own totals. It is `counted`, with the "
        "number of missing users, if the list of all users lacks them.",
    ),
    7: (
        "created_at of orgs",
        "created_at comes from the list and may be null. The order of the list is not used then: the scan is "
        "`counted`.",
    ),
    8: (
        "whether optional fields are omitted or null",
        "Columns are declared; an omitted field is loaded as null. A field that the catalog lacks gets a column.",
    ),
    9: (
        "whether user/query lists disabled and locked users",
        "They are loaded with `enabled` and `locked`. If the list lacked them, a disabled user would look deleted.",
    ),
    10: (
        "when last_active_at is updated",
        "A recent load reads back to the newest activity of the previous one. A value in the future is not used.",
    ),
    11: (
        "insight reports: age, extra_properties, whether the plan has them",
        "With 402, 403, 404 or 426 the tables are skipped and keep their rows. extra_properties is JSON.",
    ),
    12: (
        "SCIM: has_more_results, 404, total_groups",
        "Groups are read until total_groups are read, members until an empty page. The filter user_id is not used.",
    ),
    13: (
        "which endpoints this key may read",
        "403 is reported as a missing permission of the key, 402 and 426 as a feature that is not enabled, and 401 "
        "as a refused key.",
    ),
    14: (
        "whether the auth URL serves the backend API directly",
        "The key is sent to the auth URL only. If PropelAuth ends direct access, requests fail with 404.",
    ),
    15: (
        "further fields in webhook payloads",
        "Webhooks are sent, not read. The receiver stores each payload whole, so that further fields are kept.",
    ),
    16: (
        "whether org/query can be read with GET",
        "The project sends GET requests only. If GET is refused, org tables are not loaded and keep their rows.",
    ),
    17: (
        "user/org of an unknown org",
        "Only the total of the orgs that are isolated is read. 404 counts as an org that was deleted meanwhile.",
    ),
}
"""By number: what the documentation does not specify, and what the project does about it, for any answer."""


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


def probe(tenant: Tenant, progress: Progress) -> ProbeResult:
    """Send the requests and return what they show. ``progress`` is called before each.

    Raises:
        KeyRefused: the tenant does not accept the key.
        Unreachable: there is no connection to the tenant.
        TransientApiError: the tenant limits the rate of these few requests, or returns 5xx for the list of users.
    """
    http = Requester(tenant, progress)
    run = _Probe(http)
    answers = dict(run.answers())
    findings = [ProbeFinding(n, question, answers[n], action) for n, (question, action) in QUESTIONS.items()]
    return ProbeResult(findings, run.profile(), http.sent)


class _Probe:
    """Answers the questions. ``faults``: the profile, as faults of the sandbox. ``fields``: the fields of each list."""

    def __init__(self, http: Requester) -> None:
        self.http = http
        self.faults: dict[str, Any] = {}
        self.fields: dict[str, Any] = {}
        self.sizes = PageSizes(http, self.faults)

    def answers(self) -> Iterator[tuple[int, str]]:
        """Yield the numbers of the questions, and the answers."""
        first = self.sizes.first_page()
        orgs = self.http.get("org/query", page_size=self.sizes.page, order_by="CREATED_AT_ASC")
        org_ids = [str(row["org_id"]) for row in orgs.rows("orgs") if "org_id" in row]
        details = [self.http.get(f"org/{org_id}", record_as="org/{org_id}") for org_id in org_ids[:5]]
        keys = self.http.get("end_user_api_keys", page_size=self.sizes.page)
        cap, faults = self.sizes.measure_cap(first)
        self.faults |= faults
        yield 1, cap
        yield 2, self._past_the_end(first)
        yield 3, self._errors()
        yield 17, self._unknown_org()
        yield 4, self._ties(first, org_ids)
        yield 5, self._api_keys(keys)
        yield 6, self._isolated(first, details)
        yield 7, self._org_created_at(orgs, details)
        yield 8, self._omissions(first, orgs, details, keys)
        yield 9, self._disabled(first)
        yield 10, self._activity(first)
        yield 11, self._insights()
        yield 12, self._scim(org_ids)
        yield 13, self._permissions()
        is_served = HTTPStatus.OK in self.http.statuses.values()
        yield (
            14,
            "yes: it returned 200 to requests of this probe" if is_served else "not known: no request returned 200",
        )
        yield 15, ""
        yield 16, f"GET org/query returned {orgs.status}"

    def _past_the_end(self, first: Response) -> str:
        beyond = self.http.get("user/query", page_size=self.sizes.page, page_number=BEYOND)
        if beyond.status != HTTPStatus.OK:
            if first.is_ok_object and beyond.status not in TRANSIENT:
                self.faults["past_end"] = beyond.status
            answer = f"status {beyond.status}"
        else:
            echo = "echoed" if beyond.get("current_page") == BEYOND else beyond.as_text("current_page")
            more = beyond.as_text("has_more_results")
            answer = f"{len(beyond.rows('users'))} rows, current_page {echo}, has_more_results {more}"
            answer += ", the same total" if beyond.get("total_users") == first.get("total_users") else ", another total"
        return answer

    def _errors(self) -> str:
        wanted = {
            "no key": self.http.get("user/query", record_as=None, auth="none"),
            "a wrong key": self.http.get("user/query", record_as=None, auth="wrong"),
            "page_size=0": self.http.get("user/query", record_as=None, page_size=0),
            "an unknown order": self.http.get("user/query", record_as=None, order_by="NOT_AN_ORDER"),
            "an unknown user": self.http.get(f"user/{UNKNOWN_UUID}", record_as="user/{user_id}"),
            "an unknown org": self.http.get(f"org/{UNKNOWN_UUID}", record_as=None),
            "an unknown API key": self.http.get(f"end_user_api_keys/{UNKNOWN_KEY}", record_as=None),
            "an unknown employee": self.http.get(f"employee/{UNKNOWN_UUID}", record_as="employee/{employee_id}"),
        }
        texts = [f"{what}: {_describe(response)}" for what, response in wanted.items()]
        limits = ", ".join(sorted(self.http.limit_headers)) or "none"
        return f"{'; '.join(texts)}. Headers about limits: {limits}. No response had status 429"

    def _unknown_org(self) -> str:
        members = self.http.get(f"user/org/{UNKNOWN_UUID}", record_as="user/org/{org_id}", page_size=1)
        if members.status == HTTPStatus.OK:
            self.faults["unknown_org_empty"] = True
        return _describe(members) + (f", {members.as_text('total_users')} users" if members.is_ok_object else "")

    def _ties(self, first: Response, org_ids: Sequence[str]) -> str:
        again = self.sizes.users()
        before, after = (_ids(response.rows("users"), "user_id") for response in (first, again))
        times = [row.get("created_at") for row in first.rows("users")]
        ties = sum(count for count in Counter(times).values() if count > 1)
        same = before == after
        if not same:
            self.faults["shuffled_ties"] = True
        answer = f"{ties} of {len(times)} users have the created_at of another; " + (
            "two reads had the same order" if same else "two reads had different orders"
        )
        if org_ids:
            answer += f"; {self._order_of_members(org_ids[0])}"
        for path, name in (("pending_org_invites", "invites"), ("end_user_api_keys/archived", "api_keys")):
            listed = self.http.get(path, page_size=self.sizes.page)
            answer += f"; {path}: {_describe_order([row.get('created_at') for row in listed.rows(name)])}"
        return answer

    def _order_of_members(self, org_id: str) -> str:
        one, other = (
            self.http.get(
                f"user/org/{org_id}", record_as="user/org/{org_id}", page_size=self.sizes.page, order_by=order
            )
            for order in ("CREATED_AT_ASC", "CREATED_AT_DESC")
        )
        if not (one.is_ok_object and other.is_ok_object):
            return f"user/org refuses order_by with {one.status}"
        if len(one.rows("users")) < 2:
            return "the first org has too few members to see whether user/org follows order_by"
        is_same = _ids(one.rows("users"), "user_id") == _ids(other.rows("users"), "user_id")
        return f"user/org {'ignores' if is_same else 'follows'} order_by"

    def _api_keys(self, keys: Response) -> str:
        types = self.http.get("end_user_api_keys", record_as=None, page_size=1, api_key_type="NOT_A_TYPE")
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).date()
        usage = self.http.get("end_user_api_keys/usage", date=tomorrow.isoformat())
        if keys.status in NOT_ENABLED:
            self.faults["api_keys_off"] = keys.status
        return (
            f"an unknown api_key_type: {_describe(types)}; usage of tomorrow (UTC): {_describe(usage)}. The time "
            "zone of a day cannot be settled by reading"
        )

    def _isolated(self, first: Response, details: Sequence[Response]) -> str:
        shown = [detail for detail in details if detail.is_ok_object]
        has_field = any("isolated" in detail.body for detail in shown)
        isolated = [detail.get("org_id") for detail in shown if detail.get("isolated") is True]
        is_sent = "sent" if has_field else "absent"
        answer = f"{len(shown)} orgs read, the field isolated is {is_sent}, {len(isolated)} isolated"
        if isolated:
            members = self.http.get(f"user/org/{isolated[0]}", record_as="user/org/{org_id}", page_size=1)
            filtered = self.http.get("user/query", record_as=None, page_size=1, isolated_org_id=isolated[0])
            answer += (
                f"; its members: {members.as_text('total_users')}, by isolated_org_id: "
                f"{filtered.as_text('total_users')}, in the list of all: {first.as_text('total_users')}"
            )
        return answer

    def _org_created_at(self, orgs: Response, details: Sequence[Response]) -> str:
        listed = orgs.rows("orgs")
        without = sum(row.get("created_at") is None for row in listed)
        in_detail = sum("created_at" in detail.body for detail in details if detail.is_ok_object)
        if in_detail:
            self.faults["org_detail_created_at"] = True
        return (
            f"{without} of {len(listed)} listed orgs have none; GET org/{{org_id}} "
            f"{'sends it' if in_detail else 'does not send it'}"
        )

    def _omissions(self, users: Response, orgs: Response, details: Sequence[Response], keys: Response) -> str:
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
        return "; ".join(texts)

    def _disabled(self, first: Response) -> str:
        rows = first.rows("users")
        disabled, locked = sum(r.get("enabled") is False for r in rows), sum(r.get("locked") is True for r in rows)
        return f"{disabled} disabled and {locked} locked among the oldest {len(rows)} users" + (
            "" if disabled or locked else ": not settled"
        )

    def _activity(self, first: Response) -> str:
        newest = self.http.get("user/query", page_size=1, order_by="LAST_ACTIVE_AT_DESC").rows("users")
        at = newest[0].get("last_active_at") if newest else None
        answer = "no activity was returned"
        if isinstance(at, int | float):
            hours = (time.time() - at) / 3600
            answer = f"the newest activity is {f'{hours:.1f} hours old' if hours >= 0 else 'in the future'}"
        impersonated = sum("impersonator_user_id" in row for row in first.rows("users"))
        return f"{answer}; {impersonated} users show an impersonator. When last_active_at is updated cannot be measured"

    def _insights(self) -> str:
        texts = []
        for path, name in (("user_report/churn", "user_reports"), ("org_report/churn", "org_reports")):
            report = self.http.get(path, page_size=self.sizes.page)
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
        champion = self.http.get("user_report/champion", page_size=self.sizes.page)
        extra = _extra_properties(champion, "user_reports")
        texts.append(f"user_report/champion: {_describe(champion)}, extra_properties {extra}")
        chart = self.http.get("chart_metrics/signups")
        texts.append(f"chart_metrics: {_describe(chart)}")
        statuses = {self.http.statuses["user_report/churn"], self.http.statuses["chart_metrics/signups"]}
        if statuses <= NOT_ENABLED:
            self.faults["insights_off"] = min(statuses)
        return "; ".join(texts)

    def _scim(self, org_ids: Sequence[str]) -> str:
        unknown = self.http.get(f"scim/{UNKNOWN_UUID}/groups", record_as=None)
        answer = f"an unknown org: {_describe(unknown)}"
        if org_ids:
            groups = self.http.get(
                f"scim/{org_ids[0]}/groups", record_as="scim/{org_id}/groups", page_size=self.sizes.page
            )
            answer += f"; groups: {_describe(groups)}"
            if groups.is_ok_object:
                answer += f", has_more_results {'sent' if 'has_more_results' in groups.body else 'absent'}"
                none = self.http.get(f"scim/{org_ids[0]}/groups", record_as=None, page_size=1, user_id=UNKNOWN_UUID)
                totals = groups.as_text("total_groups"), none.as_text("total_groups")
                answer += f", total_groups {totals[0]}, with the filter user_id {totals[1]}"
            elif groups.status in NOT_ENABLED:
                self.faults["scim_off"] = groups.status
        return answer

    def _permissions(self) -> str:
        self.http.get("custom_role_mappings")
        refused = [f"{path} {status}" for path, status in self.http.statuses.items() if status in (401, 402, 403, 426)]
        if self.http.statuses["org/query"] == 426:
            self.faults["orgs_off"] = 426
        return f"{sum(status == HTTPStatus.OK for status in self.http.statuses.values())} endpoints return 200" + (
            f"; refused: {', '.join(sorted(refused))}" if refused else ""
        )

    def profile(self) -> dict[str, Any]:
        """Return the profile. ``value`` separates a fault whose value is an object from its limits."""
        headers = {name: value for name, value in self.http.limit_headers.items() if value.isdigit()}
        faults = dict(self.faults)
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
        return f"{response.status} with a JSON object of {_join(sorted({*map(field_name, response.body)}))}"
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
