"""Reading a numbered list completely while it changes, and knowing whether that worked.

The server numbers pages by position, so every deletion shifts everybody behind it one place to the left. Reading from
the last page to the first, a shift makes a row appear twice and never vanish. For speed the pages are cut into one
segment per worker; each worker reads its segment from right to left and then on, into its left neighbour's, until it
has met a row of the first page the neighbour read. `docs/scan.md` has the proof and names every assumption.

No thread, no clock and no HTTP in here: `Scan.wanted` says which pages may be asked for now, `Scan.receive` takes an
answer and returns its new rows. A test can therefore play every order of answers against the real code.
"""

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["proved", "counted", "unproved"]
MIN_PAGES_PER_SEGMENT = 4
MAX_TAIL_PAGES = 100
MAX_WINDOW_TRIES = 8
MAX_WINDOW_ROWS = 1_000


@dataclass(frozen=True)
class Request:
    """One page to ask for; ``wanted_by`` is the stage, the segment or the tie that wants it."""

    number: int
    size: int
    wanted_by: Any


@dataclass(frozen=True)
class Page:
    """One answer, as the server describes it. ``number`` and ``size`` are None where it does not say."""

    rows: Sequence[Any]
    number: int | None
    size: int | None
    total: int
    has_more: bool


@dataclass(frozen=True)
class Order:
    """What is known of a list's order.

    ``key`` gives a row's identity. ``value`` gives what the server sorts by, ascending, new rows last; it is None
    where no order is known. A row for which it does not give a number has no known place: the order is then given up.
    """

    key: Callable[[Any], Hashable]
    value: Callable[[Any], Any] | None = None


@dataclass(eq=False)
class _Segment:
    """Pages ``start`` to ``stop`` - 1, read from right to left, and on to the left until its neighbour is met."""

    start: int
    stop: int
    left: "_Segment | None"
    next: int = 0
    asked: bool = False
    done: bool = False
    first: Page | None = None
    previous: Page | None = None
    left_rows: list[Any] = field(default_factory=list)


