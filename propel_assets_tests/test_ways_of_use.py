"""The ways of use that dltHub's page on PropelAuth shows its readers, without Dagster."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import dlt
import pytest

from propel_assets.warehouse.load import load_scan
from propel_assets_tests.processes import ROOT

SCRIPT = ROOT / "examples" / "propel_auth_pipeline.py"
KILLED = """
import os, runpy, signal, sys
from dlt.load.load import Load
calls = []
original = getattr(Load, sys.argv[2])
def dies(*args, **kwargs):
    calls.append(1)
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
setattr(Load, sys.argv[2], dies)
runpy.run_path(sys.argv[1], run_name="__main__")
"""

# As Google's is by default: asked for secrets only, and for fragments of secrets.toml.
VAULT = """
import os
import dlt
from dlt.common.configuration.providers.vault import VaultDocProvider

class Vault(VaultDocProvider):
    name = "a vault"
    locations = ["somewhere safe"]

    def _look_vault(self, full_key, hint):
        fragment = '[sources.propel_auth_source]\\napi_key = "%s"' % os.environ["IN_THE_VAULT"]
        return fragment if full_key == "sources.propel_auth_source" else None

    def _list_vault(self):
        return set()

dlt.secrets.register_provider(Vault(only_secrets=True, only_toml_fragments=True))
"""


@pytest.fixture
def script(settings, tmp_path, monkeypatch):
    """Run the example as it is, in an empty folder; it may die at a point of dlt's loading."""
    monkeypatch.delenv("DESTINATION__DUCKDB__CREDENTIALS")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))

    def run(dies_at: str = "", times: int = 0) -> subprocess.CompletedProcess:
        command = ["-c", KILLED, SCRIPT, dies_at, str(times)] if dies_at else [SCRIPT]
        return subprocess.run(
            [sys.executable, *command], env=os.environ, capture_output=True, text=True, timeout=200, check=False
        )

    return run


@pytest.mark.slow
def test_the_script_of_five_lines_loads_every_table(script, sandbox, query) -> None:
    ran = script()
    assert ran.returncode == 0, ran.stderr
    assert {row[0] for row in query("SELECT user_id FROM propel_auth_data.user_query")} == set(sandbox.store.users)
    assert len(query("SELECT * FROM propel_auth_data.user_query LIMIT 10")) == 10


@pytest.mark.slow
@pytest.mark.parametrize(("dies_at", "times"), [("create_followup_jobs", 1), ("complete_package", 1)])
def test_a_killed_script_keeps_the_previous_data_and_can_be_repeated(script, sandbox, query, dies_at, times) -> None:
    users = "SELECT count(*) FROM propel_auth_data.user_query"
    assert script().returncode == 0
    for user in list(sandbox.store.users)[:7]:
        sandbox.store.delete_user(user)
    assert script(dies_at, times).returncode == -signal.SIGKILL
    assert query(users) in ([(300,)], [(293,)])
    repeated = script()
    assert repeated.returncode == 0, repeated.stderr
    assert query(users) == [(293,)]
    assert query("SELECT count(*) FROM propel_auth_data.org_membership") == [
        (sum(map(len, sandbox.store.of_user.values())),)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')",
        "propel_assets.cli.main.main(['load', 'user_query'])",
        "job = propel_assets.definitions.defs.resolve_job_def('propel_auth_refresh_recent')\n"
        "assert job.execute_in_process().success",
    ],
    ids=["script", "command line", "Dagster"],
)
def test_the_key_may_come_from_a_vault_that_dlt_knows(sandbox, query, monkeypatch, use) -> None:
    monkeypatch.setenv("PROPELAUTH_AUTH_URL", sandbox.url)
    monkeypatch.setenv("IN_THE_VAULT", sandbox.api_key)
    Path("vault.py").write_text(VAULT, encoding="utf-8")
    program = f"import runpy, vault, propel_assets.cli.main, propel_assets.definitions; {use}"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stderr
    assert query("SELECT count(*) FROM user_query") == [(300,)]
    assert sandbox.api_key not in ran.stdout + ran.stderr


@pytest.mark.slow
def test_dlt_init_starts_a_project_that_loads_every_user(sandbox, tmp_path, query, monkeypatch) -> None:
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    dlt_init = [Path(sys.executable).with_name("dlt"), "--non-interactive", "init", "propel_auth", "duckdb"]
    for command in ([*dlt_init, "--location", ROOT], [sys.executable, "propel_auth_pipeline.py"]):
        ran = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        for file, value in (("config.toml", sandbox.url), ("secrets.toml", sandbox.api_key)):
            settings = tmp_path / ".dlt" / file
            settings.write_text(settings.read_text().replace("<configure me>", value))
    assert {row[0] for row in query("SELECT user_id FROM user_query")} == set(sandbox.store.users)
    assert "propel-assets" in (tmp_path / "requirements.txt").read_text()


@pytest.mark.filterwarnings("ignore:The inplace keyword", "ignore:fetch_arrow_table")  # pandas and DuckDB, of dlt
def test_the_pipeline_by_its_name_alone_shows_the_rows(settings) -> None:
    load_scan("users", settings)
    users = dlt.pipeline("propel_auth_pipeline").dataset().user_query
    assert len(users.df()) == 300
    table = users.arrow()
    assert table.num_rows == 300
    assert "email" in table.column_names


@pytest.mark.parametrize(("words", "shown"), [(("info",), "propel_auth_source"), (("schema",), "user_query")])
def test_dlts_own_command_knows_the_pipeline(settings, words, shown) -> None:
    load_scan("users", settings)
    command = [Path(sys.executable).with_name("dlt"), "pipeline", "propel_auth_pipeline", *words]
    said = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=100, check=False)
    assert said.returncode == 0, said.stderr
    assert shown in said.stdout


def test_dlts_own_show_asks_for_its_commercial_package(settings) -> None:
    load_scan("role_mappings", settings)
    command = [Path(sys.executable).with_name("dlt"), "pipeline", "propel_auth_pipeline", "show"]
    said = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=100, check=False)
    assert "dlt[hub]" in said.stdout + said.stderr
