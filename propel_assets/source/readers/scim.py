"""`Custom("scim")`: the groups of each org and the members of each group."""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import pyarrow as pa

from propel_assets.catalog import ORG_QUERY, ORGS, SCIM, SCIM_GROUP_MEMBERS, SCIM_GROUPS, Table
from propel_assets.errors import LossRefused, PermanentApiError, UnprovedScan
from propel_assets.source.client import Client
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets.source.lists import MAX_ATTEMPTS, MIN_PAGE_SIZE, request_each
from propel_assets.source.readers.context import ScanContext, SkipScan, read_ids, skip_if_not_enabled, skip_reason
from propel_assets.source.scan import UNORDERED
from propel_assets.source.stream import Rows, ScanResult, join_reasons

TOTAL = "total_groups"
WITH_GROUPS = "orgs"  # in the cursor: the orgs that have groups


def read_scim(context: ScanContext, _: Sequence[Table]) -> Iterator[Rows | ScanResult]:
    """Read the groups of each org and the members of each group. An org without SCIM has no groups.

    Raises:
        LossRefused: an org that had groups at the last load returns that it has no SCIM.
    """
    with skip_if_not_enabled(ORG_QUERY.path, ORGS):
        org_ids, outcome = read_ids(context, ORG_QUERY)
    row_type = RowType(SCIM_GROUPS, constant_columns=("org_id",))
    member_type = RowType(SCIM_GROUP_MEMBERS, constant_columns=("org_id", "group_id"))
    lists = _Lists(context.client, row_type, member_type)
    errors: dict[str, PermanentApiError] = {}

    def groups_of(org_id: str) -> list[Any]:
        try:
            return lists.groups(org_id)
        except PermanentApiError as error:
            if error.status not in SCIM.statuses:
                raise
            errors[org_id] = error
            return []

    answers = request_each(context.client, groups_of, org_ids, SCIM_GROUPS.name, context.progress)
    groups = [(org_id, row) for org_id, rows in zip(org_ids, answers, strict=True) for row in rows]
    if org_ids and len(errors) == len(org_ids):
        raise SkipScan(skip_reason(SCIM_GROUPS.path, *errors.values()))
    _refuse_lost_groups(context, errors)
    keys = [(org_id, row.f_group_id) for org_id, row in groups]
    with skip_if_not_enabled(SCIM_GROUP_MEMBERS.path, SCIM):
        answers = request_each(
            context.client, lambda key: lists.members(*key), keys, SCIM_GROUP_MEMBERS.name, context.progress
        )
        members = [(*key, row) for key, rows in zip(keys, answers, strict=True) for row in rows]
    gone = lists.require_deleted(lambda: read_ids(context, ORG_QUERY)[0])
    groups = [row for row in groups if row[0] not in gone]
    members = [row for row in members if row[0] not in gone]
    yield Rows(SCIM_GROUPS.name, _with_parents(row_type, groups))
    yield Rows(SCIM_GROUP_MEMBERS.name, _with_parents(member_type, members))
    statuses = ", ".join(map(str, sorted({error.status for error in errors.values()})))
    without = f"{len(errors)} of {len(org_ids)} orgs have no SCIM (status {statuses})" if errors else ""
    for table, rows in ((SCIM_GROUPS, groups), (SCIM_GROUP_MEMBERS, members)):
        yield ScanResult(
            table_name=table.name,
            verdict="counted",
            reason=join_reasons(UNORDERED, outcome.reason, without),
            cursor={WITH_GROUPS: sorted({org_id for org_id, _ in groups})},
            rows_read=len(rows),
            attempts=outcome.attempts,
            pages=outcome.pages,
        )


