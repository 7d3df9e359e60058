"""`propel-assets status` for programs: JSON, Prometheus, and a dead man's switch."""

import json
import re
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pytest
import time_machine
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from propel_assets import __version__
from propel_assets.catalog import TABLES
from propel_assets.cli.main import main
from propel_assets.warehouse.audit import MAX_LOADS
from propel_assets.webhooks.store import StoredEvent, WebhookStore
from propel_assets_tests.processes import ROOT

LOADED = (
    *("user_query", "org_membership", "org_query", "end_user_api_keys", "user_report"),
    *("scim_groups", "scim_group_members", "custom_role_mappings"),
)
SECRET = "whsec_c2FuZGJveC13ZWJob29rLXNlY3JldA=="


def status(*words: str, exits: int = 0) -> str:
    ran = CliRunner().invoke(main, ["status", *words])
    assert ran.exit_code == exits, ran.output
    return ran.stdout


@pytest.fixture
def receive(monkeypatch, tmp_path) -> Callable[[datetime], None]:
    """Receive one event at a time; it is not applied."""

    def run(at: datetime) -> None:
        monkeypatch.setenv("PROPELAUTH_WEBHOOK_SECRET", SECRET)
        monkeypatch.setenv("PROPELAUTH_WEBHOOK_STORE", f"sqlite:///{tmp_path}/events.db")
        with closing(WebhookStore(f"sqlite:///{tmp_path}/events.db")) as store:
            store.add([StoredEvent("msg_1", "user.login", at, at, "{}")])

    return run


@pytest.fixture
def event(receive) -> None:
    """One event that was received 90 seconds ago and is not applied yet."""
    receive(datetime.now(UTC) - timedelta(seconds=90))


def test_json_has_age_rows_requests_check_failures_and_event_lag(loaded, event, run_sql) -> None:
    run_sql(
        "UPDATE propel_auth_data.propel_checks SET passed = false "
        "WHERE table_name = 'org_query' AND check_name = 'schema'"
    )
    found = json.loads(status("--json"))
    tables = {table["table"]: table for table in found["tables"]}
    users = tables["user_query"]
    assert (users["rows"], users["verdict"], users["is_up_to_date"]) == (60, "proved", True)
    assert 0 <= users["age_seconds"] < 3_600
    assert users["proved_at"] == users["loaded_at"]
    assert users["requests"] == tables["org_membership"]["requests"] > 1
    assert users["checks"]["failed"] == 0
    assert tables["org_query"]["checks"]["failed"] == 1
    assert found["events"]["pending"] == 1
    assert found["marts"] == []
    assert found == json.loads(status("--format", "json")) | {"at": found["at"], "tables": found["tables"]}


