"""`Custom("users")`: all users, and the memberships inside them; or only the users who changed recently.

A recent scan reads the same list back to a point in time, by `created_at` and by `last_active_at`:
docs/decisions/0004-recent-reads-ascending.md.
"""

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import msgspec

from propel_assets.catalog import ORG_BY_ID, ORG_MEMBERSHIP, ORGS, USER_QUERY, Table
from propel_assets.catalog.model import fill_path
from propel_assets.catalog.users import USERS_IN_ORG
from propel_assets.errors import ApiError, KeyRefused, PermanentApiError, UnprovedScan, Unreachable
from propel_assets.source.convert import convert
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets.source.lists import ListOutcome, get_or_none, request_each
from propel_assets.source.readers.context import ScanContext, list_result, list_scan, skip_reason, user_row_type
from propel_assets.source.readers.per_parent import FLAGGED
from propel_assets.source.scan import Order
from propel_assets.source.stream import Mode, Rows, ScanResult, join_reasons

API_CLOCK_DIFFERENCE = 300  # seconds, between PropelAuth and the process that loads
READ_UNTIL = "read_until"  # in the cursor: the newest activity when the scan began, in epoch seconds
MAX_COMPARED_ORGS = 100


@dataclass
class Memberships:
    """The memberships inside users. ``emptied``: users without any. ``isolated``: members of each isolated org."""

    isolated: dict[str, int]
    rows_read: int = 0
    emptied: list[str] = field(default_factory=list)

    def count(self, users: Sequence[Any], *, is_recent: bool) -> None:
        """Count the memberships of ``users``.

        Raises:
            UnprovedScan: a user came without the field. Users in no org have it too, empty.
        """
        without = sum(user.f_org_id_to_org_info is None for user in users)
        if without:
            raise UnprovedScan(
                f"org_membership: {without} users came without org_id_to_org_info, others with it. Orgs may have been "
                "enabled or disabled for this project during the scan. The previous data is kept. Run again."
            )
        orgs = [user.f_org_id_to_org_info for user in users]
        self.rows_read += sum(map(len, orgs))
        if is_recent:
            self.emptied += [user.f_user_id for user in users if not user.f_org_id_to_org_info]
        for org_id in itertools.chain.from_iterable(orgs) if self.isolated else ():
            if org_id in self.isolated:
                self.isolated[org_id] += 1


