"""The notebook as an app, and dlt's dashboard, in a real browser, on tables that were loaded."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from propel_assets.cli.report import NOTEBOOK
from propel_assets_tests.processes import free_port, running

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]


@pytest.fixture
def app(monkeypatch, tmp_path) -> Iterator[Callable[..., str]]:
    """Run a marimo notebook as an app until the test ends, and return where."""
    expect.set_options(timeout=60_000)
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    with ExitStack() as apps:

        def run(notebook: Path | str, *words: str) -> str:
            port = free_port()
            marimo = [Path(sys.executable).with_name("marimo"), "run", notebook]
            options = ["--headless", "--no-token", "--host", "127.0.0.1", "--port", str(port)]
            apps.enter_context(running([*marimo, *options, *words], port))
            return f"http://127.0.0.1:{port}"

        yield run


def test_the_notebook_as_an_app_draws_every_chart_and_again_per_month(app, settings, run_process, page: Page, picture):
    assert run_process("load", "user_query", "org_query", "org_membership", "chart_metrics").returncode == 0
    page.goto(app(NOTEBOOK))
    expect(page.locator("svg[role=img][aria-label]")).to_have_count(7)
    expect(page.get_by_text("300", exact=True)).to_be_visible()
    expect(page.get_by_label("Sign-ups, Weekly")).to_be_visible()
    picture("notebook")
    page.get_by_role("radio", name="Monthly").click()
    expect(page.get_by_label("Sign-ups, Monthly")).to_be_visible()


def test_without_tables_the_app_says_what_to_run(app, page: Page):
    page.goto(app(NOTEBOOK))
    expect(page.get_by_text("propel-assets load")).to_be_visible()


def test_dlts_dashboard_lists_our_tables(app, settings, run_process, page: Page, picture):
    from dlt._workspace.helpers.dashboard import dlt_dashboard  # imports marimo

    assert run_process("load", "user_query", "org_query", "org_membership").returncode == 0
    page.goto(app(dlt_dashboard.__file__, "--", "--pipeline", "propel_auth_pipeline"))
    expect(page.get_by_text("user_query").first).to_be_visible()
    picture("dashboard")
