"""One reader per scan: which requests it takes, and which rows of which tables come out.

Readers yield Arrow tables as they read and leave a `ScanReport` per table. A feature the tenant does not have ends in
a report with the verdict `skipped` and no rows at all, never in an empty table.
"""

import time
from collections.abc import Callable, Hashable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter
from typing import Any

import msgspec
import pyarrow as pa

from propel_assets.errors import LossRefused, OtherEnvironment, PermanentApiError
from propel_assets.settings import environment_of
from propel_assets.source.client import BACKEND_KEY, NO_AUTH, Client
from propel_assets.source.decode import PageDecoder, RowType, to_arrow
from propel_assets.source.lists import MIN_PAGE_SIZE, NOT_FOUND, RECENT, ListReader, Progress, ScanReport
from propel_assets.source.scan import Order
from propel_assets.source.tables import BY_NAME, Table, tables_of

Rows = tuple[str, pa.Table]

MIN_LOSS_ROWS = 50
CHART_DAYS_AGAIN = 35
USAGE_DAYS_AT_FIRST = 30
ALL_KEYS = "all"
CLOCKS_APART_SECONDS = 300

FEATURE_OFF: dict[str, frozenset[int]] = {
    "orgs": frozenset({426}),
    "insights": frozenset({402, 403, 404, 426}),
    "api_keys": frozenset({402, 403, 404}),
    "scim": frozenset({402, 403, 404, 426}),
}
USER_REPORTS = {
    "reengagement": ("Weekly", "Monthly"),
    "churn": ("7", "14", "30"),
    "top_inviter": ("30", "60", "90"),
    "champion": ("30", "60", "90"),
}
ORG_REPORTS = {
    "reengagement": ("Weekly", "Monthly"),
    "churn": ("7", "14", "30"),
    "growth": ("30", "60", "90"),
    "attrition": ("30", "60", "90"),
}
METRICS = ("signups", "orgs_created", "active_users", "active_orgs")
CADENCES = ("Daily", "Weekly", "Monthly")


@dataclass(frozen=True)
class ReadOptions:
    """What a run asks for beyond the lists: look-ups, API key usage per key, only what changed of users.

    ``anew``: read metrics and usage as at the first load, for destinations that cannot merge them into what is there.
    """

    user_ids: Sequence[str] = ()
    emails: Sequence[str] = field(default=(), repr=False)
    usernames: Sequence[str] = field(default=(), repr=False)
    usage_per_key: bool = False
    recent: bool = False
    anew: bool = False


