"""What is said of a destination that is unknown, not installed or not configured; what its configuration can do."""

import base64
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from dlt.common.configuration import resolve_configuration
from dlt.common.destination.reference import DestinationReference
from dlt.destinations.impl.snowflake.configuration import SnowflakeClientConfiguration

from propel_assets.errors import SettingsError, WarehouseError
from propel_assets.privacy.policy_file import load_policy
from propel_assets.settings import Target, load_settings
from propel_assets.warehouse.destinations.policies import DESTINATIONS, extra_of
from propel_assets.warehouse.pipeline import build_pipeline
from propel_assets.warehouse.query import open_warehouse

ROOT = Path(__file__).parents[2]
S3 = {
    "DESTINATION__FILESYSTEM__BUCKET_URL": "s3://bucket",
    "DESTINATION__FILESYSTEM__CREDENTIALS__AWS_ACCESS_KEY_ID": "a",
    "DESTINATION__FILESYSTEM__CREDENTIALS__AWS_SECRET_ACCESS_KEY": "b",
}

HIDDEN = [  # destination, module, settings, extra
    ("postgres", "psycopg2", {}, "postgres"),
    ("filesystem", "deltalake", {"DESTINATION__FILESYSTEM__BUCKET_URL": "lake"}, "filesystem"),
    ("filesystem", "s3fs", S3, "s3"),
    ("bigquery", "google.cloud", {}, "bigquery"),
    ("snowflake", "snowflake", {}, "snowflake"),
    ("databricks", "databricks", {}, "databricks"),
]
STATUS_WITHOUT_PACKAGES = """
import json, os, sys
from click.testing import CliRunner
from propel_assets.cli.main import main

results = {}
for destination, module, settings, _ in json.loads(sys.argv[1]):
    assert module not in sys.modules
    sys.modules[module] = None
    ran = CliRunner().invoke(main, ["status"], env={"PROPELAUTH_DESTINATION": destination, **settings})
    results[module] = [ran.exit_code, ran.output]
    del sys.modules[module]
print(json.dumps(results))
"""
NOT_RUN = [row for row in (ROOT / "docs" / "destinations.md").read_text().splitlines() if "| not run |" in row]
DRIVER = "ODBC Driver 18 for SQL Server"  # which dlt would find out from a library of Microsoft's


def said_of(destination: str, tmp_path) -> str:
    with pytest.raises(SettingsError) as error:
        build_pipeline(Target(destination=destination), str(tmp_path))
    return str(error.value)


def test_an_unknown_destination_is_named_beside_the_known_ones(tmp_path) -> None:
    said = said_of("oracle", tmp_path)
    assert "'oracle'" in said
    assert all(name in said for name in DESTINATIONS)


def test_missing_credentials_name_the_variables(tmp_path) -> None:
    said = said_of("postgres", tmp_path)
    for field in ("DATABASE", "USERNAME", "PASSWORD", "HOST"):
        assert f" DESTINATION__POSTGRES__CREDENTIALS__{field}" in said
    assert "DESTINATION__FILESYSTEM__BUCKET_URL" in said_of("filesystem", tmp_path)


def test_a_named_destination_names_its_own_variables(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DESTINATION__WAREHOUSE__DESTINATION_TYPE", "postgres")
    assert "DESTINATION__WAREHOUSE__CREDENTIALS__HOST" in said_of("warehouse", tmp_path)


def test_the_documented_key_of_a_service_user_of_snowflake_is_what_dlt_connects_with(monkeypatch) -> None:
    page = (ROOT / "docs" / "destinations.md").read_text()
    (block,) = re.findall(r"```text\n(DESTINATION__SNOWFLAKE__.*?)```", page, re.DOTALL)
    settings = dict(line.split("=", 1) for line in block.splitlines())
    private_key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    der = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    settings["DESTINATION__SNOWFLAKE__CREDENTIALS__PRIVATE_KEY"] = base64.b64encode(der).decode()
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    configuration = resolve_configuration(
        SnowflakeClientConfiguration()._bind_dataset_name("data"), sections=("destination", "snowflake")
    )
    parameters = configuration.credentials.to_connector_params()
    assert parameters["private_key"] == der
    assert (parameters["account"], parameters["user"], parameters["password"]) == ("ACCOUNT", "LOADER", None)
    assert (parameters["database"], parameters["warehouse"], parameters["role"]) == ("ANALYTICS", "WH", "LOADER")


@pytest.fixture(scope="module")
def status_without_packages(tmp_path_factory) -> dict[str, list]:
    """Return the exit code and the output of `status` for each module of `HIDDEN`, which is not installed."""
    command = [sys.executable, "-c", STATUS_WITHOUT_PACKAGES, json.dumps(HIDDEN)]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PROPEL", "DESTINATION__", "SOURCES__"))}
    folder = tmp_path_factory.mktemp("hidden")
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


@pytest.mark.parametrize(("module", "extra"), [(module, extra) for _, module, _, extra in HIDDEN])
def test_a_destination_that_is_not_installed_names_its_extra(module, extra, status_without_packages) -> None:
    code, output = status_without_packages[module]
    assert code == 1
    assert f"Install propel-assets with the extra `{extra}`." in output


def test_every_extra_that_is_named_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    buckets = {extra_of("filesystem", f"{scheme}://bucket") for scheme in ("s3", "gs", "az", "abfss")}
    assert {policy.extra for policy in DESTINATIONS.values()} - {""} | buckets <= set(project["optional-dependencies"])


def test_what_is_empty_is_said_to_be_empty(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", str(tmp_path / "lake"))
    with (
        pytest.raises(WarehouseError, match=re.escape("Nothing has been loaded into filesystem yet")),
        open_warehouse(Target(destination="filesystem"), load_policy(load_settings().privacy_settings)),
    ):
        pass


def test_the_format_of_files_is_one_of_two() -> None:
    with pytest.raises(SettingsError, match="PROPELAUTH_TABLE_FORMAT"):
        load_settings({"table_format": "csv"})


@pytest.mark.parametrize("row", NOT_RUN, ids=lambda row: row.split("|")[1].strip())
def test_dlt_reads_what_the_documentation_says_of_a_destination_that_is_not_run(row, monkeypatch) -> None:
    for variable, value in re.findall(r"`([A-Z_]+)=([^`]+)`", row):
        monkeypatch.setenv(variable, value)
    for name in ("MSSQL", "SYNAPSE"):
        monkeypatch.setenv(f"DESTINATION__{name}__CREDENTIALS__DRIVER", DRIVER)
    destination: Any = DestinationReference.find(load_settings().destination)()
    # Not by `dlt.dataset`: it imports the drivers, which are not installed.
    config = destination.configuration(destination.spec()._bind_dataset_name(dataset_name="propel_auth_data"))
    assert not config.is_partial()


def test_sqlite_is_loaded_checked_and_shown(small, run_cli, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_DESTINATION", "sqlalchemy")
    monkeypatch.setenv("DESTINATION__SQLALCHEMY__CREDENTIALS", f"sqlite:///{tmp_path}/warehouse.sqlite")
    for words in (["load", "user_query"], ["check"], ["status"]):
        ran = run_cli(*words)
        assert ran.returncode == 0, ran.stderr
        assert re.search(r"user_query\b.*\b60\b", ran.stdout + ran.stderr)
