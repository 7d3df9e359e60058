"""Bytes of an answer to rows, and rows to Arrow tables. Exact: no field is dropped, no value is altered.

A struct made from the catalogue decodes a page in one go and refuses fields it does not know. When a page has one, the
struct is widened and the page decoded again. A value that does not have its declared type lands as JSON text in a
column of its own, `<column>__v_text`, as dlt names variants; the declared column is then null, and the schema check
reports it. A field that the catalog does not declare becomes a column of JSON source text, which is marked in the
metadata of its Arrow field; `reconcile.py` gives it a type and a name.
"""

import re
import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal, InvalidOperation
from types import NoneType
from typing import Annotated, Any, get_args

import msgspec
import pyarrow as pa
import pyarrow.compute

from propel_assets.catalog import Column, ColumnType, Table

pc: Any = pyarrow.compute  # makes its functions at import, unseen by type checkers

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
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799  # of the years 1 and 9999
BIGINT = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
SECONDS = (
    Annotated[int, msgspec.Meta(ge=FIRST_SECOND, le=LAST_SECOND)]
    | Annotated[float, msgspec.Meta(ge=FIRST_SECOND, le=LAST_SECOND, multiple_of=1)]
)
PYTHON_TYPES: dict[str, Any] = {
    "text": str,
    "bigint": BIGINT,
    "double": float,
    "bool": bool,
    "timestamp": SECONDS,
    "date": date,
}
VARIANT = "__v_text"
UNEXPECTED_FIELD = b"propel_auth_field"  # metadata of an Arrow field: the API field that the catalog does not declare
LONE_SURROGATE = re.compile(
    rb"(?P<pair>\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|\\u(?P<lone>[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)
MAY_HAVE_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
UNREADABLE = re.compile(r'[\x00-\x1f"\\]')  # in a field's name: msgspec refuses to make a struct of it
NOTHING = msgspec.Raw(b"")
NULLS = (b"", b"null")
NULL_TEXTS = pa.array([null.decode() for null in NULLS])
Row = Any


class RowType:
    """How the rows of one table are decoded; it widens as the server shows more than the catalogue knows.

    Widening makes new collections and takes the struct last, so that whoever reads meanwhile sees a whole state.
    """

    def __init__(self, table: Table, *, given: Sequence[str] = (), maps: Mapping[str, "RowType"] | None = None) -> None:
        """Start from ``table``.

        ``given`` are columns that are not in an answer's rows: we know them from the request. ``maps`` are fields
        of a row that map a key to rows of another table.
        """
        self.table = table
        self.maps = dict(maps or {})
        self.unknown: dict[str, str] = {}
        self.misfits: set[str] = set()
        self._declared = {c.api_field or c.name: c for c in table.columns if c.name not in given}
        self._column_names = {c.name for c in table.columns}
        self.widening = threading.RLock()
        self.struct = self._build()

    def _build(self) -> type[msgspec.Struct]:
        fields: list[Any] = []
        for name, column in self._declared.items():
            attribute = f"f_{name}"
            if column.type == "json" or name in self.misfits:
                fields.append((attribute, msgspec.Raw, msgspec.field(name=name, default=NOTHING)))
            elif self._is_key(column):
                fields.append((attribute, PYTHON_TYPES[column.type], msgspec.field(name=name)))
            else:
                fields.append((attribute, PYTHON_TYPES[column.type] | None, msgspec.field(name=name, default=None)))
        for name, row_type in self.maps.items():
            of = dict[str, row_type.struct] | None
            fields.append((f"f_{name}", of, msgspec.field(name=name, default=None)))
        for position, name in enumerate(self.unknown):
            fields.append((f"u_{position}", msgspec.Raw, msgspec.field(name=name, default=NOTHING)))
        return msgspec.defstruct("Row", fields, forbid_unknown_fields=True, gc=False, kw_only=True)

    def _is_key(self, column: Column) -> bool:
        """Whether a row without this column, or with another type in it, is refused."""
        return column.name in self.table.key and column.required

    def learn(self, rows: Sequence[Mapping[str, msgspec.Raw]], marked: "_MarkedSurrogates | None" = None) -> None:
        """Widen to what ``rows`` hold. Hold `widening` meanwhile. ``marked``: their page, if it has lone surrogates."""
        unknown, misfits = dict(self.unknown), set(self.misfits)
        maps_before = [row_type.struct for row_type in self.maps.values()]
        for row in rows:
            for name, value in row.items():
                if name in self.maps:
                    inner = msgspec.json.decode(value, type=dict[str, dict[str, msgspec.Raw]] | None)
                    self.maps[name].learn(list((inner or {}).values()), marked)
                elif name not in self._declared:
                    if UNREADABLE.search(name):
                        raise msgspec.ValidationError("a field has a quote or a control character in its name")
                    if marked:
                        marked.refuse(name)
                    unknown.setdefault(name, name)
                elif not self._is_key(self._declared[name]):
                    value = marked.restore(value) if marked else value
                    if not _fits(value, self._declared[name]):
                        misfits.add(name)
        maps_now = [row_type.struct for row_type in self.maps.values()]
        if (unknown, misfits, maps_before) != (self.unknown, self.misfits, maps_now):
            self.unknown, self.misfits = unknown, misfits
            self.struct = self._build()

    def to_arrow(self, rows: Sequence[Row], given: Mapping[str, Any] | None = None) -> pa.Table:
        """Return ``rows`` as a table: the catalogue's columns in order, then those it does not know.

        ``given`` has the columns that are not in the rows: a list with one value per row, or one value for all.
        """
        columns: dict[str, pa.Array] = {}
        unexpected: list[pa.Field] = []
        unknown = self.unknown  # before the struct: that has then no less
        values = self._values(rows)
        for column in self.table.columns:
            name = column.api_field or column.name
            if name not in self._declared:
                columns[column.name] = _repeated((given or {}).get(column.name), column.type, len(rows))
            else:
                columns |= _column(column.name, column.type, values[f"f_{name}"], raw=name in self.misfits)
        fields = [pa.field(name, values.type) for name, values in columns.items()]
        for position, name in enumerate(unknown):
            texts = _jsonarrow_array(values[f"u_{position}"])
            if texts.null_count < len(texts):
                column = f"{name} (unexpected)" if name in columns or name in self._column_names else name
                unexpected.append(pa.field(column, texts.type, metadata={UNEXPECTED_FIELD: name}))
                columns[column] = texts
        return pa.table(list(columns.values()), pa.schema([*fields, *unexpected]))

    def _values(self, rows: Sequence[Row]) -> dict[str, Sequence[Any]]:
        """Return the values of each attribute, in the order of ``rows``."""
        struct = self.struct
        names = struct.__struct_fields__
        if set(map(type, rows)) == {struct}:
            return dict(zip(names, zip(*map(msgspec.structs.astuple, rows), strict=True), strict=True))
        # Some rows were decoded before the struct was widened, or there are none.
        return {name: [getattr(row, name, NOTHING) for row in rows] for name in names}


class PageDecoder:
    """Decodes one kind of answer: an envelope around rows, or one row. Safe to share between threads."""

    def __init__(self, row_type: RowType, items: str = "", others: Sequence[tuple[str, Any]] = ()) -> None:
        """``items``: key of the rows, empty when the answer is one row. ``others``: further keys and their types."""
        self.row_type = row_type
        self._items = items
        self._others = list(others)
        self._decoder = self._build()

    def _build(self) -> msgspec.json.Decoder[Any]:
        if not self._items:
            return msgspec.json.Decoder(self.row_type.struct)
        fields: list[Any] = [("items", list[self.row_type.struct], msgspec.field(name=self._items))]
        for name, kind in self._others:
            default = None if NoneType in get_args(kind) else msgspec.NODEFAULT
            fields.append((name, kind, msgspec.field(name=name, default=default)))
        return msgspec.json.Decoder(msgspec.defstruct("Answer", fields, kw_only=True))

    def __call__(self, body: bytes) -> Any:
        """Return the answer: a row, or an object with `items` and the other keys as attributes.

        Raises:
            msgspec.DecodeError: not JSON.
            msgspec.ValidationError: JSON of another shape, for instance a row without its key.
        """
        try:
            body.decode()  # raw values are decoded later, when the page cannot be read again
        except UnicodeDecodeError as error:  # it holds the body
            raise msgspec.DecodeError(f"invalid UTF-8 (byte {error.start})") from None
        try:
            return self._decoder.decode(body)
        except msgspec.DecodeError as error:
            marked = _MarkedSurrogates.find(body)
            if marked is None and not isinstance(error, msgspec.ValidationError):
                raise
        return self._widen_and_decode(body if marked is None else marked.body, marked)

    def _widen_and_decode(self, body: bytes, marked: "_MarkedSurrogates | None") -> Any:
        """Decode a page that has an unexpected field, a value of another type or a lone surrogate."""
        with self.row_type.widening:
            self.row_type.learn(self._raw_rows(body), marked)
            # Built again in any case: another decoder of the same rows may have learned what this one lacks.
            self._decoder = decoder = self._build()
        answer = decoder.decode(body)
        if marked:
            for row in answer.items if self._items else [answer]:
                marked.restore_row(row)
        return answer

    def _raw_rows(self, body: bytes) -> list[dict[str, msgspec.Raw]]:
        of = dict[str, msgspec.Raw]
        if not self._items:
            return [msgspec.json.decode(body, type=of)]
        return msgspec.json.decode(msgspec.json.decode(body, type=of).get(self._items, b"[]"), type=list[of])


class _MarkedSurrogates:
    r"""A page whose lone surrogates (`"\ud800"`, half of a UTF-16 pair) are marked, because msgspec refuses them.

    Such a value is text that no encoding has. It keeps its JSON source text, and its column counts it as a value of
    another type.
    """

    def __init__(self, body: bytes) -> None:
        """Mark every lone surrogate of ``body``."""
        self._mark = secrets.token_hex(16).encode()
        self._marked = re.compile(self._mark + rb"(....)")
        self.found = False
        self.body = LONE_SURROGATE.sub(self._hide, body)

    @classmethod
    def find(cls, body: bytes) -> "_MarkedSurrogates | None":
        """Return the marked page; None when the page has no lone surrogate."""
        marked = cls(body) if MAY_HAVE_LONE_SURROGATE.search(body) else None
        return marked if marked and marked.found else None

    def _hide(self, escape: re.Match[bytes]) -> bytes:
        if escape["lone"] is None:
            return escape[0]
        self.found = True
        return self._mark + escape["lone"]

    def restore(self, value: msgspec.Raw) -> msgspec.Raw:
        """Return the JSON source text of ``value``."""
        text = bytes(value)
        return msgspec.Raw(self._marked.sub(rb"\\u\1", text)) if self._mark in text else value

    def restore_row(self, row: Any) -> None:
        """Put the JSON source texts back into a decoded row."""
        for name in row.__struct_fields__:
            value = getattr(row, name)
            if isinstance(value, msgspec.Raw):
                setattr(row, name, self.restore(value))
            elif isinstance(value, dict):
                for inner in value.values():
                    self.restore_row(inner)
            elif isinstance(value, str):
                self.refuse(value)

    def refuse(self, text: str) -> None:
        """Refuse a key, or the name of a field, that has a lone surrogate.

        Raises:
            msgspec.ValidationError: it has one.
        """
        if self._mark.decode() in text:
            raise msgspec.ValidationError("a key or the name of a field has a lone surrogate")


def to_arrow(table: Table, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return rows made here, not read, as a table with the catalogue's columns; json values are encoded."""
    listed = list(rows)
    columns = {}
    for column in table.columns:
        values = [row.get(column.name) for row in listed]
        if column.type == "json":
            values = [
                None if v is None else v if isinstance(v, msgspec.Raw) else msgspec.json.encode(v) for v in values
            ]
        columns[column.name] = arrow_array(values, column.type)
    return pa.table(columns)


def _column(name: str, kind: ColumnType, values: Sequence[Any], *, raw: bool) -> dict[str, pa.Array]:
    """Return one column, and one beside it for values that are not of ``kind`` where there are any."""
    if not raw:
        return {name: arrow_array(values, kind)}
    fit = [decode_value(v, kind) for v in values]
    column = {name: arrow_array(fit, kind)}
    stray = [bytes(v).decode() if f is None and _present(v) else None for f, v in zip(fit, values, strict=True)]
    if any(stray):
        column[f"{name}{VARIANT}"] = pa.array(stray, pa.string())
    return column


def _present(value: Any) -> bool:
    return isinstance(value, msgspec.Raw) and bytes(value) not in NULLS


def arrow_array(values: Sequence[Any], kind: ColumnType) -> pa.Array:
    """Return ``values`` in the Arrow type of ``kind``. Timestamps are epoch seconds, JSON is encoded."""
    if kind == "json":
        return _jsonarrow_array(values)
    if kind == "timestamp":
        return pa.array(values, pa.int64()).cast(pa.timestamp("s", "UTC")).cast(TIMESTAMP)
    if kind == "date":
        return pa.array([date.fromisoformat(v) if isinstance(v, str) else v for v in values], pa.date32())
    return pa.array(values, ARROW_TYPES[kind])


def _jsonarrow_array(values: Sequence[Any]) -> pa.Array:
    """Return JSON texts, or None, as text. The JSON null and a missing value are both null.

    Joined and cut by their lengths, because a bytes object for each of them takes twice as long.
    """
    if None in values:
        values = [NOTHING if value is None else value for value in values]
    ends = pc.cumulative_sum_checked(pa.array([0, *map(len, values)], pa.int32()))
    parts = [None, ends.buffers()[1], pa.py_buffer(b"".join(values))]
    texts = pa.Array.from_buffers(pa.binary(), len(values), parts).cast(pa.string())
    return pc.if_else(pc.is_in(texts, NULL_TEXTS), None, texts)


def _repeated(value: Any, kind: ColumnType, length: int) -> pa.Array:
    return arrow_array(list(value) if isinstance(value, list) else [value] * length, kind)


def decode_value(value: Any, kind: ColumnType) -> Any:
    """Return a JSON value as ``kind`` has it; None when it is null, or when the type cannot hold it without loss."""
    if not isinstance(value, msgspec.Raw):
        return value
    if not _present(value):
        return None
    if kind == "json":  # no destination stores lone surrogates inside JSON
        return None if has_lone_surrogate(bytes(value)) else value
    try:
        decoded = msgspec.json.decode(value, type=PYTHON_TYPES[kind])
    except msgspec.DecodeError:
        return None
    return decoded if kind != "double" or is_exact(decoded, bytes(value).decode()) else None


def is_exact(number: float, source: str) -> bool:
    """Whether ``number`` is written as the decimal number ``source``, whatever its notation."""
    written = repr(number)
    try:
        return written == source or Decimal(written) == Decimal(source)
    except InvalidOperation:  # an exponent of 19 digits
        return False


def has_lone_surrogate(text: bytes) -> bool:
    """Whether a JSON text has an escaped half of a UTF-16 pair."""
    return MAY_HAVE_LONE_SURROGATE.search(text) is not None and any(
        found["lone"] for found in LONE_SURROGATE.finditer(text)
    )


def _fits(value: msgspec.Raw, column: Column) -> bool:
    return not _present(value) or decode_value(value, column.type) is not None
