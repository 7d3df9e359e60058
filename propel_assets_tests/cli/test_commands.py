"""The commands that load and show tables: missing settings, wrong usage, results."""

import ast
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner
from dlt.load.load import Load

import propel_assets
from propel_assets.catalog import TABLES
from propel_assets.cli.main import main
from propel_assets.cli.rendering import print_table
from propel_assets.source.client import Client
from propel_assets_tests.processes import ROOT

PACKAGE = Path(propel_assets.__file__).parent
KEY_PLACES = (
    "No PropelAuth API key. Set PROPELAUTH_API_KEY, or api_key in .dlt/secrets.toml under "
    "[sources.propel_auth_source]. In a Dagster project of your own, the option api_key of PropelAuthConfig can be set "
    "instead. To try without a tenant: propel-assets demo."
)


@pytest.fixture
def quick(run_cli):
    """Run `propel-assets load custom_role_mappings`: one request."""
    return lambda **environment: run_cli("load", "custom_role_mappings", **environment)


# --- settings ---


def test_a_missing_setting_is_named_with_its_places(quick, tmp_path) -> None:
    ran = quick(PROPELAUTH_AUTH_URL="https://auth.example.com")
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", f"Error: {KEY_PLACES}\n")
    assert list(tmp_path.iterdir()) == []


def test_settings_are_found_in_dlts_files(small, run_process, tmp_path, monkeypatch) -> None:
    lines = {"config.toml": f'auth_url = "{small.url}"', "secrets.toml": f'api_key = "{small.api_key}"'}
    (tmp_path / ".dlt").mkdir()
    for file, line in lines.items():
        (tmp_path / ".dlt" / file).write_text(f"[sources.propel_auth_source]\n{line}\n")
    for name in ("PROPELAUTH_AUTH_URL", "PROPELAUTH_API_KEY"):
        monkeypatch.delenv(name)
    ran = run_process("load", "custom_role_mappings")
    assert ran.returncode == 0, ran.stderr


def test_the_environment_comes_before_dlts_files(small, run_process, tmp_path) -> None:
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "secrets.toml").write_text('[sources.propel_auth_source]\napi_key = "another"\n')
    ran = run_process("load", "custom_role_mappings")
    assert ran.returncode == 0, ran.stderr


def test_settings_are_found_under_dlts_own_variables(small, quick, monkeypatch) -> None:
    for name in ("PROPELAUTH_AUTH_URL", "PROPELAUTH_API_KEY"):
        monkeypatch.delenv(name)
    ran = quick(SOURCES__PROPEL_AUTH_SOURCE__AUTH_URL=small.url, SOURCES__PROPEL_AUTH_SOURCE__API_KEY=small.api_key)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    "url",
    [
        "https://auth.example.com/api",
        "https://auth.example.com?tenant=1",
        "https://user:secret@auth.example.com",
        "auth.example.com",
        "ftp://auth.example.com",
        "http://auth.example.com",
        "https://auth.example.com:port",
        "https://[auth",
        "https://",
    ],
)
def test_an_impossible_url_is_refused_with_the_form_expected(url, quick, tmp_path) -> None:
    ran = quick(PROPELAUTH_AUTH_URL=url, PROPELAUTH_API_KEY="0123456789")
    assert ran.returncode == 1
    assert ran.stderr.startswith("Error: PROPELAUTH_AUTH_URL is '")
    assert "'; it must look like https://auth.example.com: " in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert "secret" not in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_key_is_sent_once_and_changes_nothing(loaded, run_cli, query) -> None:
    loaded.requests.clear()
    ran = run_cli("load", PROPELAUTH_API_KEY="not-a-key")
    assert ran.returncode == 1
    assert len(loaded.requests) == 1
    assert "PROPELAUTH_API_KEY is not a key of this environment" in ran.stderr
    assert "Backend Integration page" in ran.stderr
    assert "Not started after that: org_query, " in ran.stderr
    assert "not-a-key" not in ran.stdout + ran.stderr
    assert query("SELECT count(*) FROM user_query") == [(60,)]


