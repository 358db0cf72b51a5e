"""Training curves: losses and validation F1 over the epochs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from reference_models.data.samples import HALF

History = Sequence[Mapping[str, float]]


def points(history: History, key: str) -> list[tuple[float, float]]:
    """Return (epoch, value) of each log entry that contains a key."""
    return [(entry["epoch"], entry[key]) for entry in history if key in entry]


def training_figure(histories: Mapping[str, History], path: Path, ceiling: float | None = None) -> None:
    """Plot the histories of one or more runs as a PNG.

    Args:
        histories: Log entries of Trainer by name of the run: `task_loss`, `semantic_loss` and `eval_f1`, with `epoch`.
        path: Path of the image.
        ceiling: Best F1 that is possible from the text alone, drawn as a line; None if unknown.
    """
    from matplotlib.figure import Figure  # imported here, because it takes a second

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for number, (name, history) in enumerate(histories.items()):
        # A dollar sign starts a formula in a label. Lone surrogates (of a path that is not UTF-8) cannot be drawn.
        name = HALF.sub("?", name.replace("$", r"\$"))
        for axes, key, style, label in (
            (losses, "task_loss", "-", f"{name}: task"),
            (losses, "semantic_loss", ":", f"{name}: semantic"),
            (scores, "eval_f1", "-", name),
        ):
            if curve := points(history, key):
                axes.plot(*zip(*curve, strict=True), style, marker=".", color=f"C{number}", label=label)
    if ceiling is not None:
        scores.axhline(ceiling, linestyle="--", color="grey", label="best possible from text alone")
    losses.set(xlabel="epoch", ylabel="loss (nats)", yscale="log", title="training")
    scores.set(xlabel="epoch", ylabel="F1", ylim=(0, 1), title="validation")
    for axes in (losses, scores):
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
