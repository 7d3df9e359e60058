"""The marts as assets: a bad table stops what is made from it, and nothing else."""

import dagster as dg

from propel_assets.definitions import build_defs
from propel_assets.defs.assets import asset_key
from propel_assets.source.tables import BY_NAME

MADE = {
    "user_query": "propel_auth_history/users_history",
    "org_query": "propel_auth_history/orgs_history",
    "custom_role_mappings": "propel_auth_history/role_mappings_history",
}


def test_a_bad_table_stops_its_own_marts_which_say_why(small_sandbox, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PROPELAUTH_AUTH_URL", small_sandbox.url)
    monkeypatch.setenv("PROPELAUTH_API_KEY", small_sandbox.api_key)
    small_sandbox.faults.set("missing_field", "orgs.name")
    tables = [asset_key(BY_NAME[name]) for name in (*MADE, "org_membership")]
    made = [dg.AssetKey(name.split("/")) for name in (*MADE.values(), "propel_auth_marts/dim_org")]
    job = build_defs().resolve_job_def("refresh")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, asset_selection=[*tables, *made], raise_on_error=False)

    built = {event.materialization.asset_key for event in result.get_asset_materialization_events()} - set(tables)
    assert built == {dg.AssetKey(MADE[name].split("/")) for name in ("user_query", "custom_role_mappings")}
    [failure] = result.get_step_failure_events()
    assert failure.step_key == "check_org_query"
    assert "propel_auth/org_query: schema" in str(failure.step_failure_data.error)
    said = capsys.readouterr().err
    assert "Dependencies for step marts_from_org_query failed: ['check_org_query'" in said
    assert "Dependencies for step marts_from_org_by_id_and_org_query" in said
