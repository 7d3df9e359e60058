"""The README and docs/ say what is so: commands run, settings and tables are the code's, links lead somewhere."""

import json
import os
import re
import runpy
import shlex
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import click
import pytest
import yaml
from dagster import Definitions, validate_run_config
from dagster._core.workspace.autodiscovery import loadable_targets_from_python_file
from dagster._utils.test.definitions import LazyDefinitions

from propel_assets import __version__, build_definitions
from propel_assets.catalog import AUDIT_TABLES, TABLES
from propel_assets.cli.main import main
from propel_assets.marts.sources import PROJECT as PROJECT_OF_MARTS
from propel_assets.settings import Settings, variable_of
from propel_assets.warehouse.checks import CHECKS

ROOT = Path(__file__).parents[1]
GENERATED = runpy.run_path(str(ROOT / "docs" / "generate.py"))["PAGES"]
README = (ROOT / "README.md").read_text()
SEEDS = {"free_mail_domains"}
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".claude").rglob("*.md")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SHELL = {
    "export",
    "git",
    "cd",
    "cp",
    "pip",
    "mkdir",
    "mv",
    "python",
    "python3",
    "set",
    "{",
    "docker",
    "duckdb",
    "celery",
    "dg",
    ".",
}  # words that need no knowing of ours


def commands(page: Path) -> list[str]:
    """Return the lines of the page's sh blocks, without comments, prompts and what is set before a command."""
    lines = []
    for block in re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in re.sub(
            r" > \S+$", "", block.replace("\\\n", " ").replace(" && ", "\n"), flags=re.MULTILINE
        ).splitlines():
            words = [word for word in shlex.split(line.removeprefix("$ "), comments=True) if not _assignment(word)]
            lines += [shlex.join(words)] if words else []
    return lines


def _assignment(word: str) -> bool:
    return re.match(r"[A-Z_]+=", word) is not None


