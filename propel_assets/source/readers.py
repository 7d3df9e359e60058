"""One reader per scan: which requests it takes, and which rows of which tables come out. Start here: `Reader.read`.

Readers yield Arrow tables as they read and leave a `ScanReport` per table. A feature that cannot be read ends in
a report with the verdict `skipped` and no rows at all, never in an empty table. `insights.py` and `scim.py` have more.
"""

import time
from collections.abc import Callable, Container, Hashable, Iterator, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import msgspec

from propel_assets.catalog import BY_NAME, tables_of
from propel_assets.errors import LossRefused, OtherEnvironment, PermanentApiError, UnprovedScan
from propel_assets.settings import auth_host
from propel_assets.source.client import BACKEND_KEY, NO_AUTH
from propel_assets.source.decode import PageDecoder, RowType, to_arrow
from propel_assets.source.insights import InsightsReader
from propel_assets.source.lists import RECENT, ScanReport
from propel_assets.source.scan import Order
from propel_assets.source.scim import ScimReader
from propel_assets.source.table_reader import FEATURE_OFF, Rows, skip_reason

MIN_LOSS_ROWS = 50
CLOCKS_APART_SECONDS = 300


def _refuse_without_orgs(rows: Sequence[Any]) -> None:
    """Refuse users without the field, which the first user had: somebody in no org has it too, empty."""
    without = sum(row.f_org_id_to_org_info is None for row in rows)
    if without:
        raise UnprovedScan(
            f"org_membership: {without} users came without org_id_to_org_info, others with it, so nothing was "
            "replaced. Orgs may have been switched on or off for this project meanwhile. Run again."
        )


class Reader(InsightsReader, ScimReader):
    """Reads the tables of one scan."""

    def read(self, scan: str, wanted: Container[str] | None = None) -> Iterator[Rows]:
        """Yield the tables of ``scan``, in batches; afterwards `reports` has one report per table.

        ``wanted``: names of the tables that somebody takes; others may be left out where that saves work.

        Raises:
            ApiError: PropelAuth cannot be read.
            UnprovedScan: no pass over a list could be proved complete.
            LossRefused: a complete answer has lost more rows than is believed, or is of another environment.
        """
        self._refuse_another_environment()
        self.reports = {table.name: ScanReport(table.name) for table in tables_of(scan)}
        self._wanted = wanted if wanted is not None else self.reports
        yield from getattr(self, f"_read_{scan}")()
        traffic = self._client.traffic
        for report in self.reports.values():
            report.requests, report.retries = traffic.requests, traffic.retries
            report.rate_limited, report.waited_seconds = traffic.rate_limited, round(traffic.waited_seconds, 3)
            report.concurrency, report.finished_at = traffic.concurrency, datetime.now(UTC)
            self._guard(report)

    def _refuse_another_environment(self) -> None:
        """Refuse to replace what was read from one environment by what another has."""
        host = auth_host(self._settings.auth_url)
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
        if report.newest is not None and report.table_name in self._wanted:
            self._state.setdefault("newest", {})[report.table_name] = report.newest
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
                _refuse_without_orgs(rows)
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
        if members.table_name in self._wanted:  # both tables are as of then
            self._state["users_read_until"] = newest

    def _user_batches(
        self, report: ScanReport, user: RowType, *, has_orgs: bool, since: int | None
    ) -> Iterator[list[Any]]:
        """Yield all users, or those who signed up or were active at ``since`` or later (docs/decisions/0004)."""
        table = BY_NAME["user_query"]
        seen: set[str] = set()
        watch = self._watch(table.name) if since is None else None
        lists = [("CREATED_AT_ASC", "f_created_at", True)]
        if since is not None:
            lists.append(("LAST_ACTIVE_AT_ASC", "f_last_active_at", False))
        for order_by, value, settled in lists:
            order = Order(attrgetter("f_user_id"), attrgetter(value), since, settled)
            params = {"include_orgs": "true" if has_orgs else "false", "order_by": order_by}
            for rows in self._read_list(
                report, table.path, table.items, "total_users", user, order, params, earlier=seen, watch=watch
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
        if "org_membership" in self._wanted:
            has_orgs, why_not = True, ""
        else:
            has_orgs, why_not = False, "Not asked for."
            params["include_orgs"] = "false"
        try:
            answer = self._client.get(path, decode, params)
        except PermanentApiError as error:
            if error.status not in FEATURE_OFF["orgs"] or not has_orgs:
                raise
            has_orgs, why_not = False, skip_reason(path, error)
            answer = self._client.get(path, decode, params | {"include_orgs": "false"})
        if answer.items and has_orgs and answer.items[0].f_org_id_to_org_info is None:
            has_orgs = False
            why_not = (
                "Feature not enabled: users come without org_id_to_org_info. If this project should have orgs, enable "
                "them in the PropelAuth dashboard."
            )
        newest = answer.items[0].f_last_active_at if answer.items else 0
        known = int(newest) if isinstance(newest, int | float) else 0  # null, or of another type
        return has_orgs, why_not, min(known, int(time.time()) - CLOCKS_APART_SECONDS)

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
            watch = self._watch(name)
            for rows in self._read_list(report, table.path, table.items, total, row_type, order, params, watch=watch):
                yield name, row_type.to_arrow(rows)
            report.unknown_fields = row_type.surprises
            if not report.rows_read:
                yield name, row_type.to_arrow([])

    # --- one request per org or user ---

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
            return self._unless_missing(table.path_of(**{parameter: id_}), decode)

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
        yield from self._look_up("user_by_id", self._options.user_ids, "user_id")

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
        in_path = f"{{{parameter}}}" in table.path

        def ask(value: str) -> Any:
            asked = {parameter: value}
            return self._unless_missing(table.path_of(**asked), decode, None if in_path else asked)

        answers = list(self._each(ask, wanted, name))
        nobody = msgspec.json.decode(b"{}", type=row_type.struct)
        report.verdict, report.pages, report.rows_read = "proved", len(wanted), len(wanted)
        report.unknown_fields = row_type.surprises
        given = {"looked_up": wanted, "found": [row is not None for row in answers]}
        yield name, row_type.to_arrow([row or nobody for row in answers], given)
