"""Decoding any row compared, value by value, with an oracle that uses Python's json and decimal modules only."""

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from propel_assets.catalog import BY_NAME
from propel_assets.catalog.model import Column
from propel_assets.privacy.policy import UNEXPECTED_FIELD
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets_tests.cases import cases
from propel_assets_tests.source import any_json

KINDS: dict[str, Any] = {
    "id": "text",
    "text": "text",
    "bigint": "bigint",
    "double": "double",
    "bool": "bool",
    "at": "timestamp",
    "day": "date",
    "json": "json",
}
COLUMNS = tuple(Column(name, "", required=name == "id", type=kind) for name, kind in KINDS.items())
TABLE = replace(BY_NAME["org_query"], columns=COLUMNS, key=("id",), items="rows")
SOURCES = {
    "id": st.uuids().map(lambda id_: f'"{id_}"'),
    "text": any_json.texts,
    "bigint": any_json.integers.map(str),
    "double": any_json.numbers,
    "bool": st.sampled_from(["true", "false"]),
    "at": st.integers(0, 2**33).map(str),
    "day": any_json.dates,
    "json": any_json.values,
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def has_lone_surrogate(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(has_lone_surrogate, [*value.keys(), *value.values()]))
    if isinstance(value, list):
        return any(map(has_lone_surrogate, value))
    return isinstance(value, str) and re.search("[\ud800-\udfff]", value) is not None


def number(source: str) -> Decimal | None:
    try:
        return Decimal(source) if re.match(r"-?\d", source) else None
    except InvalidOperation:
        return None


def expected_value(source: str, kind: str) -> Any:
    """Return the exact value, or None."""
    plain = json.loads(source, parse_int=Decimal, parse_float=lambda text: number(text) or 0)
    found = number(source)
    if kind == "json":
        return None if has_lone_surrogate(_pairs(source)) else source
    if kind == "text" and isinstance(plain, str):
        return None if has_lone_surrogate(plain) else plain
    if kind == "bool" and isinstance(plain, bool):
        return plain
    if kind == "bigint" and re.fullmatch(r"-?\d+", source):
        return int(source) if -(2**63) <= int(source) < 2**63 else None
    if kind == "double" and found is not None:
        as_float = float(source)
        return as_float if abs(as_float) < float("inf") and Decimal(repr(as_float)) == found else None
    if kind == "timestamp" and found is not None and -62_135_596_800 <= found <= 253_402_300_799:
        return EPOCH + timedelta(seconds=int(found)) if found == int(found) else None
    if kind == "date" and isinstance(plain, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", plain, re.ASCII):
        try:
            return date.fromisoformat(plain)
        except ValueError:
            return None
    return None


def _pairs(source: str) -> Any:
    """Parse with every pair of duplicate keys."""
    return json.loads(
        source, object_pairs_hook=lambda pairs: [list(pair) for pair in pairs], parse_int=str, parse_float=str
    )


def expected(pairs: list[tuple[str, str]]) -> dict[Any, Any]:
    """Return the columns of a row that are not null; unexpected fields by their source text."""
    row: dict[Any, Any] = {}
    for name, source in {json.loads(name): source for name, source in pairs}.items():
        if source == "null":
            continue
        if name not in KINDS:
            row["unexpected", name] = source
        elif (value := expected_value(source, KINDS[name])) is not None:
            row[name] = value
        else:
            row[f"{name}__v_text"] = "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in source)
    return row


def readable(name: str) -> str:
    if re.search(r'[\x00-\x1f"\\]|[\ud800-\udfff]', name):
        escaped = json.dumps(name, ensure_ascii=False)[1:-1]
        return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", escaped)
    return name


def decoded(
    row_type: RowType, decode: PageDecoder, rows: list[list[tuple[str, str]]], space: str
) -> list[dict[Any, Any]]:
    """Return the same of the page of ``rows``."""
    body = f'{{"rows":[{",".join(any_json.source(row, space) for row in rows)}]}}'
    table = row_type.to_arrow(decode(body.encode()).items)
    names = [
        ("unexpected", field.metadata[UNEXPECTED_FIELD].decode()) if field.metadata else field.name
        for field in table.schema
    ]
    columns = [column.to_pylist() for column in table.columns]
    return [
        {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for row in zip(*columns, strict=True)
    ]


pages = st.lists(any_json.rows(SOURCES, required=("id",)), min_size=1, max_size=4)


@settings(max_examples=cases(150))
@given(pages=st.lists(pages, min_size=1, max_size=3), space=any_json.spaces)
@example(pages=[[[('"at"', "1700000000.0"), ('"id"', '"x"')]]] * 2, space="")
@example(pages=[[[('"double"', "1e-400"), ('"id"', '"x"')]]] * 2, space="")
@example(pages=[[[('"\\ud800"', '"\\ud800"'), ('"json"', '{"a":"\\ud800"}'), ('"id"', '"x"')]]] * 2, space="")
def test_every_value_is_decoded_exactly_or_kept_as_source_text(pages, space) -> None:
    row_type = RowType(TABLE)
    decode = PageDecoder(row_type, "rows")
    for page in [*pages, *pages]:  # the second time, the struct has been extended
        wanted = [{_named(name): value for name, value in expected(row).items()} for row in page]
        assert decoded(row_type, decode, page, space) == wanted


def _named(name: Any) -> Any:
    return ("unexpected", readable(name[1])) if isinstance(name, tuple) else name