def code(text: str) -> list[str]:
    """Return what stands in backticks in running text."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


COMMANDS = sorted({(page.name, line) for page in PAGES for line in commands(page)})
PLACEHOLDERS = {"USER_ID": "5b1f0c1e-9f0d-4c64-8e0f-5f1c6c2d7a10"}
SNIPPETS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
    if "dg.Definitions" in block
]
OURS = [line for _, line in COMMANDS if "propel-assets" in line.split()[0]]
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]  # it also names commands that were removed
IN_TEXT = sorted({text for page in CURRENT for text in code(page.read_text()) if text.startswith("propel-assets ")})
MADE = sorted({target for page in PAGES for target in re.findall(r"`make ([\w-]+)", page.read_text())})
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) >= 4
    assert OURS


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_is_known(page, line) -> None:
    word, *rest = shlex.split(line)
    if word == "make":
        assert set(rest) <= TARGETS
    elif Path(word).name == "propel-assets":
        parsed(line)
    elif Path(word).name in {"dagster", "dagster-daemon", "dagster-webserver", "dbt", "dg", "dlt", "marimo"}:
        assert rest
    else:
        assert {word, Path(word).name} & SHELL, f"{page} tells people to run {word}: say what it is in this test"


@pytest.mark.parametrize("text", IN_TEXT)
def test_every_command_of_ours_in_the_text_is_known(text) -> None:
    parsed(text)


def parsed(line: str) -> None:
    """Read a command line of ours as click would, without running it; raise what click would say."""
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(line)[1:] if word != "..."]
    if words[:1] == ["--environment"]:
        main.make_context("propel-assets", words[:2], resilient_parsing=True)
        words = words[2:]
    name, *rest = words or ["--help"]
    if name.startswith("-"):
        main.make_context("propel-assets", [name], resilient_parsing=name in {"-h", "--help", "--version"})
    elif name not in main.commands:
        raise click.UsageError(f"There is no command {name}.")
    else:
        parent = click.Context(main, info_name="propel-assets", **main.context_settings)
        main.commands[name].make_context(name, list(rest), parent, resilient_parsing="--help" in rest)


def test_a_command_that_does_not_exist_would_be_caught() -> None:
    for words in ("laod", "--verbose", "load --everything", "load no_such_table", "sandbox --port"):
        with pytest.raises(click.UsageError):
            parsed(f"propel-assets {words}")


@pytest.mark.parametrize(
    "target", sorted({m for page in PAGES for m in re.findall(r"`make ([\w-]+)", page.read_text())})
)
def test_every_make_target_in_the_text_exists(target) -> None:
    assert target in TARGETS


def test_the_commands_for_a_real_tenant_work(run_cli, sandbox, settings) -> None:
    loaded = run_cli("load", "custom_role_mappings")
    assert loaded.returncode == 0, loaded.stderr
    for words in (["status"], ["check"], ["tables"], ["--version"]):
        done = run_cli(*words)
        assert done.returncode == 0, done.stderr
        assert ("custom_role_mappings" in done.stdout) or (__version__ in done.stdout)


@pytest.mark.parametrize("name", GENERATED)
def test_a_reference_page_is_generated_from_the_code(name) -> None:
    page = (ROOT / "docs" / "reference" / name).read_text()
    assert page == GENERATED[name](), "run `python docs/generate.py`"


def test_the_reference_pages_name_every_table_mart_setting_and_package() -> None:
    pages = {path.name: set(code(path.read_text())) for path in (ROOT / "docs" / "reference").glob("*.md")}
    assert {table.name for table in TABLES} <= pages["tables.md"]
    sections = set(re.findall(r"^### (\w+)$", (ROOT / "docs" / "reference" / "tables.md").read_text(), re.M))
    assert {table.name for table in AUDIT_TABLES} == sections
    marts = (ROOT / "docs" / "reference" / "marts.md").read_text()
    assert {model.stem for model in (PROJECT_OF_MARTS / "models").rglob("*.sql")} == set(
        re.findall(r"^### (\w+)$", marts, re.M)
    ) - SEEDS
    assert {variable_of(setting.name) for setting in fields(Settings)} <= pages["settings.md"]
    packages = {re.match(r"[\w-]+", text)[0] for text in PROJECT["dependencies"]}  # type: ignore[index]
    assert packages | {*PROJECT["optional-dependencies"]} <= pages["dependencies.md"]


def test_pages_have_snippets_with_definitions() -> None:
    assert len(SNIPPETS) >= 6


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_dagster_loads_each_module_of_definitions(snippet, tmp_path, monkeypatch) -> None:
    _write_their_projects(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "src")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # dbt
    module = tmp_path / "src" / "their_project" / "definitions.py"
    module.write_text(snippet)
    (target,) = loadable_targets_from_python_file(str(module))
    definitions = target.target_definition
    if isinstance(definitions, LazyDefinitions):
        definitions = definitions()
    assert isinstance(definitions, Definitions)
    Definitions.validate_loadable(definitions)
    assert "user_query" in {asset.key.path[-1] for asset in definitions.resolve_all_asset_specs()}


def test_the_bounds_that_a_project_must_allow_are_those_of_the_package() -> None:
    text = (ROOT / "docs" / "embedding.md").read_text().split("Your project must allow")[1].split("\n\n")[0]
    extras = PROJECT["optional-dependencies"]
    allowed = {re.sub(r"\[\w+\]", "", package) for package in (*PROJECT["dependencies"], *extras["marts"])}
    python, *named = (name for name in code(text) if ">" in name)
    assert python == PROJECT["requires-python"]
    assert {re.match(r"[\w-]+", name)[0] for name in named} >= {"dagster", "dlt", "duckdb", "sqlglot", "dbt-core"}  # type: ignore[index]
    assert {*named} <= allowed


def test_the_run_configuration_of_a_look_up_is_valid() -> None:
    (block,) = re.findall(r"```yaml\n(ops:.*?)```", (ROOT / "docs" / "embedding.md").read_text(), re.DOTALL)
    job = build_definitions().resolve_implicit_global_asset_job_def()
    assert validate_run_config(job, yaml.safe_load(block))["ops"]


def test_a_revoked_key_fails_as_many_steps_as_the_page_says() -> None:
    scans = {table.scan for table in TABLES if table.default and getattr(table.shape, "auth", "api_key") == "api_key"}
    page = (ROOT / "docs" / "alerts.md").read_text()
    assert f"one alert that lists {len(scans)} steps" in page
    assert f"PropelAuth refused the API key: {len(scans)} affected: " in page


def _write_their_projects(folder: Path) -> None:
    """Write a project made by `create-dagster` and a dbt project without models, as the snippets expect them."""
    package = folder / "src" / "their_project"
    (package / "defs").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "defs" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "their_project"\nversion = "0"\n'
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "their_project"\n'
    )
    target = folder / "analytics" / "target"
    target.mkdir(parents=True)
    (folder / "analytics" / "dbt_project.yml").write_text("name: analytics\nprofile: analytics\n")
    (folder / "analytics" / "profiles.yml").write_text("analytics: {target: dev, outputs: {dev: {type: duckdb}}}\n")
    kinds = ("nodes", "sources", "exposures", "metrics", "semantic_models", "saved_queries", "unit_tests", "macros")
    parts = {kind: {} for kind in (*kinds, "parent_map", "child_map", "group_map", "selectors", "disabled", "docs")}
    (target / "manifest.json").write_text(json.dumps({"metadata": {"adapter_type": "duckdb"}, "groups": {}, **parts}))


def test_each_package_of_the_core_install_has_a_reason() -> None:
    core = (ROOT / "docs" / "reference" / "dependencies.md").read_text().split("Extras,")[0]
    assert re.findall(r"^\| `[^|]*` \|\s*\|$", core, re.MULTILINE) == []


def test_the_readme_names_every_check() -> None:
    assert {*CHECKS} <= set(code(README))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_to_a_file_leads_somewhere(page) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", link)]
    assert [link for link in links if not _leads_somewhere(page, link)] == []


def _leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


def anchors(page: Path) -> set[str]:
    """Return the anchors a forge makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_named_in_the_text_exists(page) -> None:
    named = [
        t
        for t in code(page.read_text())
        if re.fullmatch(r"(docs|propel_assets|propel_assets_tests|sources|examples|\.dlt|\.ci|\.claude)/[\w./-]+\w", t)
    ]
    made_later = {".dlt/secrets.toml", ".dlt/config.toml"}
    assert [name for name in named if name not in made_later and not (ROOT / name).exists()] == []
