"""Batches of rows fitted to the columns of a destination: exact values and distinct column names.

Every batch passes through `Reconciler.apply` once, after the privacy policy and before dlt. A value that its column
cannot hold without loss goes to `<column>__v_text` as JSON source text; the column is null there. No value is cast with
loss, and no value makes a load fail. docs/guarantees.md states what holds.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

import msgspec
import pyarrow as pa

from propel_assets.catalog import Table
from propel_assets.privacy.arrow import pc
from propel_assets.privacy.policy import UNEXPECTED_FIELD, VARIANT
from propel_assets.privacy.surrogates import has_lone_surrogate
from propel_assets.source.values import ARROW_TYPES, JSON_TOKEN, arrow_array, decode_value, is_exact

# Types that hold the values of another one, where a destination does not have that.
SAME_TYPE: dict[str, Collection[str]] = {
    "json": {"text"},
    "date": {"timestamp"},
    "bool": {"bigint"},
    "double": {"decimal"},
}
Reason = Literal["type", "column type", "NUL", "surrogate", "range"]
REASONS: dict[str, str] = {
    "type": "not {kind}",
    "column type": "not {kind}, the type of the column at the destination",
    "NUL": "NUL character, which the destination cannot store",
    "surrogate": "lone surrogate, which no encoding has",
    "range": "number out of range",
}
UNEXPECTED = "unexpected"  # how the description of a field that the catalog does not declare begins
RESERVED_NAME = re.compile(rf"_dlt.*|.*{VARIANT}|.*__f[0-9a-f]{{8}}")
TAG_DIGITS = 8
INTEGER = re.compile(r"-?\d+")
LONG_NUMBER = r"\d(?:\.?\d){15}|\d[eE]"  # what a double may not hold exactly, and more
NUMERIC_EXPONENT = r"\d[eE][+-]?\d{4}"
NUMERIC_DIGITS, NUMERIC_FRACTION = 131_072, 16_383  # PostgreSQL's numeric, before and after the point


@dataclass(frozen=True)
class ValueLimits:
    """Values that a destination stores. The defaults are the strictest: every destination stores these.

    ``nul``: the character U+0000 in text and in JSON. ``json_numbers``: numbers inside JSON. `double`: what 64 bits
    hold, as integer or as floating point. `numeric`: what PostgreSQL's numeric holds. `any`: JSON stays text.
    """

    nul: bool = False
    json_numbers: Literal["double", "numeric", "any"] = "double"


@dataclass
class ColumnCounts:
    """What the batches of one table held. ``values``: non-null values of each column, its variant included."""

    rows: int = 0
    values: dict[str, int] = field(default_factory=dict)
    variants: dict[tuple[str, Reason], int] = field(default_factory=dict)
    unexpected: dict[str, str] = field(default_factory=dict)
    """The column of each API field that the catalog does not declare."""

    def variant_rows(self) -> list[dict[str, Any]]:
        """Return the variants as the audit table has them."""
        return [{"column": column, "reason": why, "values": n} for (column, why), n in sorted(self.variants.items())]


class Reconciler:
    """Fits the batches of one load. It remembers the type of each column that a batch adds."""

    def __init__(
        self,
        columns: Callable[[str], Mapping[str, str]],
        normalize: Callable[[str], str],
        *,
        max_name_length: int | None = None,
        limits: ValueLimits | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            columns: returns the columns that a table has at the destination, with dlt's names of their types.
            normalize: dlt's naming convention, which returns the column name of a field.
            max_name_length: the longest column name; None is no limit.
            limits: what the destination stores.
        """
        self._existing = columns
        self._normalize = normalize
        self._longest = (max_name_length or 1_000) - len(VARIANT)
        self._limits = limits or ValueLimits()
        self._kinds: dict[str, dict[str, str]] = {}
        self.counts: dict[str, ColumnCounts] = {}

    def apply(self, table: Table, rows: pa.Table) -> pa.Table:
        """Return ``rows`` as the destination can store them."""
        if table.name not in self._kinds:
            self._kinds[table.name] = dict(self._existing(table.name))
        kinds, counts = self._kinds[table.name], self.counts.setdefault(table.name, ColumnCounts())
        counts.rows += rows.num_rows
        declared = {column.name: column.type for column in table.columns}
        columns: dict[str, pa.ChunkedArray | pa.Array] = {}
        for arrow_field in rows.schema:
            name, values = arrow_field.name, rows[arrow_field.name]
            api_field = (arrow_field.metadata or {}).get(UNEXPECTED_FIELD)
            if api_field is not None:
                name = counts.unexpected[api_field.decode()] = self.column_name(table, api_field.decode())
                kinds.setdefault(name, _guess_kind(values))
                fitted = _Fitted.from_texts(values, kinds[name])
            elif name in declared:
                fitted = _Fitted(values, declared[name])
                if kinds.setdefault(name, declared[name]) != declared[name]:
                    texts = [None if v is None else _ascii_text(v, declared[name]) for v in values.to_pylist()]
                    fitted = _Fitted.from_texts(pa.array(texts, pa.string()), kinds[name])
            else:  # a variant: its column came before
                self._add_variant(columns, name, values)
                _count_variants(counts, name.removesuffix(VARIANT), values, declared)
                continue
            fitted.move_unstorable(self._limits, is_key=name in table.key)
            if kinds[name] in ARROW_TYPES:
                columns[name] = fitted.values
            if fitted.variant is not None:
                self._add_variant(columns, f"{name}{VARIANT}", fitted.variant)
            for reason, number in fitted.reasons.items():
                counts.variants[name, reason] = counts.variants.get((name, reason), 0) + number
        _count_values(counts, columns)
        return pa.table(columns)

    def json_columns(self, name: str) -> set[str]:
        """Return the JSON columns of a table that the catalog does not declare. Arrow has them as text."""
        kinds = self._kinds.get(name, {})
        found = self.counts.get(name, ColumnCounts()).unexpected.values()
        return {column for column in found if kinds[column] == "json"}

    @staticmethod
    def _add_variant(columns: dict[str, Any], name: str, texts: Any) -> None:
        columns[name] = pc.coalesce(columns[name], texts) if name in columns else texts

    def column_name(self, table: Table, api_field: str) -> str:
        """Return the column of a field that the catalog does not declare.

        It follows from the name of the field alone, so that it is the same in every load and whichever field comes
        first. A field keeps its name where that is its normalized name. Otherwise the normalized name gets a tag.
        """
        plain = self._normalize(api_field) if api_field.strip() else ""
        taken = any(column.name == plain for column in table.columns)
        is_plain = plain == api_field == api_field.lower() and not RESERVED_NAME.fullmatch(plain)
        if plain and is_plain and not taken and len(plain) <= self._longest:
            return plain
        tag = f"__f{hashlib.sha256(api_field.encode()).hexdigest()[:TAG_DIGITS]}"
        base = (plain.lower().strip("_") or "field")[: self._longest - len(tag)].rstrip("_")
        return self._normalize(base + tag)

    def describe(self, table: Table) -> dict[str, str]:
        """Return, by field or column, what is not as the catalog declares it and where it is stored."""
        counts, kinds = self.counts.get(table.name, ColumnCounts()), self._kinds.get(table.name, {})
        declared = [column.name for column in table.columns]
        found = {}
        for api_field, column in counts.unexpected.items():
            others = dict.fromkeys([*declared, *(other for other in counts.unexpected if other != api_field)])
            same = [other for other in others if self._same_name(other, api_field)]
            found[api_field] = f"{UNEXPECTED}, stored as {kinds[column]}"
            found[api_field] += f" in `{column}`" if column != api_field else ""
            found[api_field] += f"; same normalized name as {' and '.join(f'`{n}`' for n in same)}" if same else ""
        columns = {column: api_field for api_field, column in counts.unexpected.items()}
        for column, reason in sorted(counts.variants):
            text = f"{REASONS[reason].format(kind=kinds[column])}, see {column}{VARIANT}"
            name = columns.get(column, column)
            found[name] = f"{found[name]}; {text}" if name in found else text
        return found

    def _same_name(self, one: str, other: str) -> bool:
        names = {self._normalize(name).lower() if name.strip() else "" for name in (one, other)}
        return len(names) == 1


