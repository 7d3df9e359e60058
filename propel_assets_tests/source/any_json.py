"""Any JSON source text, valid or at the edge of what parsers accept, and any row made of such texts."""

import json
from typing import Any

from hypothesis import strategies as st

ESCAPES = [
    r"\n",
    r"\"",
    r"\\",
    r"\/",
    r"\u0000",
    r"\u00e9",
    r"\ud83e\udd86",
    r"\ud800",
    r"\udc00\ud800",
    r"\\ud800",
    r"\u0041",
]
plain = st.text(st.characters(exclude_characters='"\\', min_codepoint=0x20, exclude_categories=["Cs"]), max_size=8)
texts = st.lists(plain | st.sampled_from(ESCAPES), max_size=4).map(lambda parts: f'"{"".join(parts)}"')
integers = st.integers(-(2**70), 2**70) | st.sampled_from(
    [0, -1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 1_700_000_000, 253_402_300_799, 253_402_300_800]
)
NUMBERS = [
    "-0",
    "-0.0",
    "1.0",
    "1.50",
    "1E2",
    "1e400",
    "-1e400",
    "1e-400",
    "0.1",
    "0.10",
    "0.1000000000000000055511151231257827",
]
NUMBERS += [
    "1700000000.0",
    "1.7e9",
    "1700000000.5",
    "1e-99999999999999999999",
    "1e99999999999999999999",
    "9007199254740993.0",
]
numbers = integers.map(str) | st.floats(allow_nan=False, allow_infinity=False).map(repr) | st.sampled_from(NUMBERS)
dates = st.dates().map(lambda day: f'"{day}"') | st.sampled_from(['"2026-02-30"', '"0000-01-01"', '"20260101"'])
scalars = st.sampled_from(["null", "true", "false"]) | numbers | texts | dates
spaces = st.sampled_from(["", "", " ", "\n"])


def _array(items: list[str], space: str) -> str:
    return f"[{space}{f',{space}'.join(items)}{space}]"


def _object(pairs: list[tuple[str, str]], space: str) -> str:
    return f"{{{space}{f',{space}'.join(f'{name}{space}:{space}{value}' for name, value in pairs)}}}"


values = st.recursive(
    scalars,
    lambda inner: (
        st.builds(_array, st.lists(inner, max_size=3), spaces)
        | st.builds(_object, st.lists(st.tuples(texts, inner), max_size=3), spaces)
    ),
    max_leaves=6,
)
names = texts | st.sampled_from(
    ['"id"', '"userId"', '"user_id"', '"Email"', '"_dlt_id"', '""', '"a.b"', '"f_id"', '"u_0"']
)


def rows(fields: dict[str, st.SearchStrategy[str]], *, required: Any = ()) -> st.SearchStrategy[list[tuple[str, str]]]:
    """Return objects as pairs of source texts: declared fields, mostly of their type, and unexpected ones."""
    declared = st.sampled_from(sorted(fields)).flatmap(lambda f: st.tuples(st.just(json.dumps(f)), fields[f] | values))
    first = st.tuples(*(st.tuples(st.just(json.dumps(name)), fields[name]) for name in required)).map(list)
    others = st.lists(declared | st.tuples(names, values), max_size=8)
    return st.builds(lambda key, other: [pair for pair in other if pair[0] not in dict(key)] + key, first, others)


def source(pairs: list[tuple[str, str]], space: str = "") -> str:
    """Return the JSON object of ``pairs``."""
    return _object(pairs, space)
