"""Sections of the report that need only the files of a run: facts and scores, curves, types, examples."""

from collections.abc import Mapping, Sequence
from typing import Any

from reference_models.data.samples import Sample
from reference_models.report.charts import IMAGE, TEXT, curve_chart
from reference_models.report.examples import Row, example, outcomes
from reference_models.report.markup import Markup, element, join, table
from reference_models.report.scores import confusion_map, type_table
from reference_models.tasks.task import Task
from reference_models.training.figure import History, points

BAD_LISTED = 20


def facts(task: Task, metrics: Mapping[str, Any], settings: str) -> Markup:
    """Show the task, data and settings of the run, and the scores on the validation and test splits."""
    bad = {split: checked.get("found", []) for split, checked in metrics["bad_images"].items()}
    known = {
        "task": task.title,
        "labels": f"fingerprint {metrics['labels_fingerprint']}",
        "seed": str(metrics["seed"]),
        "training": f"{metrics['seconds']:.0f} s, epoch {metrics['kept_epoch']:.0f} kept",
        "samples": _by_split(metrics["samples"]),
        "too long": _by_split({split: len(ids) for split, ids in metrics["too_long"].items()}),
        "words cut off": _by_split({split: cut["words"] for split, cut in metrics.get("words_cut", {}).items()}),
        "bad images": _by_split({split: len({one["file"] for one in found}) for split, found in bad.items()}),
    }
    listed = [
        f"{one['file']} of {one['sample']}: {one['reason']}; {one['action']}" for found in bad.values() for one in found
    ]
    if len(listed) > BAD_LISTED:
        listed[BAD_LISTED:] = [f"and {len(listed) - BAD_LISTED} more, listed in metrics.json"]
    scores = [name for name in ("precision", "recall", "f1", "accuracy") if name in metrics["test"]]
    rows = [
        [split, *(f"{100 * metrics[split][name]:.2f}" for name in scores), str(metrics["samples"][split])]
        for split in ("valid", "test")
    ]
    return join(
        [
            element("dl", *(join([element("dt", name), element("dd", value)]) for name, value in known.items())),
            table(["percent", *(name.replace("f1", "F1") for name in scores), "samples"], rows),
            _folded("bad images", "\n".join(listed)) if listed else "",
            _folded("settings", settings),
        ]
    )


def curves(history: History) -> Markup:
    """Plot the losses and the validation F1 over the epochs."""
    charts = [curve_chart(history, "task_loss", "task loss (nats)", TEXT, yscale="log")]
    notes = []
    if points(history, "semantic_loss"):
        charts.append(curve_chart(history, "semantic_loss", "semantic loss (nats)", IMAGE, yscale="log"))
    else:
        notes = [element("p", "No semantic loss curve: the run was trained without the semantic loss.", class_="note")]
    charts.append(curve_chart(history, "eval_f1", "validation F1", TEXT, ylim=(0, 1)))
    return join([element("div", *charts, class_="charts"), *notes])


def types(task: Task, rows: Sequence[Row]) -> Markup:
    """Show the test scores of each type, and the confusion matrix."""
    pairs = [pair for row in rows for pair in outcomes(task, row)]
    return join(
        [
            element("p", "Scores in percent on the test split.", class_="note"),
            type_table(pairs, task.noun),
            element("h3", "Confusion matrix"),
            element("p", f"Counts. The colour shows the share of the row. {task.note}", class_="note"),
            confusion_map(pairs, missed=task.missed, spurious=task.spurious),
        ]
    )


def examples(task: Task, right: Sequence[Row], wrong: Sequence[Row], samples: Mapping[str, Sample]) -> Markup:
    """Show correct and wrong rows of predictions with the images of their samples."""
    parts = []
    for title, chosen in (("Correct", right), ("Wrong", wrong)):
        shown = [example(task, row, samples[row["id"]]) for row in chosen]
        body = element("div", *shown, class_="examples") if shown else element("p", "None.", class_="note")
        parts += [element("h3", title), body]
    return join(parts)


def _by_split(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {number:,}" for split, number in numbers.items())


def _folded(title: str, text: str) -> Markup:
    return element("details", element("summary", title), element("pre", text))
