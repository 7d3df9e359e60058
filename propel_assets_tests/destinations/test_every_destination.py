"""The same promises on every destination: complete, exact, atomic, repeatable, checked."""

from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from propel_assets.catalog import BY_NAME
from propel_assets.cli.main import main
from propel_assets.privacy.policy_file import load_policy
from propel_assets.source.stream import ReadOptions
from propel_assets.warehouse.checks import examine
from propel_assets.warehouse.destinations.policies import DESTINATIONS
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.pipeline import writes_plain_files
from propel_assets.warehouse.query import open_warehouse
from propel_assets.warehouse.verify import verify_scan

STRANGE = 'O\'Brien "Bob"\\,;\t\n\r\nヤマダ 🦆 %s $1 \u2028 é'


def findings(settings, name: str) -> dict[str, str]:
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        found = examine(warehouse, BY_NAME[name])
    return {f.check: "ok" if f.passed else f"{f.severity}: {f.summary}" for f in found}


def verified(settings) -> dict[str, object]:
    """Return how many rows `propel-assets verify` finds different, and its notes, by table."""
    tables = ("user_query", "org_membership")
    return {found.table: (found.different, [*found.notes]) for found in verify_scan("users", tables, settings)}


NO_DIFFERENCE = {"user_query": (0, []), "org_membership": (0, [])}


def change(sandbox) -> str:
    """Change, add and delete users, end and start memberships, and return a user who is new."""
    store = sandbox.store
    changed, deleted, left, joined = list(store.users)[:4]
    store.update_user(changed, first_name=STRANGE, last_name="", properties={"quote\"'": [1.5, None, {"ü": STRANGE}]})
    store.delete_user(deleted)
    for org_id in list(store.of_user[left]):
        store.remove_membership(left, org_id)
    store.add_membership(joined, next(org for org in store.orgs if org not in store.of_user[joined]))
    return store.add_user(email="new@example.com", created_at=1_900_000_000)


def differences(found: dict, wanted: dict) -> list:
    """Return what differs, value by value: short enough to read where hundreds of rows are compared."""
    gone, strange = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    values = [
        (key, name, found[key][name], value)
        for key in wanted.keys() & found.keys()
        for name, value in wanted[key].items()
        if found[key][name] != value
    ]
    return [*gone, *strange, *values]


def test_the_tables_hold_exactly_what_propelauth_has_and_then_what_it_has_later(
    settings, sandbox, rows, expected
) -> None:
    for _ in range(2):
        load_scan("users", settings)
        assert differences(rows("user_query"), expected("user_query")) == []
        assert differences(rows("org_membership"), expected("org_membership")) == []
        assert set(findings(settings, "user_query").values()) == {"ok"}
        assert set(findings(settings, "org_membership").values()) == {"ok"}
        assert verified(settings) == NO_DIFFERENCE
        change(sandbox)


@pytest.mark.parametrize("destination", ["redshift_s3", "databricks_s3"], indirect=True)
@pytest.mark.destinations
def test_a_bucket_that_a_warehouse_loads_from_is_empty_afterwards(settings, started, destination) -> None:
    load_scan("users", settings)
    left = {file["Key"] for file in started(destination).bucket.files()}
    assert {name for name in left if "user_query" in name or "org_membership" in name} == set()
    assert left  # of what nobody's name is in: so it was the bucket they came from


@pytest.mark.parametrize("destination", ["snowflake"], indirect=True)
@pytest.mark.destinations
def test_no_file_of_rows_is_left_in_the_stages_of_tables(settings, monkeypatch) -> None:
    def staged() -> list[str]:
        with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
            names = [warehouse.table(f"%{name}") for name in ("user_query", "org_membership")]
            names += [name.replace('".', '_STAGING".') for name in names]
            return [file for name in names for file, *_ in warehouse.rows(f"LIST @{name}")]

    with monkeypatch.context() as before:  # as dlt does
        before.setitem(DESTINATIONS, "snowflake", replace(DESTINATIONS["snowflake"], client=None, options={}))
        load_scan("users", settings)
        assert staged()
    load_scan("users", settings)
    assert staged() == []