@dataclass(eq=False)
class _Tie:
    """Rows sorted equal that stand on both sides of a page's edge: one answer must hold them all."""

    value: Any
    edge: int
    size: int
    number: int = 0
    tries: int = 0
    asked: bool = False
    closed: bool = False

    def aim(self, largest: int) -> None:
        """Choose the window of at most ``largest`` rows that has the edge nearest to its middle."""
        sizes = range(largest, largest // 2, -1)
        self.size = min(sizes, key=lambda size: abs(self.edge % size - size // 2) - size // 4)
        self.number = self.edge // self.size


class Scan:
    """One pass over one list. `verdict` and `reasons` are final once `done`."""

    def __init__(self, order: Order, page_size: int, workers: int) -> None:
        """Ask for ``page_size`` rows a page, by ``workers`` segments."""
        self._order = order
        self._ordered = order.value is not None
        self._size = page_size
        self._workers = max(1, workers)
        self._stage: Literal["start", "last", "segments", "tail", "ties", "done"] = "start"
        self._next = 0
        self._asked = False
        self._segments: list[_Segment] = []
        self._ties: dict[Any, _Tie] = {}
        self._last: Page | None = None
        self._tail_start = 0
        self._tail_previous: Page | None = None
        self._new = 0
        self._unexplained = 0
        self._problems: dict[str, None] = {}
        self.seen: set[Hashable] = set()
        self.pages = 0
        self.total_min = -1
        self.total_max = -1
        self.verdict: Verdict = "unproved"
        self.reasons: list[str] = []

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask for."""
        return self._stage == "done"

    # --- what to ask for ---

    def wanted(self) -> list[Request]:
        """Return the requests that may be sent now; each is returned once."""
        if self._stage == "segments":
            ready = [s for s in self._segments if not (s.asked or s.done) and self._may_go_on(s)]
            for segment in ready:
                segment.asked = True
            return [Request(s.next, self._size, s) for s in ready]
        if self._stage == "ties":
            waiting = [t for t in self._ties.values() if not (t.asked or t.closed)]
            for tie in waiting:
                tie.asked = True
            return [Request(t.number, t.size, t) for t in waiting]
        if self._stage == "done" or self._asked:
            return []
        self._asked = True
        return [Request(self._next, self._size, self._stage)]

    def _may_go_on(self, segment: _Segment) -> bool:
        """One page beyond its range is always needed; further ones once the neighbour has begun."""
        return segment.next >= segment.start - 1 or (segment.left is not None and segment.left.first is not None)

    # --- what came back ---

    def receive(self, request: Request, page: Page) -> list[Any]:
        """Take the answer to ``request``; return the rows this pass had not seen."""
        self.pages += 1
        self.total_max = max(self.total_max, page.total)
        self.total_min = page.total if self.total_min < 0 else min(self.total_min, page.total)
        self._check_rows(request, page)
        if isinstance(request.wanted_by, _Tie):
            return self._received_tie(request.wanted_by, request, page)
        if self._stage == "start":
            return self._received_start(page)
        self._check_page(request, page)
        if isinstance(request.wanted_by, _Segment):
            return self._received_segment(request.wanted_by, request, page)
        self._asked = False
        if self._stage == "last":
            return self._received_last(request, page)
        return self._received_tail(request, page)

    def _received_start(self, page: Page) -> list[Any]:
        """The first page tells the size of a page and how many there are; alone, it is the whole list."""
        self._asked = False
        self._size = page.size or self._size  # the server's page size wins over what was asked
        if page.has_more:
            self._next = max(1, -(-page.total // self._size) - 1)
            self._stage = "last"
            return []
        if page.total != len(page.rows):
            self._problem(f"the only page held {len(page.rows)} rows and counted {page.total}")
        self.verdict = "unproved" if self._problems else "proved"
        self._end()
        return self._accept(page)

    def _received_last(self, request: Request, page: Page) -> list[Any]:
        """Find the last page: what it counts is the list as it was at one moment, the one the proof speaks of."""
        if page.has_more and self.pages < MAX_TAIL_PAGES:
            self._next = request.number + 1
            return []
        if page.has_more:
            self._problem("the list grew faster than it could be read")
        if not page.rows and request.number > 0 and self.pages < MAX_TAIL_PAGES:
            self._next = request.number - 1
            return []
        self._last = page
        fresh = self._accept(page)
        self._cut(request.number + 1)
        segment = self._segments[-1]
        segment.first = segment.previous = page
        self._move_left(segment, request.number)
        self._stage = "segments"
        self._finish_segments()
        return fresh

    def _cut(self, pages: int) -> None:
        count = max(1, min(self._workers, pages // MIN_PAGES_PER_SEGMENT))
        edges = [pages * k // count for k in range(count + 1)]
        for start, stop in itertools.pairwise(edges):
            left = self._segments[-1] if self._segments else None
            self._segments.append(_Segment(start, stop, left, next=stop - 1))
        self._next = self._tail_start = pages - 1

    def _received_segment(self, segment: _Segment, request: Request, page: Page) -> list[Any]:
        segment.asked = False
        if segment.first is None:
            segment.first = page
        elif segment.previous is not None:
            self._compare(page, segment.previous, edge=request.number + 1)
        segment.previous = page
        fresh = self._accept(page)
        if request.number <= segment.start:
            segment.left_rows.extend(page.rows)
        self._move_left(segment, request.number)
        self._finish_segments()
        return fresh

    def _move_left(self, segment: _Segment, number: int) -> None:
        segment.next = number - 1
        if segment.next < 0:
            segment.done = True

    def _finish_segments(self) -> None:
        for segment in self._segments:
            if not segment.done and segment.next < segment.start - 1 and self._has_met(segment):
                segment.done = True
                segment.left_rows = []
        if all(segment.done for segment in self._segments):
            self._stage = "tail"

    def _has_met(self, segment: _Segment) -> bool:
        """Whether ``segment`` has seen a row of the first page its left neighbour read.

        Whoever stood right of that page then stands right of that row for ever, and so has been read. Rows sorted
        equal to the page's last may have changed places: a row before them meets, or the tie must be closed.
        """
        first = segment.left.first if segment.left else None
        if first is None:
            return False
        if not first.has_more:
            return True  # nobody stood right of the neighbour's first page
        mine = {self._order.key(row) for row in segment.left_rows}
        common = [row for row in first.rows if self._order.key(row) in mine]
        if self._ordered and common:
            end = self._value(first.rows[-1])
            if all(self._value(row) == end for row in common):
                self._tie(end, segment.start)
        return bool(common)

    def _received_tail(self, request: Request, page: Page) -> list[Any]:
        """Read the end again, to the right: who has signed up meanwhile."""
        if self._tail_previous is not None:
            self._check_tie(self._tail_previous, page, edge=request.number)
        self._tail_previous = page
        fresh = self._accept(page)
        if page.has_more and request.number - self._tail_start < MAX_TAIL_PAGES:
            self._next = request.number + 1
        else:
            self._after_reading()
        return fresh

    # --- rows with the same value, cut in two by a page's edge ---

    def _compare(self, left: Page, right: Page, *, edge: int) -> None:
        """Compare a page with its right neighbour, read before: how far did rows move, is a tie cut in two?"""
        if not left.rows or not right.rows:
            return
        tied = self._check_tie(left, right, edge=edge)
        keys = {self._order.key(row) for row in right.rows}
        repeated = [row for row in left.rows if self._order.key(row) in keys]
        shift = sum(not tied or self._value(row) != self._value(right.rows[0]) for row in repeated)
        if self._ordered and self._value(left.rows[-1]) > self._value(right.rows[-1]):
            shift = len(right.rows)  # all of them, and more
        self._unexplained = max(self._unexplained, shift - (right.total - left.total))

    def _check_tie(self, left: Page, right: Page, *, edge: int) -> bool:
        if not self._ordered or not left.rows or not right.rows:
            return False
        value = self._value(right.rows[0])
        tied = self._value(left.rows[-1]) == value
        if tied:
            self._tie(value, edge)
        return tied

    def _tie(self, value: Any, edge: int) -> None:
        if value not in self._ties:
            self._ties[value] = _Tie(value, edge * self._size, self._size)
            self._ties[value].aim(self._size)

    def _received_tie(self, tie: _Tie, request: Request, page: Page) -> list[Any]:
        """Close a tie when this one answer reaches beyond it on both sides."""
        tie.asked = False
        tie.tries += 1
        fresh = self._accept(page)
        if self._ordered:
            values = [self._value(row) for row in page.rows]
            before = request.number == 0 or (bool(values) and values[0] < tie.value)
            behind = not page.has_more or (bool(values) and values[-1] > tie.value)
            tie.closed = before and behind
            if not tie.closed:
                self._aim_again(tie, request, page, before=before, behind=behind)
        if not self._ordered or all(t.closed for t in self._ties.values()):
            self._conclude()
        return fresh

    def _aim_again(self, tie: _Tie, request: Request, page: Page, *, before: bool, behind: bool) -> None:
        """Move the window to where this answer shows the tie to begin or to end; widen it at every second try."""
        clamped = page.size is not None and page.size != request.size
        if clamped or tie.tries >= MAX_WINDOW_TRIES or tie.size > MAX_WINDOW_ROWS:
            tie.closed = True
            self._problem(f"more rows are sorted equal ({tie.value}) than one answer can hold")
            return
        values = [self._value(row) for row in page.rows]
        first = request.number * request.size
        if before:
            tie.edge = first + sum(value < tie.value for value in values) + tie.size // 3
        elif behind:
            tie.edge = first + sum(value <= tie.value for value in values) - tie.size // 3
        tie.edge = max(0, min(tie.edge, page.total))
        size = max(tie.size, self._size)
        tie.aim(2 * size if before == behind or tie.tries % 2 == 0 else size)

    # --- what is known in the end ---

    def _after_reading(self) -> None:
        self._stage = "ties"
        if not self._ties or not self._ordered or self._counts_prove():
            self._conclude()

    def _counts_prove(self) -> bool:
        """Whether as many of the people of the last page's moment were seen as there were."""
        return self._ordered and not self._problems and self._last is not None and self._old_seen == self._last.total

    @property
    def _old_seen(self) -> int:
        return len(self.seen) - self._new

    def _conclude(self) -> None:
        counts_prove = self._counts_prove()
        if self._ordered and not counts_prove and self._last is not None:
            # One deletion moves one row; a sign-up at the same time hides it from the totals.
            if self._unexplained > self._new:
                self._problem(f"{self._unexplained - self._new} more rows came twice than were deleted")
            if self._tail_previous is not None and self._tail_previous.total > len(self.seen):
                self._problem(f"{len(self.seen)} rows were read, and {self._tail_previous.total} were there in the end")
        if self._ordered:
            self.verdict = "proved" if counts_prove or not self._problems else "unproved"
        else:
            if not self.total_min <= len(self.seen) <= self.total_max:
                self._problem(f"{len(self.seen)} rows were read, {self.total_min} to {self.total_max} were counted")
            self.verdict = "unproved" if self._problems else "counted"
        self._end()

    def _end(self) -> None:
        self.reasons = list(self._problems)
        self._stage = "done"

    def _check_rows(self, request: Request, page: Page) -> None:
        """Note what an honest server cannot answer, whatever was asked."""
        if page.number is not None and page.number != request.number and page.rows:
            self._problem(f"page {request.number} was answered with page {page.number}")
        if self._ordered and page.rows:
            values = [self._value(row) for row in page.rows]
            if None in values:
                self._ordered = False
            elif any(a > b for a, b in itertools.pairwise(values)):
                self._problem(f"page {request.number} is not in the order asked for")

    def _check_page(self, request: Request, page: Page) -> None:
        if page.size is not None and page.size != self._size:
            self._problem(f"the page size changed from {self._size} to {page.size} while reading")
        if page.has_more and len(page.rows) != self._size:
            self._problem(f"page {request.number} held {len(page.rows)} of {self._size} rows and was not the last")
        end = request.number * self._size + len(page.rows)
        if page.has_more and page.total <= end:
            self._problem(f"page {request.number} had more after it, and the total of {page.total} says it had not")
        if not page.has_more and (page.total > end or (page.rows and page.total < end)):
            self._problem(f"page {request.number} was the last and ended at row {end}, and the total was {page.total}")

    def _problem(self, text: str) -> None:
        self._problems[text] = None

    def _value(self, row: Any) -> Any:
        value = self._order.value(row) if self._order.value else None
        return value if isinstance(value, int | float) else None

    def _accept(self, page: Page) -> list[Any]:
        """Return the rows of ``page`` not seen before, and count those that are younger than the last page."""
        fresh = [row for row in page.rows if self._order.key(row) not in self.seen]
        before = len(self.seen)
        self.seen.update(map(self._order.key, fresh))
        if len(self.seen) - before != len(fresh):  # one answer held a row twice
            fresh = list({self._order.key(row): row for row in fresh}.values())
        if self._ordered and self._last is not None and self._last is not page and self._last.rows:
            newest = self._value(self._last.rows[-1])
            if page.rows and self._value(page.rows[-1]) >= newest:
                self._new += sum(self._value(row) >= newest for row in fresh)
        return fresh
