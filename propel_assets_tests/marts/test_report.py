"""The page of `propel-assets report`: what is on it, what is not, and how it looks in a browser.

`make screenshots` runs the last tests with SCREENSHOTS=docs.
"""

import base64
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which
from xml.etree import ElementTree

import dagster as dg
import pytest
from playwright.sync_api import Browser, sync_playwright

from propel_assets.catalog import BY_NAME
from propel_assets.defs.marts import build_marts
from propel_assets.privacy.policy_file import load_policy
from propel_assets.reporting.charts import CHARTS, missed_changes
from propel_assets.reporting.report import render
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import load_settings
from propel_assets.warehouse.checks import examine
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.query import open_warehouse
from propel_assets_tests.defs.default import DEFAULT
from propel_assets_tests.marts.conftest import DESCRIPTIONS

TITLES = ("Sign-ups per week", "Active users per week", "Retention", "Seats used", "Roles", "MFA")
EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.\w+")


@pytest.fixture
def report(run_cli, tmp_path) -> Callable[..., str]:
    """Return the page, as text, that the command writes of a DuckDB file."""

    def run(file: Path = tmp_path / "propel_auth_pipeline.duckdb") -> str:
        done = run_cli("report", "--output", str(tmp_path / "r.html"), DESTINATION__DUCKDB__CREDENTIALS=str(file))
        assert done.returncode == 0, done.stderr
        return (tmp_path / "r.html").read_text()

    return run


DRAWN = set(CHARTS) - {"audit_event_grades"}  # without webhooks there is no grade


def cells(page: str, kind: str, section: str = "changes") -> list[str]:
    """Return the text of the cells of a row in a section."""
    row = re.search(rf'<section id="{section}">.*?<th scope="row">{kind}</th>(.*?)</tr>', page, re.DOTALL)
    assert row is not None
    return re.findall(r"<td[^>]*>(.*?)</td>", row[1])


def test_the_page_of_a_loaded_warehouse_is_complete_and_self_contained_without_personal_data(loaded, report) -> None:
    page = report(loaded.file)
    assert "<title>PropelAuth report</title>" in page
    assert "<h1>PropelAuth report</h1>" in page
    for title in TITLES:
        assert f"<h3>{title}" in page
    assert "No webhooks have been loaded: see the page " in page
    for section in ("changes", "charts", "completeness", "checks", "definitions"):
        assert f'<section id="{section}">' in page
    for mart in DRAWN:
        assert f'<a href="#{mart}">Definition</a>' in page
        assert f'<article id="{mart}"><h3>{mart}</h3>\n<p>{DESCRIPTIONS[mart]["description"].split()[0]}' in page
    assert "<code>is_before_first_load</code>" in page
    for kind, mart in (("Users", "dim_user"), ("Orgs", "dim_org")):
        [(as_of,)] = loaded.query(f"SELECT strftime(max(as_of), '%-d %B %Y, %H:%M') FROM {mart}")
        assert f"{kind} as read on {as_of} UTC." in page
    assert page.count('<svg role="img" aria-label=') == 2 * len(DRAWN)  # for laptops and for phones
    assert page.count("The numbers as a table") == len(DRAWN)
    assert EMAIL.findall(page) == []
    assert "http" not in page
    assert "<script" not in page
    [(users,)] = loaded.query("SELECT count(*) FROM dim_user")
    assert cells(page, "Users") == [
        f"{users} in the first build of the history. Changes are shown after the next build."
    ]


def test_only_settled_grades_count_as_missed_changes() -> None:
    grades = [("user.created", 9, 9, False), ("user.created", 5, 1, True), ("org.created", 2, 0, True)]
    chart = missed_changes(lambda sql: grades, "marts")
    assert chart is not None
    assert chart.headline == ("1", "changes that webhooks missed")
    assert "1 of 7 changes" in chart.summary
    assert "1 comparison not final yet" in chart.summary
    assert chart.rows == [("user.created", "1", "of 5"), ("org.created", "0", "of 2")]
    waiting = missed_changes(lambda sql: grades[:1], "marts")
    assert waiting is not None
    assert waiting.headline is None
    assert waiting.summary == "No comparison is final yet: events can still arrive for 1 comparison."


@pytest.mark.slow
def test_what_changed_between_the_last_two_loads_is_counted(small_sandbox, small, build, report, query) -> None:
    store = small_sandbox.store
    one, two, gone = list(store.users)[:3]
    load_all(small)
    build(small)
    [(first,)] = query("SELECT strftime(max(read_at), '%-d %B %Y, %H:%M') FROM propel_auth_history.user_loads")
    store.update_user(one, first_name="b")
    store.update_user(two, first_name="b")
    store.delete_user(gone)
    load_all(small)
    stale = report()
    build(small)
    fresh = report()
    store.add_user(user_id=gone, first_name="b")
    store.add_user(user_id="a-new-one", first_name="b")
    load_all(small)
    build(small)
    assert cells(stale, "Users") == cells(stale, "Memberships") == ["The marts are older than the last load."]
    assert "`propel-assets refresh`" in stale
    assert cells(fresh, "Users") == ["19", "0", "2", "1", "0"]  # now, new, changed, gone, back
    assert cells(fresh, "Memberships")[0] == str(sum(map(len, store.of_org.values())))
    assert "propel-assets refresh" not in fresh
    assert f"Users: since the load of {first} UTC." in fresh
    assert "since the load of" not in stale
    assert cells(report(), "Users") == ["21", "1", "0", "0", "1"]
    assert cells(report(), "Orgs") == ["4", "0", "0", "0", "0"]
    assert cells(report(), "user_<wbr>query", "checks")[1] == "+2"


