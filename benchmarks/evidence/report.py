"""Tables and figures of the finished cells: one Markdown, CSV and PNG file for every suite."""

import csv
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean

from benchmarks.evidence.cells import Cell, Unit, finished_cells, units_of
from benchmarks.evidence.comparisons import Difference, mean_over_families, paired_difference
from benchmarks.evidence.config import PLAIN, Config, DataSet, Half
from benchmarks.evidence.figure import draw_figure
from reference_models.errors import UserError

HALVES: tuple[Half, ...] = ("design", "held_back")
MIN_FAMILIES = 3
DIAGNOSTICS = {
    "entropy": "entropy / uniform",
    "common": "common update",
    "same_class": "same class / chance",
    "norm_h": "norm of H",
    "norm_transformed": "norm of H*",
}


@dataclass(frozen=True)
class Result:
    """Finished cells of a data set and arm, by seed, and the difference to the reference arm."""

    data_set: DataSet
    arm: str
    cells: dict[int, Cell]
    difference: Difference | None
    macro_difference: Difference | None

    def mean(self, value: Callable[[Cell], float | None]) -> float | None:
        """Return the mean over seeds; None if a seed has no value."""
        values = [value(cell) for cell in self.cells.values()]
        known = [number for number in values if number is not None]
        return mean(known) if known and len(known) == len(values) else None

    def test(self, name: str) -> float | None:
        """Return the mean of a test score over seeds."""
        return self.mean(lambda cell: cell["test"][name])


def collect(config: Config, folder: Path, reference: str = PLAIN) -> list[Result]:
    """Return the results of all data sets and arms with finished cells, compared with the reference arm.

    Raises:
        UserError: If cells of one source were trained on different data or weights.
    """
    by_unit: dict[tuple[str, str], tuple[Unit, dict[int, Cell]]] = {
        (unit.data_set.name, unit.arm): (unit, finished_cells(unit, folder)) for unit in units_of(config)
    }
    _check_inputs(by_unit.values())
    results = []
    for (name, arm), (unit, cells) in by_unit.items():
        if not cells:
            continue
        _, other = by_unit.get((name, reference), (unit, {}))
        pair = [
            None if arm == reference else paired_difference(_by_seed(cells, score), _by_seed(other, score))
            for score in ("micro", "macro")
        ]
        results.append(Result(unit.data_set, arm, cells, *pair))
    return results


def _check_inputs(units: Iterable[tuple[Unit, dict[int, Cell]]]) -> None:
    inputs: dict[tuple[str, str], set[str]] = defaultdict(set)
    for unit, cells in units:
        for cell, name in product(cells.values(), ("data", "encoder")):
            inputs[unit.data_set.source, name].add(str(cell.get(name)))
    for (source, name), found in inputs.items():
        if len(found) > 1:
            raise UserError(
                f"cells of {source} were trained with different fingerprints of the {name}: "
                f"{', '.join(sorted(found))}; run the command without --report to train them again"
            )


def _by_seed(cells: dict[int, Cell], score: str) -> dict[int, float]:
    return {seed: cell["test"][score] for seed, cell in cells.items()}


