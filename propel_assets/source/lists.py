"""Complete reads of numbered lists, and one request for each of many ids. Knows no table.

`ListScan` reads a list until `scan.py` proves an attempt complete. `request_each` sends one request per id.
"""

import gc
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from queue import SimpleQueue
from threading import Event, Semaphore
from typing import Any, Literal, TypeVar

from propel_assets.errors import PermanentApiError, ResponseTooLarge, UnprovedScan
from propel_assets.source.client import Client
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets.source.scan import Order, Page, Request, Scan
from propel_assets.source.stream import Progress
from propel_assets.source.values import Seconds

T = TypeVar("T")
U = TypeVar("U")

BATCH_ROWS = 5_000
PAGES_AHEAD = 64
MAX_ATTEMPTS = 3
MAX_REASONS = 3
OBJECTS_BEFORE_COLLECTION = 100_000
MIN_PAGE_SIZE = 10
MAX_SINGLE_READS = 200
"""Above so many ids, rows are read from their list instead of by one request each."""


@dataclass(frozen=True)
class ListEndpoint:
    """A list in numbered pages. ``total``: the field that counts all rows. ``on_page`` is called with each answer."""

    name: str
    path: str
    items: str
    total: str
    row_type: RowType
    params: Mapping[str, Any] = field(default_factory=dict)
    on_page: Callable[[Any], None] | None = None


@dataclass(frozen=True)
class Watch:
    """Detects rows inserted in the middle of a list, which the totals of one scan need not show.

    Every row that existed when the previous scan found the end has a value of at most ``newest``; later rows have at
    least that. ``count_unknown`` returns how many of the given ids the warehouse does not have.
    """

    newest: float
    count_unknown: Callable[[set[Any]], int]


@dataclass(frozen=True)
class ListOutcome:
    """The result of a complete read of a list. ``newest``: the greatest value when its end was found."""

    verdict: Literal["proved", "counted"]
    reason: str
    rows_read: int
    total_min: int
    total_max: int
    attempts: int
    pages: int
    newest: float | None


