"""The record types of the catalog: `Table`, `Column`, `Reference`, `Feature`, and the shapes a table is read in.

A shape says how the rows of a table are requested. `propel_assets/source/readers/` has one reader for each shape.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal
from urllib.parse import quote

ColumnType = Literal["text", "bigint", "double", "bool", "timestamp", "date", "json"]
Group = Literal["users", "orgs", "api_keys", "insights", "scim", "public", "lookups", "events", "audit"]
PrivacyClass = Literal["none", "identifier", "direct_identifier", "personal", "free_form"]
Action = Literal["keep", "hash", "drop"]
RunOption = Literal["recent", "values", "per_key"]
Auth = Literal["api_key", "none", "user_token"]

API = "/api/backend/v1"
DOCS = "https://docs.propelauth.com/reference/api"


@dataclass(frozen=True)
class Feature:
    """A part of PropelAuth that a project may not have. ``statuses``: HTTP statuses that say it cannot be read."""

    name: str
    statuses: frozenset[int]


ORGS = Feature("orgs", frozenset({426}))
INSIGHTS = Feature("insights", frozenset({402, 403, 404, 426}))
API_KEYS = Feature("api_keys", frozenset({402, 403, 404}))
SCIM = Feature("scim", frozenset({402, 403, 404, 426}))


@dataclass(frozen=True)
class PagedList:
    """A list in numbered pages.

    ``total``: the field that counts all rows. ``order``: the value of `order_by` that sorts by `created_at`, new rows
    last; empty where the API documents no order. ``signals_changes``: the sensor for changes compares the total.
    """

    total: str
    order: str = ""
    signals_changes: bool = False


@dataclass(frozen=True)
class PerParent:
    """One request for each row of the table ``parent``.

    ``has_key``: the response has the parent's id. ``flag``: a boolean column; other scans use the ids of the rows in
    which it is true. ``flag_note``: what a scan reports about new ones, with `{}` for their number.
    """

    parent: str
    has_key: bool = False
    flag: str = ""
    flag_note: str = ""


@dataclass(frozen=True)
class Document:
    """One response with all rows, or with one row. ``auth``: what the request is authorized by."""

    auth: Auth = "api_key"


@dataclass(frozen=True)
class Lookup:
    """One request for each value in the run's configuration. ``parameter``: the parameter that takes the value."""

    parameter: str


@dataclass(frozen=True)
class ReportGrid:
    """An insight report for each type and interval. ``intervals``: the intervals of each type."""

    intervals: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class MetricGrid:
    """A time series for each metric and cadence."""

    metrics: tuple[str, ...]
    cadences: tuple[str, ...]


@dataclass(frozen=True)
class Custom:
    """A shape of its own: the reader called ``reader`` reads all tables of the scan."""

    reader: str


@dataclass(frozen=True)
class ReportedChange:
    """A difference between two scans of ``table`` that the webhook ``event_type`` reports.

    ``kind``: whether a row was added or removed, or ``columns`` have other values. ``value``: the new value, where only
    that one is reported. ``or_event``: another event that reports it too.
    """

    event_type: str
    table: str
    kind: Literal["added", "removed", "changed"]
    columns: tuple[str, ...] = ()
    value: bool | None = None
    or_event: str = ""


@dataclass(frozen=True)
class Webhooks:
    """Events that the webhook receiver has stored.

    ``applies_to``: the tables whose rows are read again. ``reports``: the changes that must have an event.
    """

    applies_to: tuple[str, ...] = ()
    reports: tuple[ReportedChange, ...] = ()


@dataclass(frozen=True)
class Audit:
    """Not read from PropelAuth: propel-assets writes the rows."""


Shape = PagedList | PerParent | Document | Lookup | ReportGrid | MetricGrid | Custom | Webhooks | Audit


