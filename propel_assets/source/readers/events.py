"""`Webhooks`: the events that the webhook receiver has stored, and the users and orgs that they name.

An event is a trigger, not a source: the users and orgs that it names are read from the API, and those that the API does
not have any more are deleted. So order, repetition and the content of events do not matter, and a forged event changes
nothing. docs/decisions/0018-events-trigger-reads.md.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import msgspec

from propel_assets.catalog import AUTH_EVENT, BY_NAME, ORG_BY_ID, ORG_MEMBERSHIP, ORG_QUERY, ORGS, USER_QUERY, Table
from propel_assets.catalog.events import StoredEvent
from propel_assets.catalog.model import Webhooks
from propel_assets.errors import LossRefused, PermanentApiError, TransientApiError, Unreachable
from propel_assets.source.convert import nested_rows
from propel_assets.source.decode import PageDecoder, RowType, to_arrow
from propel_assets.source.lists import MAX_SINGLE_READS, MIN_PAGE_SIZE, get_or_none, request_each
from propel_assets.source.readers.context import ScanContext, SkipScan, allowed_loss, key_of, list_scan
from propel_assets.source.readers.users import API_CLOCK_DIFFERENCE, Memberships, list_orders
from propel_assets.source.stream import Rows, RowsToReadAgain, ScanResult, join_reasons
from propel_assets.source.values import UUID

USER_ID, ORG_ID = ("user_id", "removed_user_id"), ("org_id",)
COLUMNS = {
    "user_id": USER_ID,
    "org_id": ORG_ID,
    "role": ("role", "new_role"),
    "impersonator_user_id": ("impersonator_user_id",),
}
"""By column of `auth_event`, the fields of payloads that it is read from."""
CONTROLS = 3
"""Ids of the list, one of which must be readable before a status 404 counts as a deletion."""
FOLLOWED, SINCE, UNREAD_USERS, UNREAD_ORGS = "followed", "since", "unread_users", "unread_orgs"
"""The cursor of a load of events: loads that it has followed, the first receipt of what it applied, ids left unread.