def read_users(context: ScanContext, _: Sequence[Table]) -> Iterator[Rows | ScanResult]:
    """Read users and their memberships. In a project without orgs, memberships are skipped."""
    user = user_row_type()
    no_orgs_reason, newest_activity = _first_request(context, user)
    since = context.resume_state.cursor.get(READ_UNTIL) if context.options.recent else None
    is_recent = since is not None
    memberships = Memberships({} if is_recent or no_orgs_reason else _isolated_orgs(context))
    outcomes: list[ListOutcome] = []
    returned: set[str] = set()

    def count(batches: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        for users in batches:
            if is_recent:
                returned.update(row.f_user_id for row in users)
            if not no_orgs_reason:
                memberships.count(users, is_recent=is_recent)
            yield users

    for order_by, order in list_orders(since):
        params = {"include_orgs": "false" if no_orgs_reason else "true", "order_by": order_by}
        watch = None if is_recent else context.watch(USER_QUERY)
        scan = list_scan(context, USER_QUERY, user, watch=watch, order=order, params=params, already_read=returned)
        for batch in convert(user, count(scan)):
            yield Rows(USER_QUERY.name, batch.table, is_recent)
            if not no_orgs_reason:
                yield Rows(ORG_MEMBERSHIP.name, batch.nested[ORG_MEMBERSHIP.items], is_recent)
        outcomes.append(scan.outcome)
    if not (no_orgs_reason or memberships.rows_read):
        yield Rows(ORG_MEMBERSHIP.name, user.maps[ORG_MEMBERSHIP.items].to_arrow([]), is_recent)
    yield from _results(context, outcomes, memberships, no_orgs_reason, newest_activity, is_recent=is_recent)


def list_orders(since: int | None) -> Iterator[tuple[str, Order]]:
    """Yield the orders to read the list in: one for all users, two for those who signed up or were active ``since``."""
    key = attrgetter("f_user_id")
    yield "CREATED_AT_ASC", Order(key, attrgetter("f_created_at"), since)
    if since is not None:
        yield "LAST_ACTIVE_AT_ASC", Order(key, attrgetter("f_last_active_at"), since, stable=False)


def _first_request(context: ScanContext, user: RowType) -> tuple[str, int]:
    """Return why memberships cannot be read, if they cannot, and the newest activity in epoch seconds.

    Users who sign up or are active after this answer have at least that time, so the next recent scan reads back to it.
    A time in the future is not used: a clock is wrong.
    """
    decode = PageDecoder(user, USER_QUERY.items)
    params = {"include_orgs": "true", "page_size": 1, "page_number": 0, "order_by": "LAST_ACTIVE_AT_DESC"}
    reason = ""
    if not context.wants(ORG_MEMBERSHIP):
        reason, params["include_orgs"] = "The table was not requested.", "false"
    try:
        answer = context.client.get(USER_QUERY.path, decode, params)
    except PermanentApiError as error:
        if error.status not in ORGS.statuses or reason:
            raise
        reason = skip_reason(USER_QUERY.path, error)
        answer = context.client.get(USER_QUERY.path, decode, params | {"include_orgs": "false"})
    if answer.items and not reason and answer.items[0].f_org_id_to_org_info is None:
        reason = (
            "Feature not enabled: users come without org_id_to_org_info. If this project should have orgs, enable "
            "them in the PropelAuth dashboard."
        )
    newest = answer.items[0].f_last_active_at if answer.items else 0
    newest = int(newest) if isinstance(newest, int | float) else 0  # null, or a value of another type
    return reason, min(newest, int(time.time()) - API_CLOCK_DIFFERENCE)


def _results(
    context: ScanContext,
    outcomes: Sequence[ListOutcome],
    memberships: Memberships,
    no_orgs_reason: str,
    newest_activity: int,
    *,
    is_recent: bool,
) -> Iterator[ScanResult]:
    """Yield the results of both tables. The lists of a recent scan count together; the last one is not proved."""
    outcome = replace(
        outcomes[-1],
        rows_read=sum(outcome.rows_read for outcome in outcomes),
        pages=sum(outcome.pages for outcome in outcomes),
    )
    if reason := _compare_isolated_orgs(context, memberships.isolated):
        outcome = replace(outcome, verdict="counted", reason=join_reasons(outcome.reason, reason))
    mode: Mode = "recent" if is_recent else "full"
    wants_both = context.wants(USER_QUERY) and context.wants(ORG_MEMBERSHIP)
    cursor = {READ_UNTIL: newest_activity} if wants_both else None
    yield replace(list_result(USER_QUERY, outcome), mode=mode, cursor=cursor)
    yield ScanResult(
        table_name=ORG_MEMBERSHIP.name,
        verdict="skipped" if no_orgs_reason else outcome.verdict,
        reason=no_orgs_reason or outcome.reason,
        mode=mode,
        rows_read=memberships.rows_read,
        attempts=outcome.attempts,
        pages=outcome.pages,
        deleted={"user_id": memberships.emptied},
    )


# --- isolated orgs: whether the list of all users has their members is not documented ---


def _isolated_orgs(context: ScanContext) -> dict[str, int]:
    """Return the isolated orgs that the last scan of org details found, with no members counted yet."""
    return dict.fromkeys(context.resume_state_of(ORG_BY_ID.scan).cursor.get(FLAGGED, ()), 0)


def _compare_isolated_orgs(context: ScanContext, counted: dict[str, int]) -> str:
    """Compare the members counted for each isolated org with the total of the org's own list.

    Return what is missing, or empty text. At most `MAX_COMPARED_ORGS` are compared, those with the fewest members
    first: one request each (docs/decisions/0015-isolated-orgs.md). An error of these requests is not one of the scan:
    the list of users has been read.
    """
    if not counted:
        return ""
    compared = sorted(counted, key=lambda org_id: (counted[org_id], org_id))[:MAX_COMPARED_ORGS]
    decode = msgspec.json.Decoder(_TotalUsers).decode
    params = {"page_size": 1, "page_number": 0}

    def total_of(org_id: str) -> int:
        answer = get_or_none(context.client, fill_path(USERS_IN_ORG, org_id=org_id), decode, params)
        return answer.total_users if answer else 0  # 404: the org was deleted

    try:
        totals = list(request_each(context.client, total_of, compared, USER_QUERY.name))
    except (KeyRefused, Unreachable):
        raise
    except ApiError as error:
        answer = f"status {error.status}" if isinstance(error, PermanentApiError) else "errors"
        return f"The members of isolated orgs were not compared: GET {USERS_IN_ORG} returned {answer}"
    missing = [max(0, total - counted[org_id]) for org_id, total in zip(compared, totals, strict=True)]
    if not any(missing):
        return ""
    of_all = f" ({len(compared)} of {len(counted)} isolated orgs compared)" if len(compared) < len(counted) else ""
    return (
        f"Members of isolated orgs that the list of all users does not have: {sum(missing)}, in "
        f"{sum(map(bool, missing))} orgs{of_all}"
    )


class _TotalUsers(msgspec.Struct):
    """The part of a page of users that counts them."""

    total_users: int
