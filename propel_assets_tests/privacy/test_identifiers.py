"""Ids and addresses are found in every usual encoding, and nothing else is changed."""

import json
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propel_assets.privacy.identifiers import MAY_CONTAIN_IDENTIFIER, like_patterns, replace_identifiers

BOB = "bob@x.test"
UNUSUAL = "o'brien+a=b@mail.exämple.test"
ID = "5b1f0c1e-9f0d-4c64-8e0f-5f1c6c2d7a10"
IP = "ip@[192.168.0.1]"
KEY = "0123456789abcdef0123456789abcdef"
HASH = "c" * 64
ERASED = {BOB, UNUSUAL, IP, ID, KEY, HASH, "bobby"}


def is_erased(value: str) -> bool:
    return value.lower() in ERASED


def replaced(text: str) -> str:
    return replace_identifiers(text, is_erased, whole_values=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOB, "erased"),
        ("mail Bob@X.Test, please", "mail erased, please"),
        ("bob@x.test.png", "erased.png"),
        ("/a/bob@x.test-2.png", "/a/erased-2.png"),
        ("_bob@x.test_", "_erased_"),
        ("bob%40x.test", "erased"),
        ("https://h/?email=bob%40x.test&a=1", "https://h/?email=erased&a=1"),
        ("?next=%2Fu%3Fe%3Dbob%2540x.test%26a", "?next=%2Fu%3Fe%3Derased%26a"),
        ("bob&#64;x.test bob&#x40;x.test", "erased erased"),
        ("bob&#064;x.test bob&#x0040;x.test bob&#0000000064;x.test", "erased erased erased"),
        ("bob&#64x.test bob&commat;x&period;test bob&amp;#64;x.test", "erased erased erased"),
        (r"bob\x40x.test", "erased"),
        ('{"html": "bob\\u0026#64;x.test"}', '{"html": "erased"}'),
        ("bob%26%2364%3Bx.test", "erased"),
        ("email=bob@x.test", "email=erased"),
        ("ip@[192.168.0.1], IP@[192.168.0.1].png", "erased, erased.png"),
        ("<bob@x.test>;'bob@x.test'", "<erased>;'erased'"),
        ("[{'x': o\\x27brien+a=b@mail.ex\\xC3\\xA4mple.test}]", "[{'x': erased}]"),
        ("CORP\\bob@x.test", "CORP\\erased"),
        (quote(UNUSUAL), "erased"),
        (f"x={UNUSUAL}", "x=erased"),
        (f"user_{ID.upper()}.png", "user_erased.png"),
        (ID.replace("-", ""), "erased"),
        (ID.replace("-", "%2D"), "erased"),
        (f"key {KEY}", "key erased"),
        (f"key {KEY[:8]}-{KEY[8:12]}-{KEY[12:16]}-{KEY[16:20]}-{KEY[20:]}", "key erased"),
        (HASH, "erased"),
        ("bobby", "erased"),
        ('"bobby"', '"erased"'),
        ('{"by": "bobby", "bobby": 1}', '{"by": "erased", "bobby": 1}'),
        ('{"bob@x.test": 1, "bob%40x.test": 2, "erased": 3}', '{"erased_2": 1, "erased_3": 2, "erased": 3}'),
        (r'{"note": "Hi,\nbob\u0040x.test\/"}', r'{"note": "Hi,\nerased\/"}'),
        (r'{"inner": "{\"e\": \"bob\\u0040x.test\"}"}', r'{"inner": "{\"e\": \"erased\"}"}'),
        ("['bob@x.test', {bob@x.test=1}]", "['erased', {erased=1}]"),
    ],
)
def test_an_identifier_is_replaced(text, expected) -> None:
    assert replaced(text) == expected
    assert re.search(MAY_CONTAIN_IDENTIFIER, text) or "bobby" in text or "c" * 64 in text


@pytest.mark.parametrize(
    "text",
    [
        "xbob@x.test",
        "x-bob@x.test x.bob@x.test x+bob@x.test",
        "bob@x.testing bob@y.test bob@",
        "bobby was here",
        f"a{ID}",
        '{"n": 1.50, "big": 12345678901234567890123, "n": 2, "t": "\\u00e9 \\/"}',
        "{not JSON, bobby}",
        "100% @ \\ &#; \\u12 %zz",
        "a &amp; b &unknown; &NotEqualTilde; &#99999999; ip@[] bob&x.test",
    ],
)
def test_everything_else_is_unchanged(text) -> None:
    assert replaced(text) == text


words = st.text(st.characters(exclude_categories=["Cs"]))


@given(words, words)
def test_an_address_between_any_other_words_is_found_by_the_text_and_by_the_pattern_for_sql(before, after) -> None:
    text = f"{before} bob@x.test {after}"
    assert "bob@x.test" not in replaced(text)
    for encoded in (text, quote(text), json.dumps({before: text}), json.dumps({text: 1})):
        assert "erased" in replaced(encoded)
        (pattern,) = like_patterns(BOB)
        assert re.fullmatch(pattern.replace("%", "(?s:.*)"), encoded.lower())


@given(
    st.recursive(words | st.integers() | st.floats(allow_nan=False), lambda v: st.lists(v) | st.dictionaries(words, v))
)
def test_json_without_an_identifier_is_unchanged(value) -> None:
    text = json.dumps(value)
    if "bob" not in text and ID[:8] not in text:
        assert replaced(text) == text


@given(words, st.lists(words))
def test_json_stays_json_with_as_many_keys(key, values) -> None:
    document = {key: values, f"{key} bob@x.test": values, f"{key} bob%40x.test": BOB}
    stored = json.loads(replaced(json.dumps(document)))
    assert len(stored) == len(document)
    assert "bob" not in json.dumps(list(stored)[1:])