@pytest.mark.parametrize(
    ("host", "reason"), [("127.0.0.1", "connection refused"), ("no-such-host.invalid", "host name not found")]
)
def test_a_server_that_cannot_be_reached_is_tried_by_one_scan(host, reason, run_cli) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # no process listens there
        url = f"{'http' if host[0] == '1' else 'https'}://{host}:{free.getsockname()[1]}"
        ran = run_cli("load", PROPELAUTH_AUTH_URL=url, PROPELAUTH_API_KEY="0123456789", PROPELAUTH_RETRY_SECONDS="0.5")
    assert ran.returncode == 1
    assert f"Check that PROPELAUTH_AUTH_URL is right: {url}." in ran.stderr
    assert ran.stderr.count(reason) == 1
    assert "Not started after that: org_query, " in ran.stderr


def test_the_host_of_the_documentation_is_not_retried_and_is_called_a_placeholder(run_cli) -> None:
    url = "https://no-such-host.example.com"
    ran = run_cli("load", PROPELAUTH_AUTH_URL=url, PROPELAUTH_API_KEY="0123456789", PROPELAUTH_RETRY_SECONDS="300")
    assert ran.returncode == 1
    assert (
        f"failed: host name not found (1 attempt in 0 s). {url} is a placeholder: set PROPELAUTH_AUTH_URL to the auth "
        "URL of your environment, which the PropelAuth dashboard shows on the Frontend Integration page."
    ) in ran.stderr
    assert "kept" not in ran.stderr


@pytest.mark.parametrize("command", ["tables", "load"])
def test_a_misspelled_variable_is_reported_on_stderr_with_the_setting_that_it_is_close_to(command, run_cli) -> None:
    ran = run_cli(command, PROPELAUTH_APIKEY="x", PROPELAUTH_VERIFIER_KEY="of another program")
    assert ran.stderr.startswith("Warning: PROPELAUTH_APIKEY is not a setting. Did you mean PROPELAUTH_API_KEY?\n")
    assert ran.stderr.count("Warning: ") == 1


# --- usage ---


@pytest.mark.parametrize("command", ["load", "check", "privacy"])
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("user_qery", "Did you mean 'user_query' or "),
        ("users", "Did you mean 'user_query' or 'org_membership'? "),
        ("ORGS", "Did you mean 'org_query'? "),
        ("xyz", "`propel-assets tables` lists all."),
    ],
)
def test_an_unknown_table_is_a_usage_error_with_the_closest_names(command, name, hint, tmp_path) -> None:
    ran = CliRunner().invoke(main, [command, name])
    assert ran.exit_code == 2
    assert f"No table is named {name!r}. {hint}" in ran.output
    assert ran.output.rstrip().endswith("`propel-assets tables` lists all.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["user_by_email"], "user_by_email needs --email: the user to look up."),
        (["user_query", "user_by_id"], "user_by_id needs --user-id: the user to look up."),
        (["--email", "a@b.test"], "--email is for the table user_by_email: propel-assets load user_by_email --email"),
        (["user_by_id", "--user-id", "42"], "No such user: '42' is not a user id. Ids of PropelAuth are UUIDs."),
    ],
)
def test_a_look_up_without_a_usable_value_is_a_usage_error_before_any_request(words, sentence, small, tmp_path) -> None:
    ran = CliRunner().invoke(main, ["load", *words])
    assert ran.exit_code == 2
    assert f"Error: {sentence}" in ran.output.replace("Invalid value for '--user-id': ", "")
    assert not small.requests
    assert list(tmp_path.iterdir()) == []


