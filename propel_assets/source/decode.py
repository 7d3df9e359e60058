"""Bytes of an answer to rows, and rows to Arrow tables. Exact: no field is dropped, no value is bent.

A struct made from the catalogue decodes a page in one go and refuses fields it does not know. When a page has one, the
struct is widened and the page decoded again. A value that does not have its declared type lands as JSON text in a
column of its own, `<column>__v_text`, as dlt names variants; the declared column is then null, and the schema check
reports it.
"""

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
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
PYTHON_TYPES: dict[str, Any] = {"text": str, "bigint": BIGINT, "bool": bool, "timestamp": SECONDS, "date": str}
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
        self._guessed: dict[str, ColumnType] = {}
        self.widening = threading.RLock()
        self.struct = self._build()

    @property
    def surprises(self) -> dict[str, str]:
        """API fields that are not as the catalogue says, and what each is."""
        new = {name: f"unknown, loaded as {self._guessed[name]}" for name in self.unknown if name in self._guessed}
        return new | {name: f"not {self._declared[name].type}, see {name}__v_text" for name in self.misfits}

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

    def learn(self, rows: Sequence[Mapping[str, msgspec.Raw]]) -> None:
        """Widen to what ``rows`` hold. Hold `widening` meanwhile."""
        unknown, misfits = dict(self.unknown), set(self.misfits)
        maps_before = [row_type.struct for row_type in self.maps.values()]
        for row in rows:
            for name, value in row.items():
                if name in self.maps:
                    inner = msgspec.json.decode(value, type=dict[str, dict[str, msgspec.Raw]] | None)
                    self.maps[name].learn(list((inner or {}).values()))
                elif name not in self._declared:
                    if UNREADABLE.search(name):
                        raise msgspec.ValidationError("a field has a quote or a control character in its name")
                    unknown.setdefault(name, name)
                elif not self._is_key(self._declared[name]) and not _fits(value, self._declared[name]):
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
        unknown = self.unknown  # before the struct: that has then no less
        values = self._values(rows)
        for column in self.table.columns:
            name = column.api_field or column.name
            if name not in self._declared:
                columns[column.name] = _repeated((given or {}).get(column.name), column.type, len(rows))
            else:
                columns |= _column(column.name, column.type, values[f"f_{name}"], raw=name in self.misfits)
        for position, name in enumerate(unknown):
            columns |= self._unknown_column(name, values[f"u_{position}"])
        return pa.table(columns)

    def _values(self, rows: Sequence[Row]) -> dict[str, Sequence[Any]]:
        """Return the values of each attribute, in the order of ``rows``."""
        struct = self.struct
        names = struct.__struct_fields__
        if set(map(type, rows)) == {struct}:
            return dict(zip(names, zip(*map(msgspec.structs.astuple, rows), strict=True), strict=True))
        # Some rows were decoded before the struct was widened, or there are none.
        return {name: [getattr(row, name, NOTHING) for row in rows] for name in names}

    def _unknown_column(self, name: str, values: Sequence[msgspec.Raw]) -> dict[str, pa.Array]:
        if name not in self._guessed:
            first = next((v for v in values if bytes(v) not in NULLS), None)
            if first is None:
                return {}
            self._guessed[name] = _guess(first)
        return _column(name, self._guessed[name], values, raw=True)


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
        except msgspec.ValidationError:
            with self.row_type.widening:
                self.row_type.learn(self._raw_rows(body))
                # Built again in any case: another decoder of the same rows may have learned what this one lacks.
                self._decoder = decoder = self._build()
            return decoder.decode(body)

    def _raw_rows(self, body: bytes) -> list[dict[str, msgspec.Raw]]:
        of = dict[str, msgspec.Raw]
        if not self._items:
            return [msgspec.json.decode(body, type=of)]
        return msgspec.json.decode(msgspec.json.decode(body, type=of).get(self._items, b"[]"), type=list[of])


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
        columns[column.name] = _array(values, column.type)
    return pa.table(columns)


def _column(name: str, kind: ColumnType, values: Sequence[Any], *, raw: bool) -> dict[str, pa.Array]:
    """Return one column, and one beside it for values that are not of ``kind`` where there are any."""
    if not raw or kind == "json":
        return {name: _array(values, kind)}
    fit = [_decoded(v, kind) for v in values]
    column = {name: _array(fit, kind)}
    stray = [bytes(v).decode() if f is None and _present(v) else None for f, v in zip(fit, values, strict=True)]
    if any(stray):
        column[f"{name}__v_text"] = pa.array(stray, pa.string())
    return column


def _present(value: Any) -> bool:
    return isinstance(value, msgspec.Raw) and bytes(value) not in NULLS


def _array(values: Sequence[Any], kind: ColumnType) -> pa.Array:
    if kind == "json":
        return _json_array(values)
    if kind == "timestamp":
        return pa.array(values, pa.int64()).cast(pa.timestamp("s", "UTC")).cast(TIMESTAMP)
    if kind == "date":
        return pa.array(values, pa.string()).cast(pa.date32())
    return pa.array(values, ARROW_TYPES[kind])


def _json_array(values: Sequence[Any]) -> pa.Array:
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
    return _array(list(value) if isinstance(value, list) else [value] * length, kind)


def _decoded(value: Any, kind: ColumnType) -> Any:
    """Return a raw value as its type has it, or None when it does not fit."""
    if kind == "json" or not isinstance(value, msgspec.Raw):
        return value
    if not _present(value):
        return None
    try:
        return msgspec.json.decode(value, type=float if kind == "double" else PYTHON_TYPES[kind])
    except msgspec.ValidationError:
        return None


def _fits(value: msgspec.Raw, column: Column) -> bool:
    return column.type == "json" or not _present(value) or _decoded(value, column.type) is not None


_GUESSES: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (lambda v: isinstance(v, bool), "bool"),
    (lambda v: isinstance(v, int) and -(2**63) <= v < 2**63, "bigint"),
    (lambda v: isinstance(v, float), "double"),
    (lambda v: isinstance(v, str), "text"),
)


def _guess(value: msgspec.Raw) -> Any:
    decoded = msgspec.json.decode(value)
    return next((kind for fits, kind in _GUESSES if fits(decoded)), "json")
