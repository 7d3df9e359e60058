"""The privileges that docs/destinations.md gives to the users of a PostgreSQL warehouse."""

import re

import pytest

from propel_assets.marts.runner import open_dbt
from propel_assets.settings import load_settings
from propel_assets_tests.processes import ROOT

SECTION = (
    (ROOT / "docs" / "destinations.md").read_text().split("## Privileges of the warehouse user")[1].split("\n## ")[0]
)


@pytest.mark.slow
def test_the_documented_privileges_are_enough_to_load_to_build_and_to_query(
    server, small, run_cli, monkeypatch
) -> None:
    database = server.database()
    (grants, _) = re.findall(r"```sql\n(.*?)```", SECTION, re.DOTALL)
    server.ask(database, "CREATE ROLE analyst LOGIN")
    server.ask(database, grants.replace("DATABASE warehouse", f"DATABASE {database}"))
    monkeypatch.setenv("PROPELAUTH_DESTINATION", "postgres")
    url = f"postgresql://loader:x@localhost/{database}?host={server.folder}"
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", url)
    for _ in range(2):
        ran = run_cli("load", "user_query", "org_query")
        assert ran.returncode == 0, ran.stderr
        with open_dbt(load_settings()) as dbt:
            assert dbt.run("build", "--select", "orgs_history", "user_loads", "dim_date").failed == {}
    schemas = "SELECT nspname FROM pg_namespace WHERE nspowner = 'loader'::regrole"
    assert {name for (name,) in server.ask(database, schemas)} == {*re.findall(r"`(propel_auth_\w+)`", SECTION)}
    for table in ("propel_auth_data.user_query", "propel_auth_history.orgs_history", "propel_auth_marts.dim_date"):
        ((count,),) = server.ask(database, f"SET ROLE analyst; SELECT count(*) FROM {table}")
        assert count
