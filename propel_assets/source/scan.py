"""One attempt to read a numbered list completely while it changes, and the verdict on it.

The server numbers pages by position, so every deletion moves all later rows one place to the left. When pages are read
from the last to the first, a moved row appears twice and never disappears. The pages are divided into one segment per
worker; each segment is read from right to left and then further, into its left neighbour's pages, until it has met the
first page that the neighbour read. `docs/scan.md` has the proof and every assumption.

This module has no thread, no clock and no HTTP: `Scan.next_requests` returns the pages to request now, `Scan.receive`
takes a response and returns its new rows. Tests can therefore play every order of responses against the real code.
"""

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from propel_assets.source.ties import Tie

AttemptVerdict = Literal["proved", "counted", "unproved"]
MAX_TRIES_TO_FIND_THE_END = 100
MAX_TAILS = 3
UNORDERED = "the list has no documented order, so only the number of its rows was compared with PropelAuth's totals"
UNSTABLE = "rows of the list change places while it is read"
WINDOW_ROWS = 10  # every server returns as many: the default page size


@dataclass(frozen=True)
class Request:
    """One page to request. ``reason`` is the stage, the segment or the tie that it belongs to.

    ``added`` and ``base`` are what earlier responses have shown, see `Scan._count_additions`.
    """

    number: int
    size: int
    reason: Any
    added: float = 0
    base: float = math.inf


@dataclass(frozen=True)
class Page:
    """One response. ``number`` and ``size`` are None if the server does not return them."""

    rows: Sequence[Any]
    number: int | None
    size: int | None
    total: int
    has_more: bool


@dataclass(frozen=True)
class Order:
    """The known order of a list.

    ``key`` returns the identity of a row. ``value`` returns what the server sorts by, ascending, new rows last; it is
    None if no order is known. If it returns no number for a row, the order is not used. ``since``: rows with a smaller
    value need not be read. ``stable`` is False if a row's value can grow, which moves the row to the end: such a list
    is counted at best.
    """

    key: Callable[[Any], Hashable]
    value: Callable[[Any], Any] | None = None
    since: int | None = None
    stable: bool = True

    def value_of(self, row: Any) -> Any:
        """Return the value of ``row`` if it is a number, else None."""
        value = self.value(row) if self.value else None
        return value if isinstance(value, int | float) else None

    def is_before(self, row: Any, border: float) -> bool:
        """Return whether ``row`` has a value smaller than ``border``."""
        value = self.value_of(row)
        return value is not None and value < border


@dataclass(eq=False)
class _Segment:
    """Pages that are read from right to left: its own down to ``start``, and further until it has met its neighbour."""

    start: int
    left: "_Segment | None"
    next: int
    requested: bool = False
    done: bool = False
    first: Page | None = None
    previous: Page | None = None