def test_erase_refuses_an_id_that_no_user_can_have_without_a_key_and_a_warehouse(tmp_path) -> None:
    ran = CliRunner().invoke(main, ["erase", "nobody", "--dry-run"])
    assert ran.exit_code == 2
    assert "No such user: 'nobody' is not a user id. Ids of PropelAuth are UUIDs." in ran.output
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_is_a_usage_error_with_the_closest_one() -> None:
    ran = CliRunner().invoke(main, ["lod"])
    assert (ran.exit_code, "Did you mean 'load'?" in ran.output) == (2, True)


@pytest.mark.parametrize("command", [("load",), ("status",), ("check",)])
def test_an_unknown_destination_lists_the_destinations(command, small, run_cli, tmp_path) -> None:
    ran = run_cli(*command, PROPELAUTH_DESTINATION="duckbd")
    assert ran.returncode == 1
    assert "PROPELAUTH_DESTINATION is 'duckbd', which dlt does not know. Choose one of duckdb, postgres, " in ran.stderr
    assert ran.stderr.count("duckbd") == 2
    assert not small.requests
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["", *main.commands])
def test_help_shows_an_example(command, run_cli) -> None:
    ran = run_cli(*command.split(), "--help")
    assert ran.returncode == 0
    assert f"propel-assets {command}".strip() in ran.stdout.partition("Example")[2]


def test_help_imports_neither_dlt_nor_dagster() -> None:
    code = (
        "import sys\nfrom propel_assets.cli.main import main\nmain(['load', '--help'], standalone_mode=False)\n"
        "print(sorted({'dlt', 'dagster', 'duckdb', 'pyarrow'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


# --- status, check, tables ---


def test_tables_prints_the_catalogue(run_cli) -> None:
    ran = run_cli("tables")
    assert ran.returncode == 0
    lines = ran.stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == [table.name for table in TABLES]
    assert [" by default" in line for line in lines] == [table.default for table in TABLES]
    assert re.search(r"^user_mfa +user_id +\.\.\./user/\{user_id\}/mfa +by name", ran.stdout, re.MULTILINE)
    assert "... is /api/backend/v1." in ran.stderr


def test_a_command_whose_output_is_closed_ends_quietly() -> None:
    command = [sys.executable, "-m", "propel_assets.cli", "lineage"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == ""


def test_a_table_shows_brackets_and_whole_words(capsys) -> None:
    print_table(("[/x]", "b"), [("[red]:key:", "word " * 300)])
    assert capsys.readouterr().out.split("\n")[1].strip() == "[red]:key:  " + " ".join(["word"] * 300)


@pytest.mark.parametrize("command", ["status", "check"])
def test_there_is_nothing_to_show_before_the_first_load(command, run_cli, tmp_path) -> None:
    ran = run_cli(command)
    assert ran.returncode == 1
    sentence = (
        r"Error: There is no \S+\. If you have loaded in another folder, change to that folder\. Otherwise run "
        r"propel-assets load\. To try without a tenant: propel-assets demo\.\n"
    )
    assert re.fullmatch(sentence, ran.stderr)
    assert list(tmp_path.iterdir()) == []


def test_status_shows_rows_verdict_age_and_checks(loaded, run_cli) -> None:
    ran = run_cli("status")
    assert ran.returncode == 0
    assert re.search(r"^user_query +60 +proved +\d+ min +\d+ min +6 of 6 +yes *$", ran.stdout, re.MULTILINE)
    assert (
        "No marts. To build them: run `propel-assets refresh`, or launch the job `propel_auth_refresh` in Dagster"
        in ran.stdout
    )


def test_check_passes_on_what_was_loaded(loaded, run_cli) -> None:
    ran = run_cli("check", "user_query")
    assert ran.returncode == 0
    assert "60 rows, as many as were read." in ran.stdout


def test_check_finds_rows_that_were_deleted_by_hand_without_personal_data(loaded, run_cli, tmp_path) -> None:
    with duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb")) as db:
        gone = "(SELECT user_id FROM propel_auth_data.org_membership LIMIT 1)"
        db.execute(f"DELETE FROM propel_auth_data.user_query WHERE user_id = {gone}")
    ran = run_cli("check")
    assert ran.returncode == 3
    assert re.search(r"^user_query +row_count +ERROR +59 rows, expected 60", ran.stdout, re.MULTILINE)
    assert re.search(r"^org_membership +references_exist +ERROR .* 1 not in `user_query`", ran.stdout, re.MULTILINE)
    assert "@" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("words", "table"),
    [
        (["org_query", "--recent"], "user_query"),
        (["user_query", "--usage-per-key"], "end_user_api_key_usage"),
    ],
)
def test_an_option_that_no_table_has_is_a_usage_error(run_cli, words, table) -> None:
    ran = run_cli("load", *words)
    assert ran.returncode == 2
    assert f"{words[1]} is for the table {table}: propel-assets load {table} {words[1]}" in ran.stderr


def test_a_table_that_was_dropped_after_its_load_is_an_error(loaded, run_cli, run_sql) -> None:
    run_sql("DROP TABLE propel_auth_data.user_query")
    checked = run_cli("check")
    assert checked.returncode == 3
    assert re.search(
        r"^user_query +row_count +ERROR +The table is missing. The last load", checked.stdout, re.MULTILINE
    )
    compared = run_cli("verify", "user_query", "org_query")
    assert compared.returncode == 1
    assert "user_query is missing in the warehouse. The last load read 60 rows." in compared.stderr


def test_status_lists_marts_with_their_rows_and_the_age_of_their_data(loaded, run_cli, tmp_path) -> None:
    with duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb")) as db:
        db.execute("CREATE SCHEMA propel_auth_marts; CREATE SCHEMA propel_auth_history; CREATE SCHEMA others")
        db.execute("CREATE TABLE propel_auth_marts.dim_user AS SELECT now() - INTERVAL 3 HOUR AS as_of FROM range(60)")
        db.execute("CREATE VIEW propel_auth_marts.fct_x AS SELECT 1 AS a")
        db.execute("CREATE TABLE propel_auth_history.users_history AS SELECT 1 AS a FROM range(70)")
        db.execute("CREATE TABLE others.secret_plans AS SELECT 1 AS a")
    ran = run_cli("status")
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"^dim_user +60 +3 h *$", ran.stdout, re.MULTILINE)
    assert re.search(r"^fct_x +1 +- *$", ran.stdout, re.MULTILINE)
    assert re.search(r"^users_history +70 +- *$", ran.stdout, re.MULTILINE)
    assert "secret_plans" not in ran.stdout