@pytest.mark.slow
def test_the_history_of_completeness_has_each_scan_and_the_age_of_the_data(small_sandbox, small, report) -> None:
    load_scan("orgs", small)
    small_sandbox.faults.set("orgs_off")
    load_scan("orgs", small)
    page = report()
    assert "counted: completeness is not proved" in page
    marks = re.search(r'org_<wbr>query</th>\s*<td><span class="marks" role="img" aria-label="([^"]*)"', page)
    assert marks is not None
    assert marks[1] == "proved, skipped"
    assert re.search(r'org_<wbr>query</th>.*?<td class="number">0 min</td>', page, re.DOTALL)


def load_all(settings) -> None:
    for scan in ("users", "orgs", "role_mappings"):
        load_scan(scan, settings)


@pytest.mark.slow
def test_without_marts_each_chart_says_how_to_get_them(small, report) -> None:
    load_all(small)
    page = report()
    for mart in DRAWN:
        assert f"propel_auth_marts.{mart} has not been built yet." in page
    assert page.count("`propel-assets refresh`") == 1
    assert "No webhooks have been loaded: see the page " in page
    assert "users_history has not been built yet" in cells(page, "Users")[0]
    assert "Nothing has been checked yet" in page


@pytest.mark.slow
def test_a_feature_that_is_not_enabled_is_shown_as_the_reason(small_sandbox, small, build, report) -> None:
    small_sandbox.faults.parse("orgs_off")
    small_sandbox.faults.parse("insights_off")
    load_all(small)
    load_scan("chart_metrics", small)
    build(small)
    page = report()
    assert "<h3>Sign-ups per week" in page
    assert "org_query was skipped: " in page
    assert "org_membership" in page
    reason = "Skipped. The key may not read this: GET /api/backend/v1/chart_metrics/"
    assert f'>chart_<wbr>metrics<br><span class="quiet">{reason}' in page


@pytest.mark.slow
@pytest.mark.parametrize("built", [True, False])
def test_an_empty_tenant_is_a_page_of_sentences(built, build, report) -> None:
    with Sandbox(users=0, orgs=0, seed=3) as empty:
        settings = load_settings({"auth_url": empty.url, "api_key": empty.api_key})
        load_all(settings)
    if built:
        build(settings)
    assert report().count("is empty: there is nothing to show yet." if built else "has not been built yet") >= 3


@pytest.mark.slow
def test_a_failed_check_is_shown(small, tmp_path) -> None:
    load_all(small)
    with open_warehouse(small.target, load_policy(small.privacy_settings)) as warehouse:
        warehouse.rows(f"DELETE FROM {warehouse.table('user_query')} RETURNING 1")
        examine(warehouse, BY_NAME["user_query"])
        page = render(warehouse, small.target)
    assert "user_query: row_count. 0 rows, expected 20." in page


def test_nothing_loaded_is_an_error_that_says_what_to_run(run_cli, tmp_path) -> None:
    done = run_cli("report")
    assert done.returncode == 1
    assert "Otherwise run propel-assets load." in done.stderr
    assert list(tmp_path.glob("*.html")) == []


def test_a_place_that_cannot_be_written_to_is_one_sentence(loaded, run_cli, tmp_path) -> None:
    file = str(loaded.file)
    done = run_cli("report", "--output", "nowhere/r.html", DESTINATION__DUCKDB__CREDENTIALS=file)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "Cannot write nowhere/r.html: No such file or directory. Choose another --output." in done.stderr


@pytest.mark.slow
def test_dagster_has_the_chart_beside_each_mart(small, build) -> None:
    load_all(small)
    assets = build_marts(DEFAULT)
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(assets, resources=DEFAULT.resources, instance=instance, raise_on_error=False)
    shown = {
        event.materialization.asset_key.path[-1]: event.materialization.metadata["chart"].value
        for event in done.get_asset_materialization_events()
        if "chart" in event.materialization.metadata
    }
    assert set(shown) == DRAWN
    for chart in shown.values():
        assert "](data:image/svg+xml;base64," in str(chart)
    previews = [
        str(event.materialization.metadata["chart_preview"].value)
        for event in done.get_asset_materialization_events()
        if "chart_preview" in event.materialization.metadata
    ]
    assert len(previews) == len(DRAWN)
    for preview in previews:
        assert len(preview) < 1_000, "Dagster shows longer Markdown behind a button only"
        picture = base64.b64decode(preview.split("base64,")[1].removesuffix(")")).decode()
        assert ElementTree.fromstring(picture).tag.endswith("svg")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox"])
        yield running
        running.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_a_request_an_error_or_a_sideways_scroll(
    width, scheme, loaded, report, browser, tmp_path
) -> None:
    report(loaded.file)
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen: list[str] = []
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: seen.append(request.url))
    page.goto((tmp_path / "r.html").as_uri())
    assert seen == [(tmp_path / "r.html").as_uri()]
    assert page.locator("svg:visible").count() == len(DRAWN)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # Every label of a chart stands inside its drawing.
    assert (
        page.evaluate(
            """[...document.querySelectorAll('svg')].filter(svg => svg.checkVisibility()).flatMap(svg => {
            const frame = svg.getBoundingClientRect()
            return [...svg.querySelectorAll('text')].filter(text => {
                const box = text.getBoundingClientRect()
                return box.left < frame.left - 1 || box.right > frame.right + 1
            }).map(text => text.textContent)
        })"""
        )
        == []
    )
    if (folder := os.environ.get("SCREENSHOTS")) and (width, scheme) == (1280, "light"):
        page.screenshot(
            path=Path(folder) / "report.png", clip={"x": 0, "y": 0, "width": 1280, "height": 1230}, full_page=True
        )
    page.close()
