"""Many answers as one reading: numbered lists, and one request per id. Knows no table; `readers.py` says which to read.

A list is read pass after pass until `scan.py` says it is complete; what came of it stands in a `ScanReport`.
"""

import gc
import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import SimpleQueue
from threading import Event, Semaphore
from typing import Any, TypeVar

from propel_assets.catalog import BY_NAME
from propel_assets.errors import PermanentApiError, ResponseTooLarge, UnprovedScan
from propel_assets.source.client import Client
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets.source.scan import Order, Page, Request, Scan

T = TypeVar("T")
U = TypeVar("U")

BATCH_ROWS = 10_000
PAGES_AHEAD = 64
MAX_PASSES = 3
OBJECTS_BEFORE_COLLECTION = 100_000
MIN_PAGE_SIZE = 10
RECENT = "recent"
BAD_REQUEST, NOT_FOUND = 400, 404


@dataclass
class ScanReport:
    """How one table was read. Fields as the columns of `propel_scans`.

    ``emptied``, in the mode ``recent``: whose rows must go, because a new reading gave none.
    ``newest``: the greatest value the list was sorted by when its end was found, for the next `Watch`.
    """

    table_name: str
    mode: str = "full"
    verdict: str = "unproved"
    reason: str = ""
    rows_read: int = 0
    total_min: int | None = None
    total_max: int | None = None
    passes: int = 1
    pages: int = 0
    requests: int = 0
    retries: int = 0
    rate_limited: int = 0
    waited_seconds: float = 0.0
    concurrency: int = 0
    unknown_fields: dict[str, str] = field(default_factory=dict)
    values_read: dict[str, int] = field(default_factory=dict)
    variants: list[dict[str, Any]] = field(default_factory=list)
    emptied: list[str] = field(default_factory=list)
    newest: float | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def skipped(self) -> bool:
        """Whether the table was left as it is, for the reason given."""
        return self.verdict == "skipped"

    @property
    def recent(self) -> bool:
        """Whether only what changed was read, to be merged into the table."""
        return self.mode == RECENT

    @property
    def rows_expected(self) -> int | None:
        """Rows the table must hold after the load; None where that does not follow from this reading."""
        merged = self.recent or BY_NAME[self.table_name].load == "merge"
        return None if self.skipped or merged else self.rows_read


@dataclass(frozen=True)
class Watch:
    """What shows that rows come to the middle of a list, which the totals of one scan need not show.

    Every row that existed when the previous scan found the end has a value of at most ``newest``, and later rows have
    at least that. ``count_unknown`` returns how many of the ids given to it the warehouse does not have.
    """

    newest: float
    count_unknown: Callable[[set[Any]], int]


Progress = Callable[[str, int, int | None], None]


