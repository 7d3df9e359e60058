"""The marts as assets: a bad table stops what is made from it, and nothing else; a skipped comparison says why."""

import dagster as dg

from propel_assets.catalog import BY_NAME
from propel_assets.defs.build import build_definitions
from propel_assets.defs.marts import build_marts
from propel_assets.warehouse.load import load_scan
from propel_assets_tests.defs.default import DEFAULT

MADE = {
    "user_query": "propel_auth_history/users_history",
    "org_query": "propel_auth_history/orgs_history",
    "custom_role_mappings": "propel_auth_history/role_mappings_history",
}

COMPARED = {
    "fct_signups_daily": ["chart_metrics"],
    "fct_orgs_created_daily": ["chart_metrics"],
    "fct_active_users": ["chart_metrics"],
    "fct_active_orgs": ["chart_metrics"],
    "fct_churn_state": ["org_report", "user_report"],
    "fct_reengagement": ["org_report", "user_report"],
}
"""The marts with figures of PropelAuth's own, and where those are from."""


def test_a_bad_table_stops_its_own_marts_which_say_why(small_sandbox, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PROPELAUTH_AUTH_URL", small_sandbox.url)
    monkeypatch.setenv("PROPELAUTH_API_KEY", small_sandbox.api_key)
    small_sandbox.faults.set("missing_field", "orgs.name")
    tables = [DEFAULT.asset_key(BY_NAME[name]) for name in (*MADE, "org_membership")]
    made = [dg.AssetKey(name.split("/")) for name in (*MADE.values(), "propel_auth_marts/dim_org")]
    job = build_definitions().resolve_job_def("propel_auth_refresh")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, asset_selection=[*tables, *made], raise_on_error=False)

    built = {event.materialization.asset_key for event in result.get_asset_materialization_events()} - set(tables)
    assert built == {dg.AssetKey(MADE[name].split("/")) for name in ("user_query", "custom_role_mappings")}
    [failure] = result.get_step_failure_events()
    assert failure.step_key == "propel_auth_check_org_query"
    assert "propel_auth/org_query: schema" in str(failure.step_failure_data.error)
    said = capsys.readouterr().err
    assert "Dependencies for step propel_auth_marts_from_org_query failed: ['propel_auth_check_org_query'" in said
    assert "Dependencies for step propel_auth_marts_from_org_by_id_and_org_query" in said


def evaluated(*marts: str) -> dict[str, dg.AssetCheckEvaluation]:
    """Build these marts and what they are made of, and return what their comparisons with PropelAuth say."""
    wanted = dg.AssetSelection.assets(*(["propel_auth_marts", mart] for mart in marts)).upstream()
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(build_marts(DEFAULT), resources=DEFAULT.resources, instance=instance, selection=wanted)
    assert done.success
    return {e.check_name: e for e in done.get_asset_check_evaluations() if "_with_propel_auth" in e.check_name}


def skipped(evaluation: dg.AssetCheckEvaluation) -> str:
    return str(evaluation.metadata["skipped"].value)


def test_a_check_with_nothing_to_compare_says_why(small_sandbox, small, query) -> None:
    small_sandbox.faults.parse("insights_off")
    for scan in ("users", "orgs", "chart_metrics", "user_reports", "org_reports"):
        load_scan(scan, small)
    told = dict(query("SELECT table_name, reason FROM propel_auth_data.propel_scans WHERE verdict = 'skipped'"))
    assert set(told) == {"chart_metrics", "user_report", "org_report"}
    found = evaluated(*COMPARED)
    assert len(found) == len(COMPARED)
    for evaluation in found.values():
        read = COMPARED[evaluation.asset_key.path[-1]]
        assert evaluation.passed
        assert skipped(evaluation) == " ".join(f"{table} was skipped: {told[table]}" for table in read)
        assert evaluation.description == f"Skipped, nothing to compare: {skipped(evaluation)}"
        assert "returned 403" in skipped(evaluation)


def test_a_check_that_compared_does_not_say_that_it_was_skipped(small) -> None:
    for scan in ("users", "chart_metrics", "user_reports", "org_reports"):
        load_scan(scan, small)
    found = evaluated("fct_signups_daily", "fct_churn_state")
    assert len(found) == 2
    for evaluation in found.values():
        assert "skipped" not in evaluation.metadata
        assert evaluation.description is None


def test_a_check_that_compared_in_part_says_what_was_not_there(small_sandbox, small) -> None:
    load_scan("users", small)
    [nothing] = evaluated("fct_churn_state").values()
    load_scan("user_reports", small)
    [part] = evaluated("fct_churn_state").values()
    small_sandbox.faults.parse("insights_off")
    load_scan("user_reports", small)
    [old] = evaluated("fct_churn_state").values()
    never = "org_report has not been loaded: propel-assets load org_report."
    told = f"Skipped, nothing to compare: {never} user_report has not been loaded: propel-assets load user_report."
    assert nothing.description == told
    assert part.description == f"Compared with what there is: {never}"
    assert old.description is not None
    assert old.description.startswith(f"Compared with what there is: {never} user_report was skipped: ")
