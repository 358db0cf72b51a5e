"""The report in a real browser: it fits phone and desktop windows and requests no other resource."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reference_models.report.page import write_report
from reference_models.settings import read_settings
from reference_models.training.folder import CONFIG
from tests.reference_models.browser import check_accessibility, chromium, overflow

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize("name", ["ner", "re", "text-only"])
def test_page_fits_every_window_width_without_requests(browser: Any, name: str, runs: dict[str, Path]) -> None:
    path = write_report(runs[name], read_settings(runs[name] / CONFIG))
    requested: list[str] = []
    for width, scheme in ((375, "light"), (768, "dark"), (1280, "light")):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("request", lambda request: requested.append(request.url))
        page.goto(path.as_uri())
        assert overflow(page) == 0, width
        assert page.get_by_role("heading", level=2).count() == 6
        check_accessibility(page)
        page.close()
    assert {url for url in requested if not url.startswith("data:")} == {path.as_uri()}
