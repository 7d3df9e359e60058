"""Both conversions of rows to Arrow give the same tables, and DuckDB converts what an API usually sends."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from propel_assets.catalog import BY_NAME
from propel_assets.source import convert
from propel_assets.source.convert import Batch, Converter, by_row_type
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets_tests.source import any_json
from propel_assets_tests.source.test_decode import MEMBER, USER

USERS, MEMBERS, ORGS = BY_NAME["user_query"], BY_NAME["org_membership"], BY_NAME["org_query"]
FIELD = MEMBERS.items
SOURCES = {
    "text": any_json.texts | st.just("null"),
    "bigint": any_json.integers.map(str),
    "bool": st.sampled_from(["true", "false", "null"]),
    "timestamp": st.integers(0, 2**33).map(str),
    "json": any_json.values,
}
KEYS = {"user_id": '"u"', "org_id": '"o"'}


ROW = '"user_id":"u","created_at":1'
INFO = '"org_id":"o"'
TWICE = f'{INFO},"org_name":"a","org_name":"b"'


class Users:
    """One scan of users: its decoder and its converter."""

    def __init__(self) -> None:
        member = RowType(MEMBERS, constant_columns=("user_id",))
        self.row_type = RowType(USERS, maps={FIELD: member})
        self.decode = PageDecoder(self.row_type, "users", [("total_users", int | None)])
        self.converter = Converter(self.row_type)

    def rows(self, *users: Any) -> list[Any]:
        body = json.dumps({"users": users, "total_users": len(users)}, separators=(",", ":"), ensure_ascii=False)
        return self.decode(body.encode()).items


def same(one: Batch, other: Batch) -> bool:
    """Compare values, types and the order of columns."""
    pairs = [(one.table, other.table), *((one.nested[name], other.nested[name]) for name in other.nested)]
    return all(a.schema.equals(b.schema, check_metadata=True) and a.equals(b) for a, b in pairs)


def plain(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


usual = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | any_json.plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_json.plain, inner, max_size=3),
    max_leaves=6,
).map(plain)
"""JSON as serializers write it: DuckDB writes most of it back byte for byte."""


def fields_of(table: Any) -> dict[str, st.SearchStrategy[str]]:
    return {
        c.source_field: usual if c.type == "json" else SOURCES[c.type] if c.name not in KEYS else st.just(KEYS[c.name])
        for c in table.columns
    }


def objects(table: Any, key: str, *, hostile: bool) -> st.SearchStrategy[list[tuple[str, str]]]:
    """Return rows of ``table``: usual ones, or with unexpected fields, other types and duplicate keys."""
    fields = fields_of(table)
    if hostile:
        return any_json.rows({name: values | any_json.values for name, values in fields.items()}, required=(key,))
    others = {name: values for name, values in fields.items() if name != key}
    chosen = st.lists(st.sampled_from(sorted(others)), unique=True).flatmap(
        lambda names: st.tuples(*(st.tuples(st.just(json.dumps(name)), others[name]) for name in names)).map(list)
    )
    return chosen.map(lambda pairs: [*pairs, (json.dumps(key), KEYS[key])])


@st.composite
def pages(draw: Any) -> bytes:
    hostile = draw(st.booleans())
    space = draw(any_json.spaces) if hostile else ""
    users = []
    for _ in range(draw(st.integers(0, 4))):
        user = draw(objects(USERS, "user_id", hostile=hostile))
        names = draw(st.lists(st.sampled_from(["o", "p", "q"]), max_size=3, unique=not hostile))
        inner = [
            (json.dumps(name), any_json.source(draw(objects(MEMBERS, "org_id", hostile=hostile)))) for name in names
        ]
        user.append((json.dumps(FIELD), draw(st.sampled_from(["{}", any_json.source(inner)]))))
        users.append(any_json.source(user, space))
    more = draw(st.sampled_from(["", "", '"x":{"a":[1.5e3]},', '"users":[],'] if hostile else [""]))
    return f'{{{more}"users":[{",".join(users)}],"total_users":9}}'.encode()


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(bodies=st.lists(pages(), min_size=1, max_size=3), data=st.data())
def test_both_conversions_give_the_same_tables(bodies, data) -> None:
    users = Users()
    rows = []
    for body in bodies:
        try:
            rows += users.decode(body).items
        except msgspec.DecodeError:
            event("refused")
    kept = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    rows = [row for row, keep in zip(rows, kept, strict=True) if keep]  # the others were on an earlier page
    by_duckdb = users.converter.by_duckdb(rows)
    event(f"by DuckDB: {by_duckdb is not None}")
    assert by_duckdb is None or same(by_duckdb, by_row_type(users.row_type, rows))


USUAL = {
    **USER,
    "first_name": 'Zoë "Z" \\ \n 🦆 \u2028',
    "last_name": "",
    "username": None,
    "properties": {"n": [1, -2.5, 0.1, 2**64 - 1], "é": None, "nested": {"a": {"b": [[]]}}, "t": True},
    "metadata": None,
    FIELD: {"22222222-2222-4222-8222-222222222222": MEMBER},
}


def test_duckdb_converts_usual_rows() -> None:
    users = Users()
    rows = users.rows(USUAL, {**USER, FIELD: {}}, USUAL) + users.rows(USUAL)
    for some in (rows, rows[1:3], rows[3:], [rows[2], rows[0]]):
        by_duckdb = users.converter.by_duckdb(some)
        assert by_duckdb is not None
        assert same(by_duckdb, by_row_type(users.row_type, some))


def test_duckdb_converts_rows_without_nested_rows() -> None:
    orgs = RowType(ORGS)
    decode = PageDecoder(orgs, "orgs")
    org = {"org_id": "o", "name": "n", "is_saml_configured": False, "max_users": 2**63 - 1, "created_at": 1}
    rows = decode(plain({"orgs": [org, {**org, "max_users": None, "metadata": {"a": 1}}]}).encode()).items
    by_duckdb = Converter(orgs).by_duckdb(rows)
    assert by_duckdb is not None
    assert same(by_duckdb, by_row_type(orgs, rows))


@pytest.mark.parametrize(
    "value",
    [
        "1.10",
        "1E2",
        "-0",
        "0.1000000000000000055511151231257827",
        "1e400",
        '{"a": 1}',
        r'"\/\u00e9"',
        '{"a":1,"a":2}',
        "[ ]",
    ],
)
def test_json_columns_are_source_texts(value) -> None:
    users = Users()
    body = f'{{"users":[{{{ROW},"properties":{value},"{FIELD}":{{"o":{{{INFO},"org_metadata":{value}}}}}}}]}}'
    rows = users.decode(body.encode()).items
    by_duckdb = users.converter.by_duckdb(rows)
    assert by_duckdb is not None
    assert by_duckdb.table["properties"].to_pylist() == by_duckdb.nested[FIELD]["org_metadata"].to_pylist() == [value]


UNUSUAL = {
    "unexpected field": f'{{"users":[{{{ROW},"new":1}}]}}',
    "unexpected field of a membership": f'{{"users":[{{{ROW},"{FIELD}":{{"o":{{{INFO},"new":1}}}}}}]}}',
    "another type": f'{{"users":[{{{ROW},"email":1}}]}}',
    "whole float as timestamp": '{"users":[{"user_id":"u","created_at":1.0}]}',
    "lone surrogate": f'{{"users":[{{{ROW},"email":"\\ud800"}}]}}',
    "duplicate key": f'{{"users":[{{{ROW},"email":"a","email":"b"}}]}}',
    "duplicate key, then null": f'{{"users":[{{{ROW},"email":"a","email":null}}]}}',
    "duplicate key of a membership": f'{{"users":[{{{ROW},"{FIELD}":{{"o":{{{TWICE}}}}}}}]}}',
    "duplicate membership": f'{{"users":[{{{ROW},"{FIELD}":{{"o":{{{INFO}}},"o":{{{INFO}}}}}}}]}}',
}


@pytest.mark.parametrize("body", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_a_batch_that_duckdb_could_convert_otherwise_is_left_to_the_row_type(body, monkeypatch) -> None:
    monkeypatch.setattr(convert, "MIN_ROWS", 0)
    users = Users()
    rows = users.decode(body.encode()).items
    assert users.converter.by_duckdb(rows) is None
    assert same(users.converter.convert(rows), by_row_type(users.row_type, rows))


@pytest.mark.parametrize("depth", [900, 100_000])
def test_deep_nesting_is_converted_alike_or_refused(depth) -> None:
    users = Users()
    body = f'{{"users":[{{{ROW},"properties":{"[" * depth}{"]" * depth}}}]}}'
    try:
        rows = users.decode(body.encode()).items
    except (msgspec.DecodeError, RecursionError):
        return
    by_duckdb = users.converter.by_duckdb(rows)
    assert by_duckdb is None or same(by_duckdb, by_row_type(users.row_type, rows))


def test_a_batch_beyond_the_memory_limit_is_left_to_the_row_type(monkeypatch) -> None:
    monkeypatch.setattr(convert, "SETTINGS", {**convert.SETTINGS, "memory_limit": "2MB"})
    users = Users()
    rows = users.rows(*[USUAL | {"user_id": str(n), "email": "x" * 1_000} for n in range(5_000)])
    assert users.converter.by_duckdb(rows) is None
    assert users.converter.convert(rows).table.num_rows == len(rows)


def test_batches_keep_their_order_and_few_are_in_flight(monkeypatch) -> None:
    users = Users()
    taken = 0

    def batches() -> Iterator[list[Any]]:
        nonlocal taken
        for number in range(10):
            taken += 1
            yield users.rows({**USER, "user_id": str(number), FIELD: {}})

    for number, batch in enumerate(convert.convert(users.row_type, batches())):
        assert batch.table["user_id"].to_pylist() == [str(number)]
        assert taken <= number + convert.BATCHES_AHEAD + 1


def test_an_abandoned_conversion_ends_its_thread() -> None:
    users = Users()
    converted = convert.convert(users.row_type, (users.rows(USER) for _ in range(10)))
    next(converted)
    assert any(thread.name.startswith("convert") for thread in threading.enumerate())
    converted.close()
    assert not any(thread.name.startswith("convert") for thread in threading.enumerate())
