"""The figure of a suite: a dot with its interval for every data set and arm."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from benchmarks.evidence.comparisons import Difference

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw_figure(suite: str, differences: Sequence[tuple[str, str, Difference]], folder: Path) -> None:
    """Write ``{suite}.png``.

    Args:
        suite: Name of the suite.
        differences: Data set, arm and difference to plain training.
        folder: Where the figure goes.
    """
    data_sets = list(dict.fromkeys(name for name, _, _ in differences))
    arms = list(dict.fromkeys(arm for _, arm, _ in differences))
    if not data_sets:
        return
    height = 1.0 + 0.22 * len(arms)
    figure, panels = plt.subplots(
        1,
        len(data_sets),
        figsize=(2.0 + 2.4 * len(data_sets), height),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for panel, name in zip(panels[0], data_sets, strict=True):
        for data_set, arm, difference in differences:
            if data_set == name:
                panel.errorbar(
                    difference.mean,
                    arms.index(arm),
                    xerr=difference.half_width() or 0,
                    fmt="o",
                    ms=4,
                    capsize=2,
                    color="C0",
                )
        panel.axvline(0, color="grey", lw=0.8)
        panel.set_title(name, fontsize=9)
        panel.tick_params(labelsize=8)
    panels[0][0].set_yticks(range(len(arms)), arms)
    panels[0][0].invert_yaxis()
    figure.supxlabel("test micro-F1 to plain training, points, with 95% interval", fontsize=8)
    figure.savefig(folder / f"{suite}.png", dpi=150)
    plt.close(figure)
