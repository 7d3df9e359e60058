"""Rows sorted equal that a page's edge cuts in two: reading them so that none of them can have been missed.

They may stand in another order in every answer, so two pages beside each other need not show them all. One answer does
that holds a smaller value (or the start of the list) before them and a greater value (or the end of the list) behind:
a window, of a page size that has the edge in its middle. Where they do not fit, they are read page by page and counted.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_SWEEPS = 12
MAX_PAGES_TO_THE_RIGHT = 1_000


@dataclass
class _Count:
    """From the answer on that showed their end, behind ``end`` rows: room for how many, and who came."""

    end: int
    countable: set[Hashable] | None
    room: int | None = None
    met: set[Hashable] = field(default_factory=set)


class Tie:
    """All rows with one ``value``: which page, of which size, to ask for until they are known to be read."""

    def __init__(self, value: Any, edge: int, largest: int, found_by: object) -> None:
        """``edge``: how many rows stand left of the page's edge. ``largest``: rows that one answer may hold."""
        self.value, self.found_by = value, found_by
        self.number = self.size = 0
        self.asked = self.closed = self.counted = self.failed = False
        self._all_sizes = range(largest // 2 + 1, largest + 1)
        self._sizes: set[int] = set()
        self._high = edge
        self._sweeps = self._to_the_right = 0
        self._counts: list[_Count] = []
        self._ever: set[Hashable] = set()
        self._aim(edge)

    @property
    def open(self) -> bool:
        """Whether there is still something to ask for."""
        return not (self.closed or self.failed)

    def _aim(self, low: int) -> None:
        """Choose the page, of a size not tried lately, that reaches farthest beyond the rows' places on both sides."""
        self._sizes = self._sizes or set(self._all_sizes)

        def reach(size: int) -> int:
            start = self._high // size * size
            return min(low - start if start else low + size, start + size - self._high)

        self.size = max(self._sizes, key=reach)
        self._sizes.remove(self.size)
        self.number = self._high // self.size
        self._leftwards = False

    def watch(self, first: int, values: Sequence[Any], keys: Sequence[Hashable], *, ends: bool) -> None:
        """Learn from an answer with ``first`` rows left of it, asked for after those before it were there.

        ``ends``: nothing is right of it.
        """
        low, high = bisect_left(values, self.value), bisect_right(values, self.value)
        before, behind = first == 0 or low > 0, high < len(values)
        self._count(first + low, first + high, set(keys[low:high]), before=before, behind=behind, ends=ends)
        complete = any(c.room is not None and len(c.met) >= c.room for c in self._counts)
        in_one_answer = before and (behind or ends)
        self.counted = complete and not (self.closed or in_one_answer)
        self.closed = self.closed or complete or in_one_answer

    def _count(self, low: int, high: int, here: set[Hashable], *, before: bool, behind: bool, ends: bool) -> None:
        """Count the different rows that come after an answer that shows their end.

        They stood left of that, and stand right of where they begin now: both places only move to the left. As many as
        there is room for in between are all. Nobody joins them where a greater value stands behind them; at the end of
        the list, only who has come before that answer, or in it, is known to have been there, and counts.
        """
        if behind or ends:
            self._counts.append(_Count(high, None if behind else self._ever | here))
        self._ever |= here
        for count in self._counts:
            count.met |= here if count.countable is None else here & count.countable
            if before and count.room is None:
                count.room = count.end - low

    def take(self, first: int, values: Sequence[Any], keys: Sequence[Hashable], *, ends: bool, more: bool) -> None:
        """Take the answer that was wanted, and choose what to ask for next.

        ``more``: the server speaks of rows right of it.
        """
        self.asked = False
        self.watch(first, values, keys, ends=ends)
        low, high = bisect_left(values, self.value), bisect_right(values, self.value)
        if self.closed:
            return
        if high < len(values) or not more:
            self._high, self._leftwards = first + high, True
        if not self._leftwards:  # look for their end, then for their beginning, then aim better
            self.number += 1
            self._to_the_right += 1
        elif first and not low:
            self.number -= 1
        else:
            self._sweeps += 1
            self._aim(first + low)
        self.failed = self._sweeps >= MAX_SWEEPS or self._to_the_right >= MAX_PAGES_TO_THE_RIGHT
