"""The Dagster UI in a real browser, on what `propel-assets dev` starts, as a new user would click.

`make screenshots` runs this with SCREENSHOTS=docs: the pictures of the README are what was seen here.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from propel_assets.catalog import BY_NAME
from propel_assets_tests.processes import free_port, listens, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
RUN_MS = 240_000


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[str]:
    """The URL of the UI that `propel-assets dev` prints, started as by a script, deaf to SIGINT; SIGTERM ends all."""
    port = free_port()
    words = ["dev", "--no-live", "--port", str(port), "--sandbox-port", "0", "--users", "400", "--orgs", "30"]
    with (tmp_path / "dev.log").open("wb") as log:
        dev = subprocess.Popen(
            [sys.executable, "-m", "propel_assets.cli", *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "DAGSTER_HOME": str(tmp_path / "home")},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )
        ready = re.compile(r"UI is ready\.\n\nDagster UI: (\S+)\n")
        try:
            yield wait_until(lambda: ready.search((tmp_path / "dev.log").read_text()), dev, "the UI is ready", every=1)[
                1
            ]
        finally:
            dev.send_signal(signal.SIGTERM)
            dev.wait(60)
            print((tmp_path / "dev.log").read_text()[-2000:])
    assert not listens(port), "the UI still answers after SIGTERM"


def test_materialize_see_the_checks_turn_a_schedule_on_and_follow_an_asset_to_the_api(
    ui: str, page: Page, picture
) -> None:
    expect.set_options(timeout=30_000)
    page.goto(ui)
    for group in ("propel_auth_users", "propel_auth_orgs", "propel_auth_marts"):
        expect(page.get_by_text(group, exact=True).last).to_be_visible()
    ui = ui.removesuffix("/asset-groups")
    page.get_by_role("button", name=re.compile("Materialize all")).click()
    expect(page.get_by_text("Launched run")).to_be_visible()
    page.goto(f"{ui}/runs")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=RUN_MS)

    page.goto(f"{ui}/asset-groups")
    expect(page.get_by_text("propel_auth_scim", exact=True).last).to_be_visible()
    expect(page.get_by_text("fetching statuses")).to_have_count(0)

    page.goto(f"{ui}/assets/propel_auth_marts/fct_retention_weekly?view=lineage&lineageScope=upstream&lineageDepth=5")
    for name in ("propel_auth_api", "user_query", "users_history", "dim_user"):
        expect(page.get_by_text(name, exact=True).last).to_be_visible()
    picture("asset-graph")

    page.goto(f"{ui}/assets/propel_auth/org_membership?view=checks")
    for check in ("primary_key_is_unique", "references_exist", "row_count", "schema", "volume"):
        page.get_by_text(check, exact=True).first.click()
        expect(page.get_by_text("Passed", exact=True).first).to_be_visible()
    picture("checks")

    page.goto(f"{ui}/assets/propel_auth/user_query")
    email = next(column for column in BY_NAME["user_query"].columns if column.name == "email")
    expect(page.get_by_text(email.description, exact=True)).to_be_visible()
    expect(page.get_by_text("Row count")).to_be_visible()
    picture("asset")

    page.goto(f"{ui}/assets/propel_auth_marts/fct_signups_daily")
    expect(page.get_by_text("Show markdown").first).to_be_visible()
    page.get_by_text("Show markdown").first.click()
    expect(page.get_by_role("dialog").get_by_role("img").first).to_be_visible()
    picture("mart")

    page.goto(f"{ui}/locations/propel_assets.definitions/schedules/propel_auth_daily")
    running = page.get_by_role("row").filter(has_text="Running").get_by_role("checkbox")
    expect(running).not_to_be_checked()
    running.locator("xpath=..").click()  # the box is drawn; the input itself is hidden
    expect(running).to_be_checked()

    page.goto(f"{ui}/assets/propel_auth/user_query?view=lineage")
    page.get_by_text("propel_auth_api", exact=True).last.click()
    expect(page).to_have_url(re.compile(r"/assets/propel_auth_api\b"))
    page.get_by_text("Overview", exact=True).last.click()
    expect(page.get_by_text("PropelAuth's backend API.").first).to_be_visible()
