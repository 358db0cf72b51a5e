"""Effect of each module on each system: paired differences with intervals, as a table, as CSV and as a figure."""

import csv
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import NormalDist, mean, stdev

from matplotlib.figure import Figure

from reference_models.files import write_whole
from reference_models.sweeps.cells import Cell
from reference_models.sweeps.outcome import Outcome
from reference_models.sweeps.report import aligned, with_deviation
from reference_models.sweeps.tables import Table

SCORE = "f1"
ALL = "all systems"
FIELDS = ("data", "system", "arm", "mean", "difference", "half_width", "pairs")
# 97.5% quantiles of Student's t for 1 to 10 degrees of freedom.
QUANTILES = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


@dataclass(frozen=True)
class Difference:
    """F1 of a system with modules minus its F1 without modules, in percentage points.

    Attributes:
        data: Name of the data set.
        system: Name as in Table 1, or `ALL`.
        arm: Name of the modules in use.
        values: F1 with the modules (percent), one per seed; empty for `ALL`.
        pairs: Differences from the same seed without modules, one per seed; for `ALL`, one mean per system.
    """

    data: str
    system: str
    arm: str
    values: tuple[float, ...]
    pairs: tuple[float, ...]

    @property
    def half_width(self) -> float | None:
        """Half the width of the 95% t-interval of the mean difference; None for a single pair."""
        if len(self.pairs) < 2:
            return None
        return student_quantile(len(self.pairs) - 1) * stdev(self.pairs) / math.sqrt(len(self.pairs))

    def text(self) -> str:
        """Format the mean difference with its interval, as in "+0.52 [+0.11, +0.93]"."""
        middle, half = mean(self.pairs), self.half_width
        return f"{middle:+.2f}" + ("" if half is None else f" [{middle - half:+.2f}, {middle + half:+.2f}]")


