"""The marts as assets: a failed check stops the ops that read the table; a skipped comparison has the reason."""

import importlib.util
from typing import Any

import dagster as dg
import pytest

from propel_assets import PropelAuthConfig, build_definitions
from propel_assets.catalog import AUDIT_TABLES, BY_NAME
from propel_assets.definitions import defs
from propel_assets.defs.marts import build_marts, models_by_op, raw_tables_of
from propel_assets.marts.manifest import load_manifest
from propel_assets.settings import Target
from propel_assets.warehouse.load import load_scan
from propel_assets_tests.defs.default import DEFAULT

HISTORIES = {
    "user_query": "propel_auth_history/users_history",
    "org_query": "propel_auth_history/orgs_history",
    "custom_role_mappings": "propel_auth_history/role_mappings_history",
}

COMPARED = {
    "fct_signups_daily": ["chart_metrics"],
    "fct_orgs_created_daily": ["chart_metrics"],
    "fct_engagement_monthly": ["chart_metrics", "chart_metrics"],
    "audit_churned_users": ["user_report"],
    "audit_churned_orgs": ["org_report"],
    "audit_reengaged_users": ["user_report"],
    "audit_reengaged_orgs": ["org_report"],
}
"""The raw table that each comparison of a mart with PropelAuth's figures reads."""

USERS = {"user_query", "org_membership"}
ORGS = USERS | {"org_query", "org_by_id"}
READS = {
    "build_user_marts": USERS,
    "build_org_marts": ORGS,
    "build_role_mapping_marts": {"custom_role_mappings"},
    "build_invite_marts": USERS | {"pending_org_invites"},
    "build_api_key_marts": USERS
    | {"end_user_api_keys", "end_user_api_keys_archived", "end_user_api_key_usage"}
    | {"end_user_api_key_usage_total"},
    "build_metric_marts": ORGS | {"chart_metrics"},
    "build_reconciliation_marts": ORGS | {"user_report", "org_report"},
    "build_account_marts": ORGS | {"pending_org_invites", "end_user_api_keys", "end_user_api_keys_archived"},
    "build_event_marts": USERS | {"auth_event", "pending_org_invites", "chart_metrics"},
    "build_audit_marts": set(),
}
"""The raw tables that stop each op if one of their checks fails."""


def test_each_op_reads_these_raw_tables() -> None:
    manifest = load_manifest(Target())
    ops = models_by_op(manifest)
    found = {op: {table for model in models for table in raw_tables_of(manifest, model)} for op, models in ops.items()}
    assert found == READS


@pytest.mark.parametrize(("kind", "has_marts"), [("postgres", True), ("snowflake", False)])
def test_marts_are_left_out_with_a_warning_where_dbt_has_no_profile(monkeypatch, caplog, kind, has_marts) -> None:
    monkeypatch.setenv("DESTINATION__OURS__DESTINATION_TYPE", kind)
    for destination in (kind, "ours"):
        caplog.clear()
        definitions = build_definitions(PropelAuthConfig(destination=destination))
        groups = {spec.group_name for spec in definitions.resolve_all_asset_specs()}
        assert {"propel_auth_users", "propel_auth_orgs"} < groups
        assert ({"propel_auth_history", "propel_auth_marts"} & groups != set()) == has_marts
        warnings = [record.getMessage() for record in caplog.records if "marts are left out" in record.getMessage()]
        assert len(warnings) == (0 if has_marts else 1)
        assert all(f"not on {destination}" in warning for warning in warnings)


@pytest.mark.parametrize("adapters", [(), ("snowflake",)])
def test_the_dbt_of_another_project_does_not_count_as_the_extra(monkeypatch, adapters) -> None:
    real = importlib.util.find_spec

    def find_spec(name: str) -> Any:
        _, _, adapter = name.partition("dbt.adapters.")
        return real(name) if not adapter or adapter in adapters else None

    monkeypatch.setattr("propel_assets.marts.runner.importlib.util.find_spec", find_spec)
    assert build_marts(DEFAULT) == []


def test_every_check_of_a_mart_has_a_description() -> None:
    for assets in build_marts(DEFAULT):
        for check in assets.check_specs:
            assert check.description, check.name