@dataclass
class _Fitted:
    """The values of one column, and the texts of those that it cannot hold."""

    values: Any
    kind: str
    variant: pa.Array | None = None
    reasons: dict[Reason, int] = field(default_factory=dict)

    @classmethod
    def from_texts(cls, texts: Any, kind: str) -> "_Fitted":
        """Fit JSON source texts to ``kind``."""
        listed = texts.to_pylist()
        values = [None if text is None else _fit(text, kind) for text in listed]
        variant = [text if value is None else None for text, value in zip(listed, values, strict=True)]
        known: Any = kind
        fitted = cls(arrow_array(values, known) if kind in ARROW_TYPES else pa.nulls(len(values)), kind)
        for text in variant:
            if text is not None:
                fitted.add(reason_of(text, kind, otherwise="column type"), 1)
        fitted.variant = pa.array(variant, pa.string()) if any(variant) else None
        return fitted

    def add(self, reason: Reason, number: int) -> None:
        """Count values that are not in the column."""
        self.reasons[reason] = self.reasons.get(reason, 0) + number

    def move_unstorable(self, limits: ValueLimits, *, is_key: bool) -> None:
        """Move what the destination cannot store to the variant.

        A value of a key is also kept in its column, as that text: a row without its key could not be stored.
        """
        candidates = _candidates(self.values, self.kind, limits)
        if candidates is None or not pc.any(candidates).as_py():
            return
        values = self.values.to_pylist()
        moved: list[str | None] = [None] * len(values)
        for place, is_candidate in enumerate(candidates.to_pylist()):
            if is_candidate and (reason := _unstorable(values[place], self.kind, limits)):
                text = moved[place] = _ascii_text(values[place], self.kind)
                values[place] = text if is_key else None
                self.add(reason, 1)
        if any(moved):
            self.values = pa.array(values, ARROW_TYPES[self.kind])
            texts = pa.array(moved, pa.string())
            self.variant = texts if self.variant is None else pc.coalesce(self.variant, texts)


