"""What an erasure did, and what it could not do."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ErasureRecord:
    """One change, or one place that still names the person. ``rows`` are the rows concerned."""

    where: str
    what: str
    rows: int


@dataclass(frozen=True, order=True)
class UnsearchedColumn:
    """A column, table or schema that could not be searched, with its type and the reason."""

    where: str
    type: str
    reason: str


@dataclass(frozen=True)
class ErasureReceipt:
    """The result of one erasure.

    Attributes:
        records: what was removed, or would be by a run that is not a dry run.
        remaining: what the search after the erasure still found.
        unsearched: what could not be searched.
    """

    records: Sequence[ErasureRecord]
    remaining: Sequence[ErasureRecord] = ()
    unsearched: Sequence[UnsearchedColumn] = ()

    @property
    def is_complete(self) -> bool:
        """Whether everything was searched and nothing was found that remains."""
        return not self.remaining and not self.unsearched
