"""Debian's chromium, and pictures of what it shows."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which

import pytest
from playwright.sync_api import Page, sync_playwright


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1400, "height": 900})
        browser.close()


@pytest.fixture
def picture(page: Page) -> Callable[[str], None]:
    """Write what the page shows into the folder SCREENSHOTS, if that is set (`make screenshots`)."""

    def take(name: str) -> None:
        if folder := os.environ.get("SCREENSHOTS"):
            page.wait_for_load_state("networkidle")
            page.screenshot(path=Path(folder) / f"{name}.png")

    return take
