"""`propel_auth_source()` in a plain dlt pipeline: no global setting changes, and a skipped table keeps its rows."""

import logging

import dlt
import pytest
from dlt.common.data_writers import writers

from propel_assets.errors import SettingsError
from propel_assets.settings import load_settings, require_credentials
from propel_assets.source.dlt_source import SOURCE, build_source, propel_auth_source
from propel_assets.source.scan_reader import RESUME_STATES_KEY, SourceRun
from propel_assets.source.stream import ReadOptions
from propel_assets.warehouse.erasure import erase
from propel_assets.warehouse.load import load_scan

RECENT = ReadOptions(recent=True)
STRATEGY = "propel_auth_pipeline.destination.replace_strategy"


@pytest.fixture
def pipeline(settings, tmp_path) -> dlt.Pipeline:
    """A plain pipeline with the names of our own loader, in a folder of its own."""
    return dlt.pipeline(
        "propel_auth_pipeline",
        destination="duckdb",
        dataset_name="propel_auth_data",
        pipelines_dir=str(tmp_path / "plain"),
    )


@pytest.fixture
def results():
    return []


@pytest.fixture
def run(pipeline, results):
    """Run the pipeline with some tables, and return the results of their scans."""

    def extract_and_load(*tables: str, options: ReadOptions | None = None):
        results.clear()
        run = SourceRun(
            lambda: require_credentials(load_settings()), options or ReadOptions(), on_result=results.append
        )
        info = pipeline.run(build_source(tables, run))
        info.raise_on_failed_jobs()
        return {result.table_name: result for result in results}

    return extract_and_load


def test_a_source_that_is_constructed_changes_nothing(pipeline) -> None:
    pipeline.extract([{"x": 1}], table_name="pending")
    filters, specs = list(logging.getLogger("dlt").filters), dict(writers.WRITER_SPECS)
    propel_auth_source()
    assert pipeline.has_pending_data
    assert logging.getLogger("dlt").filters == filters
    assert specs == writers.WRITER_SPECS
    assert dlt.config.get(STRATEGY, str) is None


def test_a_run_of_a_plain_pipeline_changes_no_global_setting(run) -> None:
    filters, specs = list(logging.getLogger("dlt").filters), dict(writers.WRITER_SPECS)
    run("jwks")
    assert logging.getLogger("dlt").filters == filters
    assert specs == writers.WRITER_SPECS
    assert dlt.config.get(STRATEGY, str) is None


def test_a_table_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"No table is named 'user_qeury'\. Did you mean 'user_query'"):
        propel_auth_source(tables=["user_qeury", "org_query"])


def test_a_skipped_table_keeps_its_rows(run, sandbox, query) -> None:
    run("org_query")
    before = query("SELECT * FROM org_query ORDER BY org_id")
    sandbox.faults.parse("orgs_off")
    assert run("org_query")["org_query"].skipped
    assert query("SELECT * FROM org_query ORDER BY org_id") == before != []
    sandbox.faults.clear()
    sandbox.store.delete_org(min(sandbox.store.orgs))
    run("org_query")
    assert query("SELECT count(*) FROM org_query") == [(len(before) - 1,)]


def test_a_recent_run_merges_into_what_a_full_run_loaded(run, sandbox, query) -> None:
    tables = ("user_query", "org_membership")
    assert run(*tables, options=RECENT)["user_query"].mode == "full"
    new = sandbox.store.add_user()
    active = min(sandbox.store.of_user)
    sandbox.store.remove_membership(active, next(iter(sandbox.store.of_user[active])))
    sandbox.store.add_membership(active, max(sandbox.store.orgs))
    sandbox.store.touch_user(active)
    assert run(*tables, options=RECENT)["user_query"].mode == "recent"
    assert query(f"SELECT count(*) FROM user_query WHERE user_id = '{new}'") == [(1,)]
    assert {user for (user,) in query("SELECT user_id FROM user_query")} == set(sandbox.store.users)
    orgs = query(f"SELECT org_id FROM org_membership WHERE user_id = '{active}'")
    assert {org for (org,) in orgs} == set(sandbox.store.of_user[active])


def test_a_plain_pipeline_keeps_its_resume_states_in_dlts_state(run, pipeline, sandbox) -> None:
    run("chart_metrics")
    state = pipeline.state["sources"][SOURCE][RESUME_STATES_KEY]["chart_metrics"]
    assert state["tenant_id"]
    first = len(sandbox.requests)
    run("chart_metrics")
    assert len(sandbox.requests) - first == first - 1  # without the request for the oldest user


def test_our_loader_keeps_its_resume_states_in_the_audit_table_alone(settings, pipeline) -> None:
    load_scan("users", settings)
    pipeline.sync_destination()
    assert RESUME_STATES_KEY not in pipeline.state.get("sources", {}).get(SOURCE, {})


def test_an_erased_person_stays_erased_in_a_plain_pipeline(settings, run, sandbox, query, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "0123456789abcdef0123456789abcdef")
    keyed = load_settings()
    load_scan("users", keyed)
    erased = min(sandbox.store.users)
    erase(keyed.target, keyed.privacy_settings, erased)
    result = run("user_query", "org_membership")["user_query"]
    assert {user for (user,) in query("SELECT user_id FROM user_query")} == set(sandbox.store.users) - {erased}
    assert result.reason == "1 row of erased people left out"
