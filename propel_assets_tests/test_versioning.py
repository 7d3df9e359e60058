"""What `docs/versioning.md` calls stable is what a snapshot has, and every test that the page names exists."""

import re

import dagster as dg
import pytest

import propel_assets
from propel_assets import build_definitions
from propel_assets.catalog import SCANS, options_of
from propel_assets_tests import interfaces
from propel_assets_tests.defs import snapshot
from propel_assets_tests.processes import ROOT
from propel_assets_tests.test_guarantees import exists

PAGE = (ROOT / "docs" / "versioning.md").read_text()
STABLE, _, NOT_STABLE = PAGE.partition("## Not stable")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py::\w+)`", PAGE)))
IMPORT = re.compile(r"^from (propel_assets[\w.]*) import ([\w, ]+)$", re.MULTILINE)


def test_the_stable_interfaces_are_those_of_the_snapshot() -> None:
    """Compare with `interfaces.txt`, in which a change of an interface is seen in review."""
    assert interfaces.describe() == interfaces.FILE.read_text(), interfaces.HOW_TO_UPDATE


def test_every_stable_interface_names_its_list_and_its_test() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", STABLE, re.MULTILINE)
    assert len(rows) >= 12
    for interface, _, tests in rows[2:]:
        assert re.search(r"`[\w/]+\.py::\w+`", tests), interface


@pytest.mark.parametrize("name", NAMED)
def test_every_test_named_exists(name) -> None:
    assert exists(name)


def test_every_name_of_dagster_is_listed() -> None:
    kinds = "job|schedule|sensor|resource|group"
    found = set(re.findall(rf"\b(?:{kinds}) (propel_auth\w*)", snapshot.FILE.read_text()))
    rows = re.findall(rf"^\| (?:{kinds})s \| (.+) \|$", _section("Dagster"), re.MULTILINE)
    assert found == {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_pool_and_every_op_with_run_configuration_is_listed(monkeypatch) -> None:
    rows = dict(re.findall(r"^\| (pools|ops with run configuration) \| (.+) \|$", _section("Dagster"), re.MULTILINE))
    listed = {kind: set(re.findall(r"`(propel_auth\w+)`", row)) for kind, row in rows.items()}
    monkeypatch.setenv("PROPELAUTH_DESTINATION", "postgres")
    nodes = [asset.node_def for asset in build_definitions().assets or () if isinstance(asset, dg.AssetsDefinition)]
    assert listed["pools"] == {node.pool for node in nodes if isinstance(node, dg.OpDefinition) and node.pool}
    assert listed["ops with run configuration"] == {f"propel_auth_load_{scan}" for scan in SCANS if options_of(scan)}


def test_every_export_is_listed_and_every_documented_import_is_stable() -> None:
    assert set(propel_assets.__all__) <= set(re.findall(r"`(\w+)", _section("Python")))
    stable = set(re.findall(r"^python ([\w.]+:\w+)", interfaces.FILE.read_text(), re.MULTILINE))
    sources = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.py")]
    imported = {
        f"{module}:{name.strip()}"
        for file in sources
        for module, names in IMPORT.findall(file.read_text())
        for name in names.split(",")
    }
    assert imported <= stable
    for module in {name.partition(":")[0] for name in stable}:
        assert f"`{module}" in _section("Python")


def test_private_tables_and_columns_are_named() -> None:
    for name in (*interfaces.PRIVATE_TABLES, *interfaces.PRIVATE_COLUMNS):
        assert f"`{name}`" in NOT_STABLE


def _section(title: str) -> str:
    return STABLE.partition(f"### {title}\n")[2].partition("\n### ")[0]
