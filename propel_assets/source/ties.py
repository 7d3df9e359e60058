"""Ties: rows with the same sort value that a page boundary divides, read so that none of them can be missed.

Their order can differ in every response, so two neighbouring pages need not show them all. One response does if it
holds a smaller value (or the start of the list) before them and a greater value (or the end of the list) after them: a
window, of a page size that has the boundary in its middle. If they fit in no window, they are read page by page and
counted.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_SWEEPS = 12
MAX_PAGES_TO_THE_RIGHT = 1_000


@dataclass
class _Count:
    """The rows of a tie that were read since one response, which showed that the tie ends at position ``end``.

    Attributes:
        end: the position after the last row of the tie.
        countable: the keys of the rows that may be counted; None: all.
        places: the number of positions that the tie fills; None until a response shows where it begins.
        read: the keys of the rows that were read.
    """

    end: int
    countable: set[Hashable] | None
    places: int | None = None
    read: set[Hashable] = field(default_factory=set)


class Tie:
    """All rows with one ``value``. It chooses pages and page sizes until all these rows are proved to be read."""

    def __init__(self, value: Any, edge: int, largest: int, found_by: object) -> None:
        """``edge``: the position of the page boundary. ``largest``: rows that one response may hold."""
        self.value, self.found_by = value, found_by
        self.number = self.size = 0
        self.requested = self.closed = self.counted = self.failed = False
        self._all_sizes = range(largest // 2 + 1, largest + 1)
        self._sizes: set[int] = set()
        self._high = edge
        self._sweeps = self._to_the_right = 0
        self._counts: list[_Count] = []
        self._all_keys: set[Hashable] = set()
        self._choose_window(edge)

    @property
    def open(self) -> bool:
        """Whether a request is left."""
        return not (self.closed or self.failed)

    def _choose_window(self, low: int) -> None:
        """Choose the page, of a size not tried recently, that reaches farthest beyond the rows on both sides."""
        self._sizes = self._sizes or set(self._all_sizes)

        def reach(size: int) -> int:
            start = self._high // size * size
            return min(low - start if start else low + size, start + size - self._high)

        self.size = max(self._sizes, key=reach)
        self._sizes.remove(self.size)
        self.number = self._high // self.size
        self._leftwards = False

    def add_response(self, first: int, values: Sequence[Any], keys: Sequence[Hashable], *, ends: bool) -> None:
        """Use a response that begins at position ``first`` and was requested after the previous one had arrived.

        ``ends``: no row is to the right of it.
        """
        low, high = bisect_left(values, self.value), bisect_right(values, self.value)
        before, behind = first == 0 or low > 0, high < len(values)
        self._count(first + low, first + high, set(keys[low:high]), before=before, behind=behind, ends=ends)
        complete = any(c.places is not None and len(c.read) >= c.places for c in self._counts)
        in_one_answer = before and (behind or ends)
        self.counted = complete and not (self.closed or in_one_answer)
        self.closed = self.closed or complete or in_one_answer

    def _count(self, low: int, high: int, here: set[Hashable], *, before: bool, behind: bool, ends: bool) -> None:
        """Count the different rows of the tie that were read since a response that showed its end.

        Positions only decrease: the tie fits between the position where it begins now and the position where it ended
        then. If as many rows were read as there are positions in between, all were read. No row can join the tie if a
        greater value follows. At the end of the list rows can join, so that only rows of that response or of earlier
        ones are counted.
        """
        if behind or ends:
            self._counts.append(_Count(high, None if behind else self._all_keys | here))
        self._all_keys |= here
        for count in self._counts:
            count.read |= here if count.countable is None else here & count.countable
            if before and count.places is None:
                count.places = count.end - low

    def handle_response(
        self, first: int, values: Sequence[Any], keys: Sequence[Hashable], *, ends: bool, more: bool
    ) -> None:
        """Take the requested response, and choose the next request.

        ``more``: the server says that rows follow it.
        """
        self.requested = False
        self.add_response(first, values, keys, ends=ends)
        low, high = bisect_left(values, self.value), bisect_right(values, self.value)
        if self.closed:
            return
        if high < len(values) or not more:
            self._high, self._leftwards = first + high, True
        if not self._leftwards:  # find their end, then their beginning, then choose a better window
            self.number += 1
            self._to_the_right += 1
        elif first and not low:
            self.number -= 1
        else:
            self._sweeps += 1
            self._choose_window(first + low)
        self.failed = self._sweeps >= MAX_SWEEPS or self._to_the_right >= MAX_PAGES_TO_THE_RIGHT
