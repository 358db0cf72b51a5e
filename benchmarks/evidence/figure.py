"""Figure of a suite: a dot and an interval for every data set and arm."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from benchmarks.evidence.comparisons import Difference

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLUMNS = 3


def draw_figure(suite: str, differences: Sequence[tuple[str, str, Difference]], folder: Path, reference: str) -> None:
    """Write ``{suite}.png``, or nothing if there is no difference to show.

    Args:
        suite: Name of the suite.
        differences: Data set, arm and difference to the reference.
        folder: Folder of the figure.
        reference: Name of the reference arm.
    """
    data_sets = list(dict.fromkeys(name for name, _, _ in differences))
    arms = list(dict.fromkeys(arm for _, arm, _ in differences))
    if not data_sets:
        return
    columns = min(COLUMNS, len(data_sets))
    rows = math.ceil(len(data_sets) / columns)
    figure, panels = plt.subplots(
        rows,
        columns,
        figsize=(2.0 + 2.6 * columns, rows * (0.6 + 0.22 * len(arms)) + 0.4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for panel in panels.flat[len(data_sets) :]:
        panel.set_visible(False)
    for panel, name in zip(panels.flat, data_sets, strict=False):
        for _, arm, difference in (entry for entry in differences if entry[0] == name):
            width = difference.half_width() or 0
            panel.errorbar(difference.mean, arms.index(arm), xerr=width, fmt="o", ms=4, capsize=2, color="C0")
        panel.axvline(0, color="grey", lw=0.8)
        panel.set_title(name, fontsize=9)
        panel.tick_params(labelsize=8)
    panels[0][0].set_yticks(range(len(arms)), arms)
    panels[0][0].invert_yaxis()
    figure.supxlabel(f"test micro-F1, difference to {reference} in points, with 95% interval", fontsize=8)
    figure.savefig(folder / f"{suite}.png", dpi=150)
    plt.close(figure)
