"""Batches fitted to a destination's columns: exact values, distinct names, nothing that the destination refuses."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from itertools import permutations
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from dlt.common.normalizers.naming import NamingConvention
from dlt.common.normalizers.naming.direct import NamingConvention as Direct
from dlt.common.normalizers.naming.snake_case import NamingConvention as SnakeCase
from hypothesis import example, given
from hypothesis import strategies as st

from propel_assets.catalog import BY_NAME
from propel_assets.privacy.policy import UNEXPECTED_FIELD
from propel_assets.source.decode import to_arrow
from propel_assets.source.reconcile import Reconciler, ValueLimits, merge_types

USERS, MEMBERS = BY_NAME["user_query"], BY_NAME["org_membership"]
ANY = ValueLimits(nul=True, json_numbers="any")
POSTGRES = ValueLimits(nul=False, json_numbers="numeric")
STRICTEST = ValueLimits()
KINDS = ("text", "bigint", "double", "bool", "json", "decimal", "timestamp")


def reconciler(
    columns: dict[str, str] | None = None,
    limits: ValueLimits = ANY,
    naming: NamingConvention | None = None,
) -> Reconciler:
    naming = naming or SnakeCase()
    return Reconciler(lambda _: columns or {}, naming.normalize_path, max_name_length=naming.max_length, limits=limits)


def batch(**fields: list[str | None]) -> pa.Table:
    """Return rows with unexpected fields only, as JSON source texts."""
    return with_names(list(fields.items()))


def with_names(fields: list[tuple[str, list[str | None]]]) -> pa.Table:
    schema = pa.schema(
        [pa.field(f"c{n}", pa.string(), metadata={UNEXPECTED_FIELD: name}) for n, (name, _) in enumerate(fields)]
    )
    return pa.table([pa.array(texts, pa.string()) for _, texts in fields], schema)


def column(table: pa.Table, name: str) -> list[Any]:
    return table.column(name).to_pylist() if name in table.column_names else [None] * table.num_rows


def stored(table: pa.Table, name: str) -> list[Any]:
    """Return the values of an unexpected field, as a reader of the destination restores them."""
    pairs = zip(column(table, name), column(table, f"{name}__v_text"), strict=True)
    return [value if text is None else exact(text) for value, text in pairs]


def exact(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


# Types


@pytest.mark.parametrize(
    ("before", "value", "kept", "variant"),
    [
        ("bigint", "1.5", None, "1.5"),
        ("bigint", "7", 7, None),
        ("bigint", '"7"', None, '"7"'),
        ("bigint", "true", None, "true"),
        ("bigint", str(2**63), None, str(2**63)),
        ("double", str(2**53), 2.0**53, None),
        ("double", str(2**53 + 1), None, str(2**53 + 1)),
        ("double", "0.12345678901234567890", None, "0.12345678901234567890"),
        ("bool", "false", False, None),
        ("bool", "0", None, "0"),
        ("text", '"x"', "x", None),
        ("text", "1", None, "1"),
        ("text", '{"a":1}', None, '{"a":1}'),
        ("json", '{"a":1.10}', '{"a":1.10}', None),
        ("json", '"x"', '"x"', None),
        ("json", r'"\ud83e"', None, r'"\ud83e"'),
        ("decimal", "1", None, "1"),
        ("timestamp", "1700000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), None),
        ("timestamp", '"yesterday"', None, '"yesterday"'),
    ],
)
def test_an_unexpected_field_is_fitted_to_the_existing_column(before, value, kept, variant) -> None:
    fitted = reconciler({"shoe_size": before}).apply(USERS, batch(shoe_size=[value, None]))
    assert column(fitted, "shoe_size") == [kept, None]
    assert column(fitted, "shoe_size__v_text") == [variant, None]


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        ([None, "1", "1.5", '"x"'], pa.int64()),
        (["1.5", "1", str(2**53 + 1)], pa.float64()),
        (["true", "1"], pa.bool_()),
        (['"1"', "1"], pa.string()),
        ([str(2**70), "1"], pa.string()),
    ],
)
def test_the_first_value_gives_a_new_column_its_type_for_the_whole_load(texts, kind) -> None:
    fitting = reconciler()
    first = fitting.apply(USERS, batch(new=texts))
    later = fitting.apply(USERS, batch(new=texts[::-1]))
    assert first.schema.field("new").type == later.schema.field("new").type == kind
    assert stored(first, "new") == stored(later, "new")[::-1]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
sources = json_values.map(lambda value: None if value is None else json.dumps(value)) | st.sampled_from(
    [
        str(2**53 + 1),
        "1e400",
        "-0.0",
        "1.10",
        r'"\ud800"',
        r'"\u0000"',
        r'{"\u0000": "\udc00"}',
        "0.12345678901234567890",
    ]
)


@given(
    loads=st.lists(st.lists(st.lists(sources, min_size=1, max_size=4), min_size=1, max_size=3), min_size=1, max_size=3),
    limits=st.sampled_from([ANY, POSTGRES, STRICTEST]),
)
@example(loads=[[["1"]], [["1.5"]], [[str(2**53 + 1)]], [['"text"']]], limits=ANY)
@example(loads=[[["true"], ['"text"']], [["1"]]], limits=STRICTEST)
def test_no_value_of_any_type_in_any_order_is_altered(loads, limits) -> None:
    columns: dict[str, str] = {}
    for batches in loads:
        fitting = reconciler(columns, limits)
        for texts in batches:
            fitted = fitting.apply(USERS, batch(new=texts))
            kind = fitting._kinds["user_query"]["new"]
            columns |= {"new": kind, "new__v_text": "text"}
            for sent, value, text in zip(texts, column(fitted, "new"), column(fitted, "new__v_text"), strict=True):
                assert_same(sent, kind, value, text)
        counts = fitting.counts["user_query"]
        assert counts.values["new"] == sum(text is not None for texts in batches for text in texts)


def assert_same(sent: Any, kind: str, value: Any, variant: str | None) -> None:
    assert value is None or variant is None
    if variant is not None:
        assert variant.encode("ascii")
        assert exact(variant) == exact(sent)
    elif value is None:
        assert sent is None
    elif kind == "json":
        assert exact(value) == exact(sent)
    elif kind == "double":
        assert Decimal(repr(value)) == exact(sent)
    else:
        assert (value, type(value)) == (exact(sent), type(exact(sent))) or exact(sent) == Decimal(value)


def test_a_declared_value_is_fitted_to_another_type_at_the_destination() -> None:
    rows = to_arrow(
        USERS, [{"user_id": "u", "created_at": 1_700_000_000, "email": "e", "locked": True, "metadata": {}}]
    )
    fitting = reconciler({"created_at": "bigint", "email": "bigint", "locked": "text", "metadata": "json"})
    fitted = fitting.apply(USERS, rows)
    assert column(fitted, "created_at") == [1_700_000_000]
    assert column(fitted, "email") == [None]
    assert column(fitted, "email__v_text") == ['"e"']
    assert column(fitted, "locked__v_text") == ["true"]
    assert column(fitted, "metadata") == ["{}"]
    assert fitting.counts["user_query"].variants == {("email", "column type"): 1, ("locked", "column type"): 1}
    assert fitting.counts["user_query"].values["email"] == 1
    assert fitting.describe(USERS) == {
        "email": "not bigint, the type of the column at the destination, see email__v_text",
        "locked": "not text, the type of the column at the destination, see locked__v_text",
    }


def test_variants_of_decoding_are_kept_and_counted() -> None:
    rows = to_arrow(USERS, [{"user_id": "u"}, {"user_id": "v", "email": "e"}])
    rows = rows.append_column("email__v_text", pa.array(["7", None])).append_column(
        "locked__v_text", pa.array([None, "1"])
    )
    fitting = reconciler()
    assert column(fitting.apply(USERS, rows), "email__v_text") == ["7", None]
    counts = fitting.counts["user_query"]
    assert (counts.rows, counts.values["email"], counts.values["locked"]) == (2, 2, 1)
    assert counts.variant_rows() == [
        {"column": "email", "reason": "type", "values": 1},
        {"column": "locked", "reason": "type", "values": 1},
    ]
    assert fitting.describe(USERS) == {"email": "not text, see email__v_text", "locked": "not bool, see locked__v_text"}


@pytest.mark.parametrize(
    ("schema", "stored_type", "kind"),
    [("json", "text", "json"), ("bool", "bigint", "bool"), ("text", "bigint", "bigint"), ("bigint", "bool", "bool")],
)
def test_the_type_at_the_destination_decides_unless_it_holds_the_same_values(schema, stored_type, kind) -> None:
    assert merge_types({"x": schema, "only_schema": "text"}, {"x": stored_type, "only_stored": "date"}) == {
        "x": kind,
        "only_schema": "text",
        "only_stored": "date",
    }


# Values that a destination cannot store


@pytest.mark.parametrize(
    ("name", "sent", "limits", "is_stored"),
    [
        ("first_name", "a\0b", ANY, True),
        ("first_name", "a\0b", POSTGRES, False),
        ("first_name", r"a\u0000b", POSTGRES, True),
        ("properties", r'{"a": "\u0000"}', POSTGRES, False),
        ("properties", r'{"\u0000": "é"}', POSTGRES, False),
        ("properties", r'{"a": "\\u0000"}', POSTGRES, True),
        ("properties", f'{{"a": {2**70}}}', POSTGRES, True),
        ("properties", f'{{"a": 1{"0" * 131_071}}}', POSTGRES, True),
        ("properties", f'{{"a": 1{"0" * 131_072}}}', POSTGRES, False),
        ("properties", '{"a": 1e131072}', POSTGRES, False),
        ("properties", '{"a": 1e-16384}', POSTGRES, False),
        ("properties", '{"a": 1e-99999999999999999999}', POSTGRES, False),
        ("properties", f'{{"a": 1{"0" * 131_072}}}', ANY, True),
        ("properties", f'{{"a": {2**70}}}', STRICTEST, False),
        ("properties", '{"a": 0.12345678901234567890}', STRICTEST, False),
        ("properties", f'{{"a": [{2**63 - 1}, 0.1, 1e300]}}', STRICTEST, True),
        ("properties", '{"id": "12345678901234567890"}', STRICTEST, True),
    ],
)
def test_what_a_destination_cannot_store_is_kept_as_ascii_json(name, sent, limits, is_stored) -> None:
    rows = to_arrow(USERS, [{"user_id": "u"}, {"user_id": "v"}])
    rows = rows.set_column(rows.column_names.index(name), name, pa.array([sent, None], pa.string()))
    fitting = reconciler(limits=limits)
    fitted = fitting.apply(USERS, rows)
    variant = None if is_stored else json.dumps(sent) if name == "first_name" else sent.replace("é", r"\u00e9")
    assert column(fitted, name) == [sent if is_stored else None, None]
    assert column(fitted, f"{name}__v_text") == [variant, None]
    counts = fitting.counts["user_query"]
    assert counts.values[name] == 1
    assert sum(counts.variants.values()) == (not is_stored)


JSON_NUMBER = r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?"


@given(number=st.from_regex(JSON_NUMBER, fullmatch=True))
@example(number="12345678.123456789")
@example(number="9007199254.740993")
def test_a_number_inside_json_is_stored_only_if_64_bits_hold_it(number) -> None:
    rows = to_arrow(USERS, [{"user_id": "u"}])
    sent = f'{{"a": [{number}]}}'
    rows = rows.set_column(rows.column_names.index("properties"), "properties", pa.array([sent], pa.string()))
    fitted = reconciler(limits=STRICTEST).apply(USERS, rows)
    is_stored = column(fitted, "properties") == [sent]
    is_integer = number.lstrip("-").isdigit() and -(2**63) <= int(number) < 2**63
    assert is_stored == (is_integer or Decimal(repr(float(number))) == Decimal(number))
    assert column(fitted, "properties__v_text") == [None if is_stored else sent]


def test_a_key_that_cannot_be_stored_keeps_its_row() -> None:
    rows = to_arrow(BY_NAME["custom_role_mappings"], [{BY_NAME["custom_role_mappings"].key[0]: "a\0b"}])
    key = BY_NAME["custom_role_mappings"].key[0]
    fitted = reconciler(limits=POSTGRES).apply(BY_NAME["custom_role_mappings"], rows)
    assert column(fitted, key) == column(fitted, f"{key}__v_text") == [r'"a\u0000b"']


# Names


NAMES = ["userId", "user_id ", "Email", "createdAt", "fooBar", "foo_bar", "Foo_Bar", "", " ", "_dlt_id", "_dlt_load_id"]
NAMES += [
    "email__v_text",
    "x" * 80,
    "y" * 80,
    "Ünïcode",
    "a.b",
    "a b",
    "🦆",
    "1st",
    "foo_bar__f0123abcd",
    "__",
    "select",
]


@pytest.mark.parametrize("naming", [SnakeCase(), SnakeCase(63), Direct(), Direct(63), SnakeCase(1_024)])
def test_every_field_has_a_column_of_its_own_that_dlt_does_not_rename(naming) -> None:
    fitting = reconciler(naming=naming)
    names = [fitting.column_name(MEMBERS, field) for field in [*NAMES, "user_id", "org_name"]]
    assert len({name.lower() for name in names}) == len(names)
    taken = {c.name for c in MEMBERS.columns} | {"_dlt_id", "_dlt_load_id"}
    assert not taken & set(names)
    for name in names:
        for dlts in (name, f"{name}__v_text"):
            assert naming.normalize_path(dlts) == dlts
            assert len(dlts) <= (naming.max_length or 1_000)
    assert fitting.column_name(MEMBERS, "foo_bar") == "foo_bar"
    assert fitting.column_name(MEMBERS, "new__field") == "new__field"


@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), unique=True, max_size=8))
@example(names=["a", "A", "a_", "a__", "aX", "ax"])
def test_any_names_get_distinct_columns(names) -> None:
    fitting = reconciler(naming=SnakeCase(63))
    columns = [fitting.column_name(USERS, name) for name in names]
    assert len(set(columns)) == len(columns)
    assert [SnakeCase(63).normalize_path(name) for name in columns] == columns


@pytest.mark.parametrize("order", list(permutations(["fooBar", "foo_bar", "FooBar"])))
def test_the_order_in_which_fields_appear_does_not_change_their_columns(order) -> None:
    fitting = reconciler()
    together = fitting.apply(USERS, with_names([(name, [json.dumps(name)]) for name in order]))
    alone = {name: fitting.apply(USERS, with_names([(name, [json.dumps(name)])])).column_names for name in order}
    assert sorted(together.column_names) == sorted(column for columns in alone.values() for column in columns)
    assert together.column("foo_bar").to_pylist() == ["foo_bar"]
    described = fitting.describe(USERS)
    assert (
        described["foo_bar"].endswith("because fooBar and FooBar has the same normalized name")
        or "FooBar" in described["foo_bar"]
    )
    assert "foo_bar" in described["fooBar"]


def test_a_field_that_meets_a_declared_column_names_both() -> None:
    fitting = reconciler()
    fitting.apply(MEMBERS, with_names([("userId", ['"x"']), ("user_id", ['"y"']), ("new", ["1"])]))
    described = fitting.describe(MEMBERS)
    assert described["new"] == "unexpected, stored as bigint"
    assert described["userId"].startswith("unexpected, stored as text in `user_id__f")
    assert described["userId"].endswith("`; same normalized name as `user_id`")
    assert described["user_id"].startswith("unexpected, stored as text in `user_id__f")
    assert described["user_id"].endswith("`; same normalized name as `user_id` and `userId`")


@pytest.mark.parametrize(
    ("content", "reason"), [("12345678901234567890", "number out of range"), (r'"\u0000"', "NUL character"), ("1", "")]
)
def test_json_of_any_depth_is_examined(content, reason) -> None:
    source = "[" * 5_000 + content + "]" * 5_000
    strict = reconciler(limits=STRICTEST)
    found = strict.apply(USERS, to_arrow(USERS, [{"user_id": "u", "properties": msgspec.Raw(source.encode())}]))
    assert strict.describe(USERS).get("properties", "").startswith(reason)
    assert found["properties__v_text" if reason else "properties"].to_pylist() == [source]
