"""What every reading of tables has: state, options, one report per table, features that are off."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

import pyarrow as pa

from propel_assets.catalog import BY_NAME, Table, tables_of
from propel_assets.errors import PermanentApiError
from propel_assets.source.client import Client
from propel_assets.source.decode import RowType
from propel_assets.source.lists import ListReader, Progress, ScanReport, Watch
from propel_assets.source.scan import Order

Rows = tuple[str, pa.Table]

FORBIDDEN = 403


def skip_reason(path: str, *refusals: PermanentApiError) -> str:
    """Return why a table is skipped and what to do. A key without permission is not a feature that is missing."""
    status = FORBIDDEN if FORBIDDEN in {error.status for error in refusals} else refusals[0].status
    answer = f"GET {path} returned {status}."
    if status == FORBIDDEN:
        return (
            f"The key may not read this: {answer} Give the key the permission on the Backend Integration page of the "
            "PropelAuth dashboard."
        )
    return f"Feature not enabled: {answer} If this project should have it, enable it in the PropelAuth dashboard."


BY_TABLE = ("rows", "newest")  # how many rows a table had, and the greatest `created_at` when its scan began
# What of the state belongs to one scan; the rest of it is the environment, and `BY_TABLE`.
MEMORY = {"users": "users_read_until", "api_key_usage": "usage_since", "chart_metrics": "charts_since"}


def memory_of(state: Mapping[str, Any], scan: str) -> dict[str, Any]:
    """Return what ``state`` has for the next load of ``scan``."""
    names = ["environment", *([MEMORY[scan]] if scan in MEMORY else [])]
    tables = {table.name for table in tables_of(scan)}
    by_table = {
        kind: {name: value for name, value in state.get(kind, {}).items() if name in tables} for kind in BY_TABLE
    }
    return {name: state[name] for name in names if name in state} | by_table


def recall(state: MutableMapping[str, Any], memory: Mapping[str, Any]) -> None:
    """Put what `memory_of` has returned into ``state``."""
    by_table = {kind: {**state.get(kind, {}), **memory.get(kind, {})} for kind in BY_TABLE}
    state.update({**memory, **by_table})


@dataclass(frozen=True)
class ReadOptions:
    """Options of one run.

    ``lookups``: by table, the values to look up. ``usage_per_key``: also read the API key usage of each key.
    ``recent``: read only recent changes of users.
    ``anew``: read metrics and usage as the first load does, for destinations that cannot merge.
    """

    lookups: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    usage_per_key: bool = False
    recent: bool = False
    anew: bool = False


class TableReader(ListReader):
    """Reads tables. ``state`` is kept from load to load at the destination."""

    def __init__(
        self,
        client: Client,
        state: MutableMapping[str, Any],
        options: ReadOptions | None = None,
        progress: Progress = lambda *_: None,
        count_unknown: Callable[[str, set[Any]], int] | None = None,
    ) -> None:
        """Read through ``client``; call ``progress`` with table, rows so far and rows expected.

        ``count_unknown`` returns how many of these ids the table of this name does not have.
        """
        super().__init__(client, progress)
        self._count_unknown = count_unknown
        self._state = state
        self._options = options or ReadOptions()
        self.reports: dict[str, ScanReport] = {}

    @contextmanager
    def _skipping(self, *tables: Table) -> Iterator[None]:
        """Turn the statuses that mean a feature cannot be read into a skipped report."""
        try:
            yield
        except PermanentApiError as error:
            statuses = tables[0].feature.statuses if tables[0].feature else frozenset()
            if error.status not in statuses or any(self.reports[t.name].rows_read for t in tables):
                raise
            self._skip(skip_reason(tables[0].path, error), *tables)

    def _skip(self, reason: str, *tables: Table) -> None:
        for table in tables:
            self.reports[table.name].verdict, self.reports[table.name].reason = "skipped", reason

    def _watch(self, name: str) -> Watch | None:
        """Return what to compare a full scan of the table ``name`` with, once there was one."""
        newest = self._state.get("newest", {}).get(name)
        return Watch(newest, partial(self._count_unknown, name)) if self._count_unknown and newest is not None else None

    def _all_of(self, name: str, total: str) -> tuple[Iterator[Any], ScanReport]:
        """Return all users or orgs, without their memberships, and the report on them, which ends with them."""
        table, report = BY_NAME[name], ScanReport(name)
        row_type = RowType(
            table, maps={"org_id_to_org_info": RowType(BY_NAME["org_membership"], constant_columns=("user_id",))}
        )
        order = Order(key=attrgetter(f"f_{table.key[0]}"), value=attrgetter("f_created_at"))
        params = {"order_by": "CREATED_AT_ASC"}
        batches = self._read_list(report, table.path, table.items, total, row_type, order, params)
        return (row for rows in batches for row in rows), report

    def _org_ids(self) -> tuple[list[str], ScanReport]:
        orgs, report = self._all_of("org_query", "total_orgs")
        return [org.f_org_id for org in orgs], report

    def _user_ids(self) -> tuple[list[str], ScanReport]:
        users, report = self._all_of("user_query", "total_users")
        return [user.f_user_id for user in users], report

    def _as_parent(self, report: ScanReport, parent: ScanReport) -> None:
        """What is known of a list of parents is known of their details."""
        report.verdict, report.reason = parent.verdict, parent.reason
        report.pages, report.passes = parent.pages, parent.passes
        report.total_min, report.total_max = parent.total_min, parent.total_max
