"""What every reader gets, and how a reader says that its tables cannot be read."""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from http import HTTPStatus
from operator import attrgetter
from typing import Any

from propel_assets.catalog import AUTH_EVENT, ORG_MEMBERSHIP, USER_QUERY, Feature, Table
from propel_assets.catalog.model import PagedList
from propel_assets.errors import PermanentApiError
from propel_assets.privacy.filter import PrivacyFilter
from propel_assets.settings import PrivacySettings
from propel_assets.source.change_log import StoredTables
from propel_assets.source.client import Client
from propel_assets.source.decode import RowType
from propel_assets.source.lists import ListEndpoint, ListOutcome, ListScan, Watch
from propel_assets.source.scan import Order
from propel_assets.source.stream import Progress, ReadOptions, ResumeState, RowsToReadAgain, ScanResult

MIN_LOSS_ROWS = 50


@dataclass(frozen=True)
class StoredIds:
    """Queries the destination for ids as the API has them. The privacy policy can store them in another form.

    ``tables``: None where there is no destination. ``keys``: returns the ids of a table, as stored.
    """

    privacy: PrivacyFilter
    tables: StoredTables | None = None
    keys: Callable[[str], Iterable[Any]] | None = None

    @property
    def can_count_unknown(self) -> bool:
        """Whether ids can be compared: those stored under another privacy policy can have another form."""
        return self.keys is not None and not self.privacy.policy_changed

    def count_unknown(self, table: str, ids: set[Any]) -> int:
        """Return how many of ``ids`` a table does not have."""
        return self.privacy.count_unknown(table, ids, self.keys(table) if self.keys else ())

    def find(self, table: Table, ids: Sequence[str]) -> list[str]:
        """Return which of ``ids`` a table has; none if it cannot be queried."""
        if not ids or self.tables is None:
            return []
        key = table.key[0]
        by_key = dict(zip(self.privacy.stored_ids(table.name, key, ids), ids, strict=True))
        return [by_key[row[key]] for row in self.tables.rows(table, [*by_key])]

    def count_deleted(self, table: Table, ids: Sequence[str]) -> int:
        """Return how many rows events have deleted since the last full load of a table, once ``ids`` are deleted."""
        if not ids or self.tables is None:
            return len(ids)
        keys = {(id_,) for id_ in self.privacy.stored_ids(table.name, table.key[0], ids)}
        return len(keys | self.tables.deleted_since_full_load(table))

    def first_receipt(self, ids: Sequence[str]) -> datetime | None:
        """Return when the first of the messages ``ids`` that are stored was received."""
        if not ids or self.tables is None:
            return None
        return self.tables.first_receipt(self.privacy.stored_ids(AUTH_EVENT.name, AUTH_EVENT.key[0], ids))


@dataclass(frozen=True, kw_only=True)
class ScanContext:
    """The input of one scan.

    ``resume_state``: what the previous scan of these tables left. ``wanted``: names of the tables that are loaded;
    None: all. ``resume_state_of``: returns the resume state of another scan. ``stored``: the ids at the destination.
    ``rows_to_read_again``: what a load of events must read beside what they name.
    """

    client: Client
    options: ReadOptions = field(default_factory=ReadOptions)
    resume_state: ResumeState = field(default_factory=ResumeState)
    wanted: Collection[str] | None = None
    progress: Progress = lambda *_: None
    resume_state_of: Callable[[str], ResumeState] = lambda _: ResumeState()
    stored: StoredIds = field(default_factory=lambda: StoredIds(PrivacyFilter(PrivacySettings())))
    rows_to_read_again: RowsToReadAgain = field(default_factory=RowsToReadAgain)

    def wants(self, table: Table) -> bool:
        """Whether ``table`` is loaded."""
        return self.wanted is None or table.name in self.wanted

    def is_current(self, table: Table) -> bool:
        """Whether ``table`` has been loaded in full, under the privacy policy in force."""
        state = self.resume_state_of(table.scan)
        return self.wants(table) and table.name in state.rows and state.privacy == self.stored.privacy.fingerprint

    def watch(self, table: Table) -> Watch | None:
        """Return what detects insertions in the middle of the list of ``table``; None before the first full scan."""
        newest = self.resume_state.newest.get(table.name)
        if newest is None or not self.stored.can_count_unknown:
            return None
        return Watch(newest, partial(self.stored.count_unknown, table.name))


