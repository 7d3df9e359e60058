"""The erasure list: keyed hashes of what identified erased people. Every load leaves their rows out."""

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

from propel_assets.errors import SettingsError
from propel_assets.privacy.policy import KEY_LABEL, Policy, require_key
from propel_assets.settings import variable_of

STATE_KEY = "erased"  # in dlt's state; stored at the destination
IDENTIFYING = ("user_id", "employee_id", "invitee_email", "looked_up")
IDENTIFYING_WITHOUT_USER_ID = ("email", "username", "api_key_id")
MENTIONING = ("inviter_user_id", "inviter_email", "impersonator_user_id")


def identifying_columns(columns: Collection[str]) -> list[str]:
    """Return the columns that say which person a row is about. The row is deleted when that person is erased."""
    names = [*IDENTIFYING, *(() if "user_id" in columns else IDENTIFYING_WITHOUT_USER_ID)]
    return [name for name in names if name in columns]


def mentioning_columns(columns: Collection[str]) -> list[str]:
    """Return the columns that name a person in a row about something else. They are set to null."""
    return [name for name in MENTIONING if name in columns]


class ErasureList:
    """The keyed hashes of the ids, addresses, usernames and API key ids of erased people."""

    def __init__(self, state: Mapping[str, Any], policy: Policy) -> None:
        """Read the list from ``state``.

        Raises:
            SettingsError: there is a list, and the key is missing or is not the one that the list was made with.
        """
        self._policy = policy
        stored = state.get(STATE_KEY)
        if stored:
            require_key(policy, "People were erased from this warehouse")
            if stored["key"] != policy.digest(KEY_LABEL):
                raise SettingsError(
                    f"People were erased from this warehouse, and {variable_of('privacy_key')} is not the key that the "
                    "erasure list was made with: a load would restore them. Set that key. Nothing was read."
                )
        self._hashes = frozenset(stored["people"] if stored else ())

    def __bool__(self) -> bool:
        """Whether the list has entries."""
        return bool(self._hashes)

    def __contains__(self, value: str | None) -> bool:
        """Whether ``value``, as PropelAuth sends it, identified an erased person."""
        return value is not None and any(self._policy.digest(v) in self._hashes for v in {value, value.lower()})

    def has(self, value: str, *, is_hashed: bool) -> bool:
        """Whether ``value``, or the value that it is the keyed hash of, identified an erased person."""
        return value in self._hashes if is_hashed else value in self

    def with_people(self, hashes: Collection[str]) -> dict[str, Any]:
        """Return what to store in the state, under `STATE_KEY`: the list and ``hashes``."""
        return {"key": self._policy.digest(KEY_LABEL), "people": sorted({*self._hashes, *hashes})}

    def remove_people(self, rows: pa.Table) -> pa.Table:
        """Return ``rows`` without the rows about erased people, and with null where other rows name them."""
        for name in identifying_columns(rows.column_names):
            rows = rows.filter(pa.array([value not in self for value in rows[name].to_pylist()], pa.bool_()))
        for name in mentioning_columns(rows.column_names):
            values = pa.array([None if v in self else v for v in rows[name].to_pylist()], rows.schema.field(name).type)
            rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), values)
        return rows
