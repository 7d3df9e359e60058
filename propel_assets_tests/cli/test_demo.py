"""`propel-assets demo`: every table loaded, every check passed, and answers that agree with the sandbox."""

import re
import subprocess
from datetime import UTC, date, datetime, timedelta

import pytest

from propel_assets.catalog import AUTH_EVENT, TABLES
from propel_assets.defs import marts
from propel_assets.sandbox.running import Sandbox

NOW = date(2026, 11, 24)


def epoch(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_demo_loads_every_table_and_prints_answers_that_agree_with_the_sandbox(
    run_process, monkeypatch, tmp_path
) -> None:
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(tmp_path / "demo.duckdb"))
    ran = run_process("demo", "--users", "40", "--orgs", "4", "--seed", "5", "--now", str(NOW), timeout=580)
    assert ran.returncode == 0, ran.stderr[-3000:]
    for table in set(TABLES) - {AUTH_EVENT}:
        assert re.search(rf"^{table.name} +[\d,]+ +(\d+) of \1 ", ran.stdout, re.MULTILINE), table.name
    steps = re.findall(r"^\[ ?(\d+)/(\d+)\] (\w+) (loaded|built) in [\d.]+ s$", ran.stderr, re.MULTILINE)
    assert [int(done) for done, *_ in steps] == list(range(1, int(steps[0][1]) + 1)), ran.stderr + ran.stdout
    assert ("role_mapping_marts", "built") in {(what, verb) for *_, what, verb in steps}
    store = Sandbox(users=40, orgs=4, seed=5, now=NOW).store
    users = [user.wire for user in store.users.values()]
    signups = sum(user["created_at"] >= epoch(NOW.replace(day=1)) for user in users)
    last_day = max(datetime.now(UTC).date(), NOW)  # of the load
    active = sum(user["last_active_at"] >= epoch(last_day - timedelta(days=29)) for user in users)
    org_id = min(store.orgs, key=lambda org_id: (-len(store.of_org[org_id]), org_id))
    fullest = f"{store.orgs[org_id].wire['name']}: {len(store.of_org[org_id])}"
    assert 0 < signups < active < 40
    assert re.search(rf"^How many users signed up in November 2026 so far\? +{signups} *$", ran.stdout, re.MULTILINE)
    assert re.search(rf"^How many users were active in the last 30 days\? +{active} *$", ran.stdout, re.MULTILINE)
    assert re.search(rf"^Which org has the most members\? +{re.escape(fullest)} *$", ran.stdout, re.MULTILINE)
    for command in ("dev", "status", "report"):
        assert f"propel-assets {command} " in ran.stdout
    query = ran.stdout.strip().splitlines()[-1]
    shown = subprocess.run(query, shell=True, env={}, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "5 rows" in shown.stdout, query + shown.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_demo_fails_if_dagster_skips_a_step(run_cli, monkeypatch, tmp_path) -> None:
    """Dagster skips what is downstream of a missing table, and calls the run a success."""
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(tmp_path / "demo.duckdb"))
    monkeypatch.setattr(marts, "BUILT", set())
    ran = run_cli("demo", "--users", "40", "--orgs", "4", "--seed", "5", "--now", str(NOW))
    assert ran.returncode == 1
    assert re.search(r"ended without these tables: .*\bdim_user\b.*\. See the lines above; run it again", ran.stderr)