def test_a_failed_check_stops_the_ops_that_read_the_table(small_sandbox, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PROPELAUTH_AUTH_URL", small_sandbox.url)
    monkeypatch.setenv("PROPELAUTH_API_KEY", small_sandbox.api_key)
    small_sandbox.faults.set("missing_field", "orgs.name")
    tables = [DEFAULT.asset_key(BY_NAME[name]) for name in (*HISTORIES, "org_membership")]
    marts = [dg.AssetKey(name.split("/")) for name in (*HISTORIES.values(), "propel_auth_marts/dim_org")]
    job = defs.resolve_job_def("propel_auth_refresh")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, asset_selection=[*tables, *marts], raise_on_error=False)

    built = {event.materialization.asset_key for event in result.get_asset_materialization_events()} - set(tables)
    assert built == {dg.AssetKey(HISTORIES[name].split("/")) for name in ("user_query", "custom_role_mappings")}
    [failure] = result.get_step_failure_events()
    assert failure.step_key == "propel_auth_check_org_query"
    assert "propel_auth/org_query: schema" in str(failure.step_failure_data.error)
    assert (
        "Dependencies for step propel_auth_build_org_marts failed: ['propel_auth_check_org_query'"
        in capsys.readouterr().err
    )


def test_a_translation_of_keys_changes_what_a_step_materializes_and_its_lineage(small_sandbox, small) -> None:
    def translated(key: dg.AssetKey) -> dg.AssetKey:
        return dg.AssetKey(["auth", f"my_{key.path[-1]}"])

    config = PropelAuthConfig(translation=lambda spec, _: spec.replace_attributes(key=translated(spec.key)))
    definitions = build_definitions(config)
    load_scan("users", small)
    wanted = translated(dg.AssetKey("dim_user"))
    graph = definitions.resolve_asset_graph()
    keys = {key for key in dg.AssetSelection.assets(wanted).upstream().resolve(graph) if "dbt" in graph.get(key).kinds}
    job = definitions.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(asset_selection=[*keys], instance=dg.DagsterInstance.ephemeral())
    found = {event.materialization.asset_key: event for event in result.get_asset_materialization_events()}
    assert set(found) == keys
    schema: Any = found[wanted].materialization.metadata["dagster/column_schema"].value
    types = {column.name: column.type for column in schema.columns}
    assert (types["user_id"], types["as_of"]) == ("VARCHAR", "TIMESTAMP WITH TIME ZONE")
    assert "?" not in types.values()
    lineage: Any = found[wanted].materialization.metadata["dagster/column_lineage"].value
    sources = {dep.asset_key for deps in lineage.deps_by_column.values() for dep in deps}
    audit = {dg.AssetKey(["propel_auth", table.name]) for table in AUDIT_TABLES}  # they are not assets
    assert sources - audit <= set(graph.get_all_asset_keys())
    assert all(check.passed for check in result.get_asset_check_evaluations())


def evaluated(*marts: str) -> dict[str, dg.AssetCheckEvaluation]:
    """Build these marts and their upstream, and return the results of their comparisons with PropelAuth."""
    wanted = dg.AssetSelection.assets(*(["propel_auth_marts", mart] for mart in marts)).upstream()
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(build_marts(DEFAULT), resources=DEFAULT.resources, instance=instance, selection=wanted)
    assert done.success
    return {e.check_name: e for e in done.get_asset_check_evaluations() if "_with_propel_auth" in e.check_name}


def skipped(evaluation: dg.AssetCheckEvaluation) -> str:
    return str(evaluation.metadata["skipped"].value)


@pytest.mark.slow
def test_a_check_with_nothing_to_compare_has_the_reason(small_sandbox, small, query) -> None:
    small_sandbox.faults.parse("insights_off")
    for scan in ("users", "orgs", "chart_metrics", "user_reports", "org_reports"):
        load_scan(scan, small)
    reasons = dict(query("SELECT table_name, reason FROM propel_auth_data.propel_scans WHERE verdict = 'skipped'"))
    assert set(reasons) == {"chart_metrics", "user_report", "org_report"}
    found = evaluated(*COMPARED)
    assert len(found) == sum(map(len, COMPARED.values()))
    for evaluation in found.values():
        [table] = set(COMPARED[evaluation.asset_key.path[-1]])
        assert evaluation.passed
        assert skipped(evaluation) == f"{table} was skipped: {reasons[table]}"
        assert evaluation.description == f"Skipped, nothing to compare: {skipped(evaluation)}"
        assert "returned 403" in skipped(evaluation)


@pytest.mark.slow
def test_a_check_that_compared_has_no_reason_and_one_of_older_figures_has(small_sandbox, small) -> None:
    load_scan("users", small)
    [nothing] = evaluated("audit_churned_users").values()
    load_scan("user_reports", small)
    [fresh] = evaluated("audit_churned_users").values()
    small_sandbox.faults.parse("insights_off")
    load_scan("user_reports", small)
    [old] = evaluated("audit_churned_users").values()
    never = "user_report has not been loaded. Run `propel-assets load user_report`."
    assert nothing.description == f"Skipped, nothing to compare: {never}"
    assert fresh.description is None
    assert "skipped" not in fresh.metadata
    assert old.description is not None
    assert old.description.startswith("Compared with older figures: user_report was skipped: ")
