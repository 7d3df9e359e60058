"""The privacy filter: every batch of rows passes through it once, between PropelAuth's responses and dlt."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from propel_assets.catalog import BY_NAME
from propel_assets.privacy.erasure_list import ErasureList
from propel_assets.privacy.policy_file import load_policy
from propel_assets.settings import PrivacySettings

HELD_BACK = "held back by the privacy policy"


class PrivacyFilter:
    """Applies the erasure list and the policy to the rows of one scan, and counts what it removes.

    Attributes:
        rows_left_out: number of rows about erased people, by table.
        values_replaced: number of values in other rows that contained an identifier of an erased person, by table.
        fields_held_back: fields that the policy does not allow to be stored, by table.
    """

    def __init__(
        self, settings: PrivacySettings, erasure_list: Mapping[str, Any] | None = None, stored_fingerprint: str = ""
    ) -> None:
        """Read the policy.

        ``erasure_list``: what the state has under `STATE_KEY`. ``stored_fingerprint``: that of the last full scan.

        Raises:
            SettingsError: the policy or the list cannot be applied. Nothing was requested.
        """
        self._policy = load_policy(settings)
        self._erased = ErasureList(erasure_list, self._policy)
        self._changes_nothing = self._policy.keeps_all and not self._erased
        self.fingerprint = self._policy.fingerprint
        self.policy_changed = stored_fingerprint != self.fingerprint
        self.rows_left_out: Counter[str] = Counter()
        self.values_replaced: Counter[str] = Counter()
        self.fields_held_back: dict[str, set[str]] = {}

    def apply(self, name: str, rows: pa.Table) -> pa.Table:
        """Return rows of the table ``name`` as they may be stored."""
        if self._changes_nothing:
            return rows
        if self._erased:
            kept = self._erased.remove_rows(rows)
            self.rows_left_out[name] += len(rows) - len(kept)
            rows, replaced = self._erased.replace_values(BY_NAME[name], kept)
            self.values_replaced[name] += replaced
        rows, held_back = self._policy.apply(BY_NAME[name], rows)
        self.fields_held_back.setdefault(name, set()).update(held_back)
        return rows

    def without_erased(self, by_id: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``by_id`` without the keys that identified erased people."""
        return {key: value for key, value in by_id.items() if not self._erased or key not in self._erased}

    def stored_ids(self, name: str, column: str, ids: Iterable[str]) -> list[str]:
        """Return ``ids`` as they are stored in ``column`` of the table ``name``."""
        return [self._policy.digest(id_) for id_ in ids] if self.hashes(name, column) else list(ids)

    def count_unknown(self, name: str, ids: set[str], stored: Iterable[str]) -> int:
        """Return how many of ``ids`` are neither ``stored`` in the table ``name`` nor of erased people.

        Return 0 if nothing is stored: the table is not the one that was loaded before.
        """
        key = BY_NAME[name].key[0]
        unknown = set(self.stored_ids(name, key, ids))
        is_empty = True
        for id_ in stored:
            unknown.discard(id_)
            is_empty = False
        is_hashed = self.hashes(name, key)
        return 0 if is_empty else sum(not self._erased.has(id_, is_hashed=is_hashed) for id_ in unknown)

    def hashes(self, name: str, column: str) -> bool:
        """Whether ``column`` of the table ``name`` is stored as a keyed hash."""
        return self._policy.rules[name][column].action == "hash"
