"""The notebook, as a script and in Jupyter; browser/test_notebooks.py has it as an app."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from propel_assets.cli.report import NOTEBOOK
from propel_assets_tests.processes import running_sandbox

TABLES = ("user_query", "org_query", "org_membership", "chart_metrics")


def run(*command: str | Path) -> subprocess.CompletedProcess:
    program = Path(sys.executable).with_name(str(command[0]))
    return subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture
def own_folder(monkeypatch, tmp_path) -> None:
    """Let no pipeline be remembered but those of this test."""
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))


@pytest.mark.slow
def test_the_notebook_as_a_script_prints_the_figures(own_folder, settings, run_process) -> None:
    assert run_process("load", *TABLES).returncode == 0
    ran = run("python", NOTEBOOK)
    assert ran.returncode == 0, ran.stderr
    origin, *lines = ran.stdout.splitlines()
    figures = {label.strip(): value for value, label in (line.split(maxsplit=1) for line in lines)}
    assert (figures["users"], figures["organizations"]) == ("300", "24")
    file = Path.cwd() / "propel_auth_pipeline.duckdb"
    assert re.fullmatch(rf"duckdb: {file}, dataset propel_auth_data\. Age of the oldest table, \w+: \d+ min\.", origin)
    assert "@" not in ran.stdout


@pytest.mark.slow
def test_the_notebook_reads_the_tables_of_its_folder_and_not_those_of_the_last_load(
    own_folder, settings, run_process, tmp_path, monkeypatch
) -> None:
    monkeypatch.delenv("DESTINATION__DUCKDB__CREDENTIALS")
    assert run_process("load", *TABLES).returncode == 0
    with running_sandbox(users=60, orgs=6, seed=8) as other, monkeypatch.context() as elsewhere:
        (tmp_path / "elsewhere").mkdir()
        elsewhere.chdir(tmp_path / "elsewhere")
        assert run_process("load", *TABLES, PROPELAUTH_AUTH_URL=other.url).returncode == 0
    ran = run("python", NOTEBOOK)
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"^ +300  users$", ran.stdout, re.MULTILINE), ran.stdout


def test_the_command_writes_the_notebook_and_replaces_no_file(run_cli) -> None:
    assert run_cli("notebook").stdout == "explore.py: run it with `marimo run explore.py`.\n"
    assert Path("explore.py").read_bytes() == NOTEBOOK.read_bytes()
    again = run_cli("notebook")
    assert again.returncode == 1
    assert "Cannot write explore.py: File exists. Choose another file." in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ((), "There is no {file}. If you have loaded in another folder"),
        (
            TABLES[:3],
            "{file}, dataset propel_auth_data does not have all tables: run propel-assets load chart_metrics.",
        ),
    ],
    ids=["nothing is loaded", "a table is missing"],
)
def test_without_the_tables_the_notebook_says_what_to_run(own_folder, settings, run_process, tables, reason) -> None:
    if tables:
        assert run_process("load", *tables).returncode == 0
    ran = run("python", NOTEBOOK)
    assert ran.returncode == 1
    assert reason.format(file=Path.cwd() / "propel_auth_pipeline.duckdb") in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_the_notebook_runs_in_jupyter_and_draws_every_chart(own_folder, settings, run_process) -> None:
    assert run_process("load", *TABLES).returncode == 0
    exported = run("marimo", "export", "ipynb", NOTEBOOK, "-o", "explore.ipynb")
    assert exported.returncode == 0, exported.stderr
    ran = run("jupyter-execute", "--inplace", "explore.ipynb")
    assert ran.returncode == 0, ran.stderr
    cells = json.loads(Path("explore.ipynb").read_text(encoding="utf-8"))["cells"]
    shown = [output for cell in cells for output in cell.get("outputs", [])]
    assert sum("<svg" in "".join(output.get("data", {}).get("text/html", "")) for output in shown) == 7
    assert any("300  users" in "".join(output.get("text", "")) for output in shown)