@dataclass(frozen=True)
class Column:
    """One column.

    ``required``: PropelAuth sends the field with every row.
    ``privacy``: what the value can reveal about a person. `identifier`: a random id, which names no person by itself.
    `direct_identifier`: a value that names a person and joins tables, such as an e-mail address. `personal`: another
    value about a person. `free_form`: text or JSON without a fixed content, which can hold anything.
    ``strict``, ``strict_parts``: where the preset `strict` differs from the rule of the privacy class, for the column
    and for paths within a JSON column.
    ``person``: `subject` if the row is about the person that the column identifies, `mention` if the column names a
    person in a row about something else.
    ``api_field``: the field's name in the API, where it is not the column's.
    ``tracked``: whether a new value is a new version of the row, in histories and in the change log.
    ``items``: the type of the items, of a JSON column that holds a list. None: the column holds an object, or no JSON.
    """

    name: str
    description: str
    privacy: PrivacyClass = "none"
    required: bool = False
    strict: Action | None = None
    strict_parts: tuple[tuple[str, Action], ...] = ()
    person: Literal["subject", "mention"] | None = None
    api_field: str = ""
    tracked: bool = True
    items: Literal["text", "json"] | None = None
    type: ColumnType = field(kw_only=True)

    @property
    def personal(self) -> bool:
        """Whether the column can hold personal data. Logs, checks and alerts never show its values."""
        return self.privacy in {"direct_identifier", "personal", "free_form"}

    @property
    def source_field(self) -> str:
        """The field's name in the API."""
        return self.api_field or self.name


@dataclass(frozen=True)
class Reference:
    """A foreign key: ``columns`` refer to ``table``. ``blocking`` where one scan reads both tables."""

    columns: tuple[str, ...]
    table: str
    blocking: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table.

    ``scan``: the tables of one scan are read together and loaded by one op. ``path``: the endpoint. ``items``: the
    field of the response that holds the rows; empty where it is one row. ``load``: `replace` stores the current state,
    `merge` inserts and updates by key. ``feature``: the feature that the project needs. ``guarded``: a sudden
    loss of rows is refused. ``default``: loaded unless tables are named. ``recent``: loaded by the job that reads only
    recent changes. ``options``: the options that a run can set.
    """

    name: str
    scan: str
    group: Group
    path: str
    key: tuple[str, ...]
    description: str
    columns: tuple[Column, ...]
    shape: Shape
    doc: str = ""
    items: str = ""
    load: Literal["replace", "merge"] = "replace"
    feature: Feature | None = None
    guarded: bool = False
    references: tuple[Reference, ...] = ()
    default: bool = True
    recent: bool = False
    options: tuple[RunOption, ...] = ()

    def column(self, name: str) -> Column:
        """Return the column called ``name``; KeyError if there is none."""
        return {c.name: c for c in self.columns}[name]

    @property
    def is_lookup(self) -> bool:
        """Whether a run names what is looked up. Without that the scan is skipped, which is no failure."""
        return self.group == "lookups"

    @property
    def origin(self) -> str:
        """What the rows are read from: the endpoint, or the webhooks."""
        return f"GET {self.path}" if self.path else "webhooks"

    def source_of(self, column: Column) -> str:
        """Return the field of the API that ``column`` is read from: `/api/backend/v1/user/query users.email`."""
        return f"{self.path} {self.items or 'response'}.{column.source_field}"

    def path_of(self, **values: str) -> str:
        """Return the path with ``values`` quoted into it."""
        return fill_path(self.path, **values)


def fill_path(path: str, **values: str) -> str:
    """Return ``path`` with ``values`` quoted into it. Each value is one segment and cannot change the endpoint."""
    return path.format(**{name: quote(value, safe="").replace(".", "%2E") for name, value in values.items()})


text = partial(Column, type="text")
identifier = partial(Column, type="text", privacy="identifier")
boolean = partial(Column, type="bool")
timestamp = partial(Column, type="timestamp")  # the API sends epoch seconds
date = partial(Column, type="date")
integer = partial(Column, type="bigint")
double = partial(Column, type="double")
json = partial(Column, type="json")
json_list = partial(Column, type="json", items="text")
