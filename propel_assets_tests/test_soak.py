"""A fixed number of fault schedules lose nothing, and a loader that is broken would be caught."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from propel_assets_tests.soak.play import play
from propel_assets_tests.soak.schedule import Apply, Run, Schedule, draw

ROOT = Path(__file__).parents[1]
BROKEN = """
import duckdb, os, pathlib, runpy, sys
damage = sys.argv.pop(1)
try:
    runpy.run_module("propel_assets.cli", run_name="__main__")
finally:
    with duckdb.connect(os.environ["DESTINATION__DUCKDB__CREDENTIALS"]) as database:
        database.execute("USE propel_auth_data")
        exec(damage)
"""
SOMEBODY = "WHERE user_id = (SELECT min(user_id) FROM user_query)"
FAILING = Run(("user_query",), faults=("server_error=500",))


def soak(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "propel_assets_tests.soak", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fault_schedules_lose_no_user(tmp_path) -> None:
    done = soak("--schedules", "12", "--seed", "1", "--processes", "2", "--folder", str(tmp_path))
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "schedules: 12, seeds 1 to 12, with a problem: none\nlost 0 / " in done.stdout
    assert ", altered 0 values" in done.stdout
    assert {"duckdb", "postgres"} == {draw(seed).destination for seed in range(1, 13)}
    assert {"duckdb", "postgres"} == {draw(seed).destination for seed in range(1, 13) if draw(seed).applies}


def test_a_seed_always_gives_the_same_schedule() -> None:
    code = "from propel_assets_tests.soak.schedule import draw; print([draw(seed) for seed in range(200)])"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{[draw(seed) for seed in range(200)]}\n"}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("soak")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "runs", "problem"),
    [
        ("pass", (), None),
        (f"database.execute('DELETE FROM user_query {SOMEBODY}')", (), "rows are missing"),
        (
            f"database.execute('INSERT INTO user_query FROM user_query {SOMEBODY}')",
            (),
            "user_query: 1 keys stand twice",
        ),
        (f"database.execute('UPDATE user_query SET locked = NOT locked {SOMEBODY}')", (), "1 rows have other values"),
        ("database.execute('TRUNCATE org_membership')", (FAILING,), "org_membership is not as it was"),
        ("print(os.environ['PROPELAUTH_API_KEY'])", (), "said.txt holds a secret"),
        ("print(database.sql('SELECT min(email) FROM user_query'))", (), "it said the e-mail address"),
        ("pathlib.Path(os.environ['TMPDIR'], 'rows').touch()", (), "it left rows"),
    ],
    ids=["nothing", "lost", "doubled", "changed", "emptied after a failure", "key", "e-mail", "file"],
)
def test_a_broken_loader_is_caught(damage, runs, problem, home) -> None:
    schedule = Schedule(
        seed=1, destination="duckdb", world=0, empty=False, page_size=20, concurrency=2, leave=1, come=1, runs=runs
    )
    outcome = play(schedule, home, postgres="", loader=[sys.executable, "-c", BROKEN, damage])
    found = "\n".join(outcome.problems)
    assert problem in found if problem else not found
    assert outcome.lost == (problem == "rows are missing")


RESTORE = """
database.execute("CREATE TABLE IF NOT EXISTS kept AS FROM user_query")
database.execute("INSERT INTO user_query BY NAME FROM kept WHERE user_id NOT IN (SELECT user_id FROM user_query)")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "problem"), [("pass", ""), (RESTORE, "deleted users")], ids=["nothing", "restored"])
def test_a_deleted_user_who_returns_is_caught(damage, problem, home) -> None:
    schedule = Schedule(
        seed=2,
        destination="duckdb",
        world=0,
        empty=False,
        page_size=20,
        concurrency=2,
        leave=0,
        come=0,
        runs=(Run(("user_query",)),),
        applies=(Apply(5), Apply(60, ("webhook_duplicated=2", "webhook_disorder=5"), kills_receiver=True)),
    )
    outcome = play(schedule, home, postgres="", loader=[sys.executable, "-c", BROKEN, damage])
    found = "\n".join(outcome.problems)
    assert problem in found if problem else not found
