"""JSON values in the types of the catalog. Exact: a value that its type cannot hold without loss is not converted."""

import json
import re
from collections.abc import Sequence
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import msgspec
import pyarrow as pa

from propel_assets.catalog import ColumnType
from propel_assets.privacy.arrow import pc
from propel_assets.privacy.surrogates import has_lone_surrogate

TIMESTAMP = pa.timestamp("us", "UTC")
ARROW_TYPES: dict[str, pa.DataType] = {
    "text": pa.string(),
    "bigint": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": TIMESTAMP,
    "date": pa.date32(),
    "json": pa.string(),
}
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")  # the form of PropelAuth's ids
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799  # of the years 1 and 9999
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Seconds = Annotated[int, msgspec.Meta(ge=FIRST_SECOND, le=LAST_SECOND)]
PYTHON_TYPES: dict[str, Any] = {
    "text": str,
    "bigint": Int64,
    "double": float,
    "bool": bool,
    "timestamp": Seconds,
    "date": date,
}
INTEGER = re.compile(rb"-?\d+")
JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]|[^][{}",:\s]+')
"""A string, bracket, brace, number or literal of a JSON source text."""
ABSENT = msgspec.Raw(b"")
NULLS = (b"", b"null")
NULL_TEXTS = pa.array([null.decode() for null in NULLS])


def arrow_array(values: Sequence[Any], kind: ColumnType) -> pa.Array:
    """Return ``values`` in the Arrow type of ``kind``. Timestamps are epoch seconds, JSON values are source texts."""
    if kind == "json":
        return json_array(values)
    if kind == "timestamp":
        return pa.array(values, pa.int64()).cast(pa.timestamp("s", "UTC")).cast(TIMESTAMP)
    if kind == "date":
        return pa.array([date.fromisoformat(v) if isinstance(v, str) else v for v in values], pa.date32())
    return pa.array(values, ARROW_TYPES[kind])


def json_array(values: Sequence[Any]) -> pa.Array:
    """Return JSON source texts as text. None, JSON null and an absent value are null.

    The texts are joined and cut by their lengths, because one bytes object per text takes twice as long.
    """
    try:
        joined = b"".join(values)
    except TypeError:  # looking for None first takes as long as joining
        values = [ABSENT if value is None else value for value in values]
        joined = b"".join(values)
    ends = pc.cumulative_sum_checked(pa.array([0, *map(len, values)], pa.int32()))
    parts = [None, ends.buffers()[1], pa.py_buffer(joined)]
    texts = pa.Array.from_buffers(pa.binary(), len(values), parts).cast(pa.string())
    are_null = pc.is_in(texts, NULL_TEXTS)
    return pc.if_else(are_null, None, texts) if pc.any(are_null).as_py() else texts


def decode_value(source: Any, kind: ColumnType) -> Any:
    """Return a JSON source text as ``kind`` has it; None if it is null, or if the type cannot hold it without loss.

    A value that is not a source text is returned as it is. A timestamp is returned as epoch seconds.
    """
    if not isinstance(source, msgspec.Raw):
        return source
    if is_null(source):
        return None
    if kind == "json":  # no destination stores lone surrogates inside JSON
        return None if has_lone_surrogate(bytes(source)) else source
    try:
        decoded = msgspec.json.decode(source, type=PYTHON_TYPES[kind])
    except msgspec.DecodeError:
        return _whole_seconds(bytes(source)) if kind == "timestamp" else None
    return decoded if kind != "double" or is_exact(decoded, bytes(source).decode()) else None


def is_exact(number: float, source: str) -> bool:
    """Whether ``number`` is the decimal number ``source``, in any notation."""
    written = repr(number)
    try:
        return written == source or Decimal(written) == Decimal(source)
    except InvalidOperation:  # an exponent of 19 digits
        return False


def _whole_seconds(source: bytes) -> int | None:
    """Return a number such as `1700000000.0` as an integer."""
    try:
        number = Decimal(source.decode())
    except InvalidOperation:
        return None
    return int(number) if FIRST_SECOND <= number <= LAST_SECOND and number == int(number) else None


def is_null(source: Any) -> bool:
    """Return whether ``source`` is the source text of JSON null, or of an absent value."""
    return isinstance(source, msgspec.Raw) and bytes(source) in NULLS


def ascii_json(source: bytes) -> str:
    """Return a JSON source text with escapes instead of characters that are not ASCII."""
    text = source.decode()
    return text if text.isascii() else "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in text)
