"""`make fuzz`: atheris changes answers, follows which code they reach, and looks for one that ends in another error.

What must hold of each is the test it drives. It begins with pages as PropelAuth sends them, and keeps what it has
learnt in `.hypothesis/`. An answer that fails is printed, and saved as crash-*.
"""

import json
import sys
from pathlib import Path
from typing import Any

import atheris as atheris_of_no_types  # pyright: ignore[reportMissingImports]  # `make fuzz` installs it

atheris: Any = atheris_of_no_types

with atheris.instrument_imports(include=["propel_assets"]):
    from propel_assets_tests.source import test_any_answer as tests

LEARNT = Path(".hypothesis/fuzz")


def decode(data: bytes) -> None:
    """Decode ``data``: one byte for the table, then the body."""
    if data:
        table = tests.DECODED[data[0] % len(tests.DECODED)]
        holds: Any = tests.test_any_body_is_decoded_whole_or_refused
        holds.hypothesis.inner_test(table, data[1:])


if __name__ == "__main__":
    LEARNT.mkdir(parents=True, exist_ok=True)
    for number, table in enumerate(tests.DECODED):
        page = json.dumps({**tests.PAGE, table.items: [tests.PEOPLE]}).encode()
        (LEARNT / table.name).write_bytes(bytes([number]) + page)
    atheris.Setup([*sys.argv, str(LEARNT)], decode)
    atheris.Fuzz()
