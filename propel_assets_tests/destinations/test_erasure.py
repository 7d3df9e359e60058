"""An erasure removes one person from every schema and from later loads, and changes nothing about other people."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from dlt.common.versioned_state import decompress_state

from propel_assets.catalog import BY_NAME
from propel_assets.privacy.policy_file import load_policy
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.pipeline import build_pipeline
from propel_assets.warehouse.query import open_warehouse, warehouse_client
from propel_assets_tests.destinations.conftest import ROOT

KEY = "a key for these tests only"
LOADED = ["user_query", "org_query", "pending_org_invites", "end_user_api_keys"]
SQL = pytest.mark.parametrize("destination", ["duckdb", "postgres"], indirect=True)
BUCKETS = [pytest.param(name, marks=pytest.mark.destinations) for name in ("s3", "gcs")]  # gcs: plain files
FILES = pytest.mark.parametrize("destination", ["files", "plain_files", *BUCKETS], indirect=True)
LOCAL_FILES = pytest.mark.parametrize("destination", ["files", "plain_files"], indirect=True)
ERASE_AND_DIE = """
import os, signal, sys
from propel_assets.cli.main import main
from propel_assets.warehouse.destinations.files import FileTables

replace, written = FileTables.replace, []

def replace_once(*args):
    if written:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(args)
    replace(*args)

