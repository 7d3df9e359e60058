"""`docs/guarantees.md` has no promise without a test that exists."""

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "guarantees.md").read_text()
PROMISES = re.findall(r"^\| \*\*(.+?)\*\* \| .+ \|$", PAGE, re.MULTILINE)
TESTS_OF = dict(re.findall(r"^\| (.+?) \| (`.+::.+`) \|$", PAGE, re.MULTILINE))
NAMED = sorted({name for tests in TESTS_OF.values() for name in re.findall(r"`([^`]+)`", tests)})


def exists(name: str) -> bool:
    """Whether ``file::function`` is a test that pytest collects."""
    file, _, function = name.partition("::")
    path = TESTS / file
    if not path.is_file() or not path.name.startswith("test_") or not function.startswith("test_"):
        return False
    return function in functions_of(path)


@functools.cache
def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_a_test() -> None:
    assert len(PROMISES) >= 15
    assert [*TESTS_OF] == PROMISES


@pytest.mark.parametrize("name", NAMED)
def test_every_test_named_exists(name) -> None:
    assert exists(name)


@pytest.mark.parametrize("name", ["no/test_file.py::test_x", "test_guarantees.py::test_no", "conftest.py::sandbox", ""])
def test_a_name_of_no_test_is_caught(name) -> None:
    assert not exists(name)
