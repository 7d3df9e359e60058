"""The tables as assets: what a run leaves in the warehouse, what it says in the UI, and how it fails."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence

import dagster as dg
import pytest

from propel_assets.catalog import AUTH_EVENT, BY_NAME
from propel_assets.definitions import defs
from propel_assets.defs.build import build_definitions
from propel_assets.defs.config import PropelAuthConfig
from propel_assets.errors import WarehouseBusy
from propel_assets.warehouse.checks import checks_of
from propel_assets.warehouse.load import load_scan

ORGS_PATH = "/api/backend/v1/org/query"


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, dict]:
    """Return the metadata of each table that was materialized."""
    events = [event.materialization for event in result.get_asset_materialization_events()]
    return {event.asset_key.path[-1]: {k: v.value for k, v in event.metadata.items()} for event in events}


def versions(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Return the data version of each table that was materialized."""
    events = [event.materialization for event in result.get_asset_materialization_events()]
    return {event.asset_key.path[-1]: (event.tags or {})["dagster/data_version"] for event in events}


def checked(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, bool]]:
    """Return whether each check held, by table."""
    found: dict[str, dict[str, bool]] = {}
    for check in result.get_asset_check_evaluations():
        found.setdefault(check.asset_key.path[-1], {})[check.check_name] = check.passed
    return found


