"""Paging: ``page_number`` counts from 0, ``page_size`` is 10 unless given and at most 100.

100 is not documented; it is the largest size that PropelAuth's own tools request (PropelAuth/cli 865189f,
``backup/generate-access-token.mjs``). Whether a larger one is reduced or refused is unknown: here it is reduced, and
refused with the switch ``page_size_refused``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from propel_assets.sandbox.faults import ActiveFaults
from propel_assets.sandbox.parameters import Parameters, Refusal, refuse, whole_number

PAGE_SIZE_CAP = 100
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Paging:
    """The requested page: its number and size."""

    size: int
    number: int
    repeated: int | None = None
    past_end: int | None = None

    @classmethod
    def read(cls, parameters: Parameters, active: ActiveFaults, *, prefix: str = "") -> "Paging":
        """Read ``page_size`` and ``page_number``, their names after ``prefix``.

        Raises:
            Refusal: one of them is not a number, is too small, or is too large.
        """
        size = whole_number(parameters, f"{prefix}page_size", default=10, minimum=1)
        number = whole_number(parameters, f"{prefix}page_number", default=0, minimum=0)
        cap = active.get("page_size_cap", PAGE_SIZE_CAP)
        if size > cap and active.get("page_size_refused"):
            raise refuse(f"{prefix}page_size", f"must be at most {cap}")
        return cls(min(size, cap), number, active.get("repeated_page"), active.get("past_end"))

    def cut(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items of the page; none after the last page.

        Raises:
            Refusal: the page is after the last one, with the switch ``past_end``.
        """
        if self.past_end is not None and self.number and self.number * self.size >= len(items):
            raise Refusal(self.past_end)
        number = self.number + 1 if self.number == self.repeated else self.number
        return items[number * self.size : (number + 1) * self.size]

    def envelope(self, total_name: str, total: int) -> dict[str, Any]:
        """Return the other fields of the response, with the total under ``total_name``."""
        return {
            total_name: total,
            "current_page": self.number,
            "page_size": self.size,
            "has_more_results": (self.number + 1) * self.size < total,
        }
