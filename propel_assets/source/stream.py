"""The stream that a scan emits: `Rows` of a table, then one `ScanResult` per table. All records are frozen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa

from propel_assets.catalog import BY_NAME
from propel_assets.catalog.events import StoredEvent

Mode = Literal["full", "recent", "events"]
Verdict = Literal["proved", "counted", "skipped"]
Progress = Callable[[str, int, int | None], None]
"""Called with the table, the rows so far, and the expected rows."""


@dataclass(frozen=True)
class ReadOptions:
    """Options of one run.

    ``lookups``: by table, the values to look up. ``usage_per_key``: also read the API key usage of each key.
    ``recent``: read only recent changes of users. ``can_merge``: whether the destination can merge what is read; if
    not, metrics and usage are read as the first load does, and events are skipped. ``events``: the webhooks to load;
    None: there is no webhook store.
    """

    lookups: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    usage_per_key: bool = False
    recent: bool = False
    can_merge: bool = True
    events: Sequence[StoredEvent] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class RowsToReadAgain:
    """Rows that a load may have replaced by older versions, because an event changed them while it was reading.

    ``loads``: the last loads. ``since``: the first receipt of the events that some of them did not know; None: there
    are none. ``read_from``: when the first of these loads began to read. ``users``, ``orgs``: what the events name, and
    what earlier loads of events could not read again. ``event_loads``: the number of complete loads of events.
    ``left_by``: by id that is named only because earlier loads could not read it, the number of the first of them.
    """

    loads: Sequence[str] = ()
    since: datetime | None = None
    read_from: datetime | None = None
    users: Sequence[str] = field(default=(), repr=False)
    orgs: Sequence[str] = field(default=(), repr=False)
    event_loads: int = 0
    left_by: Mapping[str, int] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        """Whether there are ids."""
        return bool(self.users or self.orgs)


@dataclass(frozen=True)
class ResumeState:
    """What a scan leaves for the next scan of the same tables.

    ``tenant_id``: the `Client.tenant_id`. ``rows``: rows of each table in the last full scan. ``newest``: by table, the
    greatest `created_at` when the end of the list was found. ``cursor``: where the reader resumes; its content is the
    reader's. ``privacy``: the fingerprint of the privacy policy of the last full scan. ``last_privacy``: that of the
    last load, which can have been of recent changes, of events or of some tables of the scan.
    """

    tenant_id: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    newest: Mapping[str, float] = field(default_factory=dict)
    cursor: Mapping[str, Any] = field(default_factory=dict)
    privacy: str = ""
    last_privacy: str = ""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "ResumeState":
        """Return the state that `to_json` returned; unknown fields are ignored."""
        return cls(**{name: stored[name] for name in cls.__dataclass_fields__ if name in stored})

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Rows:
    """A batch of rows of one table. ``is_recent``: only recent changes are read, to be merged into the table."""

    table: str
    data: pa.Table
    is_recent: bool = False


@dataclass(frozen=True, kw_only=True)
class ScanResult:
    """How one table was read. Most fields are columns of `propel_scans`.

    A reader fills in what it has found, `read_scan` the rest. ``deleted``: by column, the ids whose rows must be
    deleted, because a merge deletes rows only where it inserts others. ``rows_deleted``: the stored rows of users, orgs
    and memberships that events have ended. ``unread``: ids for which the API returned errors, so their events must stay
    in the store. ``newest``, ``cursor``: the reader's part of ``resume_state``; None leaves it unchanged.
    """

    table_name: str
    verdict: Verdict
    mode: Mode = "full"
    reason: str = ""
    rows_read: int = 0
    total_min: int | None = None
    total_max: int | None = None
    attempts: int = 1
    pages: int = 0
    unknown_fields: Mapping[str, str] = field(default_factory=dict)
    values_read: Mapping[str, int] = field(default_factory=dict)
    variants: Sequence[Mapping[str, Any]] = ()
    deleted: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    rows_deleted: int = 0
    unread: Sequence[str] = field(default=(), repr=False)
    newest: float | None = None
    cursor: Mapping[str, Any] | None = None
    requests: int = 0
    retries: int = 0
    rate_limited: int = 0
    waited_seconds: float = 0.0
    concurrency: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    event_loads: int | None = None
    resume_state: ResumeState = field(default_factory=ResumeState)

    @property
    def skipped(self) -> bool:
        """Whether the table was not read, for the reason given. It keeps its rows."""
        return self.verdict == "skipped"

    @property
    def is_recent(self) -> bool:
        """Whether only recent changes or named rows were read, to be merged into the table."""
        return self.mode != "full"

    @property
    def rows_expected(self) -> int | None:
        """Rows that the table must have after the load; None if the scan does not determine it."""
        merged = self.is_recent or BY_NAME[self.table_name].load == "merge"
        return None if self.skipped or merged else self.rows_read


def join_reasons(*reasons: str) -> str:
    """Return the reasons that are not empty as one text."""
    return "; ".join(filter(None, reasons))
