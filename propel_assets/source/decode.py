"""JSON bodies to rows, and rows to Arrow tables. Exact: no field is dropped, and no value is altered.

A struct made from the catalog decodes a page in one pass. If a page has an unexpected field or a value of another type,
its rows are decoded value by value, and the struct is extended for the pages after it.

- A value that its declared type cannot hold without loss goes to the column `<column>__v_text`, dlt's name for
  variants, as JSON source text in ASCII. The declared column is null there.
- A field that the catalog does not declare becomes a column of JSON source text. The metadata of its Arrow field names
  the API field; `reconcile.py` chooses type and name of the column.
- Of a key that an object has twice, the last value counts, as in most JSON parsers. Free-form values stay as sent.
"""

import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from types import NoneType
from typing import Any, get_args

import msgspec
import pyarrow as pa

from propel_assets.catalog import Column, ColumnType, Table
from propel_assets.privacy.policy import UNEXPECTED_FIELD, VARIANT
from propel_assets.privacy.surrogates import (
    MARK,
    has_lone_surrogate,
    mark_surrogates,
    restore_source,
    restore_surrogates,
)
from propel_assets.source.values import (
    ABSENT,
    INTEGER,
    PYTHON_TYPES,
    TIMESTAMP,
    arrow_array,
    ascii_json,
    decode_value,
    is_null,
    json_array,
)

RAW_TYPES = ("json", "double")
"""Types whose values a struct keeps as source text: msgspec would round a double."""
NOT_IN_STRUCT = re.compile(r'[\x00-\x1f"\\]')
"""Characters of a field name that msgspec does not accept in a struct."""
Row = Any
Fields = dict[str, msgspec.Raw]