def test_no_message_refers_to_files_or_targets_of_the_repository() -> None:
    """A user who installed the package has no Makefile and no docs/."""
    targets = "|".join(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    repository = re.compile(rf"\bdocs/|\bmake ({targets})\b")
    texts = {name: command.help or "" for name, command in main.commands.items()}
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                texts[f"{path.name}:{node.lineno}"] = node.value
    assert [place for place, text in texts.items() if repository.search(text)] == []


def test_a_plain_script_without_settings_ends_with_one_sentence(tmp_path) -> None:
    script = ROOT / "examples" / "propel_auth_pipeline.py"
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("Error: No PropelAuth auth URL and no API key. Set PROPELAUTH_AUTH_URL and ")
    assert ran.stderr.count("\n") == 1


# --- sandbox ---


def test_the_sandbox_prints_its_settings_and_ends_at_sigterm() -> None:
    command = [sys.executable, "-m", "propel_assets.cli", "sandbox", "--port", "0", "--users", "20", "--orgs", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        said = dict(process.stdout.readline().strip().split("=") for _ in range(3))
        assert list(said) == ["PROPELAUTH_AUTH_URL", "PROPELAUTH_API_KEY", "PROPELAUTH_OAUTH_TOKEN"]
        url = f"{said['PROPELAUTH_AUTH_URL']}/api/backend/v1/user/query"
        asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {said['PROPELAUTH_API_KEY']}"})
        with urllib.request.urlopen(asked) as answer:
            assert b'"total_users":20' in answer.read().replace(b" ", b"")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0, process.stderr.read()
    with socket.create_server(("127.0.0.1", int(url.split(":")[2].split("/")[0]))):
        pass  # its port is free again


@pytest.mark.parametrize("wrong", [("--port", "taken"), ("--fault", "no_such_switch"), ("--users", "-1")])
def test_a_sandbox_that_cannot_start_prints_the_reason_in_one_sentence(wrong, run_cli) -> None:
    option, value = wrong
    with socket.create_server(("127.0.0.1", 0)) as taken:
        value = str(taken.getsockname()[1]) if value == "taken" else value
        ran = run_cli("sandbox", "--port", "0", option, value)
    assert ran.returncode in (1, 2)
    assert value in ran.stderr
    assert "Traceback" not in ran.stderr


# --- load: what it prints at its end ---


@pytest.fixture
def interrupt(monkeypatch):
    """Press Ctrl-C when a method of a class is called the first time."""

    def patch(owner: type, name: str, *, when: Callable[..., bool] = lambda *_: True) -> None:
        original, sent = getattr(owner, name), []

        def call(*args: Any, **options: Any) -> Any:
            if not sent and when(*args):
                sent.append(True)
                os.kill(os.getpid(), signal.SIGINT)
            return original(*args, **options)

        monkeypatch.setattr(owner, name, call)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of pytest-xdist ignores it
    yield patch
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_a_table_is_read_names_what_was_kept(loaded, run_cli, query, interrupt) -> None:
    interrupt(Client, "get", when=lambda _, path, *__: "end_user_api_keys" in path)
    ran = run_cli("load", "custom_role_mappings", "org_query", "end_user_api_keys")
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-4:] == [
        "Interrupted while loading end_user_api_keys. The previous data is kept.",
        "Loaded before that, and complete: org_query, custom_role_mappings.",
        "",
        "Aborted!",
    ]
    assert query("SELECT count(*) FROM org_query") == [(6,)]


def test_ctrl_c_while_a_table_is_written_is_no_error_of_the_destination(loaded, run_cli, query, interrupt) -> None:
    interrupt(Load, "load_single_package")
    ran = run_cli("load", "org_query", "custom_role_mappings")
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-4:] == [
        "Interrupted while loading org_query. Some tables can have been changed.",
        "Loaded before that, and complete: none.",
        "",
        "Aborted!",
    ]
    assert query("SELECT count(*) FROM org_query") == [(6,)]


def test_load_ends_with_where_the_data_went_and_explains_no_verdict_if_all_are_proved(small, quick, tmp_path) -> None:
    assert quick().stderr.splitlines() == [
        "custom_role_mappings: 3 rows, proved",
        "5 of 5 checks passed.",
        f"Loaded into duckdb: {tmp_path / 'propel_auth_pipeline.duckdb'}, dataset propel_auth_data.",
    ]


def test_only_the_verdicts_that_occur_are_explained_one_per_line(loaded, run_cli) -> None:
    assert run_cli("fault", "scim_off", "--url", loaded.url).returncode == 0
    ran = run_cli("load", "scim_groups", "custom_role_mappings")
    for text in (ran.stderr, run_cli("status").stderr):
        assert re.findall("^(proved|counted|skipped): (.{6})", text, re.MULTILINE) == [
            ("proved", "no row"),
            ("skipped", "not re"),
        ]
    assert "Loaded into duckdb: " in ran.stderr


def test_the_end_of_a_load_names_a_destination_without_its_credentials(postgres_server, small, quick, tmp_path) -> None:
    ran = quick(**postgres_server.place(tmp_path))
    assert ran.stderr.splitlines()[-1] == "Loaded into postgres, dataset propel_auth_data."
