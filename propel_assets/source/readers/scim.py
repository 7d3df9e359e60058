"""`Custom("scim")`: the groups of each org and the members of each group."""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from propel_assets.catalog import ORG_QUERY, ORGS, SCIM, SCIM_GROUP_MEMBERS, SCIM_GROUPS, Table
from propel_assets.errors import PermanentApiError, UnprovedScan
from propel_assets.source.client import Client
from propel_assets.source.decode import PageDecoder, RowType, to_arrow
from propel_assets.source.lists import BAD_REQUEST, MAX_ATTEMPTS, MIN_PAGE_SIZE, NOT_FOUND, request_each
from propel_assets.source.readers.context import ScanContext, SkipScan, read_ids, skip_if_not_enabled, skip_reason
from propel_assets.source.stream import Rows, ScanResult

TOTAL = "total_groups"


def read_scim(context: ScanContext, _: Sequence[Table]) -> Iterator[Rows | ScanResult]:
    """Read the groups of each org and the members of each group. An org without SCIM has no groups."""
    with skip_if_not_enabled(ORG_QUERY.path, ORGS):
        org_ids, outcome = read_ids(context, ORG_QUERY)
    row_type, lists = RowType(SCIM_GROUPS, constant_columns=("org_id",)), _Lists(context.client)
    errors: list[PermanentApiError] = []

    def groups_of(org_id: str) -> list[Any]:
        try:
            return lists.groups(org_id, row_type)
        except PermanentApiError as error:
            if error.status not in SCIM.statuses:
                raise
            errors.append(error)
            return []

    answers = request_each(context.client, groups_of, org_ids, SCIM_GROUPS.name, context.progress)
    groups = [(org_id, row) for org_id, rows in zip(org_ids, answers, strict=True) for row in rows]
    if org_ids and len(errors) == len(org_ids):
        raise SkipScan(skip_reason(SCIM_GROUPS.path, *errors))
    keys = [(org_id, row.f_group_id) for org_id, row in groups]
    with skip_if_not_enabled(SCIM_GROUPS.path, SCIM):
        members_of = request_each(
            context.client,
            lambda key: lists.members(*key),
            keys,
            SCIM_GROUP_MEMBERS.name,
            context.progress,
        )
        members = [
            {"org_id": org_id, "group_id": group_id, "user_id": user_id}
            for (org_id, group_id), user_ids in zip(keys, members_of, strict=True)
            for user_id in user_ids
        ]
    orgs = {"org_id": [org_id for org_id, _ in groups]}
    yield Rows(SCIM_GROUPS.name, row_type.to_arrow([row for _, row in groups], orgs))
    yield Rows(SCIM_GROUP_MEMBERS.name, to_arrow(SCIM_GROUP_MEMBERS, members))
    for table, rows in ((SCIM_GROUPS, groups), (SCIM_GROUP_MEMBERS, members)):
        yield ScanResult(
            table_name=table.name,
            verdict="counted",
            reason=outcome.reason,
            rows_read=len(rows),
            passes=outcome.passes,
            pages=outcome.pages,
        )


class _Lists:
    """Reads the lists of groups and members, which do not say whether there are more pages. Threads share it.

    PropelAuth counts the groups of an org, not the members of a group.
    """

    def __init__(self, client: Client) -> None:
        """Request pages of the configured size until the server reduces or refuses it."""
        self._client, self._size = client, client.tenant.page_size

    def groups(self, org_id: str, row_type: RowType) -> list[Any]:
        """Return the groups of an org.

        Raises:
            UnprovedScan: their number differs from the total of PropelAuth.
        """
        path = SCIM_GROUPS.path_of(org_id=org_id)
        decode = PageDecoder(row_type, SCIM_GROUPS.items, [(TOTAL, int | None), ("page_size", int | None)])
        for _ in range(MAX_ATTEMPTS):
            rows, totals = self._read(path, decode, "f_group_id")
            if not totals or min(totals) <= len(rows) <= max(totals):
                return rows
        raise UnprovedScan(
            f"{SCIM_GROUPS.name}: {MAX_ATTEMPTS} attempts to read GET {path} returned another number of groups than "
            "its total. The previous data is kept. Run again while fewer groups change."
        )

    def members(self, org_id: str, group_id: str) -> list[str]:
        """Return the ids of the members of a group; none if the group was deleted after it was listed."""
        path = SCIM_GROUP_MEMBERS.path_of(org_id=org_id, group_id=group_id)
        row_type = RowType(SCIM_GROUP_MEMBERS, constant_columns=("org_id", "group_id"))
        decode = PageDecoder(row_type, SCIM_GROUP_MEMBERS.items)
        try:
            rows, _ = self._read(path, decode, "f_user_id", prefix="members_")
        except PermanentApiError as error:
            if error.status == NOT_FOUND:
                return []
            raise
        return [row.f_user_id for row in rows]

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
                if number and error.status in {BAD_REQUEST, NOT_FOUND}:  # a page after the last one
                    break
                if number or error.status != BAD_REQUEST or size <= MIN_PAGE_SIZE:
                    raise
                self._size = size = max(MIN_PAGE_SIZE, size // 2)
        if number > 1 or len(rows) >= min(size, self._size):  # else one response had all rows
            for earlier in reversed(range(number)):
                read(earlier)
        return [*rows.values()], totals
