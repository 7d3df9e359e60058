"""The privacy policy: one rule per column, applied to Arrow tables before rows are stored. See docs/privacy.md."""

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pyarrow as pa

from propel_assets.catalog import Table
from propel_assets.catalog.model import Action
from propel_assets.errors import SettingsError
from propel_assets.settings import variable_of

ACTIONS: tuple[Action, ...] = ("keep", "hash", "drop")
ANY = "*"  # every element of a list, or every key of an object
VARIANT = "__v_text"
MIN_KEY_LENGTH = 16
KEY_LABEL = "propel-assets"  # its keyed hash identifies the key
DROPPED: Any = object()


@dataclass
class Rule:
    """What is stored of a column, or of a part of a JSON value. ``parts`` have rules of their own."""

    action: Action = "keep"
    parts: dict[str, "Rule"] = field(default_factory=dict)

    @property
    def keeps_all(self) -> bool:
        """Whether values are stored unchanged."""
        return self.action == "keep" and all(part.keeps_all for part in self.parts.values())

    def actions(self) -> Iterator[Action]:
        """Yield the action of this rule and of its parts."""
        yield self.action
        for part in self.parts.values():
            yield from part.actions()

    def at(self, path: Sequence[str]) -> "Rule":
        """Return the rule of the part at ``path``. A missing one is added, with the action of its parent."""
        return self.parts.setdefault(path[0], Rule(self.action)).at(path[1:]) if path else self

    def of_part(self, name: str) -> "Rule":
        """Return the rule that applies to the part ``name``."""
        return self.parts.get(name) or self.parts.get(ANY) or Rule(self.action)

    def paths(self, prefix: str = "") -> Iterator[tuple[str, Action]]:
        """Yield the path and the action of each part that has a rule."""
        for name, part in self.parts.items():
            yield f"{prefix}{name}", part.action
            yield from part.paths(f"{prefix}{name}.")

    def __str__(self) -> str:
        """Return the rule as one line: `drop, metadata.plan keep`."""
        return ", ".join([self.action, *(f"{path} {action}" for path, action in self.paths())])


@dataclass(frozen=True)
class Policy:
    """The rule of every column of every table.

    Attributes:
        name: the preset or the file that the policy comes from.
        rules: by table and column.
        unclassified: what is stored of fields that the catalog does not declare, keep or drop.
        key: the secret of keyed hashes.
    """

    name: str
    rules: Mapping[str, Mapping[str, Rule]]
    unclassified: Action
    key: bytes = field(default=b"", repr=False)

    @property
    def keeps_all(self) -> bool:
        """Whether every row is stored unchanged."""
        return self.unclassified == "keep" and all(r.keeps_all for rules in self.rules.values() for r in rules.values())

    @property
    def hashes(self) -> bool:
        """Whether a rule hashes values."""
        return any("hash" in rule.actions() for rules in self.rules.values() for rule in rules.values())

    @property
    def fingerprint(self) -> str:
        """A digest that changes with the rules and the key; empty if the policy keeps all."""
        if self.keeps_all:
            return ""
        text = f"{self.rules} {self.unclassified} {self.digest(KEY_LABEL) if self.key else ''}"
        return hashlib.sha256(text.encode()).hexdigest()

    def digest(self, value: str) -> str:
        """Return the keyed hash of ``value``: HMAC-SHA256, 64 hex digits, equal in every column and table."""
        return hmac.digest(self.key, value.encode(errors="surrogatepass"), "sha256").hex()

    def columns(self, table: Table, action: Action) -> list[str]:
        """Return the columns of ``table`` with this action, or with parts that have it."""
        return [name for name, rule in self.rules[table.name].items() if action in rule.actions()]

    def apply(self, table: Table, rows: pa.Table) -> tuple[pa.Table, list[str]]:
        """Return ``rows`` as the policy allows them to be stored, and the names of the fields that were held back."""
        rules, held_back = self.rules[table.name], []
        for name in rows.column_names:
            column = name.removesuffix(VARIANT)
            if (rule := rules.get(column)) is None:
                if self.unclassified == "drop":
                    held_back.append(name)
                    rows = rows.drop_columns([name])
            elif not rule.keeps_all:
                is_json = table.column(column).type == "json"
                position = rows.column_names.index(name)
                values = self._apply_rule(rule, rows[name], is_json=is_json)
                rows = rows.set_column(position, rows.schema.field(name), values)
        return rows, held_back

    def _apply_rule(self, rule: Rule, values: pa.ChunkedArray, *, is_json: bool) -> pa.Array:
        if rule.action == "drop" and not rule.parts:
            return pa.nulls(len(values), values.type)
        apply = self._apply_to_json if is_json else (lambda _, value: self.digest(value))
        return pa.array([None if v is None else apply(rule, v) for v in values.to_pylist()], values.type)

    def _apply_to_json(self, rule: Rule, text: str) -> str | None:
        value = self._apply_to_part(rule, msgspec.json.decode(text))
        return None if value is DROPPED else msgspec.json.encode(value).decode()

    def _apply_to_part(self, rule: Rule, value: Any) -> Any:
        if rule.parts and isinstance(value, dict):
            parts = {k: self._apply_to_part(rule.of_part(k), v) for k, v in value.items()}
            kept = {k: v for k, v in parts.items() if v is not DROPPED}
            return kept if kept or rule.action == "keep" else DROPPED
        if rule.parts and isinstance(value, list):
            elements = [self._apply_to_part(rule.of_part(ANY), v) for v in value]
            return [v for v in elements if v is not DROPPED]
        if rule.action == "drop":
            return DROPPED
        if rule.action == "hash" and value is not None:
            return self.digest(value if isinstance(value, str) else msgspec.json.encode(value, order="sorted").decode())
        return value


def require_key(policy: Policy, reason: str) -> None:
    """Refuse a policy without a secret key.

    Raises:
        SettingsError: the key is missing, or so short that it can be guessed.
    """
    variable = variable_of("privacy_key")
    if not policy.key:
        raise SettingsError(
            f"{reason}, and {variable} is not set. Set it to a secret text and keep that text: openssl rand -hex 32."
        )
    if len(policy.key) < MIN_KEY_LENGTH:
        raise SettingsError(
            f"{variable} is shorter than {MIN_KEY_LENGTH} characters, so it could be guessed: openssl rand -hex 32."
        )
