"""Adds a made-up table to the catalog and one endpoint to the sandbox, and prints where the table appears.

`test_new_table.py` runs this as a process: the catalog changes before any other module reads it, as if the record were
written in it.
"""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from propel_assets import catalog
from propel_assets.catalog.model import API, DOCS, ORGS, PagedList, Reference, Table, identifier, text

BADGES = Table(
    name="org_badges",
    scan="badges",
    group="orgs",
    path=f"{API}/org_badges",
    items="badges",
    key=("badge_id",),
    description="A made-up table. It exists in one test.",
    columns=(
        identifier("badge_id", "The badge.", required=True),
        identifier("org_id", "The org.", required=True),
        text("holder", "The holder's address.", "direct_identifier", api_field="holder_email"),
        text("note", "A note.", "free_form"),
    ),
    shape=PagedList("total_badges"),
    doc=f"{DOCS}/org",
    feature=ORGS,
    references=(Reference(("org_id",), "org_query"),),
)
catalog.TABLES = (*catalog.TABLES, BADGES)
catalog.BY_NAME[BADGES.name] = BADGES
catalog.SCANS = (*catalog.SCANS, BADGES.scan)

# The catalog has to be changed before it is read.
import dagster as dg  # noqa: E402

from propel_assets.defs.build import build_definitions  # noqa: E402
from propel_assets.marts.lineage import lineage  # noqa: E402
from propel_assets.privacy.policy_file import load_policy  # noqa: E402
from propel_assets.sandbox import server  # noqa: E402
from propel_assets.sandbox.calls import Call, page  # noqa: E402
from propel_assets.sandbox.running import Sandbox  # noqa: E402
from propel_assets.settings import load_settings  # noqa: E402
from propel_assets.source.dlt_source import propel_auth_source  # noqa: E402
from propel_assets.warehouse.query import open_warehouse  # noqa: E402
from propel_assets_tests.derived import sources_yaml  # noqa: E402

ROOT = Path(__file__).parents[2]
KEY = dg.AssetKey(["propel_auth", BADGES.name])


def add_endpoint(org_ids: list[str]) -> None:
    """Add the endpoint of the table to the sandbox."""
    routes = server._org_routes

    def badges(call: Call) -> dict[str, Any]:
        rows = [
            {"badge_id": f"b{number}", "org_id": org_id, "holder_email": f"holder{number}@example.com"}
            for number, org_id in enumerate(org_ids)
        ]
        return page(call, "badges", rows, total_name="total_badges")

    server._org_routes = lambda store: [*routes(store), ("org_badges", badges)]


def materialize(org_ids: list[str]) -> dg.ExecuteInProcessResult:
    """Materialize the table and the orgs, and run their checks."""
    with Sandbox(users=20, orgs=4, seed=7) as sandbox:
        org_ids += sandbox.store.orgs
        os.environ |= {"PROPELAUTH_AUTH_URL": sandbox.url, "PROPELAUTH_API_KEY": sandbox.api_key}
        job = build_definitions().resolve_implicit_global_asset_job_def()
        return job.execute_in_process(asset_selection=[dg.AssetKey(["propel_auth", "org_query"]), KEY])


def documentation() -> str:
    """Return the reference page of the tables."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.tables_page()


def appearances() -> dict[str, Any]:
    """Load the table, and return where it appears."""
    org_ids: list[str] = []
    add_endpoint(org_ids)
    ran = materialize(org_ids)
    settings = load_settings()
    strict = load_policy(load_settings({"privacy": "strict", "privacy_key": "k" * 32}).privacy_settings)
    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        rows = warehouse.rows(f"SELECT holder FROM {warehouse.table(BADGES.name)} ORDER BY badge_id")
    spec = build_definitions().resolve_assets_def(KEY).specs_by_key[KEY]
    return {
        "resources": [name for name in propel_auth_source(tables=[BADGES.name]).resources if name == BADGES.name],
        "description": spec.description,
        "group": spec.group_name,
        "materialized": [event.asset_key == KEY for event in ran.get_asset_materialization_events()],
        "checks": {
            check.check_name: check.passed for check in ran.get_asset_check_evaluations() if check.asset_key == KEY
        },
        "rows": rows,
        "privacy": {name: rule.action for name, rule in strict.rules[BADGES.name].items()},
        "lineage": sorted(lineage().sources[f"{BADGES.name}.holder"]),
        "documentation": f"## {BADGES.name}" in documentation(),
        "dbt_source": f"- name: {BADGES.name}" in sources_yaml(),
    }


if __name__ == "__main__":
    print(json.dumps(appearances()))
