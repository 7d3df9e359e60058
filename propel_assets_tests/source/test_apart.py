"""Reading in another process gives what reading here gives, says what it says, and ends with whoever asked."""

import signal
import subprocess
import sys
from dataclasses import asdict

import psutil
import pytest

from propel_assets.errors import KeyRefused, ReadingStopped
from propel_assets.source import apart
from propel_assets.source.client import Client
from propel_assets.source.readers import Reader
from propel_assets.source.table_reader import ReadOptions
from propel_assets.warehouse.load import load_scan
from propel_assets_tests.processes import wait_until

BOTH = {"user_query", "org_membership"}
LOAD_USERS = [sys.executable, "-m", "propel_assets.cli", "load", "user_query"]
MANY = {"rows": {"user_query": apart.MANY_USERS}}


@pytest.fixture
def read(settings):
    """Return the tables, the reports and the state that a reading leaves."""

    def reading(kind, **changed):
        state = {"rows": {"user_query": 300}}
        options = ReadOptions()
        if kind is Reader:
            reader = Reader(Client(settings), state, options)
        else:
            reader = kind(settings, state, options, lambda *_: None)
        tables = {}
        for name, rows in reader.read("users", BOTH):
            tables.setdefault(name, []).append(rows)
        reports = {
            name: {k: v for k, v in asdict(report).items() if not k.endswith("_at") and k not in {"waited_seconds"}}
            for name, report in reader.reports.items()
        }
        return tables, reports, state

    return reading


def children():
    return psutil.Process().children()


def test_it_gives_what_reading_here_gives(read) -> None:
    tables, reports, state = read(Reader)
    tables_apart, reports_apart, state_apart = read(apart.ReaderApart)
    assert {name: [len(rows) for rows in batches] for name, batches in tables.items()}
    as_sets = [
        {name: {str(row) for batch in of for row in batch.to_pylist()} for name, of in found.items()}
        for found in (tables, tables_apart)
    ]
    assert as_sets[0] == as_sets[1]
    assert reports_apart == reports
    assert state_apart == state
    assert children() == []


def test_an_error_comes_back_as_it_is(read, sandbox) -> None:
    sandbox.faults.set("key_revoked")
    told = []
    for kind in (Reader, apart.ReaderApart):
        with pytest.raises(KeyRefused) as refused:
            read(kind)
        told.append((str(refused.value), refused.value.status))
    assert told[0] == told[1]
    assert children() == []


def test_killed_it_says_so_and_nothing_is_replaced(settings, sandbox, query, monkeypatch) -> None:
    load_scan("users", settings)
    sandbox.store.delete_user(next(iter(sandbox.store.users)))
    monkeypatch.setattr(apart, "MANY_USERS", 300)

    def kill(*_):
        [process] = children()
        process.send_signal(signal.SIGKILL)

    with pytest.raises(ReadingStopped, match="Nothing was replaced; run again"):
        load_scan("users", settings, progress=kill)
    assert query("SELECT count(*) FROM user_query") == [(300,)]
    assert children() == []


def test_whoever_stops_listening_ends_it(settings) -> None:
    rows = apart.ReaderApart(settings, {}, ReadOptions(), lambda *_: None).read("users", BOTH)
    next(rows)
    assert len(children()) == 1
    rows.close()
    assert children() == []


def test_it_ends_with_the_process_that_started_it_and_its_command_tells_no_secret(sandbox, settings) -> None:
    sandbox.faults.set("latency_ms", 60_000)
    with subprocess.Popen(LOAD_USERS, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: sandbox.requests, process, "it asks")
        [other] = psutil.Process(process.pid).children()
        assert settings.api_key not in " ".join(other.cmdline())
        process.kill()
    assert psutil.wait_procs([other], timeout=30)[1] == []


def test_one_that_was_never_asked_ends_too(run_cli, settings) -> None:
    refused = run_cli("load", "user_query", PROPELAUTH_PRIVACY="nowhere.toml")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1, refused.stderr


@pytest.mark.parametrize(
    ("scan", "state", "options", "chosen"),
    [
        ("users", MANY, ReadOptions(), apart.ReaderApart),
        ("users", {}, ReadOptions(), Reader),
        ("users", MANY, ReadOptions(recent=True), Reader),
        ("orgs", MANY, ReadOptions(), Reader),
    ],
)
def test_it_is_for_many_users(scan, state, options, chosen, settings) -> None:
    assert type(apart.reader_of(scan, settings, state, options, lambda *_: None)) is chosen
