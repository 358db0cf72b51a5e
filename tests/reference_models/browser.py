"""Headless Chromium for the tests that are marked `browser`."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
LOCAL = ("127.0.0.1", "localhost")


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a Playwright browser, or skip the test if none is installed."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    with api.sync_playwright() as playwright:
        program = next(filter(None, map(shutil.which, PROGRAMS)), playwright.chromium.executable_path)
        if not Path(program).exists():
            pytest.skip("Chromium is not installed: apt install chromium, or playwright install chromium")
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


def check_accessibility(page: Any) -> None:
    """Check that axe-core finds no serious violation on a page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page).response["violations"]
    lines = [f"{one['id']}: {one['help']}: {one['nodes'][0]['html']}" for one in found]
    serious = [line for line, one in zip(lines, found, strict=True) if one["impact"] in ("serious", "critical")]
    assert not serious, serious


def overflow(page: Any) -> int:
    """Return how many pixels a page extends beyond the width of its window."""
    width: int = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return width
