"""SCIM: lists that do not say whether there is more, one per org and one per group."""

from collections.abc import Callable, Hashable, Iterator
from operator import attrgetter
from typing import Any

from propel_assets.catalog import BY_NAME, ORGS, SCIM
from propel_assets.errors import PermanentApiError
from propel_assets.source.decode import PageDecoder, RowType, to_arrow
from propel_assets.source.lists import MIN_PAGE_SIZE, NOT_FOUND
from propel_assets.source.table_reader import Rows, TableReader, skip_reason


class ScimReader(TableReader):
    """Reads the groups of each org and the members of each group."""

    def _read_scim(self) -> Iterator[Rows]:
        """Ask each org for its groups and each group for its members; an org without SCIM has none."""
        groups, members = BY_NAME["scim_groups"], BY_NAME["scim_group_members"]
        with self._skipping(groups, members):
            try:
                org_ids, parent = self._org_ids()
            except PermanentApiError as error:
                if error.status not in ORGS.statuses:
                    raise
                self._skip(skip_reason(BY_NAME["org_query"].path, error), groups, members)
                return
            refusals: list[PermanentApiError] = []
            group_type = RowType(groups, constant_columns=("org_id",))
            found: list[tuple[str, Any]] = []
            for org_id, rows in zip(
                org_ids,
                self._each(lambda id_: self._scim_groups(id_, group_type, refusals), org_ids, groups.name),
                strict=True,
            ):
                found += [(org_id, row) for row in rows]
            if org_ids and len(refusals) == len(org_ids):
                self._skip(skip_reason(groups.path, *refusals), groups, members)
                return
            of_groups = [(org_id, row.f_group_id) for org_id, row in found]
            people = list(self._each(lambda pair: self._scim_members(*pair), of_groups, members.name))
            flat = [
                {"org_id": org_id, "group_id": group_id, "user_id": user_id}
                for (org_id, group_id), user_ids in zip(of_groups, people, strict=True)
                for user_id in user_ids
            ]
            for table, rows_read in ((groups, len(found)), (members, len(flat))):
                self._as_parent(self.reports[table.name], parent)
                self.reports[table.name].verdict, self.reports[table.name].rows_read = "counted", rows_read
                self.reports[table.name].total_min = self.reports[table.name].total_max = None
            self.reports[groups.name].unknown_fields = group_type.schema_differences
            yield (
                groups.name,
                group_type.to_arrow([row for _, row in found], {"org_id": [org_id for org_id, _ in found]}),
            )
            yield members.name, to_arrow(members, flat)

    def _scim_groups(self, org_id: str, row_type: RowType, refusals: list[PermanentApiError]) -> list[Any]:
        decode = PageDecoder(row_type, "groups", [("page_size", int | None)])
        path = BY_NAME["scim_groups"].path_of(org_id=org_id)
        try:
            return self._until_short(path, decode, "page_size", "page_number", attrgetter("f_group_id"))
        except PermanentApiError as error:
            if error.status not in SCIM.statuses:
                raise
            refusals.append(error)
            return []

    def _scim_members(self, org_id: str, group_id: str) -> list[str]:
        path = BY_NAME["scim_group_members"].path_of(org_id=org_id, group_id=group_id)
        decode = PageDecoder(RowType(BY_NAME["scim_group_members"], constant_columns=("org_id", "group_id")), "members")
        try:
            rows = self._until_short(path, decode, "members_page_size", "members_page_number", attrgetter("f_user_id"))
        except PermanentApiError as error:
            if error.status == NOT_FOUND:
                return []  # the group has gone meanwhile
            raise
        return [row.f_user_id for row in rows]

    def _until_short(
        self, path: str, decode: PageDecoder, size: str, number: str, key: Callable[[Any], Hashable]
    ) -> list[Any]:
        """Read pages until one holds nothing new: the answer does not say whether there is more."""
        rows: dict[Hashable, Any] = {}
        page = 0
        while True:
            answer = self._client.get(path, decode, {size: self._settings.page_size, number: page})
            before = len(rows)
            rows |= {key(row): row for row in answer.items}
            if len(rows) == before or (page == 0 and len(answer.items) < MIN_PAGE_SIZE):
                return list(rows.values())
            page += 1
