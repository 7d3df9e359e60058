"""The packages: data flows one way, and a package imports only from those before it. Read from the source by `ast`."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import propel_assets

PACKAGE = Path(propel_assets.__file__).parent
PACKAGES = ("sandbox", "catalog", "privacy", "source", "warehouse", "marts", "reporting", "webhooks", "defs")
ENTRY_POINTS = ("definitions", "environments", "cli", "notebooks")
EVERYWHERE = ("settings", "errors", "")  # "" is the package itself: its version
IMPORT_DAGSTER = ("defs", *ENTRY_POINTS)
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
    for_type_checkers = {id(node) for f in ast.walk(tree) if _for_type_checkers(f) for node in ast.walk(f)}
    for node in ast.walk(tree):
        at_import = id(node) not in inside | for_type_checkers
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (Import(f"{base}.{alias.name}", node.lineno, at_import) for alias in node.names)


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def package_of(module: str) -> str:
    """Return the package, or the module beside the packages, that a path or a dotted name of ours belongs to."""
    parts = [*module.removesuffix(".py").replace("/", ".").split("."), ""]
    return "" if parts[1].startswith("__") else parts[1]


def allowed(package: str) -> tuple[str, ...]:
    """Return the packages of ours that ``package`` may import from."""
    if package == "sandbox":
        return ("sandbox",)
    if package in PACKAGES:
        return (*PACKAGES[1 : PACKAGES.index(package) + 1], *EVERYWHERE)
    if package in ENTRY_POINTS:
        return (*PACKAGES, *ENTRY_POINTS, *EVERYWHERE)
    return EVERYWHERE


def wrong_imports(path: str, source: str) -> list[str]:
    """Return a sentence per import that breaks a rule."""
    package = package_of(path)
    wrong = []
    for found in imports(source):
        top = found.name.split(".")[0]
        if package == "" and not found.at_import:
            continue  # names that the package exports are imported on first use
        if top == "":
            wrong.append(f"{path}:{found.line} imports relatively")
        elif top == "propel_assets" and package_of(_module(found.name)) not in allowed(package):
            wrong.append(f"{path}:{found.line}: {package or 'propel_assets'} must not import {found.name}")
        elif top.startswith("dagster") and package not in IMPORT_DAGSTER:
            wrong.append(f"{path}:{found.line}: {package or 'propel_assets'} must not import Dagster")
    return wrong


def _module(name: str) -> str:
    """Return the dotted name, or the package itself where something of its `__init__` is imported."""
    part = name.split(".")[1] if "." in name else ""
    return name if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").exists() else "propel_assets"


def reads_environment_variables(source: str) -> list[int]:
    """Return the lines that read or change environment variables, also where `os` is imported by another name."""
    tree = ast.parse(source)
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and names & {a.name for a in node.names})
    ]


def test_every_package_is_in_the_order() -> None:
    assert {package_of(path) for path in MODULES} <= {*PACKAGES, *ENTRY_POINTS, *EVERYWHERE}


@pytest.mark.parametrize("path", MODULES)
def test_a_module_imports_only_from_the_packages_before_its_own(path) -> None:
    assert wrong_imports(path, MODULES[path]) == []


@pytest.mark.parametrize("path", [path for path in MODULES if package_of(path) != "settings"])
def test_only_settings_reads_environment_variables(path) -> None:
    assert reads_environment_variables(MODULES[path]) == []


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
def test_an_import_that_breaks_a_rule_is_found(path, source) -> None:
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
def test_code_that_reads_environment_variables_is_found(source) -> None:
    assert reads_environment_variables(source)


@pytest.mark.parametrize("path", ["propel_assets/catalog/__init__.py", "propel_assets/cli/main.py"])
def test_the_catalog_and_help_import_neither_dlt_nor_dagster(path) -> None:
    heavy = {i.name for i in imports(MODULES[path]) if i.at_import and i.name.split(".")[0] in {"dlt", "dagster"}}
    assert heavy == set()
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    loaded = f"import sys, {module}; print([m for m in ('dlt', 'dagster', 'duckdb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
