"""Loads that run beside each other, on a PostgreSQL that lets them: nothing is overwritten or lost."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

from propel_assets.errors import ErasureListChanged
from propel_assets.privacy.policy_file import load_policy
from propel_assets.settings import load_settings
from propel_assets.warehouse.erasure import erase
from propel_assets.warehouse.erasure import run as erasure_module
from propel_assets.warehouse.erasure.eraser import PersonEraser
from propel_assets.warehouse.query import open_warehouse
from propel_assets_tests.destinations.standins.postgres import Postgres
from propel_assets_tests.processes import wait_until

LOAD = [sys.executable, "-m", "propel_assets.cli", "load"]
LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as running:
        yield running


@pytest.fixture
def database(server, settings, monkeypatch, tmp_path) -> str:
    """The name of an empty database, where the settings point."""
    place = server.place(tmp_path)
    for variable, value in place.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    return place["DESTINATION__POSTGRES__CREDENTIALS"].split("/")[3].split("?")[0]


@pytest.fixture
def rows(database):
    """Return the rows of a query on the loaded tables, whose names are in braces."""

    def ask(sql: str) -> list[tuple]:
        settings = load_settings()
        with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
            return warehouse.rows(sql.replace("{", "propel_auth_data.").replace("}", ""))

    return ask


def start(*tables: str) -> subprocess.Popen:
    return subprocess.Popen([*LOAD, *tables], stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen) -> str:
    """Wait for ``process`` to end well, and return what it said."""
    said = process.communicate(timeout=200)[1]
    assert process.returncode == 0, said
    return said


@pytest.mark.slow
def test_first_loads_of_an_empty_database_at_once(database, rows, sandbox) -> None:
    for load in [start(table) for table in ("user_query", "org_query", "jwks")]:
        ended(load)
    assert rows("SELECT count(*) FROM {user_query}") == [(300,)]
    assert rows("SELECT count(*) FROM {org_query}") == [(24,)]
    assert rows("SELECT count(*) > 0 FROM {jwks}") == [(True,)]


@pytest.mark.slow
def test_the_resume_state_of_a_load_is_not_overwritten_by_another(database, rows, sandbox, run_cli) -> None:
    reading = start("user_query")
    wait_until(lambda: sandbox.requests, reading, "it reads")
    reading.send_signal(signal.SIGSTOP)
    ended(start("org_query", "chart_metrics"))  # begun later, so its state is the one dlt would go by
    reading.send_signal(signal.SIGCONT)
    ended(reading)

    assert run_cli("load", "--recent").returncode == 0
    assert rows("SELECT mode FROM {propel_scans} WHERE table_name = 'user_query' ORDER BY load_id") == [
        ("full",),
        ("recent",),
    ]
    for user in list(sandbox.store.users)[:200]:
        sandbox.store.delete_user(user)
    refused = run_cli("load", "user_query")
    assert refused.returncode == 1
    assert "user_query had 300 rows at the last load" in refused.stderr
    assert rows("SELECT count(*) FROM {user_query}") == [(300,)]


@pytest.mark.slow
def test_the_lock_is_waited_for_and_ends_with_its_holder(database, server, rows, sandbox) -> None:
    ended(start("user_query"))
    sandbox.store.delete_user(min(sandbox.store.users))
    writes = start("user_query")
    wait_until(lambda: server.ask(database, LOCKS) == [(1,)], writes, "it writes", every=0.001)
    writes.send_signal(signal.SIGSTOP)
    waits = start("user_query")
    assert waits.stderr
    assert "Waiting: another process holds the write lock of propel_auth_data." in waits.stderr.readline()
    writes.kill()
    writes.communicate()
    ended(waits)
    assert {user for (user,) in rows("SELECT user_id FROM {user_query}")} == set(sandbox.store.users)


@pytest.mark.slow
def test_a_reader_sees_the_old_rows_or_the_new_ones(database, server, rows, sandbox) -> None:
    ended(start("user_query"))
    for user in list(sandbox.store.users)[:7]:
        sandbox.store.delete_user(user)
    seen = set()
    load = start("user_query")
    while load.poll() is None:
        seen |= set(server.ask(database, "SELECT count(*) FROM propel_auth_data.user_query"))
    ended(load)
    assert seen | set(rows("SELECT count(*) FROM {user_query}")) == {(300,), (293,)}


@pytest.mark.slow
def test_two_erasures_at_once_keep_both_people_on_the_list(database, rows, sandbox, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "k" * 32)
    ended(start("user_query"))
    first, second = list(sandbox.store.users)[:2]
    collect, started = PersonEraser.collect_identifiers, []

    def collect_identifiers(eraser: PersonEraser) -> None:
        monkeypatch.setattr(PersonEraser, "collect_identifiers", collect)
        other = subprocess.Popen([*LOAD[:-1], "erase", second], stderr=subprocess.PIPE, text=True)
        started.append(other)
        assert other.stderr
        assert "another process holds the write lock of propel_auth_data" in other.stderr.readline()
        collect(eraser)

    monkeypatch.setattr(PersonEraser, "collect_identifiers", collect_identifiers)
    settings = load_settings()
    assert erase(settings.target, settings.privacy_settings, first, tenant=settings.tenant).is_complete
    ended(started[0])
    ended(start("user_query"))
    assert {user for (user,) in rows("SELECT user_id FROM {user_query}")} == {*sandbox.store.users} - {first, second}


@pytest.mark.slow
def test_a_load_that_reads_during_an_erasure_does_not_restore_the_person(
    database, rows, sandbox, run_cli, monkeypatch
) -> None:
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "k" * 32)
    ended(start("user_query"))
    erased = min(sandbox.store.users)
    reading = start("user_query")
    sandbox.requests.clear()
    wait_until(lambda: sandbox.requests, reading, "it reads")
    reading.send_signal(signal.SIGSTOP)
    assert run_cli("erase", erased).returncode == 0
    reading.send_signal(signal.SIGCONT)
    _, errors = reading.communicate(timeout=200)
    assert reading.returncode == 1
    assert "A person was erased while this load was reading" in errors
    assert ErasureListChanged.retry_may_help
    expected = {*sandbox.store.users} - {erased}
    assert {user for (user,) in rows("SELECT user_id FROM {user_query}")} == expected
    ended(start("user_query"))
    assert {user for (user,) in rows("SELECT user_id FROM {user_query}")} == expected


@pytest.mark.slow
def test_two_loads_of_the_same_table_never_mix_their_rows(database, rows, sandbox) -> None:
    for load in [start("user_query") for _ in range(3)]:
        ended(load)
    assert rows("SELECT count(*), count(DISTINCT user_id) FROM {user_query}") == [(300, 300)]
    assert rows("SELECT count(*) FROM propel_auth_data_staging.user_query") == [(0,)]


def test_a_commit_of_another_program_during_an_erasure_is_not_lost(loaded, run_cli, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "a key of at least 16 characters")
    program = (
        "import duckdb, time\n"
        "while True:\n"
        "    try:\n"
        "        with duckdb.connect('propel_auth_pipeline.duckdb') as db:\n"
        "            db.execute('CREATE TABLE theirs AS SELECT 1 AS a')\n"
        "        break\n"
        "    except duckdb.IOException:\n"
        "        time.sleep(0.01)\n"
    )
    replace_file = erasure_module.replace_with_compacted_copy
    others: list[subprocess.Popen] = []

    def start_other_program(*args: Any) -> None:
        others.append(subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path))
        time.sleep(3)
        replace_file(*args)

    monkeypatch.setattr(erasure_module, "replace_with_compacted_copy", start_other_program)
    erased = run_cli("erase", min(loaded.store.users))
    assert others[0].wait(60) == 0
    assert erased.returncode == 0, erased.stderr
    with duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb")) as db:
        assert db.execute("SELECT a FROM theirs").fetchall() == [(1,)]
