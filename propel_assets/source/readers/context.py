"""What every reader gets, and how a reader says that its tables cannot be read."""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from http import HTTPStatus
from operator import attrgetter
from typing import Any

from propel_assets.catalog import ORG_MEMBERSHIP, Feature, Table
from propel_assets.catalog.model import PagedList
from propel_assets.errors import PermanentApiError
from propel_assets.source.client import Client
from propel_assets.source.decode import RowType
from propel_assets.source.lists import ListEndpoint, ListOutcome, ListScan, Watch
from propel_assets.source.scan import Order
from propel_assets.source.stream import Progress, ReadOptions, ResumeState, RowsToReadAgain, ScanResult

MIN_LOSS_ROWS = 50


@dataclass(frozen=True, kw_only=True)
class ScanContext:
    """The input of one scan.

    ``resume_state``: what the previous scan of these tables left. ``wanted``: names of the tables that are loaded;
    None: all. ``count_unknown``: returns how many of the given ids a table of the warehouse does not have; None where
    the warehouse cannot be queried. ``resume_state_of``: returns the resume state of another scan. ``privacy``:
    the fingerprint of the privacy policy. ``stored_ids``: returns which of the given ids a table has.
    ``first_receipt``: returns when the first of the given messages that are stored was received.
    ``rows_to_read_again``: what a load of events must read beside what they name. ``count_deleted``: returns how many
    rows of a table loads of events have deleted since its last full load, once the given ids are deleted too.
    """

    client: Client
    options: ReadOptions = field(default_factory=ReadOptions)
    resume_state: ResumeState = field(default_factory=ResumeState)
    wanted: Collection[str] | None = None
    progress: Progress = lambda *_: None
    count_unknown: Callable[[str, set[Any]], int] | None = None
    resume_state_of: Callable[[str], ResumeState] = lambda _: ResumeState()
    privacy: str = ""
    stored_ids: Callable[[Table, Sequence[str]], list[str]] = lambda *_: []
    first_receipt: Callable[[Sequence[str]], datetime | None] = lambda _: None
    rows_to_read_again: RowsToReadAgain = field(default_factory=RowsToReadAgain)
    count_deleted: Callable[[Table, Sequence[str]], int] = lambda _, ids: len(ids)

    def wants(self, table: Table) -> bool:
        """Whether ``table`` is loaded."""
        return self.wanted is None or table.name in self.wanted

    def is_current(self, table: Table) -> bool:
        """Whether ``table`` has been loaded in full, under the privacy policy in force."""
        state = self.resume_state_of(table.scan)
        return self.wants(table) and table.name in state.rows and state.privacy == self.privacy

    def watch(self, table: Table) -> Watch | None:
        """Return what detects insertions in the middle of the list of ``table``; None before the first full scan."""
        newest = self.resume_state.newest.get(table.name)
        if self.count_unknown is None or newest is None:
            return None
        return Watch(newest, partial(self.count_unknown, table.name))


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
    if row_type is None:  # users come with their memberships
        row_type = RowType(table, maps={ORG_MEMBERSHIP.items: RowType(ORG_MEMBERSHIP, constant_columns=("user_id",))})
    if params is None:
        params = {"order_by": shape.order} if shape.order else {}
    if order is None:
        order = Order(key=key_of(table), value=attrgetter("f_created_at") if shape.order else None)
    endpoint = ListEndpoint(table.name, table.path, table.items, shape.total, row_type, params)
    return ListScan(context.client, endpoint, order, progress=context.progress, already_read=already_read, watch=watch)


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