def student_quantile(freedom: int) -> float:
    """Return the 97.5% quantile of Student's t, exact to three decimals."""
    if freedom <= len(QUANTILES):
        return QUANTILES[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def differences(table: Table, outcomes: Mapping[Cell, Outcome]) -> list[Difference]:
    """Compute the differences of all finished cells from the first arm, and their means over systems.

    Args:
        table: A table with arms.
        outcomes: Outcomes of its cells.

    Returns:
        Differences in percentage points, by data set; within a data set by system and arm, those of `ALL` last.
    """
    rows = {row.name: row for row in table.rows}
    values = {
        (cell.data, rows[cell.row].base, rows[cell.row].arm): tuple(outcome.values[SCORE])
        for cell, outcome in outcomes.items()
        if outcome.state == "finished"
    }
    plain, *arms = dict.fromkeys(row.arm for row in table.rows)
    found = []
    for data in dict.fromkeys(cell.data for cell in outcomes):
        for system in dict.fromkeys(row.base for row in table.rows):
            before = values.get((data, system, plain))
            for arm in arms:
                after = values.get((data, system, arm))
                if before is not None and after is not None:
                    pairs = tuple(a - b for a, b in zip(after, before, strict=True))
                    found.append(Difference(data, system, arm, after, pairs))
        for arm in arms:
            means = tuple(mean(one.pairs) for one in found if (one.data, one.arm) == (data, arm))
            if len(means) > 1:
                found.append(Difference(data, ALL, arm, (), means))
    return found


def difference_table(
    table: Table,
    found: Sequence[Difference],
    outcomes: Mapping[Cell, Outcome],
    seeds: Sequence[int],
    overrides: Sequence[str],
) -> str:
    """Format the differences as Markdown: one table per data set, followed by notes on how they were computed."""
    rows = {row.name: row for row in table.rows}
    plain, *arms = dict.fromkeys(row.arm for row in table.rows)
    known = {(one.data, one.system, one.arm): one for one in found}
    parts = [f"## {table.name}: {table.title}", ""]
    reasons = list(dict.fromkeys(outcome.reason for outcome in outcomes.values() if outcome.state == "failed"))
    for data in dict.fromkeys(cell.data for cell in outcomes):
        states = {(rows[c.row].base, rows[c.row].arm): o for c, o in outcomes.items() if c.data == data}
        lines = [["", f"F1 with {plain}", *arms]]
        for system in dict.fromkeys(system for system, _ in states):
            first = states[system, plain]
            line = [
                system,
                with_deviation(first.values[SCORE]) if first.state == "finished" else _state(first, reasons),
            ]
            for arm in arms:
                one = known.get((data, system, arm))
                line.append(_state(states[system, arm], reasons) if one is None else one.text())
            lines.append(line)
        if any((data, ALL, arm) in known for arm in arms):
            totals = (known.get((data, ALL, arm)) for arm in arms)
            lines.append([ALL, "", *("" if one is None else one.text() for one in totals)])
        parts += [f"### {data}", "", *aligned(lines), ""]
    parts.append(
        f"- Test split, percent, seeds {', '.join(map(str, seeds))}: F1 with {plain}, and mean paired differences from "
        "it in percentage points, with 95% t-intervals over the seeds."
    )
    parts.append(f'- "{ALL}": each system counts once by its mean; the interval is over systems.')
    for data in dict.fromkeys(cell.data for cell in outcomes):
        labels = {outcome.fingerprint for cell, outcome in outcomes.items() if cell.data == data} - {""}
        if labels:
            parts.append(f"- Labels of {data}: {', '.join(sorted(labels))}.")
    if overrides:
        parts.append(f"- Set for all cells: `{shlex.join(overrides)}`.")
    parts += [f"- [{number}] {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join(parts) + "\n"


def _state(outcome: Outcome, reasons: Sequence[str]) -> str:
    """Return the text shown instead of a missing number."""
    if outcome.state == "failed":
        return f"failed [{reasons.index(outcome.reason) + 1}]"
    return "no baseline" if outcome.state == "finished" else outcome.state


def difference_csv(found: Sequence[Difference]) -> str:
    """Format the differences as CSV, one line each, in percentage points; missing numbers are empty."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for one in found:
        middle = mean(one.values) if one.values else ""
        half = "" if one.half_width is None else one.half_width
        pairs = " ".join(map(str, one.pairs))
        writer.writerow([one.data, one.system, one.arm, middle, mean(one.pairs), half, pairs])
    return text.getvalue()


def difference_figure(found: Sequence[Difference], path: Path) -> None:
    """Plot the mean and interval of each system and module, one panel per data set. No-op without differences."""
    if not found:
        return
    data = list(dict.fromkeys(one.data for one in found))
    systems = list(dict.fromkeys(one.system for one in found if one.system != ALL))
    systems += [ALL] if any(one.system == ALL for one in found) else []
    arms = list(dict.fromkeys(one.arm for one in found))
    figure = Figure(figsize=(2 + 3.4 * len(data), 1.4 + 0.4 * len(systems)), layout="constrained")
    panels = figure.subplots(1, len(data), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, data, strict=True):
        for one in (one for one in found if one.data == name):
            number = arms.index(one.arm)
            panel.errorbar(
                mean(one.pairs),
                systems.index(one.system) + 0.22 * (number - (len(arms) - 1) / 2),
                xerr=one.half_width or 0,
                fmt="o",
                markersize=4,
                capsize=2,
                color=f"C{number}",
            )
        panel.axvline(0, color="grey", linewidth=0.8)
        panel.set(title=name, xlabel="difference in F1, points")
    for number, arm in enumerate(arms):
        panels[0].plot([], [], "o", color=f"C{number}", label=arm)
    panels[0].set_yticks(range(len(systems)), systems)
    panels[0].invert_yaxis()
    panels[0].legend(fontsize="small")
    write_whole(path, lambda part: figure.savefig(part, dpi=120, format="png"))
