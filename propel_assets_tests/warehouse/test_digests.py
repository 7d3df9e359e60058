"""The canonical forms that `propel-assets verify` compares: equal for equal values only, at any depth."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propel_assets.warehouse.digests import _parse_deep, canonical


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("json", '{"b": 1.0, "a": [1e2, "x"]}', '{"a": [100, "x"], "b": 1}'),
        ("json", "-0.0", "0"),
        ("json", "123456789012345678901234567890.1", "123456789012345678901234567890.10"),
        ("timestamp", "2026-11-24 12:00:00+00:00", datetime(2026, 11, 24, 12, tzinfo=UTC)),
        ("timestamp", datetime(2026, 11, 24, 12), "2026-11-24T13:00:00+01:00"),  # noqa: DTZ001 - as SQLite returns it
        ("bool", 1, True),
        ("bigint", Decimal(3), 3),
    ],
)
def test_equal_values_have_one_form(kind, one, other) -> None:
    assert canonical(one, kind) == canonical(other, kind)


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("json", "123456789012345678901234567890.1", "123456789012345678901234567890.2"),
        ("json", '"1"', "1"),
        ("json", "true", "1"),
        ("json", '{"plan": 1}', '{"plan": {"number": "1"}}'),
        ("text", "", None),
    ],
)
def test_different_values_have_different_forms(kind, one, other) -> None:
    assert canonical(one, kind) != canonical(other, kind)


def has_same_content(one: Any, other: Any) -> bool:
    """Return whether two parsed JSON values are equal. Python's `==` takes True for 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(has_same_content(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(has_same_content, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


names = st.sampled_from(["", "a", "b", "number", "}", '"', "1"])
numbers = st.sampled_from([0, -0.0, 1, 1.0, 10, 0.1, 1e22, -1]) | st.integers(-3, 3)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


@given(json_values, json_values)
def test_json_values_have_one_form_exactly_if_they_are_equal(one, other) -> None:
    forms = [canonical(json.dumps(value), "json") for value in (one, other)]
    assert (forms[0] == forms[1]) == has_same_content(one, other)


@given(json_values)
def test_a_json_value_has_one_form_in_any_layout_and_parser(value) -> None:
    source = json.dumps(value)
    assert canonical(source, "json") == canonical(json.dumps(value, indent=1, sort_keys=True), "json")
    assert has_same_content(_parse_deep(source), json.loads(source, parse_float=Decimal))


@pytest.mark.parametrize("opening", ['{"a":', "[", '[{"a":1.50,"b":'])
def test_json_of_any_depth_has_a_form(opening) -> None:
    closing = "".join({"[": "]", "{": "}"}.get(c, "") for c in reversed(opening))
    one, other = (f"{opening * 5_000}{leaf}{closing * 5_000}" for leaf in ("1", "2"))
    assert canonical(one, "json") == canonical(one.replace("1.50", "1.5 "), "json") != canonical(other, "json")


def test_a_number_beyond_every_limit_has_a_form() -> None:
    assert canonical("[1e99999999999999999999]", "json") != canonical("[1e99999999999999999998]", "json")
    digits = "1" * 300_000
    assert canonical(f"{digits}1", "json") != canonical(f"{digits}2", "json")
