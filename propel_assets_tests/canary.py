"""A word that no other text contains, in every text of a sandbox, and a search for it.

    python -m propel_assets_tests.canary WORD load user_query

runs `propel-assets` with readers and a check that raise errors whose text contains WORD.
"""

import base64
import gzip
import io
import json
import secrets
import sqlite3
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from propel_assets.sandbox.store import Store

IDS = {"user_id", "org_id", "group_id", "api_key_id", "inviter_user_id", "impersonator_user_id"}
ROLES = {"custom_role_mapping_name", "role_in_org", "additional_roles_in_org"}  # the sandbox looks them up
EMAILS = {"email", "invitee_email", "inviter_email"}
PHONE = "phone_number"
TEXTS = {"username", "first_name", "last_name", "picture_url", "legacy_user_id"}


class Canary:
    """A random word and a random phone number, and the texts that contain them.

    Attributes:
        word: letters and digits, so that percent-encoding, JSON and SQL do not alter it.
        phone: the digits of a phone number.
    """

    def __init__(self) -> None:
        """Draw the word and the phone number."""
        self.word = f"Zyx{secrets.token_hex(6)}canary"
        self.phone = f"1555{secrets.randbelow(10**10):010d}"
        self._count = 0
        texts = [self.word, self.word.lower(), self.phone]
        self._forms = {form for text in texts for form in _encoded(text)}

    def text(self) -> str:
        """Return a text that is different each time, with characters that need escapes."""
        self._count += 1
        return f'{self.word} {self._count} "Żółć"; 100% + <ø>'

    def email(self) -> str:
        """Return an e-mail address that is different each time."""
        self._count += 1
        return f"{self.word}+{self._count}@{self.word}.example".lower()

    def fill(self, store: Store) -> None:
        """Replace every text in the objects of ``store``, except ids and roles."""
        with store.lock:
            for user in store.users.values():
                user.wire |= dict.fromkeys(TEXTS, "") | {"metadata": {"a": ["b"]}}
                user.wire["properties"] |= {PHONE: "", "notes": "", "nested": {"list": ["", {"text": ""}]}}
                user.wire |= self._replaced(user.wire)
                user.signup_query_parameters = self._replaced({"utm_source": "", "utm_campaign": ""})
            for org in store.orgs.values():
                org.wire |= {"domain": "", "legacy_org_id": "", "metadata": {"plan": "", "list": [""]}}
                org.wire |= self._replaced(org.wire)
            for invite in store.invites:
                invite |= self._replaced(invite)
            for key in store.api_keys.values():
                key.wire |= self._replaced({**key.wire, "display_name": "", "metadata": {"env": "", "scopes": [""]}})
            for group in store.groups.values():
                group.wire |= self._replaced({**group.wire, "external_id_from_idp": ""})
            store.employees = {employee: self.email() for employee in store.employees}
            store.version += 1

    def _replaced(self, value: Any, name: str = "") -> Any:
        if name in IDS | ROLES:
            return value
        if isinstance(value, dict):
            return {key: self._replaced(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._replaced(inner, name) for inner in value]
        if not isinstance(value, str):
            return value
        if name == PHONE:
            return f"+{self.phone}"
        return self.email() if name in EMAILS else self.text()

    def found_in(self, content: bytes) -> bool:
        """Return whether ``content`` has the word or the number, in any encoding, also across line breaks."""
        joined = b"".join(content.split())
        return any(form in text for form in self._forms for text in (content, joined))

    def files_with_it(self, *folders: Path) -> list[str]:
        """Return the files below ``folders`` that contain the word or the number, also in compressed parts."""
        files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
        return [str(file) for file in files if any(map(self.found_in, _contents(file)))]


def _encoded(text: str) -> Iterator[bytes]:
    """Yield ``text`` in UTF-8 and UTF-16, and what base64 makes of it at each of the three offsets."""
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        yield text.encode(encoding)
    for offset in range(3):
        # The characters at both ends depend on the neighbours.
        yield base64.b64encode(b"\0" * offset + text.encode())[4:-4]


def _contents(file: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, and what is compressed or split into pages in it."""
    content = file.read_bytes()
    yield content
    if content.startswith(b"\x1f\x8b"):
        yield gzip.decompress(content)
    if content.startswith(b"PAR1"):
        yield json.dumps(pq.read_table(io.BytesIO(content)).to_pylist(), default=str, ensure_ascii=False).encode()
    if content.startswith(b"SQLite format 3"):
        yield from _values_of(file)


def _values_of(file: Path) -> Iterator[bytes]:
    """Yield the values in a SQLite file: a long one is split into pages of the file."""
    database = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in database.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    content = value if isinstance(value, bytes) else str(value).encode()
                    yield content
                    if isinstance(value, bytes) and value[:1] == b"x":
                        yield zlib.decompress(value)
    finally:
        database.close()


def break_code(patch: pytest.MonkeyPatch, text: str) -> None:
    """Let the reader of users, the reader of orgs and the check `row_count` raise errors with ``text``."""
    from propel_assets.source import readers
    from propel_assets.warehouse import checks

    read = readers._read

    def broken(tables: Any, context: Any) -> Any:
        if tables[0].scan == "users":
            raise ValueError(f"invalid literal for int() with base 10: {text!r}")
        if tables[0].scan == "orgs":
            try:
                int(text)
            except ValueError as error:
                raise RuntimeError(f"Cannot read {text}") from error
        return read(tables, context)

    def refuse(facts: Mapping[str, Any]) -> None:
        raise TypeError(f"unsupported operand: {text!r}")

    patch.setattr(readers, "_read", broken)
    patch.setitem(checks.CHECKS, "row_count", refuse)  # type: ignore[arg-type]


if __name__ == "__main__":
    from propel_assets.cli.main import main

    break_code(pytest.MonkeyPatch(), sys.argv[1])
    main(sys.argv[2:])