def allowed_loss(context: ScanContext, before: int) -> float:
    """Return how many of its rows a guarded table may lose in one load."""
    return max(MIN_LOSS_ROWS, context.client.tenant.max_loss * before)


class SkipScan(Exception):
    """The tables of a scan cannot be read in this project; the text is the reason."""


@contextmanager
def skip_if_not_enabled(
    path: str, feature: Feature | None, has_rows: Callable[[], object] = lambda: False
) -> Iterator[None]:
    """Turn a status that says that ``feature`` cannot be read into `SkipScan`, unless rows have been read."""
    try:
        yield
    except PermanentApiError as error:
        if feature is None or error.status not in feature.statuses or has_rows():
            raise
        raise SkipScan(skip_reason(path, error)) from error


def skip_reason(path: str, *errors: PermanentApiError) -> str:
    """Return why a table is skipped and what to do. 403 is a missing permission, not a missing feature."""
    status = HTTPStatus.FORBIDDEN if HTTPStatus.FORBIDDEN in {error.status for error in errors} else errors[0].status
    answer = f"GET {path} returned {status}."
    if status == HTTPStatus.FORBIDDEN:
        return (
            f"The key may not read this: {answer} Give the key the permission on the Backend Integration page of the "
            "PropelAuth dashboard."
        )
    return f"Feature not enabled: {answer} If this project should have it, enable it in the PropelAuth dashboard."


def list_scan(
    context: ScanContext,
    table: Table,
    row_type: RowType | None = None,
    *,
    watch: Watch | None = None,
    order: Order | None = None,
    params: Mapping[str, Any] | None = None,
    already_read: Iterable[Hashable] = (),
) -> ListScan:
    """Return a scan of the list of ``table``. ``order``, ``params``: other than those of the catalog."""
    shape = table.shape
    if not isinstance(shape, PagedList):
        raise TypeError(f"{table.name} is not read as a paged list")
    if row_type is None:
        row_type = user_row_type() if table is USER_QUERY else RowType(table)
    if params is None:
        params = {"order_by": shape.order} if shape.order else {}
    if order is None:
        order = Order(key=key_of(table), value=attrgetter("f_created_at") if shape.order else None)
    endpoint = ListEndpoint(table.name, table.path, table.items, shape.total, row_type, params)
    return ListScan(context.client, endpoint, order, progress=context.progress, already_read=already_read, watch=watch)


def user_row_type(*, with_orgs: bool = True) -> RowType:
    """Return the row type of users, with their memberships inside."""
    member = RowType(ORG_MEMBERSHIP, constant_columns=("user_id",))
    return RowType(USER_QUERY, maps={ORG_MEMBERSHIP.items: member} if with_orgs else {})


def key_of(table: Table) -> Callable[[Any], Any]:
    """Return the function that returns the primary key of a decoded row."""
    return attrgetter(*(f"f_{table.column(name).source_field}" for name in table.key))


def read_ids(context: ScanContext, table: Table) -> tuple[list[str], ListOutcome]:
    """Return the ids of all rows of ``table``, and what is known of the list."""
    scan, id_of = list_scan(context, table), key_of(table)
    ids = [id_of(row) for rows in scan for row in rows]
    return ids, scan.outcome


def list_result(table: Table, outcome: ListOutcome) -> ScanResult:
    """Return the result of a table that is a list of its own."""
    return ScanResult(
        table_name=table.name,
        verdict=outcome.verdict,
        reason=outcome.reason,
        rows_read=outcome.rows_read,
        total_min=outcome.total_min,
        total_max=outcome.total_max,
        attempts=outcome.attempts,
        pages=outcome.pages,
        newest=outcome.newest,
    )