def is_same_type(kind: str, stored: str) -> bool:
    """Whether a column of the type ``kind`` is one of the type ``stored`` at some destination."""
    return stored == kind or stored in SAME_TYPE.get(kind, ())


def merge_types(schema: Mapping[str, str], stored: Mapping[str, str]) -> dict[str, str]:
    """Return the type of each column: that of dlt's schema, unless the destination's column holds other values."""
    return {
        name: schema[name] if name in schema and is_same_type(schema[name], stored.get(name, schema[name])) else kind
        for name, kind in {**schema, **stored}.items()
    }


def _fit(text: str, kind: Any) -> Any:
    """Return a JSON source text as ``kind`` has it; None when that type cannot hold it without loss."""
    return decode_value(msgspec.Raw(text.encode()), kind) if kind in ARROW_TYPES else None


def _guess_kind(texts: pa.ChunkedArray) -> str:
    """Return the type of a new column: that of its first value."""
    first = next((text for text in texts.to_pylist() if text is not None), "{}")
    if first.startswith('"'):
        return "text"
    kinds: Sequence[Any] = ("bool", "bigint", "double")
    return next((kind for kind in kinds if _fit(first, kind) is not None), "json")


def _ascii_text(value: Any, kind: str) -> str:
    """Return ``value`` as JSON source text in ASCII, which every destination stores."""
    if kind == "json":
        return "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in value)
    if isinstance(value, datetime):
        return str(int(value.timestamp()))
    return json.dumps(value.isoformat() if isinstance(value, date) else value)


def reason_of(text: str, kind: str, *, otherwise: Reason) -> Reason:
    """Return why a JSON source text is not in its column."""
    if has_lone_surrogate(text.encode()):
        return "surrogate"
    if kind in {"bigint", "timestamp"} and INTEGER.fullmatch(text):
        return "range"
    return otherwise


def _count_variants(counts: ColumnCounts, column: str, texts: Any, declared: Mapping[str, str]) -> None:
    """Count the values that decoding found not to have their declared type."""
    for text in texts.to_pylist():
        if text is not None:
            reason = reason_of(text, declared.get(column, ""), otherwise="type")
            counts.variants[column, reason] = counts.variants.get((column, reason), 0) + 1


def _count_values(counts: ColumnCounts, columns: Mapping[str, Any]) -> None:
    for name, values in columns.items():
        column = name.removesuffix(VARIANT)
        counts.values[column] = counts.values.get(column, 0) + len(values) - values.null_count


# --- what a destination cannot store ---


def _candidates(values: Any, kind: str, limits: ValueLimits) -> Any:
    """Return a mask of the values that may not be storable; None: all are. It is quick and may be true too often."""
    searches: list[Any] = []
    if kind == "text" and not limits.nul:
        searches.append(pc.match_substring(values, "\0"))
    if kind == "json":
        if not limits.nul:
            searches.append(pc.match_substring(values, "\\u0000"))
        if limits.json_numbers == "double":
            searches.append(pc.match_substring_regex(values, LONG_NUMBER))
        if limits.json_numbers == "numeric":
            searches.append(pc.match_substring_regex(values, NUMERIC_EXPONENT))
            searches.append(pc.greater(pc.binary_length(values), NUMERIC_FRACTION))
    mask = None
    for found in searches:
        mask = found if mask is None else pc.or_(mask, found)
    return mask


def _unstorable(value: str, kind: str, limits: ValueLimits) -> Reason | None:
    """Return why the destination cannot store ``value``; None: it can."""
    if kind == "text":
        return "NUL"
    numbers: list[str] = []
    keep: Any = lambda text: numbers.append(text) or 0  # noqa: E731 - the two hooks of json.loads
    try:
        texts = _texts_of(json.loads(value, parse_int=keep, parse_float=keep))
    except RecursionError:  # deeper than the parser can decode, which depends on the caller
        tokens = JSON_TOKEN.findall(value)
        numbers = [token for token in tokens if token[0] in "-0123456789"]
        texts = (json.loads(token) for token in tokens if token[0] == '"')
    if not limits.nul and any("\0" in text for text in texts):
        return "NUL"
    fits = {"double": _fits_64_bits, "numeric": _fits_numeric}.get(limits.json_numbers)
    return "range" if fits and not all(map(fits, numbers)) else None


def _texts_of(value: Any) -> Iterator[str]:
    """Yield every text inside a JSON value, keys included."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, str):
            yield inner
        elif isinstance(inner, dict):
            waiting += [*inner.keys(), *inner.values()]
        elif isinstance(inner, list):
            waiting += inner


def _fits_64_bits(number: str) -> bool:
    if INTEGER.fullmatch(number) and len(number) < 20 and -(2**63) <= int(number) < 2**63:
        return True
    return abs(float(number)) < float("inf") and is_exact(float(number), number)


def _fits_numeric(number: str) -> bool:
    try:
        exact = Decimal(number)
    except InvalidOperation:
        return False
    exponent = exact.as_tuple().exponent
    return exact.adjusted() < NUMERIC_DIGITS and isinstance(exponent, int) and -exponent <= NUMERIC_FRACTION