def test_prometheus_text_has_the_same_figures(loaded, event) -> None:
    text = status("--format", "prometheus")
    values = {
        (sample.name, sample.labels.get("table")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    tables = {table["table"]: table for table in json.loads(status("--json"))["tables"]}
    for name, table in tables.items():
        assert values["propel_table_rows", name] == table["rows"]
        assert values["propel_scan_requests", name] == table["requests"]
        assert values["propel_checks_failed", name] == table["checks"]["failed"]
        loaded_at = datetime.fromisoformat(table["loaded_at"]).timestamp()
        assert values["propel_last_load_timestamp_seconds", name] == pytest.approx(loaded_at, abs=1)
        if table["proved_at"]:
            assert ("propel_last_proved_scan_timestamp_seconds", name) in values
    assert values["propel_webhook_pending_events", None] == 1
    assert 90 <= values["propel_webhook_oldest_pending_seconds", None] < 900
    assert "\n1 webhook event not loaded. Run propel-assets load auth_event. If it reports" in status()


def test_a_store_without_a_secret_is_read(loaded, event, monkeypatch) -> None:
    monkeypatch.delenv("PROPELAUTH_WEBHOOK_SECRET")
    assert json.loads(status("--json"))["events"]["pending"] == 1


def test_without_webhooks_there_is_no_event_lag(loaded) -> None:
    assert json.loads(status("--json"))["events"] is None
    assert "propel_webhook" not in status("--format", "prometheus")


def test_the_tables_are_reported_if_the_webhook_store_cannot_be_read(loaded, event, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PROPELAUTH_WEBHOOK_STORE", "postgresql+psycopg2://127.0.0.1:1/events")
    found = json.loads(status("--json"))
    assert (found["events"], bool(found["tables"])) == (None, True)
    assert found["events_error"].startswith("The webhook store cannot be used (OperationalError)")
    text = status("--format", "prometheus")
    assert 'propel_webhook_store_up{environment=""} 0.0' in text
    assert "propel_webhook_pending_events" not in text
    assert "propel_table_rows" in text
    ran = CliRunner().invoke(main, ["status"])
    assert (ran.exit_code, "user_query" in ran.stdout) == (0, True)
    assert "The events not loaded yet could not be counted. The webhook store cannot be used" in ran.stderr


@pytest.mark.slow
def test_data_older_than_the_limit_exits_with_3(loaded, run_sql) -> None:
    assert "user_query" in status("--max-age", "26h", *LOADED)
    run_sql(
        "UPDATE propel_auth_data.propel_scans SET finished_at = finished_at - INTERVAL 27 HOUR "
        "WHERE table_name = 'user_query'"
    )
    ran = CliRunner().invoke(main, ["status", "--max-age", "26h"])
    assert ran.exit_code == 3
    assert "No full load in the last 26 h: user_query, org_by_id, " in ran.stderr
    ran = CliRunner().invoke(main, ["status", "--max-age", "26h", *LOADED])
    assert ran.exit_code == 3
    assert ran.stderr.endswith(
        "No full load in the last 26 h: user_query. Check that the schedule of the full load is on, and that its "
        "last run succeeded.\n"
    )
    ran = CliRunner().invoke(main, ["status", "--max-age", "90m", "user_query"])
    assert "No full load in the last 90 min: user_query. Check that the schedule" in ran.stderr
    status("--max-age", "28h", *LOADED)
    status("--json", "--max-age", "26h", *LOADED, exits=3)


def test_a_default_table_that_was_never_loaded_is_too_old_unless_it_was_skipped(loaded, run_sql) -> None:
    ran = CliRunner().invoke(main, ["status", "--max-age", "26h"])
    assert ran.exit_code == 3
    never = [table.name for table in TABLES if table.default and table.name not in LOADED]
    assert f"No full load in the last 26 h: {', '.join(never)}. " in ran.stderr
    status("--max-age", "26h", "jwks", exits=3)
    run_sql("UPDATE propel_auth_data.propel_scans SET verdict = 'skipped' WHERE table_name = 'scim_groups'")
    status("--max-age", "26h", "scim_groups")


def test_a_setting_has_the_age_above_which_a_table_is_not_up_to_date(loaded, run_sql, run_cli) -> None:
    run_sql("UPDATE propel_auth_data.propel_scans SET finished_at = finished_at - INTERVAL 27 HOUR")
    late = run_cli("status").stdout
    assert re.search(r"^user_query +60 .* no *$", late, re.MULTILINE)
    assert "\nuser_query: Older than 26 hours. The last full load was 27 hours ago. " in late
    assert " no " not in run_cli("status", PROPELAUTH_MAX_AGE_HOURS="28").stdout


def test_a_recent_load_is_no_full_load(loaded, run_sql, run_cli) -> None:
    """It shows neither deletions nor most edits, so it must not hide that full loads fail."""
    users = "table_name IN ('user_query', 'org_membership')"
    run_sql(f"UPDATE propel_auth_data.propel_scans SET finished_at = finished_at - INTERVAL 10 DAY WHERE {users}")
    assert run_cli("load", "--recent", "user_query").returncode == 0
    ran = run_cli("status", "--max-age", "26h", "user_query")
    assert ran.returncode == 3
    assert re.search(r"^user_query +60 +\w+ +\d min +10 days .* no *$", ran.stdout, re.MULTILINE)
    assert "\nuser_query: Older than 26 hours. The last full load was 10 days ago. " in ran.stdout
    assert "No full load in the last 26 h: user_query. Check that" in ran.stderr
    users = json.loads(status("--json"))["tables"][0]
    assert (users["table"], users["is_up_to_date"], users["age_seconds"] < 3_600) == ("user_query", False, True)
    since = datetime.fromisoformat(users["loaded_at"]) - datetime.fromisoformat(users["full_loaded_at"])
    assert since >= timedelta(days=9)
    metrics = status("--format", "prometheus")
    assert 'propel_table_up_to_date{environment="",table="user_query"} 0.0' in metrics
    assert 'propel_table_up_to_date{environment="",table="org_query"} 1.0' in metrics


def test_a_missing_table_has_no_rows_and_is_too_old(loaded, run_sql) -> None:
    run_sql("DROP TABLE propel_auth_data.user_query")
    ran = CliRunner().invoke(main, ["status", "--max-age", "26h", "user_query", "org_query"])
    assert ran.exit_code == 3
    assert re.search(r"^user_query +- .* no *$", ran.stdout, re.MULTILINE)
    assert "\nuser_query: The table is missing. The last full load was 0 hours ago. Load the table again." in ran.stdout
    assert ran.stderr == "Dropped since the last load: user_query. Load again: propel-assets load user_query.\n"
    users = next(table for table in json.loads(status("--json"))["tables"] if table["table"] == "user_query")
    assert (users["rows"], users["rows_expected"], users["is_up_to_date"]) == (None, 60, False)
    assert 'propel_table_rows{environment="",table="user_query"}' not in status("--format", "prometheus")


def test_rows_that_no_load_removed_are_shown(loaded, run_sql, run_cli) -> None:
    run_sql("DELETE FROM propel_auth_data.user_query")
    assert (
        "\nuser_query: 0 rows, and the last load wrote 60. If no load is running, load the table again: "
        "`propel-assets load user_query`." in status()
    )
    assert run_cli("load", "--recent", "user_query").returncode in (0, 3)
    assert "the last load wrote" not in status()  # merged rows: no number is known


def test_look_ups_are_loaded_by_name_and_without_values_no_check_fails(loaded, run_cli) -> None:
    ran = run_cli("load", "oauth_userinfo")
    assert ran.returncode == 0
    assert "oauth_userinfo: skipped. No access token of an end user: set PROPELAUTH_OAUTH_TOKEN." in ran.stderr
    assert "WARN" not in ran.stderr
    assert "oauth_userinfo" not in status("--format", "prometheus")
    assert {table.name for table in TABLES if table.is_lookup} == {
        *("user_by_id", "user_by_email", "user_by_username", "oauth_userinfo")
    }
    assert not any(table.default for table in TABLES if table.is_lookup)


def test_a_metric_has_the_environment_as_a_label(small, run_cli) -> None:
    known = {"STAGING__PROPELAUTH_AUTH_URL": small.url, "STAGING__PROPELAUTH_API_KEY": small.api_key}
    assert run_cli("--environment", "staging", "load", "custom_role_mappings", **known).returncode == 0
    text = run_cli("--environment", "staging", "status", "--format", "prometheus").stdout
    assert 'propel_table_rows{environment="staging",table="custom_role_mappings"} ' in text


def test_the_documentation_has_every_metric_and_field(loaded, event, run_sql) -> None:
    def names(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(names, value))
        return set().union(value, *map(names, value.values())) if isinstance(value, dict) else set()

    run_sql("CREATE SCHEMA propel_auth_marts; CREATE TABLE propel_auth_marts.dim_user AS SELECT 1 AS a")
    page = (ROOT / "docs" / "monitoring.md").read_text()
    listed = set(re.findall(r"`([a-z_]+)`", "\n".join(re.findall(r"^\|.*", page, re.MULTILINE))))
    metrics = set(re.findall(r"^# TYPE (\w+) ", status("--format", "prometheus"), re.MULTILINE))
    assert listed == metrics | names(json.loads(status("--json")))


EXAMPLES = re.findall(
    r"^```sh\npropel-assets status ([^\n]*)\n```\n+```(?:json|text)\n(.*?)^```",
    (ROOT / "docs" / "monitoring.md").read_text(),
    re.MULTILINE | re.DOTALL,
)
"""The commands in docs/monitoring.md that are followed by their output, and that output."""


def test_the_documentation_has_an_example_of_each_output() -> None:
    assert [words for words, _ in EXAMPLES] == [
        "--max-age 26h user_query org_query",
        "--json user_query",
        "--format prometheus user_query",
    ]


@pytest.mark.parametrize(("words", "output"), EXAMPLES, ids=[words for words, _ in EXAMPLES])
def test_an_example_in_the_documentation_is_the_output(words, output, loaded, receive, run_sql) -> None:
    """Only the times of the loads and of the event, the present time and the version are fixed here."""
    now = datetime(2026, 9, 30, 4, 0, tzinfo=UTC)
    receive(now - timedelta(seconds=90))
    for table, at in (("user_query", "2026-09-30 03:15:42+00"), ("org_query", "2026-09-29 00:40:07+00")):
        run_sql(
            f"UPDATE propel_auth_data.propel_scans SET started_at = '{at}', finished_at = '{at}' "
            f"WHERE table_name = '{table}'"
        )
    with time_machine.travel(now, tick=False):
        ran = CliRunner().invoke(main, ["status", *words.split()])
    assert ran.exit_code == (3 if "--max-age" in words else 0), ran.output
    found = ran.output.replace(f'"version": "{__version__}"', '"version": "..."')
    assert [line.rstrip() for line in found.splitlines()] == output.splitlines()


def test_a_load_by_a_clock_that_was_ahead_is_old(loaded, run_sql) -> None:
    users = "table_name IN ('user_query', 'org_membership')"
    run_sql(f"UPDATE propel_auth_data.propel_scans SET finished_at = finished_at + INTERVAL 2 HOUR WHERE {users}")
    ran = CliRunner().invoke(main, ["status", "--max-age", "26h", "user_query", "org_membership", "org_query"])
    assert ran.exit_code == 3
    assert "in the last 26 h: user_query, org_membership. Check that the schedule" in ran.stderr
    line = next(line for line in ran.stdout.splitlines() if line.startswith("user_query"))
    assert (line.split()[3], line.split()[-1]) == ("unknown", "no")
    assert "user_query: The load has a time in the future. The age of the data is unknown. " in ran.stdout
    tables = {table["table"]: table for table in json.loads(status("--json"))["tables"]}
    assert (tables["user_query"]["age_seconds"], tables["user_query"]["is_up_to_date"]) == (None, False)
    metrics = status("--format", "prometheus")
    for metric in ("propel_last_load_timestamp_seconds", "propel_last_proved_scan_timestamp_seconds"):
        assert f'{metric}{{environment="",table="user_query"}}' not in metrics
        assert f'{metric}{{environment="",table="org_query"}}' in metrics


def test_the_last_proved_scan_is_found_behind_many_others(loaded, run_sql) -> None:
    before = json.loads(status("--json"))["tables"][0]
    run_sql(
        "INSERT INTO propel_auth_data.propel_scans "
        "SELECT s.* REPLACE ('later' || n AS load_id, 'counted' AS verdict, finished_at + INTERVAL 1 SECOND AS "
        f"finished_at) FROM propel_auth_data.propel_scans s, range({MAX_LOADS + 1}) r(n) WHERE table_name = "
        "'user_query'"
    )
    run_sql(
        "INSERT INTO propel_auth_data._dlt_loads SELECT l.* REPLACE ('later' || n AS load_id, inserted_at + INTERVAL "
        f"1 SECOND AS inserted_at) FROM propel_auth_data._dlt_loads l, range({MAX_LOADS + 1}) r(n) WHERE load_id = "
        "(SELECT load_id FROM propel_auth_data.propel_scans WHERE table_name = 'user_query' AND verdict = 'proved')"
    )
    users = json.loads(status("--json"))["tables"][0]
    assert (users["table"], users["verdict"], users["proved_at"]) == ("user_query", "counted", before["proved_at"])
    assert before["proved_at"]


@pytest.mark.parametrize("output", ["table", "json", "prometheus"])
def test_without_a_load_a_health_probe_fails_and_names_what_to_do(output, run_cli, tmp_path) -> None:
    ran = run_cli("status", "--max-age", "26h", "--format", output)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == (
        "Error: The tables could not be compared with the limit of 26 h. There is no "
        f"{tmp_path / 'propel_auth_pipeline.duckdb'}. If you have loaded in another folder, change to that folder. "
        "Otherwise run propel-assets load. To try without a tenant: propel-assets demo.\n"
    )


def test_a_misspelled_environment_is_named(run_cli, tmp_path) -> None:
    ran = run_cli("--environment", "stagng", "status")
    what_to_do = "correct the name of the environment, or load it: propel-assets --environment stagng load.\n"
    assert ran.stderr.endswith(f"If you have loaded in another folder, change to that folder. Otherwise {what_to_do}")
    duckdb.connect(tmp_path / "propel_auth_pipeline.duckdb").close()
    ran = run_cli("--environment", "stagng", "status")
    assert ran.stderr == f"Error: Nothing has been loaded into duckdb for the environment stagng yet: {what_to_do}"


def test_a_database_that_has_no_load_fails_a_health_probe(run_cli, tmp_path) -> None:
    duckdb.connect(tmp_path / "propel_auth_pipeline.duckdb").close()
    ran = run_cli("status", "--max-age", "26h")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "the limit of 26 h. Nothing has been loaded into duckdb yet: run propel-assets load." in ran.stderr


@pytest.mark.parametrize("words", [["status"], ["status", "--max-age", "26h"], ["check"]])
def test_a_database_that_refuses_connections_is_no_defect(words, run_cli) -> None:
    settings = {
        "PROPELAUTH_DESTINATION": "postgres",
        "DESTINATION__POSTGRES__CREDENTIALS": "postgresql://loader:s3cret@127.0.0.1:1/warehouse",
    }
    ran = run_cli(*words, **settings)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "Reading postgres failed: OperationalError (Connection refused). Check that the destination" in ran.stderr
    assert ran.stderr.endswith(", and run again.\n")
    assert "defect" not in ran.stderr
    assert "s3cret" not in ran.stderr


@pytest.mark.parametrize("wrong", ["26", "h", "1.5h", "-1h", "26 hours"])
def test_a_limit_without_a_unit_is_a_usage_error(wrong) -> None:
    assert CliRunner().invoke(main, ["status", "--max-age", wrong]).exit_code == 2
