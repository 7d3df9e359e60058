r"""Ids and e-mail addresses inside text and JSON: finding them in every usual encoding, and replacing them.

A text is searched as it is and with its escapes decoded: percent-encoding, JSON escapes, `\x27` as databases write
bytes, HTML character references, and these inside each other. It finds tokens that look like an id (a UUID with or
without hyphens, 64 hex digits) or an e-mail address. A token counts if it identifies an erased person, or a part of
it does: `bob@x.test.png` contains `bob@x.test`, and `email=bob@x.test` does. `x-bob@x.test` does not: it is another
address.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from html.entities import html5

import msgspec

from propel_assets.privacy.surrogates import mark_surrogates

REPLACEMENT = "erased"
# A text without `@`, without the digits of an encoded one and without 8 hex digits contains no identifier. Valid in
# RE2, for Arrow, too.
MAY_CONTAIN_IDENTIFIER = r"@|40|64|commat|[0-9A-Fa-f]{8}"
CANDIDATE = re.compile(MAY_CONTAIN_IDENTIFIER)
MAX_DECODINGS = 4
MAX_LOCAL, MAX_DOMAIN = 64, 255  # RFC 5321

ID = re.compile(
    r"(?<![0-9A-Fa-f])(?:[0-9A-Fa-f]{8}(?:-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}|[0-9A-Fa-f]{64})(?![0-9A-Fa-f])"
)
LOCAL = re.compile(r'[^\s@"<>(),;:\[\]\\\x00-\x1f]+\Z')
LOCAL_START = re.compile(r"(?:\A|(?<=[^\w.+-]))[._+-]*")
DOMAIN = re.compile(rf"\[[\w.:-]{{1,{MAX_DOMAIN}}}\]|[\w.-]{{1,{MAX_DOMAIN}}}")
DOMAIN_END = re.compile(r"[._-]+|\Z")
ESCAPE = re.compile(
    r"(?:%[0-9A-Fa-f]{2})+|(?:\\x[0-9A-Fa-f]{2})+|\\u[0-9A-Fa-f]{4}|\\[^u]"
    r"|&#(?:0*[0-9]{1,7}|[xX]0*[0-9A-Fa-f]{1,6});?|&[A-Za-z][A-Za-z0-9]{1,30};",
    re.DOTALL,
)
SIMPLE_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "/": "/", '"': '"', "'": "'", "\\": "\\"}
JSON_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?', re.DOTALL)
NOT_ALPHANUMERIC = re.compile(
    "(?:i\u0307|[^0-9a-z])+"
)  # the first is the lower case of the Turkish capital i with a dot

PLAIN_IDENTIFIER = re.compile(rf"[^\s@\"<>(),;:\[\]\\]+@(?:{DOMAIN.pattern})|[0-9A-Fa-f-]{{32,36}}|[0-9A-Fa-f]{{64}}")
"""A text that is one address or id and nothing else. The local part can have `'`, `%`, `=` and `/`."""

IsErased = Callable[[str], bool]
"""Returns whether a value identifies an erased person. It ignores case."""
Span = tuple[int, int]


def replace_identifiers(text: str, is_erased: IsErased, *, whole_values: bool = False) -> str:
    """Return ``text``, or JSON, with the word `erased` in place of each identifier of an erased person.

    JSON keeps its format: only contents of strings change, keys of objects included, and keys stay unique.
    ``whole_values``: also replace text and JSON string values that equal a username or an id.
    """
    if text.lstrip()[:1] in {"{", "[", '"'} and _is_json(text):
        return _replace_in_json(text, is_erased, whole_values=whole_values)
    if whole_values and is_erased(text):
        return REPLACEMENT
    return _replace_in_text(text, is_erased)


def is_one_identifier(text: str, is_erased: IsErased) -> bool:
    """Return whether the whole of ``text`` is an address or an id, of an erased person or of another one."""
    return PLAIN_IDENTIFIER.fullmatch(text) is not None or is_erased(text)


def like_patterns(value: str) -> list[str]:
    """Return patterns for LIKE that match every lower-case text in which ``value`` can be found, and others too."""
    value = value.lower()
    forms = {value}
    if ID.fullmatch(value):
        forms.add(_with_hyphens(value))
    return [f"%{NOT_ALPHANUMERIC.sub('%', form).strip('%')}%" for form in sorted(forms)]


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(mark_surrogates(text.encode()), type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


def _replace_in_json(text: str, is_erased: IsErased, *, whole_values: bool) -> str:
    keys: set[str] = set()

    def replace(found: re.Match[str]) -> str:
        content, colon = found[1], found[2] or ""
        if colon:
            return f'"{_unique_key(content, _replace_in_text(content, is_erased), text, keys)}"{colon}'
        if whole_values and is_erased(json.loads(found[0]) if "\\" in content else content):
            return f'"{REPLACEMENT}"'
        return f'"{_replace_in_text(content, is_erased)}"'

    return JSON_STRING.sub(replace, text)


def _unique_key(key: str, new_key: str, text: str, keys: set[str]) -> str:
    """Return ``new_key``, with a number behind it where the JSON ``text`` has another key of that name."""
    if new_key == key:
        return key
    if not keys:
        keys.update(found[1] for found in JSON_STRING.finditer(text) if found[2])
    number, unique = 2, new_key
    while unique in keys:
        number, unique = number + 1, f"{new_key}_{number}"
    keys.add(unique)
    return unique


def _replace_in_text(text: str, is_erased: IsErased) -> str:
    if not CANDIDATE.search(text):
        return text
    spans = sorted(_find(text, is_erased))
    parts, end = [], 0
    for start, stop in spans:
        if start >= end:
            parts += [text[end:start], REPLACEMENT]
        end = max(end, stop)
    return "".join([*parts, text[end:]]) if spans else text


def _find(text: str, is_erased: IsErased) -> Iterator[Span]:
    """Yield where ``text`` identifies an erased person, in every decoding of it."""
    decoded, origins = text, None
    for _ in range(MAX_DECODINGS):
        for start, end in _find_tokens(decoded, is_erased):
            yield (origins[start][0], origins[end - 1][1]) if origins else (start, end)
        if not ESCAPE.search(decoded):
            return
        before = decoded
        decoded, origins = _decode(decoded, origins)
        if decoded == before:
            return


def _find_tokens(text: str, is_erased: IsErased) -> Iterator[Span]:
    for found in ID.finditer(text):
        token = found[0]
        if any(map(is_erased, {token, token.replace("-", ""), _with_hyphens(token)})):
            yield found.span()
    at = text.find("@")
    while at >= 0:
        if (local := LOCAL.search(text, max(0, at - MAX_LOCAL), at)) and (domain := DOMAIN.match(text, at + 1)):
            span = next((s for s in _address_spans(local, domain) if is_erased(text[slice(*s)])), None)
            if span:
                yield span
        at = text.find("@", at + 1)


def _address_spans(local: re.Match[str], domain: re.Match[str]) -> Iterator[Span]:
    """Yield the spans of the addresses that a token can be read as, the longest first."""
    starts = [local.start(), *(local.start() + found.end() for found in LOCAL_START.finditer(local[0]))]
    ends = [domain.end(), *(domain.start() + found.start() for found in DOMAIN_END.finditer(domain[0]))]
    for start in sorted(set(starts)):
        for end in sorted(set(ends), reverse=True):
            if start < local.end() and end > domain.start():
                yield start, end


def _with_hyphens(token: str) -> str:
    """Return 32 hex digits as a UUID; other tokens as they are."""
    digits = token.replace("-", "")
    return (
        "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])) if len(digits) == 32 else token
    )


def _decode(text: str, origins: Sequence[Span] | None) -> tuple[str, list[Span]]:
    """Return ``text`` with its escapes decoded once, and the span of the original text of each character."""
    characters: list[str] = []
    spans: list[Span] = []

    def add(character: str, start: int, end: int) -> None:
        characters.append(character)
        spans.append((origins[start][0], origins[end - 1][1]) if origins else (start, end))

    position = 0
    for found in ESCAPE.finditer(text):
        for index in range(position, found.start()):
            add(text[index], index, index + 1)
        start = found.start()
        for character, length in _decode_escape(found[0]):
            add(character, start, start + length)
            start += length
        position = found.end()
    for index in range(position, len(text)):
        add(text[index], index, index + 1)
    return "".join(characters), spans


def _decode_escape(escape: str) -> Iterator[tuple[str, int]]:
    """Yield each character that an escape stands for, with the number of characters that it was written in."""
    if escape[0] == "%" or escape[1] == "x":
        prefix = escape[: 1 if escape[0] == "%" else 2]
        data, length = bytes.fromhex(escape.replace(prefix, "")), len(prefix) + 2
        try:
            for character in data.decode():
                yield character, length * len(character.encode())
        except UnicodeDecodeError:
            for byte in data:
                yield chr(byte), length
    elif escape.startswith("&#"):
        digits = escape[2:].rstrip(";")
        code = int(digits[1:].lstrip("0") or "0", 16) if digits[0] in "xX" else int(digits.lstrip("0") or "0")
        yield chr(code) if code < 0x110000 else " ", len(escape)
    elif escape[0] == "&":
        character = html5.get(escape[1:], "")
        if len(character) == 1:
            yield character, len(escape)
        else:
            yield from ((unknown, 1) for unknown in escape)
    elif escape[1] == "u":
        yield chr(int(escape[2:], 16)), len(escape)
    elif escape[1] in SIMPLE_ESCAPES:
        yield SIMPLE_ESCAPES[escape[1]], len(escape)
    else:
        yield escape[0], 1
        yield escape[1], 1
