"""A sweep's table: the paper's numbers beside ours, as Markdown to read and as CSV to compute with."""

import csv
import shlex
from collections.abc import Mapping, Sequence
from io import StringIO
from statistics import mean, stdev

from reference_models.sweeps.cells import Cell
from reference_models.sweeps.outcome import Outcome
from reference_models.sweeps.tables import Table

SCORES = {"precision": "P", "recall": "R", "f1": "F1"}
FIELDS = ("table", "row", "column", "score", "paper", "mean", "spread", "seeds", "values", "state", "labels", "reason")
Outcomes = Mapping[Cell, Outcome]


def csv_table(table: Table, outcomes: Outcomes, seeds: Sequence[int]) -> str:
    """A line for each cell and score; percent, and empty where there is no number."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for cell, outcome in outcomes.items():
        for score in table.scores:
            values = outcome.values.get(score, [])
            ours = [mean(values) if values else "", stdev(values) if len(values) > 1 else ""]
            basis = [" ".join(map(str, seeds)), " ".join(map(str, values))]
            end = [outcome.state, outcome.fingerprint, outcome.reason]
            writer.writerow([table.name, cell.row, cell.column, score, cell.paper.get(score, ""), *ours, *basis, *end])
    return text.getvalue()


def markdown_table(table: Table, outcomes: Outcomes, seeds: Sequence[int], overrides: Sequence[str]) -> str:
    """The table as the paper has it, the paper's number and ours in each cell, and below it what ours rest on."""
    reasons = list(dict.fromkeys(outcome.reason for outcome in outcomes.values() if outcome.state == "failed"))
    columns = list(dict.fromkeys((cell.column, cell.data in table.data) for cell in outcomes))
    heads = [f"{name} {whose}" for name, printed in columns for whose in (("paper", "ours") if printed else ("ours",))]
    lines = [["", *heads]]
    found = {(cell.row, cell.column): cell for cell in outcomes}
    for row in dict.fromkeys(cell.row for cell in outcomes):
        for score in table.scores:
            line = [row if len(table.scores) == 1 else f"{row}, {SCORES[score]}"]
            for column, printed in columns:
                cell = found.get((row, column))
                if printed:
                    line.append(f"{cell.paper[score]:.2f}" if cell and cell.paper else "-")
                line.append(_ours(outcomes[cell], score, reasons) if cell else "-")
            lines.append(line)
    title = f"## Table {table.name.removeprefix('table')}: {table.title}"
    below = _basis(table, outcomes, seeds)
    if overrides:
        below.append(f"- Set for all cells: `{shlex.join(overrides)}`.")
    below += [f"- {note}" for note in table.notes]
    below += [f"- [{number}] {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([title, "", *_aligned(lines), "", *below]) + "\n"


def _ours(outcome: Outcome, score: str, reasons: Sequence[str]) -> str:
    if outcome.state == "failed":
        return f"failed [{reasons.index(outcome.reason) + 1}]"
    if outcome.state != "finished":
        return outcome.state
    values = outcome.values[score]
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _basis(table: Table, outcomes: Outcomes, seeds: Sequence[int]) -> list[str]:
    spread = "mean ± sample standard deviation over the seeds" if len(seeds) > 1 else "of the only seed"
    lines = [f"- Test split, percent; ours: {spread} {', '.join(map(str, seeds))}."]
    for data in dict.fromkeys(cell.data for cell in outcomes):
        labels = {outcome.fingerprint for cell, outcome in outcomes.items() if cell.data == data} - {""}
        if labels:
            lines.append(f"- Labels of {data}: {', '.join(sorted(labels))}.")
        if data in table.synthetic:
            lines.append(f"- {data} is a synthetic set; nothing in the paper compares with it.")
    return lines


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first, *others = (
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |" for line in lines
    )
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return [first, rule, *others]