class RowType:
    """How the rows of one table are decoded. Unexpected fields and types extend it. Threads can share it.

    A row has the attribute `f_<API field>` for each declared field, and `u_<n>` for each unexpected one. The value is a
    Python value, None, or a `msgspec.Raw` with JSON source text: of a free-form value, of an unexpected field, or of a
    value that does not have the declared type. `raw` is the source text of a row that the struct of the declared
    columns has decoded; it is None for every other row.
    """

    def __init__(
        self, table: Table, *, constant_columns: Sequence[str] = (), maps: Mapping[str, "RowType"] | None = None
    ) -> None:
        """Start from the declared columns of ``table``.

        ``constant_columns`` are not in the rows; `to_arrow` takes their values. ``maps`` are fields of a row that map
        a key to rows of another table.
        """
        self.table = table
        self.constant_columns = tuple(constant_columns)
        self.maps = dict(maps or {})
        self.unexpected: tuple[str, ...] = ()
        self.type_mismatches: frozenset[str] = frozenset()
        self._declared = {c.source_field: c for c in table.columns if c.name not in constant_columns}
        self._raw = frozenset(name for name, column in self._declared.items() if column.type in RAW_TYPES)
        self._found_fields: dict[str, int] = {}  # unexpected ones, with their positions
        self._found_mismatches: set[str] = set()
        self._found_raw: set[str] = set()  # with values that the struct refuses, although their type can hold them
        self._lock = threading.Lock()
        self.struct = self.declared_struct = self._make_struct()

    def is_key(self, field: str) -> bool:
        """Whether a row without this API field, or with another type in it, is refused."""
        column = self._declared.get(field)
        return column is not None and column.required and column.name in self.table.key

    def _make_struct(self) -> type[msgspec.Struct]:
        fields: list[Any] = []
        for name, column in self._declared.items():
            if name in self._raw:
                absent = ABSENT if column.type == "json" else None
                fields.append((f"f_{name}", msgspec.Raw, msgspec.field(name=name, default=absent)))
            elif self.is_key(name):
                fields.append((f"f_{name}", PYTHON_TYPES[column.type], msgspec.field(name=name)))
            else:
                fields.append((f"f_{name}", PYTHON_TYPES[column.type] | None, msgspec.field(name=name, default=None)))
        for name, row_type in self.maps.items():
            fields.append((f"f_{name}", dict[str, row_type.struct] | None, msgspec.field(name=name, default=None)))
        for position, name in enumerate(self.unexpected):
            in_json = f"{MARK}{position}" if NOT_IN_STRUCT.search(name) else name
            fields.append((f"u_{position}", msgspec.Raw, msgspec.field(name=in_json, default=ABSENT)))
        fields.append(("raw", Any, msgspec.field(name=f"{MARK}raw", default=None)))
        return msgspec.defstruct("Row", fields, forbid_unknown_fields=True, gc=False, kw_only=True)

    # --- rows that the struct does not decode ---

    def read_rows(self, rows: Sequence[Fields]) -> list[Row]:
        """Return rows decoded value by value, and extend the row type by what they have.

        Raises:
            msgspec.ValidationError: a row has no key, or one of another type.
        """
        with self._lock:
            attributes = []
            for number, fields in enumerate(rows):
                try:
                    attributes.append(self._read(fields))
                except msgspec.ValidationError as error:
                    raise msgspec.ValidationError(f"{error} (row {number} of the page)") from None
            self._extend()
            return [self._make(row) for row in attributes]

    def _read(self, fields: Fields) -> dict[str, Any]:
        """Return the attributes of a row."""
        row: dict[str, Any] = {}
        for name, source in fields.items():
            if name in self.maps:
                nested = self.maps[name]
                found = msgspec.json.decode(source, type=dict[str, Fields] | None)
                row[f"f_{name}"] = found and {key: nested._read(inner) for key, inner in found.items()}
            elif name in self._declared:
                row[f"f_{name}"] = self._read_declared(name, restore_source(source))
            else:
                position = self._found_fields.setdefault(_readable_name(name), len(self._found_fields))
                row[f"u_{position}"] = restore_source(source)
        for name in self._declared:
            if self.is_key(name) and f"f_{name}" not in row:
                raise msgspec.ValidationError(f"Object missing required field `{name}`")
        return row

    def _read_declared(self, name: str, source: msgspec.Raw) -> Any:
        column = self._declared[name]
        value = decode_value(source, column.type)
        if self.is_key(name):
            if value is None:
                found = ", found a lone surrogate" if has_lone_surrogate(bytes(source)) else ""
                raise msgspec.ValidationError(f"Expected `{column.type}` in the key `{name}`{found}")
        elif value is None and not is_null(source):
            self._found_mismatches.add(name)
            return source
        elif value is not None and not _is_accepted(source, column.type):
            self._found_raw.add(name)
        return value

    def _extend(self) -> None:
        """Make a new struct if the current one lacks a field or a type that was found."""
        before = [row_type.struct for row_type in self.maps.values()]
        for row_type in self.maps.values():
            row_type._extend()
        nested = [row_type.struct for row_type in self.maps.values()]
        mismatches = frozenset(self._found_mismatches)
        raw = self._raw | self._found_raw | mismatches
        unexpected = tuple(self._found_fields)
        if (nested, mismatches, raw, unexpected) != (before, self.type_mismatches, self._raw, self.unexpected):
            self.type_mismatches, self._raw, self.unexpected = mismatches, raw, unexpected
            self.struct = self._make_struct()  # last: a thread that has the struct has the names of its fields

    def _make(self, row: dict[str, Any]) -> Row:
        for name, row_type in self.maps.items():
            if nested := row.get(f"f_{name}"):
                row[f"f_{name}"] = {key: row_type._make(inner) for key, inner in nested.items()}
        return self.struct(**row)

    # --- rows that the struct has decoded ---

    def decode_raw(self, rows: Sequence[Row]) -> None:
        """Replace the source texts of declared types by their values, except those of another type."""
        raw = [(name, column) for name in self._raw if (column := self._declared[name]).type != "json"]
        for row in rows:
            for name, column in raw:
                source = getattr(row, f"f_{name}")
                value = decode_value(source, column.type)
                if value is None and not is_null(source) and source is not None:
                    self._found_mismatches.add(name)
                else:
                    setattr(row, f"f_{name}", value)
        for name, row_type in self.maps.items():
            if row_type.has_raw:
                row_type.decode_raw(inner_rows(rows, name))
        if self._found_mismatches - self.type_mismatches:
            with self._lock:
                self._extend()

    @property
    def has_raw(self) -> bool:
        """Whether `decode_raw` has any source text to replace."""
        is_raw = any(self._declared[name].type != "json" for name in self._raw)
        return is_raw or any(row_type.has_raw for row_type in self.maps.values())

    # --- rows to Arrow ---

    def to_arrow(self, rows: Sequence[Row], constant_columns: Mapping[str, Any] | None = None) -> pa.Table:
        """Return ``rows`` as a table: the declared columns in the order of the catalog, then the unexpected fields.

        ``constant_columns`` has their values: a list with one value per row, or one value for all rows.
        """
        unexpected = self.unexpected
        values = self._values(rows)  # other threads may have found fields since, which these rows lack
        columns: dict[str, pa.Array] = {}
        for column in self.table.columns:
            name = column.source_field
            if name not in self._declared:
                columns[column.name] = _constant((constant_columns or {}).get(column.name), column.type, len(rows))
            elif name in self.type_mismatches:
                columns |= _with_variant(column, values[f"f_{name}"])
            else:
                columns[column.name] = arrow_array(values[f"f_{name}"], column.type)
        fields = ((name, f"u_{position}") for position, name in enumerate(unexpected))
        texts = {name: json_array(values[attribute]) for name, attribute in fields if attribute in values}
        return self.make_table(columns, texts)

    def make_table(self, columns: Mapping[str, pa.Array], unexpected: Mapping[str, pa.Array]) -> pa.Table:
        """Return a table of ``columns`` and of the source texts of ``unexpected`` fields, without those always null."""
        arrays, fields = [*columns.values()], [pa.field(name, array.type) for name, array in columns.items()]
        taken = {*columns, *(column.name for column in self.table.columns)}
        for name, texts in unexpected.items():
            if texts.null_count < len(texts):
                unique = f"{name} (unexpected)" if name in taken else name
                fields.append(pa.field(unique, texts.type, metadata={UNEXPECTED_FIELD: name}))
                arrays.append(texts)
        return pa.table(arrays, pa.schema(fields))

    def _values(self, rows: Sequence[Row]) -> dict[str, Sequence[Any]]:
        """Return the values of each attribute, in the order of ``rows``."""
        struct = self.struct
        names = struct.__struct_fields__
        if set(map(type, rows)) == {struct}:
            return dict(zip(names, zip(*map(msgspec.structs.astuple, rows), strict=True), strict=True))
        # Some rows were decoded before the struct was extended, or there are none.
        return {name: [getattr(row, name, None) for row in rows] for name in names}