class ListScan:
    """One complete read of a list. Iterate over its batches; after the last one, `outcome` is known.

    Each row is returned once, by whichever attempt finds it first. An attempt that is not proved complete is repeated.
    Where ``watch`` finds rows inserted in the middle, proved attempts are repeated too, until one returns no row that
    the attempts before it should have returned.
    """

    outcome: ListOutcome

    def __init__(
        self,
        client: Client,
        endpoint: ListEndpoint,
        order: Order,
        *,
        progress: Progress = lambda *_: None,
        already_read: Iterable[Hashable] = (),
        watch: Watch | None = None,
    ) -> None:
        """Send nothing yet. Rows whose keys are in ``already_read`` are not returned."""
        self._client, self._endpoint, self._order = client, endpoint, order
        self._progress, self._watch = progress, watch
        self._decode = PageDecoder(
            endpoint.row_type,
            endpoint.items,
            [
                (endpoint.total, int),
                ("has_more_results", bool),
                ("report_time", Seconds | None),
                ("current_page", int | None),
                ("page_size", int | None),
            ],
        )
        self._size = client.tenant.page_size
        self._returned = set(already_read)
        self._batch: list[Any] = []
        self._attempts, self._max_attempts = 0, MAX_ATTEMPTS
        self._pages = 0
        self._newest: float | None = None
        self._last_complete: Scan | None = None
        self._unproved_reasons: dict[str, None] = {}
        self._unknown = 0  # rows older than the previous scan that the warehouse does not have
        self._max_returned = -math.inf  # rows with a smaller value should have been returned by an earlier attempt
        self.rows_read = 0

    def __iter__(self) -> Iterator[list[Any]]:
        """Yield the rows in batches.

        Raises:
            ApiError: the list cannot be read.
            UnprovedScan: no attempt was proved complete.
        """
        outcome = None
        while outcome is None:
            scan = Scan(self._order, self._size, self._client.tenant.max_concurrency)
            newer: set[Hashable] = set()
            try:
                inserted = yield from self._attempt(scan, newer)
            except (PermanentApiError, ResponseTooLarge) as error:
                if not self._is_page_too_large(error, scan):
                    raise
                self._size = max(MIN_PAGE_SIZE, self._size // 2)
                self._returned |= scan.seen
                continue
            outcome = self._conclude(scan, newer, inserted)
            self._returned |= scan.seen
        self.outcome = outcome
        self._progress(self._endpoint.name, self.rows_read, outcome.total_max)
        if self._batch:
            yield self._batch

    def _is_page_too_large(self, error: Exception, scan: Scan) -> bool:
        """Whether a smaller page size can help: the server refuses the first page, or a page exceeds the size limit."""
        refused = isinstance(error, PermanentApiError) and error.status == HTTPStatus.BAD_REQUEST and not scan.pages
        return self._size > MIN_PAGE_SIZE and (refused or isinstance(error, ResponseTooLarge))

    def _attempt(self, scan: Scan, newer: set[Hashable]) -> "Iterator[list[Any]]":
        """Run ``scan`` and yield full batches. Add the keys of rows that are newer than the previous scan to ``newer``.

        Return how many rows an earlier attempt should have returned.
        """
        inserted = 0
        for rows in drive(self._client, scan, self._fetch):
            new = [row for row in rows if self._order.key(row) not in self._returned] if self._returned else rows
            if self._watch:
                newer.update(self._order.key(row) for row in rows if not self._order.is_before(row, self._watch.newest))
                inserted += sum(self._order.is_before(row, self._max_returned) for row in new) if self._unknown else 0
            self.rows_read += len(new)
            self._batch += new
            if len(self._batch) >= BATCH_ROWS:
                self._progress(self._endpoint.name, self.rows_read, scan.total_max)
                yield self._batch
                self._batch = []
        return inserted

    def _fetch(self, request: Request) -> Page:
        endpoint = self._endpoint
        paging = {"page_size": request.size, "page_number": request.number}
        answer = self._client.get(endpoint.path, self._decode, {**endpoint.params, **paging})
        if endpoint.on_page:
            endpoint.on_page(answer)
        total = getattr(answer, endpoint.total)
        return Page(answer.items, answer.current_page, answer.page_size, total, answer.has_more_results)

    def _conclude(self, scan: Scan, newer: set[Hashable], inserted: int) -> ListOutcome | None:
        """Return the outcome of the list after the attempt ``scan``; None if the list must be read again."""
        self._attempts += 1
        self._pages += scan.pages
        if scan.verdict != "unproved":
            self._newest, self._last_complete = scan.newest, scan
            if self._needs_no_repetition(scan, newer, inserted):
                return self._outcome(scan, scan.verdict)
            self._max_returned = scan.newest if scan.newest is not None else self._max_returned
        self._unproved_reasons.update(dict.fromkeys(scan.reasons))
        if self._attempts < self._max_attempts:
            return None
        if self._last_complete and self._unknown:
            return self._outcome(self._last_complete, "counted", scan.reasons)
        raise UnprovedScan(
            f"{self._endpoint.name}: {MAX_ATTEMPTS} attempts to read {self._endpoint.path} could not prove that no row "
            f"is missing: {'; '.join([*self._unproved_reasons][:MAX_REASONS])}. The previous data is kept. Run again "
            "while fewer rows change. If the error persists while few rows change, report these reasons to PropelAuth."
        )

    def _needs_no_repetition(self, scan: Scan, newer: set[Hashable], inserted: int) -> bool:
        """Whether a proved or counted attempt needs no repetition."""
        if not self._watch or scan.newest is None or scan.pages == 1:
            return True
        if self._unknown:
            return not inserted
        self._unknown = self._watch.count_unknown(scan.seen - newer)
        self._max_attempts = self._attempts + MAX_ATTEMPTS - 1
        return not self._unknown

    def _outcome(
        self, scan: Scan, verdict: Literal["proved", "counted"], unproved_reasons: Sequence[str] = ()
    ) -> ListOutcome:
        """Return what ``scan`` has found. ``unproved_reasons``: those of the last attempt."""
        reason = "; ".join(scan.reasons[:MAX_REASONS])
        if self._unknown:
            result = (
                "the last attempt returned no further row"
                if verdict == "proved"
                else "each attempt returned further rows"
            )
            if unproved_reasons:
                result = f"the last attempt is not proved: {'; '.join(unproved_reasons[:MAX_REASONS])}"
            reason = (
                f"{self._unknown} unknown row{'' if self._unknown == 1 else 's'} older than the previous scan: the "
                f"list was read {self._attempts} times, and {result}"
            )
        return ListOutcome(
            verdict,
            reason,
            self.rows_read,
            scan.total_min,
            scan.total_max,
            self._attempts,
            self._pages,
            self._newest,
        )


def drive(client: Client, scan: Scan, fetch: Callable[[Request], Page]) -> Iterator[list[Any]]:
    """Send the requests that ``scan`` wants, concurrently, and yield the new rows of each answer.

    A thread sends them and stays some pages ahead of the consumer, so that the server does not wait for the consumer.
    """
    rows: SimpleQueue[list[Any] | None] = SimpleQueue()
    slots, stopped = Semaphore(PAGES_AHEAD), Event()

    def send(pool: ThreadPoolExecutor) -> None:
        answers: SimpleQueue[tuple[Request, Future[Page]]] = SimpleQueue()
        try:
            while not (scan.done or stopped.is_set()):
                for request in scan.next_requests():
                    future = pool.submit(fetch, request)
                    future.add_done_callback(lambda done, sent=request: answers.put((sent, done)))
                request, future = answers.get()
                if new := scan.receive(request, future.result()):
                    slots.acquire()
                    rows.put(new)
        finally:
            rows.put(None)

    with ThreadPoolExecutor(1, thread_name_prefix="scan") as ahead, workers(client) as pool, _rare_garbage_collection():
        sender = ahead.submit(send, pool)
        try:
            while (new := rows.get()) is not None:
                slots.release()
                yield new
        finally:
            stopped.set()
            slots.release()  # the sender may be waiting for a slot
        sender.result()


@contextmanager
def workers(client: Client) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads for requests. After an error, their requests are stopped."""
    pool = ThreadPoolExecutor(client.tenant.max_concurrency, thread_name_prefix="propelauth")
    try:
        yield pool
    except BaseException:
        with client.stopping():
            pool.shutdown(cancel_futures=True)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def request_each(
    client: Client, request: Callable[[T], U], ids: Sequence[T], name: str, progress: Progress = lambda *_: None
) -> Iterator[U]:
    """Yield ``request(id)`` for each of ``ids``, in order, several at once."""
    with workers(client) as pool:
        for done, answer in enumerate(pool.map(request, ids), 1):
            if done % 100 == 0:
                progress(name, done, len(ids))
            yield answer


def get_or_none(client: Client, path: str, decode: Callable[[bytes], T], params: Any = None) -> T | None:
    """Return the decoded answer of GET ``path``; None for status 404."""
    try:
        return client.get(path, decode, params)
    except PermanentApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise


@contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Run Python's collector of reference cycles less often: rows have none, and each run visits every object."""
    usual = gc.get_threshold()
    gc.set_threshold(OBJECTS_BEFORE_COLLECTION, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
