"""Table of a sweep with the paper's numbers and ours, as Markdown and as CSV."""

import csv
import shlex
from collections.abc import Mapping, Sequence
from io import StringIO
from statistics import mean, stdev

from reference_models.sweeps.cells import Cell
from reference_models.sweeps.outcome import Outcome
from reference_models.sweeps.tables import Table

FIELDS = (
    "table",
    "row",
    "column",
    "score",
    "paper",
    "mean",
    "deviation",
    "seeds",
    "values",
    "state",
    "labels",
    "reason",
)
COSTS = ("parameters", "epoch_seconds")
NEAR = 0.03  # tolerance between F1 and the value computed from rounded precision and recall
Outcomes = Mapping[Cell, Outcome]


def csv_table(table: Table, outcomes: Outcomes, seeds: Sequence[int]) -> str:
    """Format the outcomes as CSV, one line per cell and score, in percent; missing numbers are empty."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*FIELDS, *(COSTS if table.costs else ())])
    for cell, outcome in outcomes.items():
        costs = [outcome.parameters or "", outcome.epoch_seconds or ""] if table.costs else []
        for score in table.scores:
            values = outcome.values.get(score, [])
            ours = [mean(values) if values else "", stdev(values) if len(values) > 1 else ""]
            basis = [" ".join(map(str, seeds)), " ".join(map(str, values))]
            end = [outcome.state, outcome.fingerprint, outcome.reason, *costs]
            writer.writerow([table.name, cell.row, cell.column, score, cell.paper.get(score, ""), *ours, *basis, *end])
    return text.getvalue()


def markdown_table(table: Table, outcomes: Outcomes, seeds: Sequence[int], overrides: Sequence[str]) -> str:
    """Format the table as Markdown in the layout of the paper, with the paper's numbers and ours, and notes below."""
    reasons = list(dict.fromkeys(outcome.reason for outcome in outcomes.values() if outcome.state == "failed"))
    columns = list(dict.fromkeys((cell.column, cell.data in table.data) for cell in outcomes))
    costs = ("M parameters", "s/epoch") if table.costs else ()
    heads = [
        f"{name} {what}" for name, printed in columns for what in (*(("paper",) if printed else ()), "ours", *costs)
    ]
    lines = [["", *heads]]
    found = {(cell.row, cell.column): cell for cell in outcomes}
    for row in dict.fromkeys(cell.row for cell in outcomes):
        line = [row]
        for column, printed in columns:
            cell = found.get((row, column))
            if printed:
                line.append(_paper(cell, table.scores))
            line.append(_ours(outcomes[cell], table.scores, reasons) if cell else "-")
            if table.costs:
                line += _costs(outcomes[cell]) if cell else ["-", "-"]
        lines.append(line)
    title = f"## Table {table.name.removeprefix('table')}: {table.title}"
    below = _basis(table, outcomes, seeds)
    if overrides:
        below.append(f"- Set for all cells: `{shlex.join(overrides)}`.")
    below += [f"- {note}" for note in table.notes]
    below += [f"- [{number}] {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([title, "", *aligned(lines), "", *below]) + "\n"


def expected_f1(paper: Mapping[str, float]) -> float | None:
    """Return the F1 computed from the paper's precision and recall if it differs from the paper's F1, else None."""
    if paper.keys() < {"precision", "recall", "f1"}:
        return None
    f1 = 2 * paper["precision"] * paper["recall"] / (paper["precision"] + paper["recall"])
    return f1 if abs(f1 - paper["f1"]) > NEAR else None


def _paper(cell: Cell | None, scores: Sequence[str]) -> str:
    if cell is None or not cell.paper:
        return "-"
    numbers = (f"{cell.paper[score]:.2f}" if score in cell.paper else "-" for score in scores)
    return " / ".join(numbers) + ("*" if expected_f1(cell.paper) is not None else "")


def _ours(outcome: Outcome, scores: Sequence[str], reasons: Sequence[str]) -> str:
    if outcome.state == "failed":
        return f"failed [{reasons.index(outcome.reason) + 1}]"
    if outcome.state != "finished":
        return outcome.state
    return " / ".join(with_deviation(outcome.values[score]) for score in scores)


def with_deviation(values: Sequence[float]) -> str:
    """Format the mean of values, with their standard deviation if there are several."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _costs(outcome: Outcome) -> list[str]:
    if not outcome.parameters:
        return ["-", "-"]
    return [f"{outcome.parameters / 1e6:.2f}", f"{outcome.epoch_seconds:.1f}"]


def _basis(table: Table, outcomes: Outcomes, seeds: Sequence[int]) -> list[str]:
    ours = "mean ± sample standard deviation over the seeds" if len(seeds) > 1 else "single seed"
    what = "P / R / F1 in percent" if len(table.scores) > 1 else "percent"
    lines = [f"- Test split, {what}; ours: {ours} {', '.join(map(str, seeds))}."]
    odd = ((cell, expected_f1(cell.paper)) for cell in outcomes)
    differing = [f"{f1:.2f} ({cell.row}, {cell.column})" for cell, f1 in odd if f1 is not None]
    if differing:
        lines.append(f"- * The paper's F1 does not follow from its P and R, which give {', '.join(differing)}.")
    for data in dict.fromkeys(cell.data for cell in outcomes):
        labels = {outcome.fingerprint for cell, outcome in outcomes.items() if cell.data == data} - {""}
        if labels:
            lines.append(f"- Labels of {data}: {', '.join(sorted(labels))}.")
        if data in table.synthetic:
            lines.append(f"- {data} is a synthetic data set; the paper has no results on it.")
    return lines


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; the first line is the header, and the first column is left-aligned."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first, *others = (
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |" for line in lines
    )
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return [first, rule, *others]
