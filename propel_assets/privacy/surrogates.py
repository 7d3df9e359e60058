r"""Lone surrogates in JSON: an escaped half of a UTF-16 pair, such as `\ud800`, which msgspec refuses.

A text is decoded with marks in place of them, and each part of it is restored afterwards.
"""

import re
import secrets

import msgspec

LONE_SURROGATE = re.compile(
    rb"(?P<pair>\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|\\u(?P<lone>[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)
MAY_HAVE_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
MARK = secrets.token_hex(16)
"""A text that no response has."""
MARKED_SURROGATE = re.compile(MARK.encode() + rb"(....)")


def has_lone_surrogate(source: bytes) -> bool:
    """Whether a JSON source text has an escaped half of a UTF-16 pair."""
    return MAY_HAVE_LONE_SURROGATE.search(source) is not None and any(
        found["lone"] for found in LONE_SURROGATE.finditer(source)
    )


def mark_surrogates(source: bytes) -> bytes:
    r"""Return ``source`` with `MARK` instead of the `\u` of each lone surrogate."""
    if not MAY_HAVE_LONE_SURROGATE.search(source):
        return source
    return LONE_SURROGATE.sub(lambda found: MARK.encode() + found["lone"] if found["lone"] else found[0], source)


def restore_surrogates(source: bytes) -> bytes:
    """Return ``source`` without marks."""
    return MARKED_SURROGATE.sub(rb"\\u\1", source) if MARK.encode() in source else source


def restore_source(source: msgspec.Raw) -> msgspec.Raw:
    """Return a decoded part without marks."""
    return msgspec.Raw(restore_surrogates(bytes(source))) if MARK.encode() in bytes(source) else source