@pytest.mark.parametrize("destination", ["duckdb", "postgres", "files", "plain_files"], indirect=True)
def test_a_process_whose_clock_was_ahead_misleads_no_check(
    settings, sandbox, rows, expected, run_later, travel
) -> None:
    with travel(400):
        load_scan("users", settings)
    for load in (lambda: load_scan("users", settings), lambda: run_later("load", "user_query")):
        sandbox.store.delete_user(next(iter(sandbox.store.users)))
        load()
        assert differences(rows("user_query"), expected("user_query")) == []
        assert set(findings(settings, "user_query").values()) == {"ok"}


def test_a_field_propelauth_adds_gets_a_column_and_a_warning(settings, sandbox, rows, expected) -> None:
    load_scan("users", settings)
    sandbox.faults.set("unknown_field", ["users"])
    new = change(sandbox)
    load_scan("users", settings)
    row = rows("user_query", "new_scalar", "new_object")[(new,)]
    assert row["new_scalar"] == "not seen before"
    assert row["new_object"] == {"since": 2026, "tags": ["new", None]}
    assert verified(settings) == NO_DIFFERENCE
    assert differences(rows("user_query"), expected("user_query")) == []
    assert findings(settings, "user_query")["schema"].startswith("WARN: ")


def test_metrics_merge_into_what_is_there(settings, rows) -> None:
    load_scan("chart_metrics", settings)
    first = rows("chart_metrics")
    again = load_scan("chart_metrics", settings).results[0]
    # Fewer rows: the state came back into an empty folder. Plain files cannot merge, so everything is read again.
    assert 0 < again.rows_read < len(first) or writes_plain_files(settings.target)
    assert differences(rows("chart_metrics"), first) == []


def test_what_changed_is_merged_into_what_is_there(settings, sandbox, rows, expected) -> None:
    load_scan("users", settings)
    store = sandbox.store
    store.advance(60)
    active = [user for user in store.users if store.of_user[user]][:3]
    for user in active:
        store.remove_membership(user, next(iter(store.of_user[user])))
        store.touch_user(user)
    store.add_membership(store.add_user(first_name=STRANGE), next(iter(store.orgs)))
    load_scan("users", settings, options=ReadOptions(recent=True))
    assert differences(rows("user_query"), expected("user_query")) == []
    assert differences(rows("org_membership"), expected("org_membership")) == []


@pytest.mark.parametrize(
    ("dies_at", "times"),
    [
        pytest.param("start_new_jobs", 1, marks=pytest.mark.destinations),
        pytest.param("run_managed", 2),
        pytest.param("create_followup_jobs", 2, marks=pytest.mark.destinations),
        pytest.param("complete_package", 1, marks=pytest.mark.destinations),
    ],
)
def test_a_load_that_is_killed_leaves_old_or_new_rows_and_can_be_repeated(
    settings, sandbox, rows, expected, run, dies_at, times
) -> None:
    load_scan("users", settings)
    tables = ("user_query", "org_membership")
    old = {name: expected(name) for name in tables}
    change(sandbox)
    assert run("load", "user_query", dies_at=dies_at, times=times).returncode == -9
    # Plain files: dlt removes the old files before it writes the new ones.
    for name in () if writes_plain_files(settings.target) else tables:
        there = rows(name)
        assert [] in (differences(there, old[name]), differences(there, expected(name)))
    repeated = run("load", "user_query")
    assert repeated.returncode == 0, repeated.stderr
    for name in tables:
        assert differences(rows(name), expected(name)) == []


def test_the_command_line_loads_checks_and_shows(settings) -> None:
    def propel_assets(*words: str) -> Result:
        return CliRunner().invoke(main, words)

    assert "run propel-assets load" in propel_assets("check").output
    loaded = propel_assets("load", "org_query", "jwks")
    assert loaded.exit_code == 0, loaded.output
    checked = propel_assets("check", "org_query")
    assert checked.exit_code == 0, checked.output
    assert "row_count" in checked.output
    shown = [line.split() for line in propel_assets("status").output.splitlines()]
    assert ["org_query", "12", "proved"] in [line[:3] for line in shown]
