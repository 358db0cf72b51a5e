"""The image of a training: losses and validation F1 over the epochs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from reference_models.data.samples import HALF

History = Sequence[Mapping[str, float]]


def points(history: History, key: str) -> list[tuple[float, float]]:
    """Epoch and value of a quantity, wherever it was logged."""
    return [(entry["epoch"], entry[key]) for entry in history if key in entry]


def training_figure(histories: Mapping[str, History], path: Path, ceiling: float | None = None) -> None:
    """Draw the histories of one or more runs into a PNG.

    Args:
        histories: by name, the entries that Trainer logs: `loss`, `semantic_loss` and `eval_f1` with their `epoch`.
        path: of the image.
        ceiling: best F1 that words alone can reach, drawn as a line where it is known.
    """
    from matplotlib.figure import Figure  # a second that commands without a figure save

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for number, (name, history) in enumerate(histories.items()):
        # In a label, a dollar begins a formula; half characters, of a path that is no UTF-8, cannot be drawn.
        name = HALF.sub("?", name.replace("$", r"\$"))
        for axes, key, style, label in (
            (losses, "task_loss", "-", f"{name}: task"),
            (losses, "semantic_loss", ":", f"{name}: semantic"),
            (scores, "eval_f1", "-", name),
        ):
            if curve := points(history, key):
                axes.plot(*zip(*curve, strict=True), style, marker=".", color=f"C{number}", label=label)
    if ceiling is not None:
        scores.axhline(ceiling, linestyle="--", color="grey", label="best that words alone allow")
    losses.set(xlabel="epoch", ylabel="loss (nats)", yscale="log", title="training")
    scores.set(xlabel="epoch", ylabel="F1", ylim=(0, 1), title="validation")
    for axes in (losses, scores):
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
