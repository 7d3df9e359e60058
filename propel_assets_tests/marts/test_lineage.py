"""Every column leads back to PropelAuth's API, on the command line, on a page and in Dagster."""

from shutil import which
from typing import Any

import dagster as dg
import pytest
from playwright.sync_api import sync_playwright

from propel_assets.catalog import TABLES
from propel_assets.definitions import defs
from propel_assets.errors import SettingsError
from propel_assets.marts.lineage import LAYERS, MODELS_FILE, lineage
from propel_assets_tests.defs.default import API
from propel_assets_tests.derived import model_lineage_json
from propel_assets_tests.processes import ROOT

NO_SOURCE = {  # counts of rows, constants of the SQL, and the ends of versions
    "audit_churned_orgs.window_days",
    "audit_churned_users.window_days",
    "audit_loads.checks",
    "audit_metric_reconciliation.cadence",
    "audit_metric_reconciliation.mart",
    "audit_metric_reconciliation.metric",
    "audit_metric_reconciliation.periods",
    "audit_requests.tables",
    "audit_schema_changes.loads",
    "dim_date.day",
    "dim_date.day_of_week",
    "dim_date.month_start",
    "dim_date.week_start",
    "fct_growth_accounting.active_orgs",
    "fct_growth_accounting.active_users",
    "fct_invite_funnel.gone_seen_at",
    "fct_logins_daily.logins",
    "fct_org_daily.active_api_keys",
    "fct_org_daily.members",
    "fct_org_daily.pending_invites",
    "fct_org_daily.size_band",
    "fct_orgs_created_daily.orgs_created",
    "fct_retention_weekly.cohort_users",
    "fct_retention_weekly.weeks_after",
    "fct_role_mix.members",
    "fct_role_mix.org_members",
    "fct_role_mix.share",
    "fct_signups_daily.signups",
    "fct_user_activity_daily.is_signup_day",
    "fct_user_security_daily.users",
    "free_mail_domains.domain",
    "memberships_history.valid_to",
    "orgs_history.valid_to",
    "role_mappings_history.valid_to",
    "users_history.valid_to",
}


def origins(name: str) -> set[str]:
    """Return the columns that ``name`` comes from and that come from nothing themselves."""
    sources = lineage().sources.get(name, frozenset()) - {name}
    return {origin for source in sources for origin in origins(source)} or {name}


def test_every_column_comes_from_the_api_or_is_listed_here() -> None:
    left = set()
    for name in lineage().sources:
        if lineage().layer(name) in LAYERS[2:] and not lineage().api_fields(name):
            left |= {origin for origin in origins(name) if not origin.startswith("propel_")}
    assert left == NO_SOURCE


def test_the_lineage_in_the_package_is_that_of_the_sql() -> None:
    """If not: python -m propel_assets_tests.derived."""
    assert MODELS_FILE.read_text(encoding="utf-8") == model_lineage_json()


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("user_query.created_at", "GET /api/backend/v1/user/query users.created_at"),
        ("end_user_api_keys.expires_at", "GET /api/backend/v1/end_user_api_keys api_keys.expires_at_seconds"),
        ("users_history.properties", "GET /api/backend/v1/user/query users.properties"),
        ("dim_user.email_domain", "GET /api/backend/v1/user/query users.email"),
        ("fct_seat_usage.max_users", "GET /api/backend/v1/org/query orgs.max_users"),
        ("bridge_membership.user_role", "GET /api/backend/v1/user/query org_id_to_org_info.user_role"),
    ],
)
def test_a_column_leads_to_its_field(name, field) -> None:
    assert lineage().api_fields(name) == {field}


def test_the_command_shows_what_a_column_comes_from_and_goes_into(run_cli) -> None:
    done = run_cli("lineage", "users_history.email")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        "users_history.email",
        "   <- user_query.email",
        "      <- GET /api/backend/v1/user/query users.email",
    ]
    assert "   -> dim_user.email" in lines


def test_a_name_that_is_not_there_is_answered_with_those_near_it() -> None:
    with pytest.raises(SettingsError, match=r"no table or column dim_user.emial. Did you mean dim_user.email"):
        lineage().find("dim_user.emial")


def test_the_page_in_the_docs_is_that_of_the_code() -> None:
    """If not: propel-assets lineage --html docs/lineage.html."""
    assert (ROOT / "docs" / "lineage.html").read_text(encoding="utf-8") == lineage().page()


def test_a_file_that_cannot_be_written_is_reported(run_cli) -> None:
    done = run_cli("lineage", "--html", "no/such/folder/page.html")
    assert done.returncode == 1
    assert "Cannot write no/such/folder/page.html: No such file or directory." in done.stderr


@pytest.mark.slow
def test_dagster_shows_the_same_lineage(small, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_AUTH_URL", small.auth_url)
    monkeypatch.setenv("PROPELAUTH_API_KEY", small.api_key)
    (tmp_path / "home").mkdir()
    raw, domains = ["propel_auth", "user_query"], ["propel_auth_marts", "free_mail_domains"]
    keys = [raw, domains, ["propel_auth_history", "users_history"], ["propel_auth_marts", "dim_user"]]
    selection = [dg.AssetKey(key) for key in keys]
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(instance=instance, asset_selection=selection).success
        for key in selection[2:]:
            event: Any = instance.get_latest_materialization_event(key)
            shown = event.asset_materialization.metadata["dagster/column_lineage"].value.deps_by_column
            found = {
                f"{key.path[-1]}.{c}": {f"{d.asset_key.path[-1]}.{d.column_name}" for d in deps}
                for c, deps in shown.items()
            }
            ours = {name: set(lineage().sources[name]) for name in found}
            assert found == ours
            assert found


def test_dagster_shows_the_same_lineage_of_the_raw_tables() -> None:
    specs: dict[str, Any] = {spec.key.path[-1]: spec for spec in defs.resolve_all_asset_specs()}
    for table in TABLES:
        shown = specs[table.name].metadata["dagster/column_lineage"].deps_by_column
        for column, (dep,) in shown.items():
            assert dep.asset_key == API
            assert {f"GET {dep.column_name}"} == lineage().api_fields(f"{table.name}.{column}")


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_finds_a_column_and_draws_its_way(tmp_path, width) -> None:
    file = tmp_path / "lineage.html"
    file.write_text(lineage().page())
    assert file.stat().st_size < 300_000
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(file.as_uri())
        page.get_by_role("searchbox").fill("dim_user email_domain_class")
        page.locator("#found button").click()
        assert page.locator("#lanes section").first.locator("button").inner_text().split() == [
            "GET",
            "/api/backend/v1/user/query",
            "users.email",
        ]
        assert page.locator("#lanes path").count() == len(list(lineage().lines("dim_user.email_domain_class"))) - 1
        assert page.evaluate("document.documentElement.scrollWidth") == width
        browser.close()
    assert asked == [file.as_uri()]
    assert wrong == []
