"""A dataset that plain dlt has loaded, as dltHub's page on PropelAuth shows: refused before anything is read."""

from typing import Any

import dlt
import pytest
from dlt.sources.rest_api import rest_api_source

PIPELINE, DATASET = "propel_auth_pipeline", "propel_auth_data"


@pytest.fixture
def load_plainly(small, tmp_path):
    """Load users by dlt's generic REST source into the database that `propel-assets` uses."""

    def run(**options: Any) -> None:
        config: Any = {
            "client": {
                "base_url": f"{small.url}/api/backend/v1/",
                "auth": {"type": "bearer", "token": small.api_key},
                "paginator": {"type": "page_number", "page_param": "page_number", "base_page": 0, "total_path": None},
            },
            "resources": [
                {
                    "name": "user_query",
                    "endpoint": {
                        "path": "user/query",
                        "data_selector": "users",
                        "params": {"page_size": 100, "include_orgs": "true"},
                    },
                }
            ],
        }
        file = str(tmp_path / "propel_auth_pipeline.duckdb")
        pipeline = dlt.pipeline(
            PIPELINE,
            destination=dlt.destinations.duckdb(file),
            dataset_name=DATASET,
            pipelines_dir=str(tmp_path / "plain"),
        )
        pipeline.run(rest_api_source(config, name="propel_auth_source"), **options)
        small.requests.clear()

    return run


@pytest.mark.parametrize("tables", [["user_query"], ["org_query", "user_query"]])
def test_a_dataset_of_plain_dlt_is_refused_before_anything_is_read(tables, load_plainly, small, run_cli, query) -> None:
    load_plainly()
    before = query("SELECT count(*) FROM user_query")
    ran = run_cli("load", *tables)
    assert ran.returncode == 1
    assert (
        "The dataset propel_auth_data has a table user_query of another dlt pipeline. Nothing was read. Set another "
        "database (DESTINATION__DUCKDB__CREDENTIALS). If the tables of that dataset are not needed, you can instead "
        "drop it and load again."
    ) in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not small.requests
    assert query("SELECT count(*) FROM user_query") == before
    assert ("propel_scans",) not in query("SELECT table_name FROM information_schema.tables")


def test_a_table_that_plain_dlt_adds_later_is_refused(load_plainly, small, run_cli) -> None:
    assert run_cli("load", "org_query").returncode == 0
    load_plainly()
    ran = run_cli("load", "user_query")
    assert ran.returncode == 1
    assert "The dataset propel_auth_data has a table user_query of another dlt pipeline." in ran.stderr
    assert not small.requests


def test_once_the_dataset_is_dropped_the_load_succeeds(load_plainly, run_cli, run_sql, query) -> None:
    load_plainly()
    run_sql("DROP SCHEMA propel_auth_data CASCADE")
    ran = run_cli("load", "user_query")
    assert ran.returncode == 0, ran.stderr
    assert query("SELECT count(*) FROM user_query") == [(60,)]
