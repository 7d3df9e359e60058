"""The privacy policy: one rule per column, applied to Arrow tables before rows are stored. See docs/privacy.md."""

import copy
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pyarrow as pa

from propel_assets.catalog import Table
from propel_assets.catalog.model import Action
from propel_assets.errors import SettingsError
from propel_assets.privacy.surrogates import mark_surrogates, restore_surrogates
from propel_assets.settings import variable_of

ACTIONS: tuple[Action, ...] = ("keep", "hash", "drop")
ANY = "*"  # every element of a list, or every key of an object
VARIANT = "__v_text"  # dlt's suffix of a variant column of text
UNEXPECTED_FIELD = b"api_field"
"""Key in the metadata of an Arrow field that the catalog does not declare: the name of the API field."""
MIN_KEY_LENGTH = 16
KEY_LABEL = "propel-assets"  # its keyed hash identifies the key


@dataclass
class Rule:
    """The rule for a column or a part of a JSON value. ``parts`` have rules of their own."""

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
        """Return the rule of the part at ``path``. A missing one is added: a copy of the rule that applies to it."""
        if not path:
            return self
        if path[0] not in self.parts:
            self.parts[path[0]] = copy.deepcopy(self.of_part(path[0]))
        return self.parts[path[0]].at(path[1:])

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
        unclassified: the action for unexpected fields, keep or drop.
        key: the secret of keyed hashes.
        new_fields: the action for single unexpected fields, by table and field.
    """

    name: str
    rules: Mapping[str, Mapping[str, Rule]]
    unclassified: Action
    key: bytes = field(default=b"", repr=False)
    new_fields: Mapping[str, Mapping[str, Action]] = field(default_factory=dict)

    @property
    def keeps_all(self) -> bool:
        """Whether every row is stored unchanged."""
        unclassified = {self.unclassified, *(a for fields in self.new_fields.values() for a in fields.values())}
        return unclassified == {"keep"} and all(r.keeps_all for rules in self.rules.values() for r in rules.values())

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
        text += f" {self.new_fields}" if self.new_fields else ""
        return hashlib.sha256(text.encode()).hexdigest()

    def digest(self, value: str) -> str:
        """Return the keyed hash of ``value``: HMAC-SHA256, 64 hex digits, equal in every column and table."""
        return hmac.digest(self.key, value.encode(errors="surrogatepass"), "sha256").hex()

    def columns(self, table: Table, action: Action) -> list[str]:
        """Return the columns of ``table`` with this action, or with parts that have it."""
        return [name for name, rule in self.rules[table.name].items() if action in rule.actions()]

    def apply(self, table: Table, rows: pa.Table) -> tuple[pa.Table, list[str]]:
        """Return ``rows`` as they may be stored, and the unexpected fields that were dropped without a rule."""
        rules, held_back = self.rules[table.name], []
        new_fields = self.new_fields.get(table.name, {})
        for arrow_field in rows.schema:
            name, column = arrow_field.name, column_of(arrow_field)
            if column is None or (rule := rules.get(column)) is None:
                if new_fields.get(name, self.unclassified) == "drop":
                    held_back += [] if name in new_fields else [name]
                    rows = rows.drop_columns([name])
            elif not rule.keeps_all:
                is_json = table.column(column).type == "json"
                position = rows.column_names.index(name)
                values = self._apply_rule(rule, rows[name], is_json=is_json)
                rows = rows.set_column(position, arrow_field, values)
        return rows, held_back

    def _apply_rule(self, rule: Rule, values: pa.ChunkedArray, *, is_json: bool) -> pa.Array:
        if rule.action == "drop" and not rule.parts:
            return pa.nulls(len(values), values.type)
        apply = self._apply_to_json if is_json else (lambda _, value: self.digest(value))
        return pa.array([None if v is None else apply(rule, v) for v in values.to_pylist()], values.type)

    def _apply_to_json(self, rule: Rule, text: str) -> str | None:
        value = self._apply_to_part(rule, msgspec.Raw(mark_surrogates(text.encode())))
        return None if value is None else restore_surrogates(bytes(value)).decode()

    def _apply_to_part(self, rule: Rule, source: msgspec.Raw) -> msgspec.Raw | None:
        """Return the stored form of a part, or None. A kept part is not decoded, so that its text is unchanged."""
        first = bytes(source).lstrip()[:1]
        if rule.parts and first == b"{":
            fields = msgspec.json.decode(source, type=dict[str, msgspec.Raw])
            parts = {name: self._apply_to_part(rule.of_part(name), part) for name, part in fields.items()}
            kept = {name: part for name, part in parts.items() if part is not None}
            return _encoded(kept) if kept or rule.action == "keep" else None
        if rule.parts and first == b"[":
            elements = msgspec.json.decode(source, type=list[msgspec.Raw])
            return _encoded([e for e in (self._apply_to_part(rule.of_part(ANY), e) for e in elements) if e is not None])
        if rule.action == "hash" and bytes(source).strip() != b"null":
            return _encoded(self.digest(_text_to_hash(restore_surrogates(bytes(source)))))
        return None if rule.action == "drop" else source


def column_of(arrow_field: pa.Field) -> str | None:
    """Return the column whose values or variant an Arrow field has; None if the catalog does not declare the field."""
    is_unexpected = UNEXPECTED_FIELD in (arrow_field.metadata or {})
    return None if is_unexpected else arrow_field.name.removesuffix(VARIANT)


def _encoded(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _text_to_hash(source: bytes) -> str:
    """Return the text of a JSON string; of other values the JSON, with sorted keys and numbers as text."""
    value = json.loads(source, parse_int=str, parse_float=str)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def require_key(policy: Policy, reason: str) -> None:
    """Refuse a policy without a secret key.

    Raises:
        SettingsError: the key is missing, or so short that it can be guessed.
    """
    variable = variable_of("privacy_key")
    if not policy.key:
        raise SettingsError(
            f"{reason}, and {variable} is not set. Generate a key with `openssl rand -hex 32`, set it, and store it "
            "safely."
        )
    if len(policy.key) < MIN_KEY_LENGTH:
        raise SettingsError(
            f"{variable} is shorter than {MIN_KEY_LENGTH} characters, so it could be guessed. Generate a key with "
            "`openssl rand -hex 32`."
        )
