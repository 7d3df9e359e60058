"""A load that is killed, locked out or has no room: nothing is lost, nothing is left, and it says what to do."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import duckdb
import psycopg2
import pytest

from propel_assets.errors import WarehouseConflict, WarehouseError, WarehouseUnreachable
from propel_assets.warehouse.locks import LockTimeout, wait_for_lock
from propel_assets.warehouse.remedies import error_type_of, remedy_of
from propel_assets_tests.processes import wait_until

LOAD_USERS = [sys.executable, "-m", "propel_assets.cli", "load", "user_query"]
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
HOLD = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv[1:] = ["load", "user_query"]
runpy.run_module("propel_assets.cli", run_name="__main__")
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """An empty folder that the processes started keep their temporary files in."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def database(loaded, tmp_path):
    return tmp_path / "propel_auth_pipeline.duckdb"


@pytest.fixture
def users(query):
    """Return the ids of the users in the warehouse."""
    return lambda: {user for (user,) in query("SELECT user_id FROM user_query")}


@pytest.fixture
def holder(database):
    """Another process that has the DuckDB file open until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, str(database)]
    with subprocess.Popen(command, **PIPES) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


# --- killed ---


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


MOMENTS = {
    "reading": lambda sandbox, _folder, _file: len(sandbox.requests) >= 2,
    "rows lie in the working folder": lambda _sandbox, folder, _file: list(folder.glob("propel-assets-*/**/*.parquet")),
    "writing": lambda _sandbox, _folder, file: _size(file.with_name(f"{file.name}.wal")) > 0,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_load_that_is_repeated_leaves_no_trace(moment, loaded, database, temporary, users, run_cli) -> None:
    before = users()
    for user in sorted(before)[:5]:
        loaded.store.delete_user(user)
    loaded.faults.set("latency_ms", 100)
    with subprocess.Popen(LOAD_USERS, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: MOMENTS[moment](loaded, temporary, database), process, moment, every=0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert users() in (before, set(loaded.store.users))
    loaded.faults.clear()
    again = run_cli("load", "user_query")
    assert again.returncode == 0, again.stderr
    assert users() == set(loaded.store.users)
    assert list(temporary.iterdir()) == []
    assert not database.with_name(f"{database.name}.wal").exists()
    assert not database.with_name(f"{database.name}.lock.holder").exists()


def test_rows_that_cannot_be_inserted_keep_the_previous_data(loaded, database, users, run_cli) -> None:
    before = users()
    with duckdb.connect(str(database)) as db:
        db.execute("ALTER TABLE propel_auth_data.user_query ALTER email SET NOT NULL")
    loaded.store.update_user(min(before), email=None)
    ran = run_cli("load", "user_query")
    assert ran.returncode == 1
    assert "ConstraintException (user_query.email)" in ran.stderr, ran.stderr
    assert users() == before


# --- locked out ---


@pytest.mark.parametrize("command", ["load user_query org_query", "status", "check"])
def test_a_file_that_another_process_has_open_is_an_error_after_the_time_limit(
    command, holder, loaded, temporary, run_cli
) -> None:
    ran = run_cli(*command.split(), PROPELAUTH_LOCK_SECONDS="1")
    assert ran.returncode == 1
    assert f"Waiting: process {holder.pid} (python" in ran.stderr
    assert "open. Waits up to 1 s (PROPELAUTH_LOCK_SECONDS) until that process has ended. If it is no" in ran.stderr
    assert "Waited 1 s (PROPELAUTH_LOCK_SECONDS): process " in ran.stderr
    assert ran.stderr.count("Waiting") == 1
    assert ("The previous data is kept." in ran.stderr) == command.startswith("load")
    assert not loaded.requests
    assert list(temporary.iterdir()) == []


def test_a_load_continues_once_the_file_is_closed(holder, loaded, users) -> None:
    loaded.store.delete_user(min(loaded.store.users))
    with subprocess.Popen(LOAD_USERS, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert f"Waiting: process {holder.pid} (python" in process.stderr.readline()
        holder.stdin.close()
        rest = process.stderr.read()
    assert process.returncode == 0, rest
    assert users() == set(loaded.store.users)


@pytest.mark.slow
def test_concurrent_loads_run_one_after_the_other(loaded, query, monkeypatch) -> None:
    loaded.faults.set("server_error")  # the first asks again until it is over
    monkeypatch.setenv("PROPELAUTH_RETRY_SECONDS", "60")
    with subprocess.Popen(LOAD_USERS, stderr=subprocess.DEVNULL) as first:
        wait_until(lambda: loaded.requests, first, "the first load reads")
        with subprocess.Popen(LOAD_USERS, stderr=subprocess.PIPE, text=True) as second:
            assert second.stderr
            assert f"Waiting: process {first.pid} (python" in second.stderr.readline()
            loaded.faults.clear()
            rest = second.stderr.read()
    assert (first.returncode, second.returncode) == (0, 0), rest
    assert query("SELECT count(*) FROM propel_scans WHERE table_name = 'user_query'") == [(3,)]


def test_a_wait_is_logged_once_for_each_holder(monkeypatch) -> None:
    now = itertools.count(step=5.0)
    clock = SimpleNamespace(monotonic=lambda: next(now), sleep=lambda _: None)
    monkeypatch.setattr("propel_assets.warehouse.locks.time", clock)
    held = iter([*["process 1 (a) holds the lock"] * 9, *["process 2 (b) holds the lock"] * 9, ""])
    logged: list[str] = []
    wait_for_lock(lambda: next(held), LockTimeout(600, logged.append))
    assert [line.split(". ")[0] for line in logged] == [
        f"Waiting: process {name} holds the lock" for name in ("1 (a)", "2 (b)")
    ]


# --- no room, no file ---


@pytest.mark.parametrize("largest_file", [0, 20_000, 60_000])
def test_a_full_disk_keeps_the_previous_data(largest_file, loaded, temporary, users) -> None:
    before = users()
    loaded.store.delete_user(min(before))

    command = [sys.executable, "-c", LIMITED, str(largest_file)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "File too large" in ran.stderr or "Cannot write a temporary file" in ran.stderr
    assert "ther work" not in ran.stderr
    assert "Traceback" not in ran.stderr
    assert users() == before
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (".", "Is a directory. Correct its path or its permissions, or set another file in "),
        ("/proc/warehouse.duckdb", "Cannot write to the folder of the DuckDB file, /proc: "),
        ("no/such/warehouse.duckdb", "The folder of the DuckDB file does not exist: "),
        ("notes.txt", "notes.txt is not a DuckDB database. Move it away, or set another file in "),
    ],
)
def test_a_path_that_cannot_be_a_database_is_refused_at_once(file, why, small, temporary, tmp_path, run_cli) -> None:
    (tmp_path / "notes.txt").write_text("Not a database: these are somebody's notes.")
    ran = run_cli("load", "org_query", "custom_role_mappings", DESTINATION__DUCKDB__CREDENTIALS=file)
    assert ran.returncode == 1
    assert why in ran.stderr
    assert ran.stderr.endswith("Not started after that: custom_role_mappings.\n")
    assert not small.requests
    assert (tmp_path / "notes.txt").read_text() == "Not a database: these are somebody's notes."
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_files_beside_the_database_have_no_personal_data(small, temporary, tmp_path, query, run_process) -> None:
    left = tmp_path / "dlt"
    ran = run_process("load", "user_query", "pending_org_invites", DLT_DATA_DIR=str(left))
    assert ran.returncode == 0, ran.stderr
    files = [file for file in left.rglob("*") if file.is_file()]
    assert files
    written = b"".join(file.read_bytes() for file in files).decode(errors="replace") + ran.stdout + ran.stderr
    secrets = [small.api_key, *(email for (email,) in query("SELECT email FROM user_query"))]
    assert [secret for secret in secrets if secret in written] == []
    assert list(temporary.iterdir()) == []
    assert {file.name for file in tmp_path.glob("*.duckdb*")} == {
        "propel_auth_pipeline.duckdb",
        "propel_auth_pipeline.duckdb.lock",
    }


# --- a file that this user may only read ---


@pytest.fixture
def readable(loaded, database, run_cli, monkeypatch):
    """The database in a folder that this process may only read. Root may write everywhere, so it becomes another user.

    A command has run before, so that nothing is imported as that user.
    """
    folder = Path(tempfile.mkdtemp())
    file = Path(shutil.copy(database, folder))
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(file))
    monkeypatch.chdir(folder)
    assert run_cli("status").returncode == 0
    file.chmod(0o444)
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield file
    os.seteuid(user)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_file_that_this_user_may_only_read_is_read(readable, run_cli) -> None:
    ran = run_cli("status", "user_query")
    assert (ran.returncode, "user_query  60 " in ran.stdout) == (0, True), ran.stderr
    ran = run_cli("check", "user_query")
    assert ran.returncode == 1
    assert "Give the user who runs this the right to write to the DuckDB file and its folder" in ran.stderr
    ran = run_cli("load", "user_query")
    assert ran.returncode == 1
    assert f"Cannot write to the folder of the DuckDB file, {readable.parent}: Permission denied. " in ran.stderr


def test_a_file_that_is_only_read_is_waited_for_too(readable, loaded, run_cli) -> None:
    user = os.geteuid()
    if user != os.getuid():
        os.seteuid(os.getuid())
    readable.chmod(0o644)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(readable)], **PIPES) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        readable.chmod(0o444)
        os.seteuid(user)
        ran = run_cli("status", PROPELAUTH_LOCK_SECONDS="1")
        process.stdin.close()
    assert ran.returncode == 1
    assert f"process {process.pid} (python" in ran.stderr


# --- the error says what to do ---


@pytest.mark.parametrize("command", [["load", "org_query"], ["erase", "{user}"]])
def test_a_destination_that_refuses_connections_is_reported_with_what_to_do(
    small, run_cli, monkeypatch, command
) -> None:
    monkeypatch.setenv("PROPELAUTH_DESTINATION", "postgres")
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", "postgresql://loader:s3cret@127.0.0.1:1/warehouse")
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "a key for these tests only")
    ran = run_cli(*(word.format(user=min(small.store.users)) for word in command))
    assert ran.returncode == 1
    assert "postgres failed" in ran.stderr
    assert "OperationalError (Connection refused). " in ran.stderr
    assert "Check that the destination accepts connections, and the host, database, user and password" in ran.stderr
    assert "s3cret" not in ran.stderr


def test_a_row_that_a_constraint_refuses_is_reported_with_what_to_do(loaded, run_cli, run_sql) -> None:
    run_sql("CREATE UNIQUE INDEX addresses ON propel_auth_data.user_query (email)")
    first, *_, last = loaded.store.users
    loaded.store.update_user(first, email=loaded.store.users[last].wire["email"])
    ran = run_cli("load", "user_query")
    assert ran.returncode == 1
    assert "ConstraintException" in ran.stderr
    assert "Drop the constraint, index or trigger that was added to the table" in ran.stderr


@pytest.mark.parametrize(
    ("state", "remedy"),
    [("42501", "Grant the user"), ("42P01", "restore it"), ("3D000", "Create the database"), ("99999", "Look up")],
)
def test_the_remedy_follows_the_sqlstate(state, remedy) -> None:
    assert remedy in remedy_of(error_with(state))


@pytest.mark.parametrize(
    ("state", "error_type", "is_repeated"),
    [
        ("08006", WarehouseUnreachable, True),
        ("57P01", WarehouseUnreachable, True),  # the server is stopped
        ("57014", WarehouseError, False),  # a time limit of the destination
        ("42710", WarehouseConflict, True),  # two first loads create the same schema
        ("42P07", WarehouseConflict, True),
        ("40001", WarehouseConflict, True),
        ("42501", WarehouseError, False),
        ("", WarehouseUnreachable, True),  # psycopg2 has no SQLSTATE for a connection or log-in that is refused
    ],
)
def test_an_error_that_may_pass_is_repeated(state, error_type, is_repeated) -> None:
    assert error_type_of(error_with(state)) is error_type
    assert error_type.retry_may_help is is_repeated


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("No space left on device", "Free disk space"),
        ("Disk quota exceeded", "Free disk space"),
        ("File too large", "Raise the limit of the size of a file"),
        ("Read-only file system", "Make the database writable"),
        ("Permission denied", "Give the user who runs this the right to write"),
    ],
)
@pytest.mark.parametrize("error_class", [duckdb.TransactionException, duckdb.IOException, duckdb.FatalException])
def test_a_file_that_duckdb_cannot_write_is_no_conflict(error_class, reason, remedy) -> None:
    """DuckDB's text of a commit on a full disk, which it raises as TransactionException."""
    error = error_class(f'TransactionContext Error: Failed to commit: Could not write file "a.duckdb": {reason}')
    assert remedy_of(error).startswith(remedy)
    assert error_type_of(error) is WarehouseError


def error_with(state: str) -> Exception:
    """Return an error that wraps one with a SQLSTATE."""
    error: Exception = psycopg2.OperationalError("a text that is not read")
    if state:
        error = RuntimeError("a text that is not read")
        error.sqlstate = state  # type: ignore[attr-defined]
    wrapped = RuntimeError("x")
    wrapped.__cause__ = error
    return wrapped
