"""`Custom("scim")`: the groups of each org and the members of each group.

The answers do not say whether there are more pages.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from propel_assets.catalog import ORG_QUERY, ORGS, SCIM, SCIM_GROUP_MEMBERS, SCIM_GROUPS, Table
from propel_assets.errors import PermanentApiError
from propel_assets.source.decode import PageDecoder, RowType, to_arrow
from propel_assets.source.lists import MIN_PAGE_SIZE, NOT_FOUND, request_each
from propel_assets.source.readers.context import ScanContext, SkipScan, read_ids, skip_if_not_enabled, skip_reason
from propel_assets.source.stream import Rows, ScanResult


def read_scim(context: ScanContext, _: Sequence[Table]) -> Iterator[Rows | ScanResult]:
    """Read the groups of each org and the members of each group. An org without SCIM has no groups."""
    with skip_if_not_enabled(ORG_QUERY.path, ORGS):
        org_ids, outcome = read_ids(context, ORG_QUERY)
    row_type = RowType(SCIM_GROUPS, constant_columns=("org_id",))
    errors: list[PermanentApiError] = []

    def groups_of(org_id: str) -> list[Any]:
        try:
            return _read_groups(context, org_id, row_type)
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
            lambda key: _read_members(context, *key),
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


def _read_groups(context: ScanContext, org_id: str, row_type: RowType) -> list[Any]:
    decode = PageDecoder(row_type, SCIM_GROUPS.items, [("page_size", int | None)])
    path = SCIM_GROUPS.path_of(org_id=org_id)
    return _read_pages(context, path, decode, "page_size", "page_number", attrgetter("f_group_id"))


def _read_members(context: ScanContext, org_id: str, group_id: str) -> list[str]:
    path = SCIM_GROUP_MEMBERS.path_of(org_id=org_id, group_id=group_id)
    decode = PageDecoder(RowType(SCIM_GROUP_MEMBERS, constant_columns=("org_id", "group_id")), SCIM_GROUP_MEMBERS.items)
    key = attrgetter("f_user_id")
    try:
        return [key(row) for row in _read_pages(context, path, decode, "members_page_size", "members_page_number", key)]
    except PermanentApiError as error:
        if error.status == NOT_FOUND:  # the group was deleted after it was listed
            return []
        raise


def _read_pages(
    context: ScanContext, path: str, decode: PageDecoder, size: str, number: str, key: Callable[[Any], Hashable]
) -> list[Any]:
    """Read pages until one has no new row: the answers do not say whether there are more."""
    rows: dict[Hashable, Any] = {}
    page = 0
    while True:
        answer = context.client.get(path, decode, {size: context.client.tenant.page_size, number: page})
        before = len(rows)
        rows |= {key(row): row for row in answer.items}
        if len(rows) == before or (page == 0 and len(answer.items) < MIN_PAGE_SIZE):
            return list(rows.values())
        page += 1