class Scan:
    """One attempt to read one list. `verdict` and `reasons` are final once `done`."""

    min_pages_per_segment = 4

    def __init__(self, order: Order, page_size: int, workers: int) -> None:
        """Request ``page_size`` rows a page.

        The list is divided into at most ``workers`` segments, of at least `min_pages_per_segment` pages each.
        """
        self._order, self._value = order, order.value_of
        self._ordered = order.value is not None
        self._size = page_size
        self._workers = max(1, workers) if order.since is None else 1
        self._stage: Literal["start", "last", "segments", "tail", "ties", "done"] = "start"
        self._next = self._tries = 0
        self._requested = False
        self._segments: list[_Segment] = []
        self._ties: dict[Any, Tie] = {}
        self._rows_at_end = 0  # rows when the end was found
        self._newest_at_end = -math.inf  # rows added after that have at least this value
        self._keys_at_end: set[Hashable] = set()  # rows with that value that existed then
        self._end_found = False
        self._end: tuple[int, Any] = (0, -math.inf)  # the end: its page, and the value of its last row
        self._end_total = self._tails = self._new = self._moved_without_deletion = 0
        self._added, self._base = 0.0, math.inf  # see `_count_additions`
        self._certainly_new = 0  # of `_new`, the rows that cannot have existed when the end was found
        # Whether `_keys_at_end` has all rows of the last page, and all rows with the last value.
        self._has_last_page = self._has_last_value = False
        # Whether no insertion was possible when the end was read again, and whether the count proved the scan then.
        self._no_insertion = self._was_proved_by_count = False
        self._counted_late = False  # whether a tie was closed by counting after that
        self._problems: dict[str, None] = {}
        self.seen: set[Hashable] = set()
        self.pages = 0
        self.total_min = -1
        self.total_max = -1
        self.verdict: AttemptVerdict = "unproved"
        self.reasons: list[str] = []

    @property
    def done(self) -> bool:
        """Whether no request is left."""
        return self._stage == "done"

    @property
    def newest(self) -> int | float | None:
        """The greatest value when the end was found. All rows that existed then have at most this value."""
        return self._newest_at_end if self._ordered and self._newest_at_end > -math.inf else None

    # --- requests ---

    def next_requests(self) -> list[Request]:
        """Return the requests that may be sent now; each is returned once."""
        if self._stage == "segments":
            ready = [s for s in self._segments if not (s.requested or s.done) and self._may_continue(s)]
            for segment in ready:
                segment.requested = True
            return [self._request(s.next, self._size, s) for s in ready]
        if self._stage == "ties":
            waiting = [t for t in self._ties.values() if t.open and not t.requested]
            for tie in waiting:
                tie.requested = True
            return [self._request(t.number, t.size, t) for t in waiting]
        if self._stage == "done" or self._requested:
            return []
        self._requested = True
        return [self._request(self._next, self._size, self._stage)]

    def _request(self, number: int, size: int, reason: Any) -> Request:
        return Request(number, size, reason, self._added, self._base)

    def _may_continue(self, segment: _Segment) -> bool:
        """One page beyond its range is always needed; further ones once the neighbour has begun."""
        return segment.next >= segment.start - 1 or (segment.left is not None and segment.left.first is not None)

    # --- responses ---

    def receive(self, request: Request, page: Page) -> list[Any]:
        """Take the response to ``request``; return rows not seen before. The first problem ends the attempt."""
        self.pages += 1
        self.total_max = max(self.total_max, page.total)
        self.total_min = page.total if self.total_min < 0 else min(self.total_min, page.total)
        if self._stage == "start":
            # A page that is followed by others is full, whatever size was requested.
            self._size = len(page.rows) if page.has_more and page.rows else page.size or self._size
        self._check(request, page)
        self._count_additions(request, page)
        if isinstance(request.reason, Tie):
            fresh = self._handle_tie(request.reason, request, page)
        elif isinstance(request.reason, _Segment):
            fresh = self._handle_segment(request.reason, request, page)
        elif self._stage == "tail":
            fresh = self._handle_tail(request, page)
        else:
            fresh = self._handle_last(request, page)
        if self._problems:
            self._finish("unproved")
        return fresh

    def _handle_last(self, request: Request, page: Page) -> list[Any]:
        """Find the end of the list. The rows at that moment are those that the proof is about."""
        self._requested = False
        if page.rows and self._ordered:
            self._newest_at_end = self._value(page.rows[-1])
            self._keys_at_end = {self._order.key(row) for row in page.rows}
            self._has_last_page = not page.has_more
            self._has_last_value = request.number == 0 or self._value(page.rows[0]) < self._newest_at_end
        if not self._is_end(request, page):
            self._stage = "last"
            return []
        self._rows_at_end = request.number * self._size + len(page.rows)
        self._end = (self._rows_at_end // self._size, self._newest_at_end)
        self._added, self._base = 0, self._rows_at_end
        fresh = self._accept(page)
        if self._stage == "start":
            self._finish("proved")  # one response is one moment
            return fresh
        self._divide(request.number + 1)
        segment = self._segments[-1]
        segment.first = segment.previous = page
        segment.next -= 1
        self._stage = "segments"
        self._finish_segments()
        return fresh

    def _is_end(self, request: Request, page: Page) -> bool:
        """Whether ``page`` is the last one: it is not full. If it is full, choose the next page to request.

        `has_more_results` alone is not accepted: a count that the server keeps apart from the list can be too small.
        """
        self._tries += 1
        last = max(0, -(-page.total // self._size) - 1)
        full = page.has_more or len(page.rows) >= self._size
        far_out = not page.rows and last < request.number - 1
        if self._tries <= MAX_TRIES_TO_FIND_THE_END and (full or far_out):
            self._next = max(last, request.number + 1) if full else last
            return False
        if full:
            self._record_problem("the list grew faster than it could be read")
        return True

    def _divide(self, pages: int) -> None:
        count = max(1, min(self._workers, pages // self.min_pages_per_segment))
        for start, stop in itertools.pairwise(pages * k // count for k in range(count + 1)):
            self._segments.append(_Segment(start, self._segments[-1] if self._segments else None, next=stop - 1))

    def _handle_segment(self, segment: _Segment, request: Request, page: Page) -> list[Any]:
        segment.requested = False
        if segment.first is None:
            segment.first = page
        elif segment.previous is not None:
            self._compare(segment, page, segment.previous, request.number)
        segment.previous = page
        segment.next = request.number - 1
        fresh = self._accept(page)
        self._finish_segments()
        return fresh

    def _finish_segments(self) -> None:
        for segment in self._segments:
            met = segment.next < segment.start - 1 and self._has_met(segment)
            segment.done |= segment.next < 0 or met or self._is_before_since(segment.previous)
        if not all(segment.done for segment in self._segments):
            return
        if self._order.since is not None and (self._accounts_for_additions() or not self._order.stable):
            self._after_reading()  # rows added meanwhile are for the next such scan
        else:
            self._read_tail()

    def _has_met(self, segment: _Segment) -> bool:
        """Whether ``segment`` has read all rows to the right of the first page that its left neighbour read.

        Those rows have at least the value of that page's last row. They are to the right of a row with a smaller value
        from then on, and were read before it or with it.
        """
        first = segment.left.first if segment.left else None
        if first is None:
            return False
        if not self._ordered or len(first.rows) < self._size:  # no known order, or no row was right of it
            return True
        return self._is_older(segment.previous, self._value(first.rows[-1]))

    def _is_before_since(self, page: Page | None) -> bool:
        return self._order.since is not None and self._is_older(page, self._order.since)

    def _is_older(self, page: Page | None, value: Any) -> bool:
        """Whether ``page`` begins with a row of a smaller value: all that have ``value`` or a greater one follow it."""
        return page is not None and self._ordered and bool(page.rows) and self._value(page.rows[0]) < value

    def _read_tail(self) -> None:
        self._stage, self._tries, self._end_found, self._counted_late = "tail", 0, False, False
        self._next, self._tail_border = self._end
        self._tails += 1

    def _handle_tail(self, request: Request, page: Page) -> list[Any]:
        """Read the end again for rows that were added: back to a row that is older than all of them."""
        self._requested = False
        fresh = self._accept(page)
        if not self._end_found:
            if not self._is_end(request, page):
                return fresh
            self._end_found, self._end_total = True, page.total
            self._no_insertion = self._accounts_for_additions()
            self._was_proved_by_count |= self._is_proved_by_count()
            self._end = (request.number, self._value(page.rows[-1]) if page.rows else self._tail_border)
        self._next = request.number - 1
        if not self._ordered or request.number == 0 or self._is_older(page, self._tail_border):
            self._after_reading()
        return fresh

    # --- rows with the same value that a page boundary divides ---

    def _compare(self, segment: _Segment, left: Page, right: Page, number: int) -> None:
        """Compare page ``number`` with its right neighbour: does a tie cross them, and how far did rows move?"""
        if not self._ordered or not left.rows:
            return
        last = self._value(left.rows[-1])
        first = self._value(right.rows[0]) if right.rows else None
        # If the list ended at the boundary, a row added in the second of its last row can come before that row.
        joined = first is None and len(left.rows) >= self._size
        if last == first or joined:
            self._record_tie(segment, last, left, right, number)
        elif first is not None and last > first:
            moved = 1 + sum(self._value(row) > first for row in left.rows)
            if last > self._value(right.rows[-1]):
                moved = len(right.rows) + 1  # all of them, and more
            self._moved_without_deletion = max(self._moved_without_deletion, moved - (right.total - left.total))

    def _record_tie(self, segment: _Segment, value: Any, left: Page, right: Page, number: int) -> None:
        """Record a tie. If no row has moved, the two pages show where it begins and ends: they have all of it."""
        edge = (number + 1) * self._size
        if value not in self._ties:
            largest = max(self._size, WINDOW_ROWS)
            self._ties[value] = Tie(value, edge, largest, found_by=segment)
            self._ties[value].add_response(edge, *self._values_and_keys(right), ends=len(right.rows) < self._size)
        tie = self._ties[value]
        if tie.found_by is segment:  # responses to another segment may be older than their arrival
            tie.add_response(edge - self._size, *self._values_and_keys(left), ends=False)

    def _values_and_keys(self, page: Page) -> tuple[list[Any], list[Hashable]]:
        return [self._value(row) for row in page.rows], [self._order.key(row) for row in page.rows]

    def _handle_tie(self, tie: Tie, request: Request, page: Page) -> list[Any]:
        fresh = self._accept(page)
        if self._ordered:
            size = page.size or request.size
            ends = len(page.rows) < size and not page.has_more
            tie.handle_response(request.number * size, *self._values_and_keys(page), ends=ends, more=page.has_more)
            self._counted_late |= tie.counted
        if tie.failed:
            self._record_problem(f"more rows have the same sort value ({tie.value}) than could be read together")
        if not self._ordered or not any(t.open for t in self._ties.values()):
            self._conclude()
        return fresh

    # --- rows inserted in the middle move others to the right, past the reader ---

    def _count_additions(self, request: Request, page: Page) -> None:
        """Count the rows added since the end was found, as far as totals show them.

        A total above that of a response that came before the request was sent shows additions in between; deletions
        at other times hide none. ``_base`` is the smallest total so far, less the additions until then.
        """
        added = max(request.added, page.total - request.base)  # a base of infinity shows none
        self._added = max(self._added, added)
        self._base = min(self._base, page.total - added)

    def _accounts_for_additions(self) -> bool:
        """Whether the rows read account for all additions so far, so that none was an insertion that hid a row."""
        return self._added <= max(self._certainly_new, len(self.seen) - self._rows_at_end)

    def _insertions_excluded(self) -> bool:
        known_before = self._was_proved_by_count or (self._no_insertion and not self._counted_late)
        return not self._ordered or known_before or self._accounts_for_additions()

    # --- the verdict ---

    def _after_reading(self) -> None:
        self._stage = "ties"
        if (
            not self._ordered
            or self._was_proved_by_count
            or self._is_proved_by_count()
            or not any(t.open for t in self._ties.values())
        ):
            self._conclude()

    def _is_proved_by_count(self) -> bool:
        """Whether all rows that existed when the end was found were seen, by their number."""
        all_seen = len(self.seen) - self._new == self._rows_at_end
        return self._ordered and not self._problems and all_seen and self._accounts_for_additions()

    def _conclude(self) -> None:
        if self._order.stable and not self._problems and not self._insertions_excluded():
            if self._tails < MAX_TAILS:  # rows may have been added at the end after it was read
                self._read_tail()
                return
            self._record_problem(
                f"{self._added:.0f} rows were added during the scan, and {self._certainly_new} of them were read at "
                "the end: an insertion elsewhere can have hidden a row"
            )
        if not self._ordered:
            if not self.total_min <= len(self.seen) <= self.total_max:
                self._record_problem(
                    f"{len(self.seen)} rows were read, and PropelAuth's totals were {self.total_min} to "
                    f"{self.total_max}"
                )
        elif not (self._was_proved_by_count or self._is_proved_by_count()):
            # One deletion moves one row; a sign-up at the same time hides it from the totals.
            if self._order.stable and self._moved_without_deletion > self._new:
                self._record_problem(
                    f"{self._moved_without_deletion - self._new} rows were read twice, which no deletion explains"
                )
            if self._order.since is None and self._end_total > len(self.seen):
                self._record_problem(
                    f"{len(self.seen)} rows were read, and PropelAuth's total at the end was {self._end_total}"
                )
        self._finish("proved" if self._ordered and self._order.stable else "counted")

    def _finish(self, best: AttemptVerdict) -> None:
        self.verdict = "unproved" if self._problems else best
        self.reasons = list(self._problems)
        if self.verdict == "counted":
            self.reasons.append(UNORDERED if self._order.stable else UNSTABLE)
        self._stage = "done"

    def _check(self, request: Request, page: Page) -> None:
        """Record what a correct server cannot return."""
        number, rows = request.number, page.rows
        size = (page.size or request.size) if isinstance(request.reason, Tie) else self._size
        end = number * size + len(rows)
        if page.number not in (None, number) and rows:
            self._record_problem(f"the response to page {number} is page {page.number}")
        if page.size not in (None, size):
            self._record_problem(f"pages hold {size} rows and the server returns page_size {page.size}")
        if len(rows) > size:
            self._record_problem(f"page {number} has {len(rows)} rows, and its size is {size}")
        if page.has_more and len(rows) < size:
            self._record_problem(f"page {number} has {len(rows)} of {size} rows, and has_more_results was true")
        if page.has_more != (page.total > end) or (rows and page.total < end):
            flag = "true" if page.has_more else "false"
            self._record_problem(f"page {number} ended at row {end} of {page.total}, and has_more_results was {flag}")
        if self._ordered and rows:
            values = [self._value(row) for row in rows]
            if None in values:
                self._ordered = False
            elif any(a > b for a, b in itertools.pairwise(values)):
                self._record_problem(f"page {number} is not in the requested order")

    def _record_problem(self, text: str) -> None:
        self._problems[text] = None

    def _accept(self, page: Page) -> list[Any]:
        """Return the rows of ``page`` not seen before, and count those that may be newer than the end."""
        rows = {self._order.key(row): row for row in page.rows}
        if len(rows) < len(page.rows):
            self._record_problem("one response contains a row twice")
        fresh = [row for key, row in rows.items() if key not in self.seen]
        self.seen.update(rows)
        if self._ordered and page.rows and self._value(page.rows[-1]) >= self._newest_at_end:
            new = [self._value(r) for r in fresh if self._order.key(r) not in self._keys_at_end]
            self._new += sum(value >= self._newest_at_end for value in new)
            if self._has_last_page:
                self._certainly_new += sum(
                    value > self._newest_at_end or (value == self._newest_at_end and self._has_last_value)
                    for value in new
                )
        return fresh
