"""Charts of the report, as SVG in the text colour of the reader's light or dark theme."""

from base64 import b64encode
from collections.abc import Mapping
from io import StringIO
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from reference_models.report.markup import Markup, element
from reference_models.training.figure import History, points

TEXT, IMAGE = "#3f7fd6", "#dd8428"
INK = "#010203"  # placeholder: every use is replaced with the text colour of the theme
THEME = "<style>svg{color:#2a2f38}@media(prefers-color-scheme:dark){svg{color:#cdd2da}}</style>"
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "svg.hashsalt": "the same ids each time",
}


def curve_chart(history: History, key: str, title: str, colour: str, **settings: object) -> Markup:
    """Plot a quantity of the history over the epochs; `settings` go to `Axes.set`."""
    with rc_context(STYLE):
        figure, axes = _axes(title)
        axes.plot(*zip(*points(history, key), strict=True), marker=".", color=colour)
        axes.set(xlabel="epoch", **settings)
        axes.locator_params(axis="x", integer=True)
        if axes.get_yscale() == "log":
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            axes.yaxis.set_minor_locator(NullLocator())
        return _image(figure, f"{title} over the epochs")


def projection_chart(sides: Mapping[str, Tensor], shares: Tensor) -> Markup:
    """Plot the points (N, 2) of both modalities, with the share of the variance on each axis."""
    with rc_context(STYLE):
        figure, axes = _axes("text and image embeddings")
        for (name, rows), colour in zip(sides.items(), (TEXT, IMAGE), strict=True):
            across, up = rows.T.tolist()
            axes.scatter(across, up, s=9, alpha=0.6, color=colour, linewidths=0, label=name)
            axes.plot(*rows.mean(dim=0).tolist(), "X", color=colour, markeredgecolor=INK, markersize=9)
        first, second = (f"component {i} ({100 * share:.0f}% of the variance)" for i, share in enumerate(shares, 1))
        axes.set(xlabel=first, ylabel=second)
        axes.locator_params(nbins=5)
        axes.legend(framealpha=0, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, handletextpad=0)
        return _image(figure, "projection of the text and image embeddings")


def _axes(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.8, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.15, color=INK)
    return figure, axes


def _image(figure: Figure, description: str) -> Markup:
    file = StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    start, end = file.getvalue().replace(INK, "currentColor").split("<defs>", maxsplit=1)
    data = b64encode(f"{start}{THEME}<defs>{end}".encode()).decode()
    return element("img", src=f"data:image/svg+xml;base64,{data}", alt=description)