def failures(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Return what each failed step says in the UI."""
    said = {}
    for event in result.get_step_failure_events():
        data = event.step_failure_data
        assert data.user_failure_data, f"{event.step_key} failed by an error that is not ours: {data.error}"
        said[event.step_key or ""] = data.user_failure_data.description or ""
    return said


def all_pass(result: dg.ExecuteInProcessResult, *tables: str, skipped: Sequence[str] = ()) -> bool:
    """Return whether these tables, and no others, have all their checks, and all pass.

    The check `up_to_date` of the tables that were ``skipped`` fails.
    """
    expected = {name: dict.fromkeys(checks_of(BY_NAME[name]), True) for name in (*tables, *skipped)}
    for name in skipped:
        expected[name]["up_to_date"] = False
    return checked(result) == expected


# --- good runs ---


def test_every_asset_materializes_and_every_check_passes(run, small, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_OAUTH_TOKEN", small.user_token)
    user_id, user = next((id_, u.wire) for id_, u in small.store.users.items() if "username" in u.wire)
    values = {"id": user_id, "email": user["email"], "username": user["username"]}
    config = {f"propel_auth_load_user_by_{kind}": {"config": {"values": [value]}} for kind, value in values.items()}
    names = BY_NAME.keys() - {AUTH_EVENT.name}  # there is no webhook store
    result = run(*names, config={"ops": config})
    assert result.success, failures(result)
    assert set(metadata_of(result)) == names
    assert [name for name, metadata in metadata_of(result).items() if "skipped" in metadata] == []
    assert all_pass(result, *names)


def test_a_materialization_shows_how_the_table_was_read(run, sandbox, query) -> None:
    result = run("user_query", "org_membership")
    users, members = metadata_of(result)["user_query"], metadata_of(result)["org_membership"]
    assert users["dagster/row_count"] == users["rows_read"] == users["api_total"] == users["api_total_min"] == 300
    assert members["dagster/row_count"] == query("SELECT count(*) FROM org_membership")[0][0]
    assert users["verdict"] == members["verdict"] == "proved"
    assert users["requests"] == len(sandbox.requests)
    assert users["retries"] == users["rate_limited"] == 0
    assert users["destination"] == "duckdb"
    assert query("SELECT DISTINCT load_id FROM propel_scans") == [(users["load_id"],)]
    assert set(versions(result).values()) == {users["load_id"]}


def test_a_materialization_shows_the_effect_of_the_privacy_policy(run, monkeypatch) -> None:
    plain = metadata_of(run("custom_role_mappings"))["custom_role_mappings"]
    assert (plain["privacy"], plain["columns_kept"]) == ("open", 2)
    monkeypatch.setenv("PROPELAUTH_PRIVACY", "strict")
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "a key for these tests only")
    result = run("user_query")
    users = metadata_of(result)["user_query"]
    assert (users["privacy"], users["columns_kept"]) == ("strict", 11)
    assert users["columns_hashed"] == ["email", "username", "legacy_user_id"]
    assert users["columns_dropped"] == ["first_name", "last_name", "picture_url", "properties", "metadata"]
    assert all_pass(result, "user_query")


def test_numbers_are_numbers_so_that_they_plot(run) -> None:
    event = run("org_query").get_asset_materialization_events()[0].materialization
    numbers = {name for name, v in event.metadata.items() if isinstance(v, dg.IntMetadataValue | dg.FloatMetadataValue)}
    assert numbers >= {"dagster/row_count", "api_total", "requests", "retries", "waited_seconds", "load_seconds"}


def test_running_twice_in_one_process_works(run, sandbox) -> None:
    first = run("org_query")
    sandbox.store.add_org()
    second = run("org_query")
    assert metadata_of(first)["org_query"]["dagster/row_count"] == 24
    assert metadata_of(second)["org_query"]["dagster/row_count"] == 25
    assert versions(first) != versions(second)
    assert all_pass(second, "org_query")


def test_one_table_of_a_scan_can_be_selected(run, query) -> None:
    result = run("org_membership")
    assert list(metadata_of(result)) == ["org_membership"]
    assert all_pass(result, "org_membership")
    # They are read together, and must agree with each other.
    assert query("SELECT count(*) FROM user_query") == [(300,)]


def test_an_unexpected_field_gets_a_column_and_a_warning_that_stops_nothing(run, sandbox, query) -> None:
    sandbox.faults.set("unknown_field", ["orgs"])
    result = run("org_query", "downstream", defs=with_downstream("org_query"))
    assert result.success
    warned = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert [(check.check_name, check.severity) for check in warned] == [("schema", dg.AssetCheckSeverity.WARN)]
    unknown = metadata_of(result)["org_query"]["unknown_fields"]
    assert unknown
    assert {*unknown} <= {row[0] for row in query("SELECT column_name FROM (DESCRIBE org_query)")}
    assert "downstream" in metadata_of(result)


def test_a_lookup_takes_its_values_from_the_run_config_and_logs_none_of_them(run, sandbox, query) -> None:
    user = next(iter(sandbox.store.users.values()))
    values = [user.wire["email"], "nobody@nowhere.example"]
    result = run("user_by_email", config={"ops": {"propel_auth_load_user_by_email": {"config": {"values": values}}}})
    assert result.success, failures(result)
    assert sorted(query("SELECT found, user_id FROM user_by_email")) == [(False, None), (True, user.user_id)]
    said = " ".join(f"{event.message} {event.event_specific_data}" for event in result.all_events)
    assert [value for value in values if value in said] == []


@pytest.mark.slow
def test_without_values_a_lookup_table_is_skipped_and_what_it_has_is_checked(run, sandbox, run_sql) -> None:
    result = run("user_by_id")
    assert result.success
    assert "in the run's config" in metadata_of(result)["user_by_id"]["skipped"]
    assert all_pass(result, "user_by_id")
    values = list(sandbox.store.users)[:2]
    run("user_by_id", config={"ops": {"propel_auth_load_user_by_id": {"config": {"values": values}}}})
    run_sql(f"DELETE FROM propel_auth_data.user_by_id WHERE looked_up = '{values[0]}'")
    found = checked(run("user_by_id"))["user_by_id"]
    assert [name for name, passed in found.items() if not passed] == ["row_count"]


# --- features that are off ---


def with_downstream(*tables: str) -> dg.Definitions:
    """Return the definitions and an asset that reads ``tables``."""

    @dg.asset(key=["propel_auth", "downstream"], deps=[["propel_auth", name] for name in tables])
    def downstream() -> None:
        pass

    return dg.Definitions.merge(defs, dg.Definitions(assets=[downstream]))


@pytest.mark.parametrize(
    ("fault", "tables"),
    [
        ("orgs_off", ("org_query",)),
        ("scim_off", ("scim_groups", "scim_group_members")),
        ("insights_off", ("user_report",)),
        ("api_keys_off", ("end_user_api_keys",)),
    ],
)
def test_a_feature_that_is_not_enabled_is_skipped_and_the_previous_data_is_kept(fault, tables, run, sandbox) -> None:
    before = run(*tables)
    sandbox.faults.set(fault)
    after = run(*tables, "downstream", defs=with_downstream(*tables))
    assert after.success, failures(after)
    for name in tables:
        assert metadata_of(after)[name]["verdict"] == "skipped"
        assert re.search(r"returned 4\d\d", metadata_of(after)[name]["skipped"])
        assert metadata_of(after)[name]["dagster/row_count"] == metadata_of(before)[name]["dagster/row_count"] > 0
        assert versions(after)[name] == versions(before)[name]
    assert all_pass(after, skipped=tables)
    assert "downstream" in metadata_of(after)


@pytest.mark.slow
def test_users_are_loaded_without_orgs_when_orgs_are_off(run, sandbox) -> None:
    before = run("user_query", "org_membership")
    sandbox.store.add_user()
    sandbox.faults.set("orgs_off")
    after = run("user_query", "org_membership")
    assert metadata_of(after)["user_query"]["dagster/row_count"] == 301
    assert "skipped" in metadata_of(after)["org_membership"]
    assert versions(after)["org_membership"] == versions(before)["org_membership"]
    assert all_pass(after, "user_query", skipped=["org_membership"])


def test_a_feature_that_was_never_on_does_not_fail_the_first_run(run, sandbox) -> None:
    sandbox.faults.set("scim_off")
    result = run("scim_groups", "downstream", defs=with_downstream("scim_groups"))
    assert result.success, failures(result)
    assert metadata_of(result)["scim_groups"]["dagster/row_count"] == 0
    assert versions(result)["scim_groups"] == "none"
    assert "downstream" in metadata_of(result)


# --- bad runs ---


def test_a_wrong_key_is_one_request_one_sentence_and_no_retry(run, sandbox, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_API_KEY", "not-the-key")
    result = run("custom_role_mappings")
    assert not result.success
    assert list(failures(result)) == ["propel_auth_load_role_mappings"]
    (sentence,) = failures(result).values()
    assert "PROPELAUTH_API_KEY is not a key of this environment" in sentence
    assert "Backend Integration" in sentence
    assert len(sandbox.requests) == 1
    assert not any(event.is_step_up_for_retry for event in result.all_events)


def test_nothing_configured_is_a_sentence_that_says_where_to_set_it(run, monkeypatch) -> None:
    monkeypatch.delenv("PROPELAUTH_AUTH_URL")
    monkeypatch.delenv("PROPELAUTH_API_KEY")
    (sentence,) = failures(run("jwks")).values()
    for place in (
        "PROPELAUTH_AUTH_URL",
        "[sources.propel_auth_source]",
        ".dlt/",
        "PropelAuthConfig",
        "propel-assets demo",
    ):
        assert place in sentence


@pytest.mark.slow
def test_a_failing_endpoint_costs_only_its_own_tables(run, sandbox, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_RETRY_SECONDS", "0")
    sandbox.faults.set("server_error", path=ORGS_PATH)
    result = run("org_query", "custom_role_mappings", "jwks")
    assert not result.success
    assert list(failures(result)) == ["propel_auth_load_orgs"]
    assert f"{ORGS_PATH} returned 500" in failures(result)["propel_auth_load_orgs"]
    assert set(metadata_of(result)) == {"custom_role_mappings", "jwks"}
    assert all_pass(result, "custom_role_mappings", "jwks")


def test_a_server_that_recovers_is_met_by_the_retry_of_the_op(run, sandbox, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_RETRY_SECONDS", "0")
    sandbox.faults.set("server_error", path=ORGS_PATH, requests=2)
    result = run("org_query")
    assert result.success
    assert sum(event.is_step_up_for_retry for event in result.all_events) == 2
    assert all_pass(result, "org_query")


def test_a_load_that_waited_too_long_for_another_one_is_retried(run, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_RETRY_SECONDS", "0")
    busy = [WarehouseBusy("Waited 600 s.")]

    def load_once_it_is_free(*words, **options):
        if busy:
            raise busy.pop()
        return load_scan(*words, **options)

    monkeypatch.setattr("propel_assets.defs.assets.load_scan", load_once_it_is_free)
    result = run("jwks")
    assert result.success
    assert sum(event.is_step_up_for_retry for event in result.all_events) == 1


def test_a_refresh_outlives_a_server_error(run, sandbox) -> None:
    sandbox.faults.set("server_error", path=ORGS_PATH, requests=1)
    result = run("org_query", job="propel_auth_refresh")
    assert result.success
    assert metadata_of(result)["org_query"]["retries"] == 1


def test_a_failed_check_stops_what_is_downstream_and_is_not_tried_again(run, sandbox) -> None:
    run("org_query")
    sandbox.faults.set("missing_field", "orgs.name")
    result = run("org_query", "downstream", defs=with_downstream("org_query"))
    assert not result.success
    assert checked(result)["org_query"]["schema"] is False
    assert list(metadata_of(result)) == ["org_query"]
    assert not any(event.is_step_up_for_retry for event in result.all_events)


def test_a_check_that_cannot_run_errors_and_is_not_bad_data(settings, instance) -> None:
    job = defs.resolve_implicit_global_asset_job_def()
    checks = defs.resolve_asset_graph().get_check_keys_for_assets({dg.AssetKey(["propel_auth", "jwks"])})
    only_checks = job.get_subset(asset_selection=set(), asset_check_selection=checks)
    result = only_checks.execute_in_process(instance=instance, raise_on_error=False)
    assert "propel-assets load" in failures(result)["propel_auth_check_jwks"]
    assert result.get_asset_check_evaluations() == []


# --- secrets ---


@pytest.mark.slow
def test_no_key_and_no_address_is_kept_by_dagster(run, sandbox, home, instance, monkeypatch) -> None:
    assert run("user_query", "pending_org_invites").success
    sandbox.faults.set("retyped_field", "users.email")
    assert not run("user_query").success
    sandbox.faults.clear()
    monkeypatch.setenv("PROPELAUTH_API_KEY", "not-the-key")
    assert not run("org_query").success
    kept = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert b"load_users" in kept
    people = [user.wire["email"] for user in sandbox.store.users.values()]
    invited = [invite["invitee_email"] for invite in sandbox.store.invites]
    found = [secret for secret in (sandbox.api_key, "not-the-key", *people, *invited) if secret.encode() in kept]
    assert found == []


@pytest.mark.slow
def test_a_key_given_as_a_field_is_used_and_not_kept(settings, sandbox, run, home, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_API_KEY", "not-the-key")
    monkeypatch.setenv("KEY_OF_THE_TENANT", sandbox.api_key)
    for key in (dg.EnvVar("KEY_OF_THE_TENANT"), sandbox.api_key):
        config = PropelAuthConfig(auth_url=sandbox.url, api_key=key)
        assert run("jwks", "org_query", defs=build_definitions(config)).success
    kept = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert sandbox.api_key.encode() not in kept


# --- other executors ---


@pytest.mark.slow
def test_ops_that_load_beside_each_other_leave_complete_tables(settings, home, query) -> None:
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "propel_assets.definitions"]
    command += ["--select", "key:propel_auth/user_query or key:propel_auth/org_query"]
    env = {**os.environ, "PROPEL_EXECUTOR": "multiprocess", "DAGSTER_HOME": str(home)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert query("SELECT count(*) FROM user_query") == [(300,)]
    assert query("SELECT count(*) FROM org_query") == [(24,)]
    assert sorted(query("SELECT table_name FROM propel_scans")) == [
        ("org_membership",),
        ("org_query",),
        ("user_query",),
    ]
    # The schema that was stored last has the tables of both.
    for (stored,) in query("SELECT schema FROM _dlt_version"):
        assert set(BY_NAME) <= set(json.loads(stored)["tables"])
