"""The dependencies: each import is declared, and caps that exist for a reason are reported when the reason has gone."""

import ast
import inspect
import re
import sys
import tomllib
from importlib.metadata import distributions as installed_distributions
from importlib.metadata import packages_distributions, version
from pathlib import Path

import dlt
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from sqlglot.optimizer.qualify import qualify

import propel_assets
from propel_assets_tests.processes import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
REMOVED_IN_30_22 = "infer_schema"  # a parameter of sqlglot's `qualify`
FROM_EXTRAS_OF_DLT = {"deltalake": "dlt[deltalake]", "psycopg2": "dlt[postgres]"}


def distributions(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imported_modules() -> dict[str, set[str]]:
    """Return the third-party packages that the package imports, each with the modules of ours that do."""
    found: dict[str, set[str]] = {}
    for path in Path(propel_assets.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"propel_assets"}:
                found.setdefault(name, set()).add(path.name)
    return found


def test_every_imported_package_is_declared() -> None:
    declared = distributions(PROJECT["dependencies"]) | {
        name for extra in EXTRAS.values() for name in distributions(extra)
    }
    owners = packages_distributions()
    undeclared = {
        name: modules
        for name, modules in imported_modules().items()
        if name not in FROM_EXTRAS_OF_DLT
        and not {canonicalize_name(owner) for owner in owners.get(name, [])} & declared
    }
    assert undeclared == {}


def calls_of_qualify_in_dlt() -> list[ast.Call]:
    return [
        node
        for path in Path(dlt.__file__).parent.rglob("*.py")
        if "qualify" in (source := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and re.fullmatch(r"(\w+\.)*qualify", ast.unparse(node.func))
    ]


def test_dlt_still_needs_the_cap_on_sqlglot() -> None:
    """sqlglot 30.22 removed a parameter that dlt passes, so every read by `pipeline.dataset()` raises TypeError."""
    calls = calls_of_qualify_in_dlt()
    passes = [call for call in calls if REMOVED_IN_30_22 in {keyword.arg for keyword in call.keywords}]
    assert passes, (
        f"dlt {version('dlt')} does not pass {REMOVED_IN_30_22} to sqlglot's qualify any more: remove the cap on "
        "sqlglot in pyproject.toml, and this test, after test_ways_of_use.py has passed with the newest sqlglot."
    )


def test_the_installed_sqlglot_accepts_what_dlt_passes() -> None:
    known = set(inspect.signature(qualify).parameters)
    passed = {keyword.arg for call in calls_of_qualify_in_dlt() for keyword in call.keywords} - {None}
    assert passed <= known


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-lowest.txt", "constraints-embedded-elt.txt"])
def test_constraints_are_within_the_declared_bounds(file) -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE))
    versions = {canonicalize_name(name): pin for name, pin in pinned.items()}
    requirements = map(Requirement, PROJECT["dependencies"])
    outside = [
        f"{requirement} is {versions[name]}"
        for requirement in requirements
        if (name := canonicalize_name(requirement.name)) in versions and versions[name] not in requirement.specifier
    ]
    assert outside == []


def test_the_installed_versions_admit_the_least_python() -> None:
    """A pinned version that needs a later Python cannot be installed where `requires-python` says that it can be."""
    least = PROJECT["requires-python"].removeprefix(">=") + ".0"
    refuse = {
        f"{distribution.name} {distribution.version} needs Python {needed}"
        for distribution in installed_distributions()
        if "Requires-Python" in (metadata := distribution.metadata)
        and least not in SpecifierSet(needed := metadata["Requires-Python"])
    }
    assert refuse == set()