def _with_parents(row_type: RowType, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    """Return a table of rows that follow the values of their constant columns."""
    constants = {name: [row[place] for row in rows] for place, name in enumerate(row_type.constant_columns)}
    return row_type.to_arrow([row[-1] for row in rows], constants)


def _refuse_lost_groups(context: ScanContext, errors: Mapping[str, PermanentApiError]) -> None:
    """Refuse to remove the groups of listed orgs because their SCIM is not available."""
    lost = errors.keys() & {*context.resume_state.cursor.get(WITH_GROUPS, ())}
    if not lost or context.client.tenant.allow_loss:
        return
    if lost := lost & {*read_ids(context, ORG_QUERY)[0]}:
        statuses = ", ".join(map(str, sorted({errors[org_id].status for org_id in lost})))
        raise LossRefused(
            f"{SCIM_GROUPS.name} had groups of {len(lost)} orgs for which GET {SCIM_GROUPS.path} now returns "
            f"{statuses}. The previous data is kept. If these orgs do not use SCIM any more, run once with "
            "PROPELAUTH_ALLOW_LOSS=true."
        )


class _Lists:
    """Reads the lists of groups and members, which do not say whether there are more pages. Threads share it.

    PropelAuth counts the groups of an org, not the members of a group.
    """

    def __init__(self, client: Client, groups: RowType, members: RowType) -> None:
        """Request pages of the configured size until the server reduces or refuses it."""
        self._client, self._size = client, client.tenant.page_size
        self._groups, self._members = groups, members
        self._not_found: set[tuple[str, str]] = set()

    def groups(self, org_id: str) -> list[Any]:
        """Return the groups of an org.

        Raises:
            UnprovedScan: their number differs from the total of PropelAuth.
        """
        path = SCIM_GROUPS.path_of(org_id=org_id)
        decode = PageDecoder(self._groups, SCIM_GROUPS.items, [(TOTAL, int | None), ("page_size", int | None)])
        for _ in range(MAX_ATTEMPTS):
            rows, totals = self._read(path, decode, "f_group_id")
            if not totals or min(totals) <= len(rows) <= max(totals):
                return rows
        raise UnprovedScan(
            f"{SCIM_GROUPS.name}: {MAX_ATTEMPTS} attempts to read GET {path} returned another number of groups than "
            "its total. The previous data is kept. Run again while fewer groups change."
        )

    def members(self, org_id: str, group_id: str) -> list[Any]:
        """Return the members of a group; none if there is no such group any more."""
        path = SCIM_GROUP_MEMBERS.path_of(org_id=org_id, group_id=group_id)
        decode = PageDecoder(self._members, SCIM_GROUP_MEMBERS.items)
        try:
            return self._read(path, decode, "f_user_id", prefix="members_")[0]
        except PermanentApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            self._not_found.add((org_id, group_id))
            return []

    def require_deleted(self, read_org_ids: Callable[[], Collection[str]]) -> set[str]:
        """Read the groups of each org again in which a group was not found. Return the orgs that were deleted.

        Raises:
            UnprovedScan: a group that was not found is still listed, or SCIM is not available for a listed org.
        """
        lost: dict[str, int] = {}
        for org_id in sorted({org_id for org_id, _ in self._not_found}):
            try:
                groups = self.groups(org_id)
            except PermanentApiError as error:
                if error.status not in SCIM.statuses:
                    raise
                lost[org_id] = error.status
                continue
            if any((org_id, row.f_group_id) in self._not_found for row in groups):
                raise UnprovedScan(
                    f"{SCIM_GROUP_MEMBERS.name}: GET {SCIM_GROUP_MEMBERS.path} returned 404 for a group that is "
                    "listed. The previous data is kept. Run again."
                )
        if lost and (listed := lost.keys() & {*read_org_ids()}):
            statuses = ", ".join(map(str, sorted({lost[org_id] for org_id in listed})))
            raise UnprovedScan(
                f"{SCIM_GROUPS.name}: GET {SCIM_GROUPS.path} returned {statuses} for {len(listed)} orgs whose groups "
                "it had returned before. The previous data is kept. Run again."
            )
        return {*lost}

    def _read(self, path: str, decode: PageDecoder, key: str, prefix: str = "") -> tuple[list[Any], list[int]]:
        """Return the rows of a list, and the totals of its responses.

        A deletion between two pages moves a row to the page before it. So the pages are read forward to find the end,
        and once more back to the first one.
        """
        rows: dict[Hashable, Any] = {}
        totals: list[int] = []

        def read(number: int) -> bool:
            """Read a page. Return whether more pages can follow."""
            answer = self._client.get(path, decode, {f"{prefix}page_size": size, f"{prefix}page_number": number})
            before, total = len(rows), getattr(answer, TOTAL, None)
            rows.update((getattr(row, key), row) for row in answer.items)
            if total is not None:
                totals.append(total)
                self._size = min(self._size, answer.page_size or size)
                return before < len(rows) < total
            # The server reduces no page below its default size, or has done so for the groups.
            return len(rows) > before and (number > 0 or len(rows) >= min(size, MIN_PAGE_SIZE))

        number, size = 0, self._size
        while True:
            try:
                if not read(number):
                    break
                number += 1
            except PermanentApiError as error:
                if number and error.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND}:
                    break  # a page after the last one
                if number or error.status != HTTPStatus.BAD_REQUEST or size <= MIN_PAGE_SIZE:
                    raise
                self._size = size = max(MIN_PAGE_SIZE, size // 2)
        if number > 1 or len(rows) >= min(size, self._size):  # else one response had all rows
            for earlier in reversed(range(number)):
                read(earlier)
        return [*rows.values()], totals