class PageDecoder:
    """Decodes one kind of response: an object around rows, or a single row. Threads can share it."""

    def __init__(self, row_type: RowType, items: str = "", others: Sequence[tuple[str, Any]] = ()) -> None:
        """``items``: the field with the rows; empty for a single row. ``others``: further fields and their types."""
        self.row_type = row_type
        self._items = items
        self._others = list(others)
        self._page_of_texts = self._page_decoder(msgspec.Raw)
        self._page_of_fields = self._page_decoder(Fields)
        self._row = msgspec.json.Decoder(row_type.struct)

    def _page_decoder(self, row: Any) -> msgspec.json.Decoder[Any]:
        if not self._items:
            return msgspec.json.Decoder(row)
        fields: list[Any] = [("items", list[row], msgspec.field(name=self._items))]
        for name, kind in self._others:
            default = None if NoneType in get_args(kind) else msgspec.NODEFAULT
            fields.append((name, kind, msgspec.field(name=name, default=default)))
        return msgspec.json.Decoder(msgspec.defstruct("Page", fields, kw_only=True))

    def __call__(self, body: bytes) -> Any:
        """Return the page, with the attribute `items` and one for each other field; or the single row.

        Raises:
            msgspec.DecodeError: not JSON.
            msgspec.ValidationError: an unexpected JSON shape, for instance a row without its key.
        """
        try:
            body.decode()  # raw values are decoded later, when the page cannot be read again
        except UnicodeDecodeError as error:  # it holds the body
            raise msgspec.DecodeError(f"invalid UTF-8 (byte {error.start})") from None
        decoder = self._row
        try:
            page = self._page_of_texts.decode(body)
            texts = page.items if self._items else [page]
            rows: list[Row] = list(map(decoder.decode, texts))
        except msgspec.DecodeError as error:
            marked = mark_surrogates(body)
            if marked == body and not isinstance(error, msgspec.ValidationError):
                raise
            return self._decode_by_value(marked)
        if self.row_type.has_raw:
            self.row_type.decode_raw(rows)
        elif decoder.type is self.row_type.declared_struct:
            for row, text in zip(rows, texts, strict=True):
                row.raw = text
        return self._with_rows(page, rows)

    def _decode_by_value(self, body: bytes) -> Any:
        """Decode a page that the struct refuses."""
        page = self._page_of_fields.decode(body)
        rows = self.row_type.read_rows(page.items if self._items else [page])
        self._row = msgspec.json.Decoder(self.row_type.struct)
        return self._with_rows(page, rows)

    def _with_rows(self, page: Any, rows: list[Row]) -> Any:
        """Return ``page`` with ``rows``; or the single row."""
        if not self._items:
            return rows[0]
        page.items = rows
        return page