@contextmanager
def _collecting_seldom() -> Iterator[None]:
    """Let Python look for cycles less often: rows make none, and each look goes through all there is in memory."""
    usual = gc.get_threshold()
    gc.set_threshold(OBJECTS_BEFORE_COLLECTION, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


class ListReader:
    """Reads lists through ``client``; tells ``progress`` the table, the rows so far and the rows expected."""

    def __init__(self, client: Client, progress: Progress) -> None:
        """Send nothing yet."""
        self._client = client
        self._settings = client.tenant
        self._progress = progress

    def _read_list(
        self,
        report: ScanReport,
        path: str,
        items: str,
        total: str,
        row_type: RowType,
        order: Order,
        params: dict[str, Any],
        also: Callable[[Any], None] | None = None,
        earlier: Iterable[Hashable] = (),
        watch: Watch | None = None,
    ) -> Iterator[list[Any]]:
        """Yield the rows of a numbered list, each once, in batches; pass after pass until one is proved.

        Rows whose keys are in ``earlier`` are left out. Where ``watch`` finds that rows have come to the middle of the
        list, a proved pass is repeated until one brings no row that the passes before it should have had.
        """
        others: list[tuple[str, Any]] = [(total, int), ("has_more_results", bool), ("report_time", int | None)]
        others += [(name, int | None) for name in ("current_page", "page_size")]
        decode = PageDecoder(row_type, items, others)

        def fetch(request: Request) -> Page:
            paging = {"page_size": request.size, "page_number": request.number}
            answer = self._client.get(path, decode, {**params, **paging})
            if also:
                also(answer)
            return Page(
                answer.items, answer.current_page, answer.page_size, getattr(answer, total), answer.has_more_results
            )

        known = set(earlier)
        size = self._settings.page_size
        buffer: list[Any] = []
        reasons: list[str] = []
        passes, most = 0, MAX_PASSES
        unknown, border = 0, -math.inf  # old rows that are unknown; rows below the border should have been read before
        while passes < most:
            scan = Scan(order, size, self._settings.max_concurrency)
            later: set[Hashable] = set()
            missed = 0
            try:
                for rows in self._drive(scan, fetch):
                    new = [row for row in rows if order.key(row) not in known] if known else rows
                    if watch:
                        later.update(order.key(row) for row in rows if not order.is_before(row, watch.newest))
                        missed += sum(order.is_before(row, border) for row in new) if unknown else 0
                    report.rows_read += len(new)
                    buffer += new
                    if len(buffer) >= BATCH_ROWS:
                        self._progress(report.table_name, report.rows_read, scan.total_max)
                        yield buffer
                        buffer = []
            except PermanentApiError as error:
                if error.status != BAD_REQUEST or scan.pages or size <= MIN_PAGE_SIZE:
                    raise
                size = max(MIN_PAGE_SIZE, size // 2)  # the server may not give that many rows at once
                continue
            except ResponseTooLarge:
                if size <= MIN_PAGE_SIZE:
                    raise
                size = max(MIN_PAGE_SIZE, size // 2)
                known |= scan.seen
                continue
            passes += 1
            report.passes, report.pages = passes, report.pages + scan.pages
            report.total_min, report.total_max = scan.total_min, scan.total_max
            report.verdict, report.reason = scan.verdict, "; ".join(scan.reasons[:3])
            if scan.verdict != "unproved":
                report.newest = scan.newest
                if not watch or scan.newest is None or scan.pages == 1 or (unknown and not missed):
                    break
                if not unknown:
                    unknown, most = watch.count_unknown(scan.seen - later), passes + MAX_PASSES - 1
                    if not unknown:
                        break
                border = scan.newest
            reasons += [reason for reason in scan.reasons if reason not in reasons]
            known |= scan.seen
        else:
            if not unknown:
                raise UnprovedScan(
                    f"{report.table_name}: {MAX_PASSES} readings of {path} each left room for a missing row, so "
                    f"nothing was replaced. What came back: {'; '.join(reasons[:3])}. Run again at a quieter time; if "
                    "it stays, the answers of this server cannot be trusted to be complete."
                )
            report.verdict = "counted"
        if unknown:
            outcome = "the last one returned no further row" if report.verdict == "proved" else "each returned others"
            report.reason = (
                f"{unknown} unknown row{'' if unknown == 1 else 's'} older than the previous scan: the list was read "
                f"{passes} times, and {outcome}"
            )
        self._progress(report.table_name, report.rows_read, report.total_max)
        if buffer:
            yield buffer

    def _drive(self, scan: Scan, fetch: Callable[[Request], Page]) -> Iterator[list[Any]]:
        """Send what ``scan`` wants, as many at once as it allows, and yield the new rows of each answer.

        A thread does so, some pages ahead: the server need not wait for what becomes of the rows.
        """
        rows: SimpleQueue[list[Any] | None] = SimpleQueue()
        room, gone = Semaphore(PAGES_AHEAD), Event()

        def ask(pool: ThreadPoolExecutor) -> None:
            answers: SimpleQueue[tuple[Request, Future[Page]]] = SimpleQueue()
            try:
                while not (scan.done or gone.is_set()):
                    for request in scan.wanted():
                        future = pool.submit(fetch, request)
                        future.add_done_callback(lambda done, asked=request: answers.put((asked, done)))
                    request, future = answers.get()
                    if new := scan.receive(request, future.result()):
                        room.acquire()
                        rows.put(new)
            finally:
                rows.put(None)

        with ThreadPoolExecutor(1, thread_name_prefix="scan") as ahead, self._workers() as pool, _collecting_seldom():
            asking = ahead.submit(ask, pool)
            try:
                while (new := rows.get()) is not None:
                    room.release()
                    yield new
            finally:
                gone.set()
                room.release()  # it may wait for room
            asking.result()

    @contextmanager
    def _workers(self) -> Iterator[ThreadPoolExecutor]:
        pool = ThreadPoolExecutor(self._settings.max_concurrency, thread_name_prefix="propelauth")
        try:
            yield pool
        except BaseException:
            with self._client.stopping():
                pool.shutdown(cancel_futures=True)
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _each(self, ask: Callable[[T], U], of: Iterable[T], name: str) -> Iterator[U]:
        """Yield ``ask`` of each, several at once, in order."""
        listed = list(of)
        with self._workers() as pool:
            for done, answer in enumerate(pool.map(ask, listed), 1):
                if done % 100 == 0:
                    self._progress(name, done, len(listed))
                yield answer

    def _unless_missing(self, path: str, decode: Callable[[bytes], T], params: Any = None) -> T | None:
        try:
            return self._client.get(path, decode, params)
        except PermanentApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise
