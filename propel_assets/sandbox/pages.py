"""Paging: ``page_number`` counts from 0, ``page_size`` is 10 unless given and at most 100.

100 is not documented; it is the largest size PropelAuth's own tools ask for (PropelAuth/cli
865189f, ``backup/generate-access-token.mjs``). Whether more is clamped or refused is unknown: here
it is clamped, and refused with the switch ``page_size_refused``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from propel_assets.sandbox.faults import Struck
from propel_assets.sandbox.parameters import Parameters, refuse, whole_number

PAGE_SIZE_CAP = 100
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page is wanted, of what size."""

    size: int
    number: int
    repeated: int | None = None

    @classmethod
    def read(cls, parameters: Parameters, struck: Struck, *, prefix: str = "") -> "Paging":
        """Read ``page_size`` and ``page_number``, their names after ``prefix``.

        Raises:
            Refusal: one of them is not a number, is too small, or is too large.
        """
        size = whole_number(parameters, f"{prefix}page_size", default=10, minimum=1)
        number = whole_number(parameters, f"{prefix}page_number", default=0, minimum=0)
        cap = struck.get("page_size_cap", PAGE_SIZE_CAP)
        if size > cap and struck.get("page_size_refused"):
            raise refuse(f"{prefix}page_size", f"must be at most {cap}")
        return cls(min(size, cap), number, struck.get("repeated_page"))

    def cut(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items of the page; none past the last one."""
        number = self.number + 1 if self.number == self.repeated else self.number
        return items[number * self.size : (number + 1) * self.size]

    def envelope(self, total_name: str, total: int) -> dict[str, Any]:
        """Return what stands beside the items, with the total under ``total_name``."""
        return {
            total_name: total,
            "current_page": self.number,
            "page_size": self.size,
            "has_more_results": (self.number + 1) * self.size < total,
        }