Of each unread id, the cursor has the number of the first load of events that has left it unread.
"""
NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
"""NUL and lone surrogates, which not every destination stores."""
NO_ID = object()
"""What is read of an id that the API refuses with status 400."""
MAX_UNREAD = 10
"""More ids that cannot be read are an outage: then nothing is applied."""
UNREAD = object()
"""What is read of an id for which the API returns an error that may end."""
NOT_READ = "{} {} could not be read; the next load of events reads them again"
LIST_IS_EMPTY = "the list of {} is empty, so {} absent ids were not deleted"
REFUSED = "the API refused {1} ids of {0} with status 400; they were ignored"


def read_events(context: ScanContext, table: Table, shape: Webhooks) -> Iterator[Rows | ScanResult]:
    """Read the events that the options name, then what they name in tables that have been loaded.

    Raises:
        ApiError: an id cannot be read, for another reason than that the API does not have it.
        LossRefused: more rows would be deleted than a load may lose.
    """
    events = context.options.events
    if events is None:
        raise SkipScan("No webhook has been received. Start the receiver: propel-assets webhooks.")
    if not context.options.can_merge:
        raise SkipScan(
            "The destination does not support dlt's merge strategy delete-insert, which events need. Only full loads "
            "change its tables. The events stay in the store, for 30 days and until a newer one arrives. "
            "Use a database as the destination."
        )
    rows = [_row(event) for event in events]
    stored = context.stored.find(AUTH_EVENT, [row["message_id"] for row in rows])
    known = set(stored)
    new = [row for row in rows if row["message_id"] not in known]  # a later delivery has later times
    again = context.rows_to_read_again
    receipts = [*(row["received_at"] for row in new), context.stored.first_receipt(stored), again.since]
    since = min(filter(None, receipts), default=None)
    times = [event.sent_at for event in events] + ([again.since] if again.since else [])
    sent_since = int(min((time.timestamp() for time in times), default=0)) - API_CLOCK_DIFFERENCE
    loaded = [name for name in shape.applies_to if context.is_current(BY_NAME[name])]
    user_ids = _ids([*(row["user_id"] for row in rows), *again.users])
    org_ids = _ids([*(row["org_id"] for row in rows), *again.orgs])
    named = [*_read_named(context, loaded, user_ids, org_ids, sent_since)]
    unread = {id_ for item in named if isinstance(item, ScanResult) for id_ in item.unread}
    cursor = {
        FOLLOWED: again.loads,
        SINCE: since.isoformat() if since else None,
        # Later loads of events read them, until a full load has begun since; ids of pending events are in the store.
        UNREAD_USERS: _left_by(again, unread.intersection(_ids(again.users))),
        UNREAD_ORGS: _left_by(again, unread.intersection(_ids(again.orgs))),
    }
    yield Rows(table.name, to_arrow(AUTH_EVENT, new))
    yield ScanResult(table_name=table.name, verdict="proved", rows_read=len(new), cursor=cursor)
    yield from named


def _left_by(again: RowsToReadAgain, unread: Collection[str]) -> dict[str, int]:
    """Return for each id the number of the first load of events that has left it unread: this one or an earlier one."""
    return {id_: again.left_by.get(id_, again.event_loads) for id_ in sorted(unread)}


def _read_named(
    context: ScanContext,
    loaded: Collection[str],
    user_ids: Sequence[str],
    org_ids: Sequence[str],
    sent_since: int,
) -> Iterator[Rows | ScanResult]:
    """Read the users, memberships and orgs that events name, in the tables that have been ``loaded``."""
    gone: Sequence[str] = ()
    unread: Sequence[str] = ()
    if not {ORG_QUERY.name, ORG_MEMBERSHIP.name}.isdisjoint(loaded):
        with _suppress_if_no_orgs(may_be_forbidden=ORG_QUERY.name not in loaded):
            orgs = _read_orgs(context, org_ids)
            gone = orgs.missing
            if ORG_QUERY.name in loaded:
                yield from orgs.items(ORG_QUERY)
            else:
                unread = orgs.unread
    if USER_QUERY.name in loaded:
        users = None
        if ORG_MEMBERSHIP.name in loaded:
            with _suppress_if_no_orgs():
                users = _read_users(context, user_ids, sent_since, with_orgs=True)
        has_orgs = users is not None
        users = users or _read_users(context, user_ids, sent_since, with_orgs=False)
        yield from users.items(USER_QUERY)
        if has_orgs and not (users.rows and all(user.f_org_id_to_org_info is None for user in users.rows)):
            yield from _memberships(users, gone, unread)


@contextmanager
def _suppress_if_no_orgs(*, may_be_forbidden: bool = False) -> Iterator[None]:
    """Suppress the status that says that the project has no orgs any more; or that the key may not read them."""
    try:
        yield
    except PermanentApiError as error:
        if error.status not in ORGS.statuses and not (may_be_forbidden and error.status == HTTPStatus.FORBIDDEN):
            raise


def _row(event: StoredEvent) -> dict[str, Any]:
    payload = json.loads(event.payload)  # as the receiver decoded it: an event that is stored can be loaded
    return {
        "message_id": event.svix_id,
        "event_type": event.event_type,
        **{column: _named(payload, column, fields) for column, fields in COLUMNS.items()},
        "payload": msgspec.Raw(event.payload.encode()),
        "received_at": event.received_at,
        "attempted_at": event.sent_at,
    }


def _named(payload: dict[str, Any], column: str, fields: Sequence[str]) -> str | None:
    """Return the first of ``fields`` with a text that ``column`` can have. Other values are in the payload only."""
    texts = [text for field in fields if isinstance(text := payload.get(field), str)]
    if column == "role":
        return next((text for text in texts if not NOT_STORABLE.search(text)), None)
    return next((text for text in texts if text.isascii() and text.isprintable()), None)


def names_one_of(event: StoredEvent, ids: Collection[str]) -> bool:
    """Return whether ``event`` names a user or an org of ``ids``, which are in lower case."""
    payload = json.loads(event.payload)
    return not {*ids}.isdisjoint(_ids(_named(payload, column, COLUMNS[column]) for column in ("user_id", "org_id")))


def _ids(values: Iterable[str | None]) -> list[str]:
    """Return the different ids among ``values``, in lower case, as PropelAuth returns them.

    PropelAuth's ids are UUIDs; another text would only be refused.
    """
    return list(dict.fromkeys(value.lower() for value in values if value and UUID.fullmatch(value)))


@dataclass
class _Entities:
    """The users or orgs that were named: those that exist, and the ids of those that do not exist (any more).

    ``absent``: those of ``missing`` that the table has. The others can have memberships: a load can have restored them,
    or have stopped before it had deleted them. Such a load has also changed the number of rows, so there is a result.
    ``unread``: ids for which the API returned errors.
    """

    row_type: RowType
    rows: list[Any]
    missing: list[str]
    absent: list[str]
    reason: str = ""
    unread: Sequence[str] = ()

    def items(self, table: Table) -> Iterator[Rows | ScanResult]:
        """Yield the rows, to be merged, and the result; nothing if there is nothing to change."""
        if not (self.rows or self.missing or self.reason):
            return
        yield Rows(table.name, self.row_type.to_arrow(self.rows), is_recent=True)
        result = _result(table, len(self.rows), {table.key[0]: self.absent})
        yield replace(result, reason=self.reason, unread=self.unread)


def _result(table: Table, rows: int, deleted: Mapping[str, Sequence[str]]) -> ScanResult:
    return ScanResult(table_name=table.name, verdict="counted", mode="events", rows_read=rows, deleted=deleted)


def _memberships(users: _Entities, gone_orgs: Sequence[str], unread: Sequence[str]) -> Iterator[Rows | ScanResult]:
    """Yield the memberships of ``users``. Those of missing users and of deleted orgs are deleted."""
    memberships = Memberships({})
    if not (users.rows or users.missing or gone_orgs or unread):
        return
    memberships.count(users.rows, is_recent=True)
    yield Rows(ORG_MEMBERSHIP.name, nested_rows(users.row_type, ORG_MEMBERSHIP.items, users.rows), is_recent=True)
    deleted = {"user_id": [*memberships.emptied, *users.missing], "org_id": gone_orgs}
    reason = NOT_READ.format(len(unread), ORG_QUERY.items) if unread else ""
    yield replace(_result(ORG_MEMBERSHIP, memberships.rows_read, deleted), reason=reason, unread=unread)


def _read_users(context: ScanContext, ids: Sequence[str], since: int, *, with_orgs: bool) -> _Entities:
    member = RowType(ORG_MEMBERSHIP, constant_columns=("user_id",))
    row_type = RowType(USER_QUERY, maps={ORG_MEMBERSHIP.items: member} if with_orgs else {})
    decode, params = PageDecoder(row_type), {"include_orgs": "true" if with_orgs else "false"}
    path = BY_NAME["user_by_id"].path_of

    def read_one(user_id: str) -> Any:
        return _read_by_id(context, path(user_id=user_id), decode, params)

    def read_lists(wanted: set[str]) -> Iterator[Sequence[Any]]:
        """Yield the users who were active since the events; then, if too few of them were, all users."""
        returned: set[str] = set()
        for time in (since, None):
            if len(wanted) <= MAX_SINGLE_READS:
                return
            for order_by, order in list_orders(time):
                listed = params | {"order_by": order_by}
                scan = list_scan(context, USER_QUERY, row_type, order=order, params=listed, already_read=returned)
                for users in scan:
                    returned.update(map(key_of(USER_QUERY), users))
                    yield users

    return _read(context, USER_QUERY, row_type, ids, read_one, read_lists)


def _read_orgs(context: ScanContext, ids: Sequence[str]) -> _Entities:
    """Read each org from the list, by its name: only the list has `created_at`, and only an id proves an absence."""
    row_type = RowType(ORG_QUERY)
    decode, decode_page = PageDecoder(RowType(ORG_BY_ID)), PageDecoder(row_type, ORG_QUERY.items)

    def read_one(org_id: str) -> Any:
        org = _read_by_id(context, ORG_BY_ID.path_of(org_id=org_id), decode)
        if _is_absent(org):
            return org
        params = {"name": org.f_name, "page_size": MIN_PAGE_SIZE, "page_number": 0}  # a larger one may be refused
        page = context.client.get(ORG_QUERY.path, decode_page, params)
        return next((listed for listed in page.items if listed.f_org_id == org.f_org_id), org)

    def read_lists(wanted: set[str]) -> Iterator[Sequence[Any]]:
        if len(wanted) > MAX_SINGLE_READS:
            yield from list_scan(context, ORG_QUERY, row_type)

    found = _read(context, ORG_QUERY, row_type, ids, read_one, read_lists)
    if unlisted := [org for org in found.rows if not isinstance(org, row_type.struct)]:
        wanted = {org.f_org_id for org in unlisted}
        listed = [org for orgs in list_scan(context, ORG_QUERY, row_type) for org in orgs if org.f_org_id in wanted]
        found.rows = [org for org in found.rows if isinstance(org, row_type.struct)] + listed
    return found


def _read_by_id(context: ScanContext, path: str, decode: PageDecoder, params: Any = None) -> Any:
    """Return the row of an id; None if the API does not have it; `NO_ID` if it is not of the form of an id."""
    try:
        return get_or_none(context.client, path, decode, params)
    except PermanentApiError as error:
        if error.status == HTTPStatus.BAD_REQUEST:  # it proves no deletion, and would stop all other events
            return NO_ID
        raise


def _read(
    context: ScanContext,
    table: Table,
    row_type: RowType,
    ids: Sequence[str],
    read_one: Callable[[str], Any],
    read_lists: Callable[[set[str]], Iterator[Sequence[Any]]],
) -> _Entities:
    """Read ``ids`` by one request each; many of them from lists first. Each absence is confirmed by two requests.

    The second request is sent after the control reads, so that a single wrong status 404 deletes nothing.
    """
    unread: list[str] = []
    refused: list[str] = []
    id_of = key_of(table)

    def read_or_leave(id_: str) -> Any:
        try:
            return read_one(id_)
        except Unreachable:
            raise
        except TransientApiError:
            unread.append(id_)
            if len(unread) > MAX_UNREAD:
                raise
            return UNREAD

    def read_singly(ids: Sequence[str]) -> dict[str, Any]:
        """Return the row of each id, None where the API does not have it. Unread and refused ids are left out."""
        answers = dict(zip(ids, request_each(context.client, read_or_leave, ids, table.name), strict=True))
        refused.extend(id_ for id_, row in answers.items() if row is NO_ID)
        answers = {id_: row for id_, row in answers.items() if row is not NO_ID and row is not UNREAD}
        if any(row is not None and id_of(row).lower() != id_ for id_, row in answers.items()):
            raise PermanentApiError(f"GET {table.name} by id returned another row than requested. Nothing was changed.")
        return answers

    wanted, found = set(ids), {}
    for rows in read_lists(wanted):
        found |= {id_of(row): row for row in rows if id_of(row) in wanted}
        wanted -= found.keys()
    found |= read_singly([id_ for id_ in ids if id_ in wanted])
    missing = [id_ for id_, row in found.items() if row is None]
    is_proved = bool(missing) and _is_absence_proved(context, table, read_one)
    if is_proved:
        second = read_singly(missing)
        missing = [id_ for id_, row in second.items() if row is None]
        found |= second
    existing = [row for row in found.values() if row is not None]
    absent = context.stored.find(table, missing)
    reason = join_reasons(
        LIST_IS_EMPTY.format(table.items, len(absent)) if absent and not is_proved else "",
        REFUSED.format(table.items, len(refused)) if refused else "",
        NOT_READ.format(len(unread), table.items) if unread else "",
    )
    if not is_proved:
        return _Entities(row_type, existing, [], [], reason, unread)
    refuse_loss(context, table, len(absent), context.stored.count_deleted(table, absent))
    return _Entities(row_type, existing, missing, absent, reason, unread)


def _is_absence_proved(context: ScanContext, table: Table, read_one: Callable[[str], Any]) -> bool:
    """Return whether a status 404 proves that an id was deleted: the list of ``table`` has ids, and one can be read.

    Raises:
        PermanentApiError: the list has ids, and the same request as for deleted ids finds none of them.
        TransientApiError: the list has ids, and none can be read.
    """
    params = {"page_size": CONTROLS, "page_number": 0}
    page = context.client.get(table.path, PageDecoder(RowType(table), table.items), params)
    listed = [key_of(table)(row) for row in page.items[:CONTROLS]]
    errors: list[TransientApiError] = []
    for id_ in listed:
        try:
            if not _is_absent(read_one(id_)):
                return True
        except TransientApiError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    if listed:
        raise PermanentApiError(
            f"GET {table.path} lists {table.items}, but requests for the first {len(listed)} of their ids returned "
            "404, so a 404 does not prove a deletion. Nothing was changed, and the events stay in the store. Check "
            "that no proxy responds instead of PropelAuth, and load again."
        )
    return False


def _is_absent(row: Any) -> bool:
    return row is None or row is NO_ID


def refuse_loss(context: ScanContext, table: Table, deleted: int, in_all: int) -> None:
    """Refuse to delete more rows than a load may lose. ``in_all``: with those deleted since the last full load."""
    if not deleted or context.client.tenant.allow_loss:
        return
    before = context.resume_state_of(table.scan).rows.get(table.name, 0)
    if in_all > allowed_loss(context, before):
        since = f", and {in_all - deleted} were deleted since then" if in_all > deleted else ""
        raise LossRefused(
            f"This load would delete {deleted} rows of {table.name} that the API does not have any more; the last full "
            f"load had {before} rows{since}. Nothing was changed. Run a full load: propel-assets load {table.name}. If "
            "so many were really deleted, run it once with PROPELAUTH_ALLOW_LOSS=true."
        )