class Reader(ListReader):
    """Reads the tables of one scan. ``state`` is kept from load to load at the destination."""

    def __init__(
        self,
        client: Client,
        state: MutableMapping[str, Any],
        options: ReadOptions | None = None,
        progress: Progress = lambda *_: None,
    ) -> None:
        """Read through ``client``; call ``progress`` with table, rows so far and rows expected."""
        super().__init__(client, progress)
        self._state = state
        self._options = options or ReadOptions()
        self.reports: dict[str, ScanReport] = {}

    def read(self, scan: str) -> Iterator[Rows]:
        """Yield the tables of ``scan``, in batches; afterwards `reports` has one report per table.

        Raises:
            ApiError: PropelAuth cannot be read.
            UnprovedScan: no pass over a list could be proved complete.
            LossRefused: a complete answer has lost more rows than is believed, or is of another environment.
        """
        self._refuse_another_environment()
        self.reports = {table.name: ScanReport(table.name) for table in tables_of(scan)}
        yield from getattr(self, f"_read_{scan}")()
        traffic = self._client.traffic
        for report in self.reports.values():
            report.requests, report.retries = traffic.requests, traffic.retries
            report.rate_limited, report.waited_seconds = traffic.rate_limited, round(traffic.waited_seconds, 3)
            report.concurrency, report.finished_at = traffic.concurrency, datetime.now(UTC)
            self._guard(report)

    def _refuse_another_environment(self) -> None:
        """Refuse to replace what was read from one environment by what another has."""
        host = environment_of(self._settings.auth_url)
        before = self._state.get("environment", host)
        if before != host and not self._settings.allow_loss:
            raise OtherEnvironment(
                f"The tables hold what {before} has, and PROPELAUTH_AUTH_URL is of {host}. Nothing was read. Give each "
                "environment a database of its own (another folder, or DESTINATION__DUCKDB__CREDENTIALS). If it is the "
                "same environment under a new address, run once with PROPELAUTH_ALLOW_LOSS=true."
            )
        self._state["environment"] = host

    def _guard(self, report: ScanReport) -> None:
        """Refuse a sudden loss, and remember how many rows there were."""
        before = self._state.setdefault("rows", {}).get(report.table_name)
        if report.skipped or report.recent:
            return
        allowed = max(MIN_LOSS_ROWS, self._settings.max_loss * (before or 0))
        lost = (before or 0) - report.rows_read
        emptied = before and not report.rows_read
        if BY_NAME[report.table_name].guarded and not self._settings.allow_loss and (emptied or lost > allowed):
            raise LossRefused(
                f"{report.table_name} had {before} rows at the last load and a complete reading now gives "
                f"{report.rows_read}. Nothing was replaced. If so many really left, run once with "
                "PROPELAUTH_ALLOW_LOSS=true; if not, check that PROPELAUTH_AUTH_URL and the key are of the right "
                "environment."
            )
        self._state["rows"][report.table_name] = report.rows_read

    # --- people and orgs: numbered lists in a known order ---

    def _read_users(self) -> Iterator[Rows]:
        member = RowType(BY_NAME["org_membership"], given=("user_id",))
        user = RowType(BY_NAME["user_query"], maps={"org_id_to_org_info": member})
        users, members = self.reports["user_query"], self.reports["org_membership"]
        has_orgs, why_not, newest = self._before_users(user)
        since = self._state.get("users_read_until") if self._options.recent else None
        users.mode = members.mode = "full" if since is None else RECENT
        for rows in self._user_batches(users, user, has_orgs=has_orgs, since=since):
            yield "user_query", user.to_arrow(rows)
            if has_orgs:
                infos = [(row.f_user_id, row.f_org_id_to_org_info) for row in rows if row.f_org_id_to_org_info]
                if since is not None:
                    members.emptied += [row.f_user_id for row in rows if not row.f_org_id_to_org_info]
                flat = [(user_id, info) for user_id, by_org in infos for info in by_org.values()]
                members.rows_read += len(flat)
                given = {"user_id": [user_id for user_id, _ in flat]}
                yield "org_membership", member.to_arrow([info for _, info in flat], given)
        users.unknown_fields, members.unknown_fields = user.surprises, member.surprises
        members.verdict, members.reason = (users.verdict, users.reason) if has_orgs else ("skipped", why_not)
        members.pages, members.passes = users.pages, users.passes
        if has_orgs and not members.rows_read:
            yield "org_membership", member.to_arrow([])
        self._state["users_read_until"] = newest

    def _user_batches(
        self, report: ScanReport, user: RowType, *, has_orgs: bool, since: int | None
    ) -> Iterator[list[Any]]:
        """Yield all users, or those who signed up or were active at ``since`` or later (docs/decisions/0004)."""
        table = BY_NAME["user_query"]
        seen: set[str] = set()
        lists = [("CREATED_AT_ASC", "f_created_at", True)]
        if since is not None:
            lists.append(("LAST_ACTIVE_AT_ASC", "f_last_active_at", False))
        for order_by, value, settled in lists:
            order = Order(attrgetter("f_user_id"), attrgetter(value), since, settled)
            params = {"include_orgs": "true" if has_orgs else "false", "order_by": order_by}
            for rows in self._read_list(
                report, table.path, table.items, "total_users", user, order, params, earlier=seen
            ):
                if since is not None:
                    seen.update(row.f_user_id for row in rows)
                yield rows

    def _before_users(self, user: RowType) -> tuple[bool, str, int]:
        """Find out whether users come with their orgs, why not, and when the newest activity was.

        Whoever signs up or is active after this answer has at least that time, so it is where the next reading of
        what changed has to go back to. A time that is not past is not believed.
        """
        path, decode = BY_NAME["user_query"].path, PageDecoder(user, BY_NAME["user_query"].items)
        params = {"include_orgs": "true", "page_size": 1, "page_number": 0, "order_by": "LAST_ACTIVE_AT_DESC"}
        has_orgs, why_not = True, ""
        try:
            answer = self._client.get(path, decode, params)
        except PermanentApiError as error:
            if error.status not in FEATURE_OFF["orgs"]:
                raise
            has_orgs, why_not = False, str(error)
            answer = self._client.get(path, decode, params | {"include_orgs": "false"})
        if answer.items and has_orgs and answer.items[0].f_org_id_to_org_info is None:
            has_orgs = False
            why_not = "Users come without org_id_to_org_info: orgs are not switched on for this project."
        newest = answer.items[0].f_last_active_at if answer.items else 0
        return has_orgs, why_not, min(int(newest or 0), int(time.time()) - CLOCKS_APART_SECONDS)

    def _read_orgs(self) -> Iterator[Rows]:
        yield from self._read_plain_list("org_query", "total_orgs", order_by="CREATED_AT_ASC")

    def _read_invites(self) -> Iterator[Rows]:
        key = attrgetter("f_org_id", "f_invitee_email")
        yield from self._read_plain_list("pending_org_invites", "total_invites", key=key)

    def _read_end_user_api_keys(self) -> Iterator[Rows]:
        yield from self._read_plain_list("end_user_api_keys", "total_api_keys")

    def _read_end_user_api_keys_archived(self) -> Iterator[Rows]:
        yield from self._read_plain_list("end_user_api_keys_archived", "total_api_keys")

    def _read_plain_list(
        self, name: str, total: str, *, key: Callable[[Any], Hashable] | None = None, order_by: str = ""
    ) -> Iterator[Rows]:
        """Read a list that is a table of its own."""
        table, report = BY_NAME[name], self.reports[name]
        row_type = RowType(table)
        order = Order(key or attrgetter(f"f_{table.key[0]}"), attrgetter("f_created_at") if order_by else None)
        params = {"order_by": order_by} if order_by else {}
        with self._skipping(table):
            for rows in self._read_list(report, table.path, table.items, total, row_type, order, params):
                yield name, row_type.to_arrow(rows)
            report.unknown_fields = row_type.surprises
            if not report.rows_read:
                yield name, row_type.to_arrow([])

    @contextmanager
    def _skipping(self, *tables: Table) -> Iterator[None]:
        """Turn the statuses that mean a feature is off into a skipped report."""
        try:
            yield
        except PermanentApiError as error:
            statuses = FEATURE_OFF[tables[0].feature] if tables[0].feature else frozenset()
            if error.status not in statuses or any(self.reports[t.name].rows_read for t in tables):
                raise
            self._skip(str(error), *tables)

    def _skip(self, reason: str, *tables: Table) -> None:
        for table in tables:
            self.reports[table.name].verdict, self.reports[table.name].reason = "skipped", reason

    # --- one request per org ---

    def _all_of(self, name: str, total: str) -> tuple[Iterator[Any], ScanReport]:
        """Return all users or orgs, without their memberships, and the report on them, which ends with them."""
        table, report = BY_NAME[name], ScanReport(name)
        row_type = RowType(table, maps={"org_id_to_org_info": RowType(BY_NAME["org_membership"], given=("user_id",))})
        order = Order(key=attrgetter(f"f_{table.key[0]}"), value=attrgetter("f_created_at"))
        params = {"order_by": "CREATED_AT_ASC"}
        batches = self._read_list(report, table.path, table.items, total, row_type, order, params)
        return (row for rows in batches for row in rows), report

    def _org_ids(self) -> tuple[list[str], ScanReport]:
        orgs, report = self._all_of("org_query", "total_orgs")
        return [org.f_org_id for org in orgs], report

    def _user_ids(self) -> tuple[list[str], ScanReport]:
        users, report = self._all_of("user_query", "total_users")
        return [user.f_user_id for user in users], report

    def _as_parent(self, report: ScanReport, parent: ScanReport) -> None:
        """What is known of a list of parents is known of their details."""
        report.verdict, report.reason = parent.verdict, parent.reason
        report.pages, report.passes = parent.pages, parent.passes
        report.total_min, report.total_max = parent.total_min, parent.total_max

    def _read_org_details(self) -> Iterator[Rows]:
        yield from self._read_one_each("org_by_id", self._org_ids, "org_id", given=())

    def _read_saml(self) -> Iterator[Rows]:
        yield from self._read_one_each("saml_sp_metadata", self._org_ids, "org_id")

    def _read_signup_query_parameters(self) -> Iterator[Rows]:
        yield from self._read_one_each("user_signup_query_parameters", self._user_ids, "user_id")

    def _read_mfa(self) -> Iterator[Rows]:
        yield from self._read_one_each("user_mfa", self._user_ids, "user_id")

    def _read_one_each(
        self,
        name: str,
        parents: Callable[[], tuple[list[str], ScanReport]],
        parameter: str,
        given: tuple[str, ...] | None = None,
    ) -> Iterator[Rows]:
        """Read one row per parent; a parent that is gone meanwhile (404) has none."""
        table, report = BY_NAME[name], self.reports[name]
        given = (parameter,) if given is None else given
        row_type = RowType(table, given=given)
        decode = PageDecoder(row_type)

        def ask(id_: str) -> Any:
            return self._unless_missing(table.path.replace(f"{{{parameter}}}", id_), decode)

        with self._skipping(table):
            ids, parent = parents()
            answers = [(id_, row) for id_, row in zip(ids, self._each(ask, ids, name), strict=True) if row is not None]
            self._as_parent(report, parent)
            report.rows_read, report.unknown_fields = len(answers), row_type.surprises
            values = {parameter: [id_ for id_, _ in answers]} if given else None
            yield name, row_type.to_arrow([row for _, row in answers], values)

    def _read_employees(self) -> Iterator[Rows]:
        """Look up who is named as an impersonator: PropelAuth has no list of employees."""
        table, report = BY_NAME["employee"], self.reports["employee"]
        users, parent = self._all_of("user_query", "total_users")
        ids = sorted({user.f_impersonator_user_id for user in users if user.f_impersonator_user_id})
        decode = PageDecoder(RowType(table, given=("employee_id", "found")))

        def ask(id_: str) -> Any:
            return self._unless_missing(table.path.replace("{employee_id}", id_), decode)

        found = list(self._each(ask, ids, table.name))
        report.verdict, report.pages, report.rows_read = parent.verdict, parent.pages, len(ids)
        yield (
            table.name,
            to_arrow(
                table,
                (
                    {"employee_id": id_, "found": row is not None, "email": row.f_email if row else None}
                    for id_, row in zip(ids, found, strict=True)
                ),
            ),
        )

    # --- lists without pages, documents ---

    def _read_role_mappings(self) -> Iterator[Rows]:
        yield from self._read_document("custom_role_mappings")

    def _read_openid_configuration(self) -> Iterator[Rows]:
        yield from self._read_document("openid_configuration", auth=NO_AUTH)

    def _read_jwks(self) -> Iterator[Rows]:
        yield from self._read_document("jwks", auth=NO_AUTH)

    def _read_oauth_userinfo(self) -> Iterator[Rows]:
        if token := self._settings.oauth_token:
            yield from self._read_document("oauth_userinfo", auth=token)
        else:
            self._skip("No end user's access token: set PROPELAUTH_OAUTH_TOKEN.", BY_NAME["oauth_userinfo"])

    def _read_document(self, name: str, auth: str = BACKEND_KEY) -> Iterator[Rows]:
        """Read what one answer holds: all its rows, or itself as the only one."""
        table, report = BY_NAME[name], self.reports[name]
        row_type = RowType(table)
        with self._skipping(table):
            answer = self._client.get(table.path, PageDecoder(row_type, table.items), auth=auth)
            rows = answer.items if table.items else [answer]
            report.verdict, report.pages, report.rows_read = "proved", 1, len(rows)
            report.unknown_fields = row_type.surprises
            yield name, row_type.to_arrow(rows)

    # --- look-ups ---

    def _read_user_by_id(self) -> Iterator[Rows]:
        yield from self._look_up("user_by_id", self._options.user_ids, "{user_id}")

    def _read_user_by_email(self) -> Iterator[Rows]:
        yield from self._look_up("user_by_email", self._options.emails, "email")

    def _read_user_by_username(self) -> Iterator[Rows]:
        yield from self._look_up("user_by_username", self._options.usernames, "username")

    def _look_up(self, name: str, values: Sequence[str], parameter: str) -> Iterator[Rows]:
        """Ask for one user each; a value nobody has gives a row that says so."""
        table, report = BY_NAME[name], self.reports[name]
        wanted = list(dict.fromkeys(values))
        if not wanted:
            self._skip(
                "Nothing to look up: propel-assets load takes values as options, Dagster in the run's config.", table
            )
            return
        row_type = RowType(table, given=("looked_up", "found"))
        decode = PageDecoder(row_type)
        in_path = parameter.startswith("{")

        def ask(value: str) -> Any:
            path = table.path.replace(parameter, value) if in_path else table.path
            return self._unless_missing(path, decode, None if in_path else {parameter: value})

        answers = list(self._each(ask, wanted, name))
        nobody = msgspec.json.decode(b"{}", type=row_type.struct)
        report.verdict, report.pages, report.rows_read = "proved", len(wanted), len(wanted)
        report.unknown_fields = row_type.surprises
        given = {"looked_up": wanted, "found": [row is not None for row in answers]}
        yield name, row_type.to_arrow([row or nobody for row in answers], given)

    # --- end users' API keys: usage per day ---

    def _read_api_key_usage(self) -> Iterator[Rows]:
        """Ask for the days not finished at the last load: finished days do not change."""
        table, report = BY_NAME["end_user_api_key_usage"], self.reports["end_user_api_key_usage"]
        keys = [ALL_KEYS]
        today = datetime.now(UTC).date()
        with self._skipping(table):
            if self._options.usage_per_key:
                keys += self._api_key_ids()
            memory = {} if self._options.anew else self._state.setdefault("usage_since", {})
            at_first = today - timedelta(days=USAGE_DAYS_AT_FIRST)
            asked = [
                (day, key)
                for key in keys
                for day in _days(date.fromisoformat(memory[key]) if key in memory else at_first, today)
            ]
            decode = msgspec.json.Decoder(_Count).decode

            def ask(day_and_key: tuple[date, str]) -> int:
                day, key = day_and_key
                if key == ALL_KEYS:
                    return self._client.get(table.path, decode, {"date": day.isoformat()}).count
                answer = self._unless_missing(table.path, decode, {"date": day.isoformat(), "api_key_id": key})
                return answer.count if answer else 0  # the key has gone meanwhile

            counts = list(self._each(ask, asked, table.name))
            report.verdict, report.pages, report.rows_read = "proved", len(asked), len(asked)
            # Which time zone a day ends in is not documented: yesterday may still change.
            memory.update(dict.fromkeys(keys, (today - timedelta(days=1)).isoformat()))
            yield (
                table.name,
                to_arrow(
                    table,
                    (
                        {"date": day.isoformat(), "api_key_id": key, "count": count}
                        for (day, key), count in zip(asked, counts, strict=True)
                    ),
                ),
            )

    def _api_key_ids(self) -> list[str]:
        table = BY_NAME["end_user_api_keys"]
        order = Order(attrgetter("f_api_key_id"))
        report = ScanReport(table.name)
        batches = self._read_list(report, table.path, table.items, "total_api_keys", RowType(table), order, {})
        return [row.f_api_key_id for rows in batches for row in rows]

    # --- insights ---

    def _read_user_reports(self) -> Iterator[Rows]:
        yield from self._read_reports("user_report", USER_REPORTS)

    def _read_org_reports(self) -> Iterator[Rows]:
        yield from self._read_reports("org_report", ORG_REPORTS)

    def _read_reports(self, name: str, kinds: dict[str, tuple[str, ...]]) -> Iterator[Rows]:
        """Read every type and interval; one that the tenant does not have is named, all missing is a skip."""
        table, total = BY_NAME[name], self.reports[name]
        off: list[str] = []
        asked = [(kind, interval) for kind, intervals in kinds.items() for interval in intervals]
        verdicts = []
        for kind, interval in asked:
            part = ScanReport(name)
            try:
                yield from self._read_report(part, table, kind, interval)
            except PermanentApiError as error:
                if error.status not in FEATURE_OFF["insights"]:
                    raise
                off.append(f"{kind} {interval}: {error}")
                continue
            verdicts.append(part.verdict)
            total.rows_read += part.rows_read
            total.pages += part.pages
            total.passes = max(total.passes, part.passes)
            total.total_min = (total.total_min or 0) + (part.total_min or 0)
            total.total_max = (total.total_max or 0) + (part.total_max or 0)
            total.unknown_fields |= part.unknown_fields
        if not verdicts:
            self._skip(off[0], table)
            return
        total.verdict = "proved" if set(verdicts) == {"proved"} else "counted"
        total.reason = f"Not available: {'; '.join(off)}" if off else ""
        if not total.rows_read:
            yield name, to_arrow(table, ())

    def _read_report(self, report: ScanReport, table: Table, kind: str, interval: str) -> Iterator[Rows]:
        row_type = RowType(table, given=("type", "interval", "report_time"))
        path = table.path.replace("{type}", kind)
        params = {"report_interval": interval}
        times: list[int] = []
        order = Order(attrgetter("f_report_id", "f_id"))
        batches = self._read_list(
            report,
            path,
            table.items,
            "total_count",
            row_type,
            order,
            params,
            also=lambda a: times.append(a.report_time),
        )
        for rows in batches:
            given = {"type": kind, "interval": interval, "report_time": max(times)}
            yield table.name, row_type.to_arrow(rows, given)
        report.unknown_fields = row_type.surprises

    def _read_chart_metrics(self) -> Iterator[Rows]:
        """Read every metric from the oldest user's day on; later what may have changed since the last load."""
        table, report = BY_NAME["chart_metrics"], self.reports["chart_metrics"]
        today = datetime.now(UTC).date()
        row_type = RowType(table, given=("metric", "cadence", "chart_type"))
        decode = PageDecoder(row_type, table.items, [("chart_type", str | None)])
        with self._skipping(table):
            since = self._charts_since(today)
            unfinished = [today]
            for metric in METRICS:
                for cadence in CADENCES:
                    start = _period_start(since, cadence).isoformat()
                    params = {"cadence": cadence, "start_date": start, "end_date": today.isoformat()}
                    answer = self._client.get(table.path.replace("{metric}", metric), decode, params)
                    rows = answer.items
                    unfinished += [date.fromisoformat(row.f_date) for row in rows if not row.f_cadence_completed]
                    report.rows_read += len(rows)
                    report.pages += 1
                    given = {"metric": metric, "cadence": cadence, "chart_type": answer.chart_type}
                    yield table.name, row_type.to_arrow(rows, given)
            report.verdict, report.unknown_fields = "proved", row_type.surprises
            self._state["charts_since"] = min(unfinished).isoformat()

    def _charts_since(self, today: date) -> date:
        if (known := self._state.get("charts_since")) and not self._options.anew:
            return min(date.fromisoformat(known), today - timedelta(days=CHART_DAYS_AGAIN))
        users = BY_NAME["user_query"]
        row_type = RowType(users)
        params = {"page_size": 1, "page_number": 0, "order_by": "CREATED_AT_ASC"}
        answer = self._client.get(users.path, PageDecoder(row_type, users.items), params)
        oldest = answer.items[0].f_created_at if answer.items else None
        return datetime.fromtimestamp(oldest, UTC).date() if oldest is not None else today

    # --- SCIM: lists that do not say whether there is more ---

    def _read_scim(self) -> Iterator[Rows]:
        """Ask each org for its groups and each group for its members; an org without SCIM has none."""
        groups, members = BY_NAME["scim_groups"], BY_NAME["scim_group_members"]
        with self._skipping(groups, members):
            try:
                org_ids, parent = self._org_ids()
            except PermanentApiError as error:
                if error.status not in FEATURE_OFF["orgs"]:
                    raise
                self._skip(str(error), groups, members)
                return
            refusals: list[PermanentApiError] = []
            group_type = RowType(groups, given=("org_id",))
            found: list[tuple[str, Any]] = []
            for org_id, rows in zip(
                org_ids,
                self._each(lambda id_: self._scim_groups(id_, group_type, refusals), org_ids, groups.name),
                strict=True,
            ):
                found += [(org_id, row) for row in rows]
            if org_ids and len(refusals) == len(org_ids):
                self._skip(f"No org has SCIM: {refusals[0]}", groups, members)
                return
            of_groups = [(org_id, row.f_group_id) for org_id, row in found]
            people = list(self._each(lambda pair: self._scim_members(*pair), of_groups, members.name))
            flat = [
                {"org_id": org_id, "group_id": group_id, "user_id": user_id}
                for (org_id, group_id), user_ids in zip(of_groups, people, strict=True)
                for user_id in user_ids
            ]
            for table, rows_read in ((groups, len(found)), (members, len(flat))):
                self._as_parent(self.reports[table.name], parent)
                self.reports[table.name].verdict, self.reports[table.name].rows_read = "counted", rows_read
                self.reports[table.name].total_min = self.reports[table.name].total_max = None
            self.reports[groups.name].unknown_fields = group_type.surprises
            yield (
                groups.name,
                group_type.to_arrow([row for _, row in found], {"org_id": [org_id for org_id, _ in found]}),
            )
            yield members.name, to_arrow(members, flat)

    def _scim_groups(self, org_id: str, row_type: RowType, refusals: list[PermanentApiError]) -> list[Any]:
        decode = PageDecoder(row_type, "groups", [("page_size", int | None)])
        path = BY_NAME["scim_groups"].path.replace("{org_id}", org_id)
        try:
            return self._until_short(path, decode, "page_size", "page_number", attrgetter("f_group_id"))
        except PermanentApiError as error:
            if error.status not in FEATURE_OFF["scim"]:
                raise
            refusals.append(error)
            return []

    def _scim_members(self, org_id: str, group_id: str) -> list[str]:
        path = BY_NAME["scim_group_members"].path.replace("{org_id}", org_id).replace("{group_id}", group_id)
        decode = PageDecoder(RowType(BY_NAME["scim_group_members"], given=("org_id", "group_id")), "members")
        try:
            rows = self._until_short(path, decode, "members_page_size", "members_page_number", attrgetter("f_user_id"))
        except PermanentApiError as error:
            if error.status == NOT_FOUND:
                return []  # the group has gone meanwhile
            raise
        return [row.f_user_id for row in rows]

    def _until_short(
        self, path: str, decode: PageDecoder, size: str, number: str, key: Callable[[Any], Hashable]
    ) -> list[Any]:
        """Read pages until one holds nothing new: the answer does not say whether there is more."""
        rows: dict[Hashable, Any] = {}
        page = 0
        while True:
            answer = self._client.get(path, decode, {size: self._settings.page_size, number: page})
            before = len(rows)
            rows |= {key(row): row for row in answer.items}
            if len(rows) == before or (page == 0 and len(answer.items) < MIN_PAGE_SIZE):
                return list(rows.values())
            page += 1


class _Count(msgspec.Struct):
    """The answer of the usage endpoint."""

    count: int


def _days(start: date, stop: date) -> list[date]:
    return [start + timedelta(days=n) for n in range((stop - start).days + 1)]


def _period_start(day: date, cadence: str) -> date:
    if cadence == "Weekly":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if cadence == "Monthly" else day
