"""The documentation site as a reader sees it: from its folder, without a server, a network, or anything cut off."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, expect

from propel_assets_tests.processes import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site in the folder SITE, where `.ci/run` names what `make docs` has built; else build it."""
    if built := os.environ.get("SITE"):
        return Path(built)
    folder = tmp_path_factory.mktemp("site")
    words = ["-W", "--keep-going", "-q", "-b", "html", "-d", folder / "doctrees", ROOT / "docs", folder / "html"]
    built = subprocess.run([sys.executable, "-m", "sphinx", *words], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-4000:]
    return folder / "html"


@pytest.fixture
def requests(page: Page) -> list[str]:
    """The URLs that the page has requested from elsewhere than its folder."""
    found: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith(("file:", "data:")):
            found.append(request.url)

    page.on("request", note)
    return found


def test_the_search_works_from_the_folder_and_nothing_is_requested(site: Path, page: Page, requests) -> None:
    page.goto((site / "index.html").as_uri())
    page.get_by_role("textbox", name="Search").fill("proved")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="How a list is scanned").first).to_be_visible(timeout=30_000)
    page.locator("ul.search").get_by_role("link", name="How a list is scanned").first.click()
    expect(page.get_by_role("heading", name=re.compile("How a list is scanned"))).to_be_visible()
    assert requests == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_no_page_is_cut_off_and_none_requests_anything(site: Path, page: Page, requests, size, scheme) -> None:
    page.set_viewport_size(size)
    page.emulate_media(color_scheme=scheme)
    wide = []
    for file in sorted(site.rglob("*.html")):
        if file.name == "lineage.html":
            continue
        page.goto(file.as_uri())
        if page.evaluate("document.documentElement.scrollWidth") > size["width"]:
            wide.append(file.relative_to(site).as_posix())
    assert wide == []
    assert requests == []


def test_every_page_is_in_the_navigation(site: Path, page: Page) -> None:
    page.goto((site / "index.html").as_uri())
    linked = {
        Path(link.split("#")[0]).as_posix()
        for link in page.locator(".sidebar-tree a").evaluate_all(
            "links => links.map(link => decodeURI(link.href).replace('file://', ''))"
        )
    }
    pages = {
        f.as_posix()
        for f in site.rglob("*.html")
        if f.name not in {"index.html", "lineage.html", "genindex.html", "py-modindex.html", "search.html"}
    }
    assert {p for p in pages if "/decisions/0" not in p} <= linked
