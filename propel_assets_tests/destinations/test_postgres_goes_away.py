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

LOAD = [sys.executable, "-m", "propel_assets.cli", "load", "user_query", "org_query", "jwks"]


def test_a_server_that_stops_keeps_the_previous_data_and_is_named_in_a_sentence(sandbox, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PROPELAUTH_AUTH_URL", sandbox.url)
    monkeypatch.setenv("PROPELAUTH_API_KEY", sandbox.api_key)
    with Postgres() as postgres:
        name = postgres.database()
        warehouse = warehouses.Postgres(str(postgres.folder), name)
        for variable, value in warehouse.environment.items():
            monkeypatch.setenv(variable, value)
        for scan in ("users", "orgs"):
            load_scan(scan, load_settings())
        before = warehouse.read()
        sandbox.store.delete_user(min(sandbox.store.users))
        sandbox.faults.set("latency_ms", 200)
        asked = len(sandbox.requests)

        def is_read(path: str) -> bool:
            return any(path in request.path for request in list(sandbox.requests)[asked:])

        with subprocess.Popen(LOAD, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            wait_until(lambda: is_read("org/query"), process, "the load reads orgs")
            postgres.stop()
            said = process.stderr.read()
        assert process.returncode == 1, said
        assert "Traceback" not in said
        assert "The loaded tables were not checked." in said
        assert "Error: Not loaded: org_query." in said
        assert "Not started after that: jwks." in said
        assert "defect" not in said
        postgres.start()
        after = warehouse.read()
        assert after["org_query"] == before["org_query"]
        assert len(after["user_query"] or []) == len(truth(sandbox.store, "user_query"))
        load_scan("orgs", load_settings())


def test_useradd_which_postgresql_needs_as_root_is_found_without_its_folder_in_path() -> None:
    code = "from propel_assets_tests.destinations.standins import postgres; import os; print(os.environ['PATH'])"
    env = {**os.environ, "PATH": "/usr/bin:/bin"}
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["/usr/bin:/bin:/usr/sbin"]