def write_report(config: Config, folder: Path, command: str, reference: str = PLAIN) -> str:
    """Write ``{suite}.md``, ``.csv`` and ``.png`` and ``summary.md`` into the folder; return the summary.

    Args:
        config: Configuration of the benchmark.
        folder: Folder with the cells, and for the report.
        command: Command to print in the tables.
        reference: Name of the arm with which all others are compared.
    """
    results = collect(config, folder, reference)
    if not results:
        return f"No finished data set and arm in {folder / 'cells'}."
    origin = _origin(results, command)
    for suite in dict.fromkeys(result.data_set.suite for result in results):
        of_suite = [result for result in results if result.data_set.suite == suite]
        compared = [d for r in of_suite for d in (r.difference, r.macro_difference)]
        comparisons = sum(difference is not None for difference in compared)
        columns = _columns(comparisons, reference)
        rows = [[text(result) for text in columns.values()] for result in of_suite]
        parts = [
            f"# {suite}",
            _table(list(columns), rows),
            NOTES.format(reference=reference, comparisons=comparisons, by_chance=f"{comparisons * 0.05:.1f}"),
            _diagnostics(of_suite),
            f"![{suite}]({suite}.png)",
            origin,
        ]
        (folder / f"{suite}.md").write_text("\n\n".join(part for part in parts if part) + "\n")
        with (folder / f"{suite}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([list(CSV), *_csv_rows(of_suite)])
        differences = [(r.data_set.name, r.arm, r.difference) for r in of_suite if r.difference is not None]
        draw_figure(suite, differences, folder, reference)
    summary = "\n\n".join([_summary(results, reference), origin])
    (folder / "summary.md").write_text(f"# Summary\n\n{summary}\n")
    return summary


NOTES = """Test scores are means over seeds, in percent. Every arm uses the learning rate that validation chose for it.
Micro-F1 equals accuracy for one class per sample, leaves out the relation None, and counts whole entities. `to
{reference}` is the mean paired difference in micro-F1 (or macro-F1) with its 95% t-interval. * means that the interval
excludes 0, ** that it does so after Bonferroni's correction for the {comparisons} comparisons of this table. About
{by_chance} of them exclude 0 by chance alone. Head, medium and tail are macro-F1 over the thirds of classes with most,
fewer and fewest training samples (- if all classes have the same number). `to 99%`: epochs until validation micro-F1
first reaches 99% of its final value, and all epochs trained. `best - final`: best point of the validation curve minus
the final point. `(edge)`: the chosen learning rate is at an end of the grid. Seconds are for training one cell on one
thread."""


def _columns(comparisons: int, reference: str) -> dict[str, Callable[[Result], str]]:
    def number(value: float | None, digits: int = 1) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    return {
        "data set": lambda r: r.data_set.name,
        "arm": lambda r: r.arm,
        "seeds": lambda r: str(len(r.cells)),
        "rate": lambda r: f"{_rate(r):g}{_edge(r)}",
        "micro-F1": lambda r: number(r.test("micro")),
        f"to {reference}": lambda r: show_difference(r.difference, comparisons),
        "macro-F1": lambda r: number(r.test("macro")),
        f"to {reference} (macro)": lambda r: show_difference(r.macro_difference, comparisons),
        "head": lambda r: number(r.test("head")),
        "medium": lambda r: number(r.test("medium")),
        "tail": lambda r: number(r.test("tail")),
        "ECE": lambda r: number(r.test("ece")),
        "to 99%": lambda r: f"{number(_of(r, 'epochs_to_99'))} of {number(_of(r, 'epochs'))}",
        "best - final": lambda r: number(r.mean(lambda cell: cell["valid_best"] - cell["valid"])),
        "seconds": lambda r: number(_of(r, "seconds")),
    }


def _of(result: Result, name: str) -> float | None:
    return result.mean(lambda cell: cell[name])


def _diagnostic(result: Result, name: str) -> float | None:
    return result.mean(lambda cell: cell["diagnostics"].get(name))


def _rate(result: Result) -> float:
    rate: float = next(iter(result.cells.values()))["learning_rate"]
    return rate


def _edge(result: Result) -> str:
    """Mark a learning rate at an end of the grid, because a better one may lie outside the grid."""
    grid = result.data_set.training.learning_rates
    return " (edge)" if len(grid) > 1 and _rate(result) in (min(grid), max(grid)) else ""


CSV: dict[str, Callable[[Result], object]] = {
    "data_set": lambda r: r.data_set.name,
    "family": lambda r: r.data_set.family,
    "half": lambda r: r.data_set.half,
    "arm": lambda r: r.arm,
    "seeds": lambda r: len(r.cells),
    "learning_rate": lambda r: _rate(r),
    **{name: partial(Result.test, name=name) for name in ("micro", "macro", "head", "medium", "tail", "ece")},
    "micro_difference": lambda r: r.difference and r.difference.mean,
    "micro_half_width": lambda r: r.difference and r.difference.half_width(),
    "macro_difference": lambda r: r.macro_difference and r.macro_difference.mean,
    "macro_half_width": lambda r: r.macro_difference and r.macro_difference.half_width(),
    **{
        name: partial(_of, name=name)
        for name in ("valid", "valid_best", "epochs_to_99", "epochs", "seconds", "training_rows")
    },
    **{name: partial(_diagnostic, name=name) for name in DIAGNOSTICS},
}


def _csv_rows(results: Sequence[Result]) -> list[list[object]]:
    return [[value(result) for value in CSV.values()] for result in results]


def show_difference(difference: Difference | None, comparisons: int = 1) -> str:
    """Return a difference with its interval as text, for example ``+0.52 [+0.11, +0.93] *``."""
    if difference is None:
        return "-"
    width = difference.half_width()
    if width is None:
        return f"{difference.mean:+.2f}"
    stars = " **" if difference.excludes_zero(comparisons) else " *" if difference.excludes_zero() else ""
    return f"{difference.mean:+.2f} [{difference.mean - width:+.2f}, {difference.mean + width:+.2f}]{stars}"


def _summary(results: Sequence[Result], reference: str) -> str:
    """Return a table of the means of each half over families of data sets, with one row per arm."""
    rows = []
    for half in HALVES:
        of_half = [r for r in results if r.data_set.half == half and r.difference is not None]
        arms = list(dict.fromkeys(r.arm for r in of_half))
        for arm in arms:
            mine = [r for r in of_half if r.arm == arm]
            pairs = [(r.data_set.family, r.difference) for r in mine if r.difference is not None]
            means = mean_over_families(pairs)
            if means is None:
                continue
            over_families, over_seeds = means
            families = len({family for family, _ in pairs})
            better, worse = (sum(d.excludes_zero() and d.mean * sign > 0 for _, d in pairs) for sign in (1, -1))
            rows.append(
                [
                    half.replace("_", " "),
                    arm,
                    f"{len(pairs)} in {families}",
                    show_difference(over_families, len(arms)) if families >= MIN_FAMILIES else "-",
                    show_difference(over_seeds, len(arms)),
                    f"{better} / {worse}",
                ]
            )
    table = _table(
        [
            "half",
            "arm",
            "data sets in families",
            f"to {reference}, over families",
            f"to {reference}, over seeds",
            "better / worse",
        ],
        rows,
    )
    return f"{table}\n\n{SUMMARY_NOTES.format(reference=reference, families=MIN_FAMILIES)}"


SUMMARY_NOTES = """Mean paired differences to {reference} in test micro-F1 points, with 95% intervals. * means that the
interval excludes 0, ** that it does so after Bonferroni's correction for the arms of the half. All data sets made from
one source are one family, and each family counts once, with the mean over its data sets. Over families: the sample is
the families, with n - 1 degrees of freedom. This interval shows what to expect on another data set (- for fewer than
{families} families). Over seeds: the data sets are fixed and only their seeds vary. This interval shows whether other
seeds would give the same mean; data sets of a family share seeds and test rows, so their standard errors are averaged.
Better / worse: number of data sets whose 95% interval lies above / below 0, without correction. Arms that choose
partners by class are not run on entities, because a sentence has no single class, so their mean is over fewer families.
For the same reason `sampling: balanced` draws sentences as `random` does."""


def _diagnostics(results: Sequence[Result]) -> str:
    """Return a table with statistics of the attention of each arm after training."""
    rows = []
    for result in results:
        values = [_diagnostic(result, name) for name in DIAGNOSTICS]
        if any(value is not None for value in values):
            shown = ["-" if value is None else f"{value:.2f}" for value in values]
            rows.append([result.data_set.name, result.arm, *shown])
    return f"After training:\n\n{_table(['data set', 'arm', *DIAGNOSTICS.values()], rows)}" if rows else ""


def _origin(results: Sequence[Result], command: str) -> str:
    """Return the command, data fingerprints and versions as text."""
    cells = [cell for result in results for cell in result.cells.values()]
    data = sorted({f"{result.data_set.source} {cell['data']}" for result in results for cell in result.cells.values()})
    versions = sorted({f"{name} {number}" for cell in cells for name, number in cell["versions"].items()})
    return (
        f"`{command}`\n\nData: {', '.join(data)}. Versions: {', '.join(versions)}, Python {platform.python_version()}."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
