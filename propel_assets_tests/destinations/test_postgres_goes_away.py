"""A database server that stops in the middle of a load."""

import os
import subprocess
import sys

from propel_assets.settings import load_settings
from propel_assets.warehouse.load import load_scan
from propel_assets_tests.destinations.standins.postgres import Postgres
from propel_assets_tests.processes import ROOT, wait_until
from propel_assets_tests.soak import warehouses
from propel_assets_tests.truth import truth

LOAD = [sys.executable, "-m", "propel_assets.cli", "load", "user_query"]


def test_a_server_that_stops_keeps_the_previous_data_and_is_named_in_a_sentence(sandbox, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PROPELAUTH_AUTH_URL", sandbox.url)
    monkeypatch.setenv("PROPELAUTH_API_KEY", sandbox.api_key)
    with Postgres() as postgres:
        name = postgres.database()
        warehouse = warehouses.Postgres(str(postgres.folder), name)
        for variable, value in warehouse.environment.items():
            monkeypatch.setenv(variable, value)
        load_scan("users", load_settings())
        before = warehouse.read()
        sandbox.store.delete_user(min(sandbox.store.users))
        sandbox.faults.set("latency_ms", 200)
        asked = len(sandbox.requests)
        with subprocess.Popen(LOAD, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            wait_until(lambda: len(sandbox.requests) > asked, process, "the load reads")
            postgres.stop()
            said = process.stderr.read()
        assert process.returncode == 1, said
        assert "Traceback" not in said
        assert "Error: Not loaded: user_query, org_membership." in said
        postgres.start()
        assert warehouse.read() == before
        load_scan("users", load_settings())
        assert len(warehouse.read()["user_query"] or []) == len(truth(sandbox.store, "user_query"))


def test_useradd_which_postgresql_needs_as_root_is_found_without_its_folder_in_path() -> None:
    code = "from propel_assets_tests.destinations.standins import postgres; import os; print(os.environ['PATH'])"
    env = {**os.environ, "PATH": "/usr/bin:/bin"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["/usr/bin:/bin:/usr/sbin"]
