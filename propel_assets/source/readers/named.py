"""The users and orgs that events name: read by their ids, with a proof that those that are absent were deleted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from propel_assets.catalog import BY_NAME, ORG_BY_ID, ORG_QUERY, USER_QUERY, Table
from propel_assets.errors import LossRefused, PermanentApiError, TransientApiError, Unreachable
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets.source.lists import MAX_SINGLE_READS, MIN_PAGE_SIZE, get_or_none, request_each
from propel_assets.source.readers.context import ScanContext, allowed_loss, key_of, list_scan, user_row_type
from propel_assets.source.readers.users import list_orders
from propel_assets.source.stream import Rows, ScanResult, join_reasons

CONTROLS = 3
"""Ids of the list, one of which must be readable before a status 404 counts as a deletion."""
NO_ID = object()
"""What is read of an id that the API refuses with status 400."""
MAX_UNREAD = 10
"""More ids that cannot be read are an outage: then nothing is applied."""
UNREAD = object()
"""What is read of an id for which the API returns an error that may end."""
NOT_READ = "{} {} could not be read; the next load of events reads them again"
LIST_IS_EMPTY = "the list of {} is empty, so {} absent ids were not deleted"
REFUSED = "the API refused {1} ids of {0} with status 400; they were ignored"


@dataclass
class Entities:
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
        result = events_result(table, len(self.rows), {table.key[0]: self.absent})
        yield replace(result, reason=self.reason, unread=self.unread)


def events_result(table: Table, rows: int, deleted: Mapping[str, Sequence[str]]) -> ScanResult:
    """Return the result of a table whose rows were read by id, and of which the ids ``deleted`` are to be deleted."""
    return ScanResult(table_name=table.name, verdict="counted", mode="events", rows_read=rows, deleted=deleted)


def read_users(context: ScanContext, ids: Sequence[str], since: int, *, with_orgs: bool) -> Entities:
    """Read users. ``since``: when the first of the events was sent, in epoch seconds."""
    row_type = user_row_type(with_orgs=with_orgs)
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


def read_orgs(context: ScanContext, ids: Sequence[str]) -> Entities:
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
) -> Entities:
    """Read ``ids`` by one request each; many of them from lists first. Each absence is confirmed by two requests.

    The second request is sent after the control reads, so that a single wrong status 404 deletes nothing.
    """
    id_of, single = key_of(table), _SingleReads(context, table, read_one)
    wanted, found = set(ids), {}
    for rows in read_lists(wanted):
        found |= {id_of(row): row for row in rows if id_of(row) in wanted}
        wanted -= found.keys()
    found |= single.read([id_ for id_ in ids if id_ in wanted])
    missing = [id_ for id_, row in found.items() if row is None]
    is_proved = bool(missing) and _is_absence_proved(context, table, read_one)
    if is_proved:
        second = single.read(missing)
        missing = [id_ for id_, row in second.items() if row is None]
        found |= second
    existing = [row for row in found.values() if row is not None]
    absent = context.stored.find(table, missing)
    reason = join_reasons(
        LIST_IS_EMPTY.format(table.items, len(absent)) if absent and not is_proved else "",
        REFUSED.format(table.items, len(single.refused)) if single.refused else "",
        NOT_READ.format(len(single.unread), table.items) if single.unread else "",
    )
    if not is_proved:
        return Entities(row_type, existing, [], [], reason, single.unread)
    refuse_loss(context, table, len(absent), context.stored.count_deleted(table, absent))
    return Entities(row_type, existing, missing, absent, reason, single.unread)


class _SingleReads:
    """Reads rows by one request for each id. Notes the ids that cannot be read, and those that the API refuses."""

    def __init__(self, context: ScanContext, table: Table, read_one: Callable[[str], Any]) -> None:
        self._context, self._table, self._read_one = context, table, read_one
        self.unread: list[str] = []
        self.refused: list[str] = []

    def read(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return the row of each id, None where the API does not have it. Unread and refused ids are left out."""
        id_of, client = key_of(self._table), self._context.client
        answers = dict(zip(ids, request_each(client, self._read_or_leave, ids, self._table.name), strict=True))
        self.refused += [id_ for id_, row in answers.items() if row is NO_ID]
        answers = {id_: row for id_, row in answers.items() if row is not NO_ID and row is not UNREAD}
        if any(row is not None and id_of(row).lower() != id_ for id_, row in answers.items()):
            name = self._table.name
            raise PermanentApiError(f"GET {name} by id returned another row than requested. Nothing was changed.")
        return answers

    def _read_or_leave(self, id_: str) -> Any:
        try:
            return self._read_one(id_)
        except Unreachable:
            raise
        except TransientApiError:
            self.unread.append(id_)
            if len(self.unread) > MAX_UNREAD:
                raise
            return UNREAD


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
