"""The erasure list: keyed hashes of what identified erased people. Every load leaves them out, in rows and in text."""

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa

from propel_assets.catalog import Table
from propel_assets.errors import SettingsError
from propel_assets.privacy.arrow import pc
from propel_assets.privacy.identifiers import MAY_CONTAIN_IDENTIFIER, is_one_identifier, replace_identifiers
from propel_assets.privacy.policy import KEY_LABEL, Policy, column_of, require_key
from propel_assets.settings import variable_of

STATE_KEY = "erased"  # in dlt's state; stored at the destination
NOTES_KEY = "unfinished_erasures"
"""In dlt's state, by user id: the identifiers of each person whose erasure was stopped, which the tables do not have.

An automatic erasure that is not complete has an entry without them, until `propel-assets erase` has reported what
remains.
"""
IDENTIFYING = ("user_id", "employee_id", "invitee_email", "looked_up")
IDENTIFYING_WITHOUT_USER_ID = ("email", "username", "api_key_id")
MENTIONING = ("inviter_user_id", "inviter_email", "impersonator_user_id")
ADDRESSES_OF_USERS = ("email", "looked_up")
CACHED_VALUES = 65_536  # most values of free-form data repeat


def names_people(state: Mapping[str, Any]) -> bool:
    """Return whether dlt's state of a pipeline has the identifiers of people whose erasure was stopped."""
    sources = state.get("sources", {}).values()
    return any(not note["has_ended"] for source in sources for note in source.get(NOTES_KEY, {}).values())


def identifying_columns(columns: Collection[str]) -> list[str]:
    """Return the columns that say which person a row is about. The row is deleted when that person is erased."""
    names = [*IDENTIFYING, *(() if "user_id" in columns else IDENTIFYING_WITHOUT_USER_ID)]
    return [name for name in names if name in columns]


def mentioning_columns(columns: Collection[str]) -> list[str]:
    """Return the columns that name a person in a row about something else. They are set to null."""
    return [name for name in MENTIONING if name in columns]


def own_columns(columns: Collection[str]) -> set[str]:
    """Return the columns with an id or an address of the person or row itself: a value that is one stays as it is.

    It can be equal to that of an erased user (isolated orgs), or contain it: `bob@x.test.uk`.
    """
    addresses = ADDRESSES_OF_USERS if "user_id" in columns else ()
    return {*identifying_columns(columns), *mentioning_columns(columns), *addresses} & {*columns}


class ErasureList:
    """The keyed hashes of the ids, addresses, usernames and API key ids of erased people."""

    def __init__(self, stored: Mapping[str, Any] | None, policy: Policy) -> None:
        """Read what the state has under `STATE_KEY`.

        Raises:
            SettingsError: there is a list, and the key is missing or is not the one that the list was made with.
        """
        self._policy = policy
        if stored:
            require_key(policy, "People were erased from this warehouse")
            if stored["key"] != policy.digest(KEY_LABEL):
                raise SettingsError(
                    f"People were erased from this warehouse, and {variable_of('privacy_key')} is not the key that the "
                    "erasure list was made with: a load would restore them. Set that key. Nothing was read."
                )
        self._hashes = frozenset(stored["people"] if stored else ())
        self._is_listed = lru_cache(CACHED_VALUES)(lambda value: value in self._hashes or self._has_digest(value))

    def __bool__(self) -> bool:
        """Whether the list has entries."""
        return bool(self._hashes)

    def __contains__(self, value: str | None) -> bool:
        """Whether ``value``, as PropelAuth sends it, identified an erased person."""
        return value is not None and self._has_digest(value)

    def _has_digest(self, value: str) -> bool:
        return any(self._policy.digest(v) in self._hashes for v in {value, value.lower()})

    def has(self, value: str, *, is_hashed: bool) -> bool:
        """Whether ``value``, or the value that it is the keyed hash of, identified an erased person."""
        return value in self._hashes if is_hashed else value in self

    def with_people(self, hashes: Collection[str]) -> dict[str, Any]:
        """Return what to store in the state, under `STATE_KEY`: the list and ``hashes``."""
        return {"key": self._policy.digest(KEY_LABEL), "people": sorted({*self._hashes, *hashes})}

    def remove_rows(self, rows: pa.Table) -> pa.Table:
        """Return ``rows`` without the rows about erased people."""
        for name in identifying_columns(rows.column_names):
            rows = rows.filter(pa.array([value not in self for value in rows[name].to_pylist()], pa.bool_()))
        return rows

    def replace_values(self, table: Table, rows: pa.Table) -> tuple[pa.Table, int]:
        """Return ``rows`` without the identifiers of erased people in other people's rows, and the number of changes.

        Columns that name a person are set to null; in text and JSON, identifiers are replaced.
        """
        count = 0
        for name, changes in self._changes(table, rows):
            count += len(changes)
            is_changed = pa.array([index in changes for index in range(len(rows))], pa.bool_())
            values = rows[name].combine_chunks()
            changed = pa.array([changes[index] for index in sorted(changes)], values.type)
            position, field = rows.column_names.index(name), rows.schema.field(name)
            rows = rows.set_column(position, field, pc.replace_with_mask(values, is_changed, changed))
        return rows, count

    def _changes(self, table: Table, rows: pa.Table) -> Iterator[tuple[str, dict[int, str | None]]]:
        """Yield the name of each column with changes, and its new values by row."""
        for name in mentioning_columns(rows.column_names):
            if named := [index for index, value in enumerate(rows[name].to_pylist()) if value in self]:
                yield name, dict.fromkeys(named)
        own = own_columns(rows.column_names)
        for name in rows.column_names:
            if pa.types.is_string(rows.schema.field(name).type):
                has_any_content = _has_any_content(table, rows.schema.field(name))
                candidates = dict(_candidates(rows[name], all_values=has_any_content))
                if name in own:
                    candidates = {i: v for i, v in candidates.items() if not is_one_identifier(v, self._is_listed)}
                replaced = {
                    index: replace_identifiers(text, self._is_listed, whole_values=has_any_content)
                    for index, text in candidates.items()
                }
                if changes := {index: text for index, text in replaced.items() if text != candidates[index]}:
                    yield name, dict(changes)


def _has_any_content(table: Table, arrow_field: pa.Field) -> bool:
    """Whether a column is free-form, so that a value of it can be a username. Roles and names of orgs cannot."""
    column = next((c for c in table.columns if c.name == column_of(arrow_field)), None)
    return column is None or column.privacy == "free_form"


def _candidates(values: pa.ChunkedArray, *, all_values: bool) -> Iterator[tuple[int, str]]:
    """Yield the position and the text of the values that can contain an identifier."""
    selected = pc.is_valid(values) if all_values else pc.match_substring_regex(values, MAY_CONTAIN_IDENTIFIER)
    indices = pc.indices_nonzero(pc.fill_null(selected, False))
    yield from zip(indices.to_pylist(), values.take(indices).to_pylist(), strict=True)