FileTables.replace = replace_once
main(["erase", sys.argv[1]])
"""


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", KEY)


@pytest.fixture
def ask(settings):
    """Run statements in the warehouse; return the rows of the last."""

    def rows(*statements: str):
        with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
            *first, last = statements
            for statement in first:
                warehouse._client.sql_client.execute_sql(statement)
            return warehouse.rows(last)

    return rows


@pytest.fixture
def everything(ask):
    """Return every row of every table of every schema, as text."""

    def read() -> list[str]:
        found = ask(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' "
            "AND table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2"
        )
        return [
            f"{schema}.{name} {row}"
            for schema, name in found
            if not name.startswith(("_dlt", "propel_"))
            for (row,) in ask(f'SELECT CAST(t AS TEXT) FROM {schema}."{name}" t ORDER BY 1')
        ]

    return read


@pytest.fixture
def stored(settings):
    """Return every row of every table that is files, as text."""

    def read() -> list[str]:
        with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
            return sorted(
                f"{name} {row}"
                for name in BY_NAME
                if warehouse.columns_of(name)
                for (row,) in warehouse.rows(f"SELECT CAST(t AS TEXT) FROM {warehouse.table(name)} t")
            )

    return read


@pytest.fixture
def files(settings, tmp_path):
    """Return the content of all files of the dataset by path, as stored and decompressed."""

    def unpacked(path: str, content: bytes) -> bytes:
        if path.endswith(".parquet"):
            return str(pq.ParquetFile(io.BytesIO(content)).read().to_pylist()).encode()
        if "/_dlt_pipeline_state/" in path:
            return str(decompress_state(json.loads(content)["state"])).encode()
        return b""

    def read() -> dict[str, bytes]:
        client = warehouse_client(build_pipeline(settings.target, str(tmp_path / "pipelines")), settings.target)
        client.fs_client.invalidate_cache()
        found = {path: client.fs_client.cat_file(path) for path in client.fs_client.find(client.dataset_path)}
        return {path: content + unpacked(path, content) for path, content in found.items()}

    return read


@pytest.fixture
def person(sandbox):
    """A user with orgs, an API key and a report, who has invited others and was invited again."""
    store = sandbox.store
    inviters = [i["inviter_user_id"] for i in store.invites if i.get("inviter_user_id")]
    user_id = next(user for user in inviters if store.of_user.get(user))
    next(key for key in store.api_keys.values() if not key.archived_at).wire["user_id"] = user_id
    store.invites[-1]["invitee_email"] = store.users[user_id].wire["email"]
    return store.users[user_id].wire


@pytest.mark.slow
@SQL
def test_no_trace_of_the_person_remains_and_no_other_row_changes(
    destination, person, sandbox, run, ask, everything, tmp_path
) -> None:
    user_id, email = person["user_id"], person["email"]
    assert run("load", *LOADED).returncode == 0
    assert run("load", "user_by_email", "--email", email).returncode == 0
    other = next(user for user in sandbox.store.users if user != user_id)
    ask(
        "CREATE SCHEMA propel_auth_history",
        "CREATE TABLE propel_auth_history.users_history (user_id TEXT, email TEXT, version INT)",
        f"INSERT INTO propel_auth_history.users_history VALUES ('{user_id}', '{email}', 1), ('{other}', 'o@x.com', 1)",
        "CREATE TABLE propel_auth_history.notes (author TEXT, note TEXT)",
        f"INSERT INTO propel_auth_history.notes VALUES ('{other}', 'call {email}, not x{email}')",
        "CREATE VIEW propel_auth_history.people AS SELECT user_id FROM propel_auth_history.users_history",
        "SELECT 1",
    )
    before = everything()
    theirs = [row for row in before if user_id in row or email in row]
    assert {row.split(" ")[0].split(".")[1] for row in theirs} >= {
        "user_query",
        "org_membership",
        "pending_org_invites",
        "user_by_email",
        "users_history",
        "notes",
    }

    shown = run("erase", user_id, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert everything() == before
    done = run("erase", user_id)
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown.stdout
    assert "propel_auth_history.users_history" in done.stdout
    assert email not in done.stdout + done.stderr
    assert KEY not in done.stdout + done.stderr

    after = everything()
    assert [row for row in after if user_id in row or email in row.replace(f"x{email}", "")] == []
    assert [row for row in before if row not in theirs and row not in after] == []
    assert ask("SELECT note FROM propel_auth_history.notes") == [(f"call erased, not x{email}",)]
    assert ask("SELECT user_id FROM propel_auth_history.people") == [(other,)]
    invited = ask("SELECT count(*) FROM propel_auth_data.pending_org_invites")[0][0]
    assert invited == len([i for i in sandbox.store.invites if i["invitee_email"] != email])

    again = run("erase", user_id)
    assert again.returncode == 0, again.stderr
    assert "Nothing about this person was found." in again.stdout


@pytest.mark.slow
@SQL
def test_later_loads_leave_the_person_out_and_every_check_passes(person, sandbox, run, rows, everything) -> None:
    user_id, email = person["user_id"], person["email"]
    assert run("load", *LOADED).returncode == 0
    erased = run("erase", user_id)
    assert erased.returncode == 0, erased.stderr
    sandbox.store.touch_user(user_id)
    for words in (["--recent"], []):
        loaded = run("load", *LOADED, *words)
        assert loaded.returncode == 0, loaded.stderr
        assert "WARN" not in loaded.stderr
        assert "ERROR" not in loaded.stderr
        assert len(rows("user_query")) == len(sandbox.store.users) - 1
        assert [row for row in everything() if user_id in row or email in row] == []


@pytest.mark.slow
@pytest.mark.parametrize("destination", ["duckdb", "postgres", "files", "plain_files"], indirect=True)
def test_a_state_written_by_a_clock_that_was_ahead_restores_no_one(person, settings, run_later, rows, travel) -> None:
    with travel(400):
        load_scan("users", settings)
    for words in (["erase", person["user_id"]], ["load", "user_query"]):
        done = run_later(*words)
        assert done.returncode == 0, done.stderr
    assert [row for row in rows("user_query") if person["user_id"] in str(row)] == []


@pytest.mark.parametrize("destination", ["redshift_s3"], indirect=True)
@pytest.mark.destinations
def test_files_that_a_killed_load_left_in_the_bucket_are_removed(destination, person, run, rows, started) -> None:
    def in_bucket() -> list[str]:
        return [file["Key"] for file in started(destination).bucket.files() if "/user_query/" in file["Key"]]

    assert run("load", "user_query").returncode == 0
    assert run("load", "user_query", dies_at="complete_package", times=1).returncode == -signal.SIGKILL
    assert in_bucket()
    erased = run("erase", person["user_id"])
    assert erased.returncode == 0, erased.stderr
    assert in_bucket() == []
    assert [row for row in rows("user_query") if person["user_id"] in str(row)] == []


@pytest.mark.slow
@pytest.mark.parametrize("destination", ["duckdb"], indirect=True)
def test_the_duckdb_file_has_no_byte_of_the_person(person, run, tmp_path) -> None:
    def bytes_on_disk() -> bytes:
        return b"".join(file.read_bytes() for file in tmp_path.glob("*.duckdb*") if file.is_file())

    assert run("load", "user_query", "pending_org_invites").returncode == 0
    traces = [person["user_id"].encode(), person["email"].encode()]
    assert [trace in bytes_on_disk() for trace in traces] == [True, True]
    done = run("erase", person["user_id"], own_process=True)
    assert done.returncode == 0, done.stderr
    assert [trace in bytes_on_disk() for trace in traces] == [False, False]
    assert {file.name for file in Path(tmp_path).glob("*.duckdb*")} == {
        "propel_auth_pipeline.duckdb",
        "propel_auth_pipeline.duckdb.lock",
    }
    assert run("check").returncode == 0


@pytest.mark.slow
@FILES
def test_no_file_has_a_byte_of_the_person(person, sandbox, run, stored, files) -> None:
    user_id, email = person["user_id"], person["email"]
    key = next(key.api_key_id for key in sandbox.store.api_keys.values() if key.wire["user_id"] == user_id)
    traces = [text.encode() for text in (user_id, email, person["username"], key)]
    other = next(user for user in sandbox.store.users.values() if user.wire["user_id"] != user_id)
    other.wire["metadata"] = {"note": f"call {email}, not x{email}"}
    tables = [*LOADED, "end_user_api_key_usage"]
    for words in (tables, tables, ["user_by_email", "--email", email]):  # twice, for an older version of each table
        loaded = run("load", *words)
        assert loaded.returncode == 0, loaded.stderr
    before, files_before = stored(), files()
    theirs = [row for row in before if any(trace.decode() in row for trace in traces)]

    def left() -> list[tuple[str, bytes]]:
        found = {path: content.replace(b"x" + email.encode(), b"") for path, content in files().items()}
        return [(path, trace) for path, content in found.items() for trace in traces if trace in content]

    assert {trace for _, trace in left()} == {*traces}
    shown = run("erase", user_id, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert files() == files_before
    done = run("erase", user_id)
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown.stdout
    assert email not in done.stdout + done.stderr
    assert left() == []
    after = stored()
    assert [row for row in before if row not in theirs and row not in after] == []
    assert len(before) - len(after) == sum(
        int(line.split()[-1]) for line in done.stdout.splitlines() if "rows deleted" in line
    )
    assert any(f"call erased, not x{email}" in row for row in after)
    checked = run("check")
    assert checked.returncode == 0, checked.stdout + checked.stderr

    again = run("erase", user_id)
    assert again.returncode == 0, again.stderr
    assert "Nothing about this person was found." in again.stdout
    assert stored() == after
    other.wire["metadata"] = None
    loaded = run("load", *tables)
    assert loaded.returncode == 0, loaded.stderr
    assert left() == []


@pytest.mark.slow
@LOCAL_FILES
def test_an_erasure_of_files_that_is_killed_can_be_resumed(destination, person, run, stored) -> None:
    user_id, email = person["user_id"], person["email"]
    assert run("load", *LOADED).returncode == 0
    before = stored()
    others = [row for row in before if user_id not in row and email not in row]
    command = [sys.executable, "-c", ERASE_AND_DIE, user_id]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ends, rows = [], before
    while 0 not in ends:
        ends.append(subprocess.run(command, env=environment, capture_output=True, timeout=200, check=False).returncode)
        rows = stored()
        assert [row for row in others if row not in rows] == []
        assert len(rows) < len(before)
    files = 4 + (1 if destination == "files" else 3)  # the tables, then `propel_scans`, which has a file for each load
    assert ends == [-signal.SIGKILL] * (files - 1) + [0]
    assert [row for row in rows if user_id in row or email in row] == []
    checked = run("check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert run("erase", user_id).returncode == 0
    checked = run("check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("destination", ["duckdb"], indirect=True)
def test_a_person_whose_values_are_hashed_is_erased(person, sandbox, run, rows, monkeypatch, ask) -> None:
    monkeypatch.setenv("PROPELAUTH_PRIVACY", "strict")
    assert run("load", *LOADED).returncode == 0
    before = len(rows("pending_org_invites"))
    user_id, email = person["user_id"], person["email"]
    ask(
        "CREATE SCHEMA analysts",
        "CREATE TABLE analysts.tickets (user_id TEXT, email TEXT, org TEXT)",
        f"INSERT INTO analysts.tickets VALUES ('{user_id}', 'unknown', ''), ('other', '', '{email.title()}''s space')",
        "CREATE TABLE analysts.leads AS SELECT 'unknown' AS email UNION SELECT 'other@example.com'",
        "SELECT 1",
    )
    assert run("erase", user_id).returncode == 0
    assert ask("SELECT user_id, org FROM analysts.tickets") == [("other", "erased's space")]
    assert len(ask("SELECT * FROM analysts.leads")) == 2  # `unknown` is no address of the person
    assert len(rows("user_query")) == len(sandbox.store.users) - 1
    assert len(rows("pending_org_invites")) == before - 1
    loaded = run("load", *LOADED)
    assert loaded.returncode == 0, loaded.stderr
    assert len(rows("pending_org_invites")) == before - 1


@pytest.mark.parametrize("destination", ["duckdb"], indirect=True)
def test_a_load_with_another_key_is_refused_before_any_request(person, sandbox, run, monkeypatch) -> None:
    assert run("load", "user_query").returncode == 0
    assert run("erase", person["user_id"]).returncode == 0
    asked = len(sandbox.requests)
    for key, why in (
        ("", "PROPELAUTH_PRIVACY_KEY is not set"),
        ("another key, long enough", "is not the key that the erasure list was made with"),
    ):
        monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", key)
        refused = run("load", "user_query")
        assert refused.returncode == 1
        assert why in refused.stderr
    assert len(sandbox.requests) == asked


@pytest.mark.parametrize(
    ("destination", "key", "why"),
    [
        ("duckdb", "", "PROPELAUTH_PRIVACY_KEY is not set"),
        ("duckdb", KEY, "There is no "),
        ("files", KEY, "Nothing has been loaded into filesystem yet: run propel-assets load"),
    ],
    indirect=["destination"],
)
def test_an_erasure_that_cannot_start_says_what_to_do(destination, key, why, run, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", key)
    refused = run("erase", "3d5c0d5e-0000-4000-8000-000000000000")
    assert refused.returncode == 1
    assert why in refused.stderr
    assert "Traceback" not in refused.stderr
