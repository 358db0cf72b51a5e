"""Charts are self-contained SVG images in the theme's text colour, identical on every call."""

from base64 import b64decode
from xml.etree import ElementTree

import pytest
import torch

from reference_models.report.charts import INK, TEXT, curve_chart, projection_chart
from reference_models.report.markup import Markup
from tests.reference_models.page_parser import Page

HISTORY = [{"epoch": epoch, "task_loss": 1 / epoch, "eval_f1": 1 - 1 / epoch} for epoch in (1.0, 2.0, 3.0)]


def curve() -> Markup:
    return curve_chart(HISTORY, "task_loss", "task loss", TEXT, yscale="log")


def projection() -> Markup:
    points = torch.arange(8.0).reshape(4, 2)
    return projection_chart({"text": points, "image": -points}, torch.tensor([0.7, 0.2]))


@pytest.mark.parametrize("draw", [curve, projection])
def test_chart_is_a_deterministic_svg_in_theme_colours(draw: object) -> None:
    (source,) = Page(draw()).values("src")
    svg = b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "prefers-color-scheme:dark" in svg
    assert "currentColor" in svg
    assert INK not in svg
    assert draw() == draw()
