"""The built documentation in a real browser: no serious axe-core violations, light or dark, wide or narrow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.reference_models.browser import check_accessibility, chromium, overflow

SITE = Path(__file__).parents[2] / "docs" / "_build" / "html"
PAGES = [
    "index.html",
    "start.html",
    "methods/attn_mixup.html",
    "tutorials/modules.html",
    "tutorials/system.html",
    "tutorials/own_data.html",
    "systems/index.html",
    "results.html",
    "equations.html",
    "reference/attnmixup.html",
    "reference/generated/reference_models.prediction.html",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not SITE.is_dir(), reason="the site is not built: pip install -e '.[docs]' && make docs"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
@pytest.mark.parametrize("name", PAGES)
def test_page_is_accessible(browser: Any, name: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto((SITE / name).as_uri())
    check_accessibility(page)
    assert overflow(page) == 0
    assert {urlsplit(url).scheme for url in requested} <= {"file", "data"}
    context.close()
