"""The data contract: accepted by the standard's own tool, and true of a loaded warehouse."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from propel_assets.catalog import AUDIT_TABLES, TABLES
from propel_assets.cli.main import main
from propel_assets.settings import load_settings
from propel_assets_tests.loads import load_scans

DATACONTRACT = Path(sys.executable).with_name("datacontract")


def printed(*words: str) -> str:
    ran = CliRunner().invoke(main, [*words, "data-contract"])
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def lint(text: str, folder: Path) -> subprocess.CompletedProcess:
    (folder / "contract.odcs.yaml").write_text(text, encoding="utf-8")
    command = [str(DATACONTRACT), "lint", "contract.odcs.yaml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)


def test_datacontract_accepts_the_contract_and_refuses_a_wrong_one(tmp_path) -> None:
    text = printed()
    accepted = lint(text, tmp_path)
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    wrong = yaml.safe_load(text)
    wrong["schema"][0]["properties"][0]["logicalType"] = "uuid"
    refused = lint(yaml.safe_dump(wrong), tmp_path)
    assert refused.returncode != 0


def test_the_contract_has_every_table_column_and_key_of_the_catalog() -> None:
    contract = yaml.safe_load(printed())
    tables = {table["name"]: table for table in contract["schema"]}
    assert list(tables) == [table.name for table in (*TABLES, *AUDIT_TABLES)]
    for table in (*TABLES, *AUDIT_TABLES):
        properties = {p["name"]: p for p in tables[table.name]["properties"]}
        assert list(properties) == [column.name for column in table.columns]
        keys = sorted((p["primaryKeyPosition"], name) for name, p in properties.items() if p.get("primaryKey"))
        assert tuple(name for _, name in keys) == table.key
        assert bool(table.key) == ("dataGranularityDescription" in tables[table.name])
        assert all(rule["arguments"]["properties"] for rule in tables[table.name].get("quality", ()))
        required = {column.name for column in table.columns if column.required or column.name in table.key}
        assert {name for name, p in properties.items() if p["required"]} == required
        personal = {name for name, p in properties.items() if p["classification"] == "restricted"}
        assert personal == {column.name for column in table.columns if column.personal}
        names = {table["name"] for table in contract["schema"]}
        targets = [r["to"].split(".") for p in properties.values() for r in p.get("relationships", ())]
        assert all(name in names for name, _ in targets)


def test_an_environment_has_a_contract_of_its_own() -> None:
    assert yaml.safe_load(printed())["id"] == "propel-assets:propel_auth_data"
    assert yaml.safe_load(printed("--environment", "staging"))["id"] == "propel-assets:staging_propel_auth_data"


def test_repeated_checks_do_not_break_the_keys_of_the_contract(loaded, query) -> None:
    for _ in range(2):
        CliRunner().invoke(main, ["check", "user_query"], catch_exceptions=False)
    contract = {table["name"]: table for table in yaml.safe_load(printed())["schema"]}
    [quality] = contract["propel_checks"]["quality"]
    key = ", ".join(quality["arguments"]["properties"])
    assert query(f"SELECT {key} FROM propel_checks GROUP BY {key} HAVING count(*) > 1") == []


@pytest.mark.parametrize("name", ["user_query", "org_membership"])
def test_the_columns_of_the_contract_are_those_of_the_warehouse(name, loaded, query) -> None:
    contract = {table["name"]: table for table in yaml.safe_load(printed())["schema"]}
    stored = {row[0] for row in query(f"SELECT column_name FROM (DESCRIBE {name})") if not row[0].startswith("_dlt")}
    assert stored <= {p["name"] for p in contract[name]["properties"]}


JSON_TABLES = (
    "org_membership",
    "org_by_id",
    "pending_org_invites",
    "openid_configuration",
    "user_report",
    "propel_scans",
)


@pytest.mark.slow
def test_a_json_column_holds_objects_or_arrays_as_the_contract_says(small, query) -> None:
    load_scans(load_settings(), "users", "orgs", "org_details", "invites", "openid_configuration", "user_reports")
    contract = {table["name"]: table for table in yaml.safe_load(printed())["schema"]}
    arrays = set()
    for table in JSON_TABLES:
        for found in (p for p in contract[table]["properties"] if p["physicalType"] == "json"):
            name, kind = found["name"], found["logicalType"]
            values = f"(SELECT {name} AS value FROM {table} WHERE json_type({name}) <> 'NULL')"
            assert {row[0] for row in query(f"SELECT DISTINCT json_type(value) FROM {values}")} <= {kind.upper()}, name
            if kind == "array":
                items = query(
                    f"SELECT DISTINCT json_type(item) FROM (SELECT unnest(value::JSON[]) AS item FROM {values})"
                )
                kinds = {"VARCHAR": "string", "OBJECT": "object"}
                assert {kinds[row[0]] for row in items} <= {found["items"]["logicalType"]}, name
                arrays |= {name} if items else set()
    assert {"user_permissions", "scopes_supported", "org_data"} <= arrays