def inner_rows(rows: Iterable[Row], name: str) -> list[Row]:
    """Return the rows inside ``rows``, in the field ``name``."""
    return [row for inner in map(attrgetter(f"f_{name}"), rows) if inner for row in inner.values()]


def to_arrow(table: Table, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return rows that do not come from a response as a table with the declared columns. JSON values are encoded."""
    listed = list(rows)
    columns = {}
    for column in table.columns:
        values = [row.get(column.name) for row in listed]
        if column.type == "json":
            values = [
                None if v is None else v if isinstance(v, msgspec.Raw) else msgspec.json.encode(v) for v in values
            ]
            columns |= _with_variant(column, values)
            continue
        is_time = any(isinstance(value, datetime) for value in values)
        columns[column.name] = pa.array(values, TIMESTAMP) if is_time else arrow_array(values, column.type)
    return pa.table(columns)


def _constant(value: Any, kind: ColumnType, length: int) -> pa.Array:
    return arrow_array(list(value) if isinstance(value, list) else [value] * length, kind)


def _with_variant(column: Column, values: Sequence[Any]) -> dict[str, pa.Array]:
    """Return a column, and the variant with the values of another type if there are any."""
    if column.type == "json":
        mismatches = [value is not None and has_lone_surrogate(bytes(value)) for value in values]
    else:
        mismatches = [isinstance(value, msgspec.Raw) for value in values]
    pairs = list(zip(values, mismatches, strict=True))
    columns = {column.name: arrow_array([None if differs else value for value, differs in pairs], column.type)}
    if any(mismatches):
        texts = [ascii_json(bytes(value)) if differs else None for value, differs in pairs]
        columns[f"{column.name}{VARIANT}"] = pa.array(texts, pa.string())
    return columns


def _is_accepted(source: msgspec.Raw, kind: ColumnType) -> bool:
    """Whether a struct decodes ``source``, if `decode_value` does."""
    return kind != "timestamp" or INTEGER.fullmatch(bytes(source)) is not None


def _readable_name(name: str) -> str:
    """Return the name of an unexpected field; as JSON source text if it has control characters or lone surrogates."""
    if not NOT_IN_STRUCT.search(name) and MARK not in name:
        return name
    escaped = json.dumps(name, ensure_ascii=False)[1:-1].encode()
    return restore_surrogates(escaped).decode()
