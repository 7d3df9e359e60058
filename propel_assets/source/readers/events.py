"""`Webhooks`: the events that the webhook receiver has stored, and the users and orgs that they name.

An event is a trigger, not a source: the users and orgs that it names are read from the API, and those that the API does
not have any more are deleted. So order, repetition and the content of events do not matter, and a forged event changes
nothing. docs/decisions/0018-events-trigger-reads.md.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import msgspec

from propel_assets.catalog import AUTH_EVENT, BY_NAME, ORG_MEMBERSHIP, ORG_QUERY, ORGS, USER_QUERY, Table
from propel_assets.catalog.events import StoredEvent
from propel_assets.catalog.model import Webhooks
from propel_assets.errors import PermanentApiError
from propel_assets.source.convert import nested_rows
from propel_assets.source.decode import to_arrow
from propel_assets.source.readers.context import ScanContext, SkipScan
from propel_assets.source.readers.named import NOT_READ, Entities, events_result, read_orgs, read_users
from propel_assets.source.readers.users import API_CLOCK_DIFFERENCE, Memberships
from propel_assets.source.stream import Rows, RowsToReadAgain, ScanResult
from propel_assets.source.values import UUID

USER_ID, ORG_ID = ("user_id", "removed_user_id"), ("org_id",)
COLUMNS = {
    "user_id": USER_ID,
    "org_id": ORG_ID,
    "role": ("role", "new_role"),
    "impersonator_user_id": ("impersonator_user_id",),
}
"""By column of `auth_event`, the fields of payloads that it is read from."""
FOLLOWED, SINCE, UNREAD_USERS, UNREAD_ORGS = "followed", "since", "unread_users", "unread_orgs"
"""The cursor of a load of events: loads that it has followed, the first receipt of what it applied, ids left unread.

Of each unread id, the cursor has the number of the first load of events that has left it unread.
"""
NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
"""NUL and lone surrogates, which not every destination stores."""


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
            orgs = read_orgs(context, org_ids)
            gone = orgs.missing
            if ORG_QUERY.name in loaded:
                yield from orgs.items(ORG_QUERY)
            else:
                unread = orgs.unread
    if USER_QUERY.name in loaded:
        users = None
        if ORG_MEMBERSHIP.name in loaded:
            with _suppress_if_no_orgs():
                users = read_users(context, user_ids, sent_since, with_orgs=True)
        has_orgs = users is not None
        users = users or read_users(context, user_ids, sent_since, with_orgs=False)
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
    """Return the first of ``fields`` with a text that ``column`` can have. Other values are in the payload only.

    Ids are in lower case, as the tables have them.
    """
    texts = [text for field in fields if isinstance(text := payload.get(field), str)]
    if column == "role":
        return next((text for text in texts if not NOT_STORABLE.search(text)), None)
    ids = (text for text in texts if text.isascii() and text.isprintable())
    return next((id_.lower() if UUID.fullmatch(id_) else id_ for id_ in ids), None)


def names_one_of(event: StoredEvent, ids: Collection[str]) -> bool:
    """Return whether ``event`` names a user or an org of ``ids``, which are in lower case."""
    payload = json.loads(event.payload)
    return not {*ids}.isdisjoint(_ids(_named(payload, column, COLUMNS[column]) for column in ("user_id", "org_id")))


def _ids(values: Iterable[str | None]) -> list[str]:
    """Return the different ids among ``values``, in lower case, as PropelAuth returns them.

    PropelAuth's ids are UUIDs; another text would only be refused.
    """
    return list(dict.fromkeys(value.lower() for value in values if value and UUID.fullmatch(value)))


def _memberships(users: Entities, gone_orgs: Sequence[str], unread: Sequence[str]) -> Iterator[Rows | ScanResult]:
    """Yield the memberships of ``users``. Those of missing users and of deleted orgs are deleted."""
    memberships = Memberships({})
    if not (users.rows or users.missing or gone_orgs or unread):
        return
    memberships.count(users.rows, is_recent=True)
    yield Rows(ORG_MEMBERSHIP.name, nested_rows(users.row_type, ORG_MEMBERSHIP.items, users.rows), is_recent=True)
    deleted = {"user_id": [*memberships.emptied, *users.missing], "org_id": gone_orgs}
    reason = NOT_READ.format(len(unread), ORG_QUERY.items) if unread else ""
    yield replace(events_result(ORG_MEMBERSHIP, memberships.rows_read, deleted), reason=reason, unread=unread)
