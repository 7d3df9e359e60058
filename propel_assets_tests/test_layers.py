"""The rooms: data flows one way, and each thing is known in one place only. Read from the source, with `ast`."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import propel_assets

PACKAGE = Path(propel_assets.__file__).parent
ROOMS = ("sandbox", "catalog", "privacy", "source", "warehouse", "marts", "reporting", "webhooks", "defs")
ENTRANCES = ("definitions", "environments", "cli", "notebooks")
EVERYWHERE = ("settings", "errors", "")  # "" is the package itself: its version
KNOW_DAGSTER = ("defs", *ENTRANCES)
MODULES = {path.relative_to(PACKAGE.parent).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}


class Import(NamedTuple):
    """One name a module imports, with the line, and whether that happens when the module is imported."""

    name: str
    line: int
    at_import: bool


def imports(source: str) -> Iterator[Import]:
    """Yield every import, those within functions too."""
    tree = ast.parse(source)
    inside = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
    checked_only = {id(node) for f in ast.walk(tree) if _for_type_checkers(f) for node in ast.walk(f)}
    for node in ast.walk(tree):
        at_import = id(node) not in inside | checked_only
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (Import(f"{base}.{alias.name}", node.lineno, at_import) for alias in node.names)


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def room_of(module: str) -> str:
    """Return the room, or the module on its own, that a path or a dotted name of ours belongs to."""
    parts = [*module.removesuffix(".py").replace("/", ".").split("."), ""]
    return "" if parts[1].startswith("__") else parts[1]


def allowed(room: str) -> tuple[str, ...]:
    """Return what a room may import of ours."""
    if room == "sandbox":
        return ("sandbox",)
    if room in ROOMS:
        return (*ROOMS[1 : ROOMS.index(room) + 1], *EVERYWHERE)
    if room in ENTRANCES:
        return (*ROOMS, *ENTRANCES, *EVERYWHERE)
    return EVERYWHERE


def wrong_imports(path: str, source: str) -> list[str]:
    """Return a sentence per import that breaks a rule."""
    room = room_of(path)
    wrong = []
    for found in imports(source):
        top = found.name.split(".")[0]
        if room == "" and not found.at_import:
            continue  # names that the package exports are imported on first use
        if top == "":
            wrong.append(f"{path}:{found.line} imports relatively")
        elif top == "propel_assets" and room_of(_module(found.name)) not in allowed(room):
            wrong.append(f"{path}:{found.line}: {room or 'the package'} may not know {found.name}")
        elif top.startswith("dagster") and room not in KNOW_DAGSTER:
            wrong.append(f"{path}:{found.line}: {room or 'the package'} may not know Dagster")
    return wrong


def _module(name: str) -> str:
    """Return the dotted name, or the package itself where something of its `__init__` is imported."""
    part = name.split(".")[1] if "." in name else ""
    return name if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").exists() else "propel_assets"


def reads_environment(source: str) -> list[int]:
    """Return the lines that touch the environment, by whatever name `os` goes."""
    tree = ast.parse(source)
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and names & {a.name for a in node.names})
    ]


def test_every_room_is_known_here() -> None:
    assert {room_of(path) for path in MODULES} <= {*ROOMS, *ENTRANCES, *EVERYWHERE}


@pytest.mark.parametrize("path", MODULES)
def test_a_module_imports_only_what_its_room_may_know(path) -> None:
    assert wrong_imports(path, MODULES[path]) == []


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) != "settings"])
def test_only_settings_reads_the_environment(path) -> None:
    assert reads_environment(MODULES[path]) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("propel_assets/sandbox/x.py", "import propel_assets.settings"),
        ("propel_assets/sandbox/x.py", "def f():\n    from propel_assets.catalog import TABLES"),
        ("propel_assets/sandbox/x.py", "from propel_assets import __version__"),
        ("propel_assets/source/x.py", "from propel_assets.warehouse import load"),
        ("propel_assets/source/x.py", "from propel_assets import warehouse"),
        ("propel_assets/source/x.py", "from propel_assets.sandbox.running import Sandbox"),
        ("propel_assets/warehouse/x.py", "from propel_assets.defs.assets import as_failure"),
        ("propel_assets/warehouse/x.py", "class A:\n    def f(self):\n        import dagster as dg"),
        ("propel_assets/warehouse/x.py", "async def f():\n    from dagster_dlt import dlt_assets"),
        ("propel_assets/defs/x.py", "from propel_assets.cli.main import main"),
        ("propel_assets/settings.py", "from propel_assets.catalog import TABLES"),
        ("propel_assets/source/x.py", "from . import tables"),
    ],
)
def test_a_module_that_breaks_a_rule_is_caught(path, source) -> None:
    assert len(wrong_imports(path, source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.environ['A']",
        "import os as o\ndef f():\n    return o.getenv('A')",
        "from os import environ",
        "import os\nx = {**os.environ}",
    ],
)
def test_a_module_that_reads_the_environment_is_caught(source) -> None:
    assert reads_environment(source)


@pytest.mark.parametrize("path", ["propel_assets/catalog/__init__.py", "propel_assets/cli/main.py"])
def test_the_catalogue_and_help_import_neither_dlt_nor_dagster(path) -> None:
    heavy = {i.name for i in imports(MODULES[path]) if i.at_import and i.name.split(".")[0] in {"dlt", "dagster"}}
    assert heavy == set()
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    loaded = f"import sys, {module}; print([m for m in ('dlt', 'dagster', 'duckdb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
