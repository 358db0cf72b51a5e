"""`i2srm sweep`: train the unfinished cells of a table, and write the table of the finished ones."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from accelerate import PartialState

from reference_models.config.checks import check_seed
from reference_models.data.formats import get_format
from reference_models.data.synthetic import generate_whole
from reference_models.errors import UserError
from reference_models.files import write_text
from reference_models.jobs import result_of, run_jobs
from reference_models.names import unknown
from reference_models.sweeps.cells import Cell, make_cells
from reference_models.sweeps.differences import difference_csv, difference_figure, difference_table, differences
from reference_models.sweeps.outcome import Outcome, read_outcome
from reference_models.sweeps.report import csv_table, markdown_table
from reference_models.sweeps.tables import Table, load_table
from reference_models.training.seeds import train_seeds

logger = logging.getLogger(__name__)
# The data of a sweep is the same for all training seeds.
DATA_SEED = 0


def list_cells(
    name: str,
    data: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    overrides: Sequence[str],
    *,
    systems: Sequence[str] = (),
) -> str:
    """List the cells of a table with their states, one per line; nothing is trained.

    Raises:
        UserError: As in `run_sweep`.
    """
    table = _load(name, systems)
    cells = make_cells(table, data or table.data, output, overrides)
    states = [read_outcome(cell, seeds, table.scores).state for cell in cells]
    lines = [f"{state:<14}  {_title(cell)}  ({cell.config.output})" for cell, state in zip(cells, states, strict=True)]
    return "\n".join([*lines, f"{states.count('finished')} of {len(cells)} are finished"])


def run_sweep(
    name: str,
    data: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    overrides: Sequence[str],
    *,
    systems: Sequence[str] = (),
    jobs: int = 1,
) -> int:
    """Train the unfinished cells of a table.

    After each cell, the table of all finished cells is written to `output` as NAME.md and NAME.csv. An interrupted
    sweep resumes with the same command. A failed cell is shown with its error message; the others are still trained.

    Args:
        name: "table1" to "table6", or "plug-and-play".
        data: Names of data sets; empty for those of the paper. A missing synthetic data set is generated.
        seeds: Training seeds.
        output: Folder of the sweep.
        overrides: Settings for all cells, as on the command line.
        systems: Names of the system files whose rows are trained; empty for all.
        jobs: Number of cells to train in parallel, each in its own process.

    Returns:
        Number of failed cells.

    Raises:
        UserError: If the table, a system, a data set or a setting does not exist, the seeds are invalid or
            not different, or `jobs` is invalid. Nothing is written then.
    """
    table = _load(name, systems)
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"expected one or more different seeds, got {list(seeds)}")
    for seed in seeds:
        check_seed("a seed", seed)
    cells = make_cells(table, data or table.data, output, overrides)
    state = PartialState()
    if jobs < 1 or (jobs > 1 and os.environ.get("WORLD_SIZE", "1") != "1"):
        raise UserError(f"--jobs must be 1 or more, and 1 if several processes train together, got {jobs}")
    with state.main_process_first():
        for cell in cells:
            if cell.data in table.synthetic:
                _write_set(cell)
    outcomes = {cell: read_outcome(cell, seeds, table.scores) for cell in cells}
    text = ""
    for number, (cell, outcome) in enumerate(_outcomes(cells, seeds, table.scores, jobs), start=1):
        outcomes[cell] = outcome
        if jobs > 1:
            state.print(f"== {number} of {len(cells)} cells: {_title(cell)} is {outcome.state}", flush=True)
        if state.is_main_process:
            output.mkdir(parents=True, exist_ok=True)
            text = _write_tables(table, outcomes, seeds, overrides, output)
    state.print(f"\n{text}\n{name}.md and {name}.csv are in {output}/")
    return sum(outcome.state == "failed" for outcome in outcomes.values())


def _load(name: str, systems: Sequence[str]) -> Table:
    table = load_table(name)
    known = list(dict.fromkeys(row.system for row in table.rows))
    for system in systems:
        if system not in known:
            raise unknown(f"system of {name}", system, known)
    return replace(table, rows=tuple(row for row in table.rows if row.system in systems or not systems))


def _outcomes(
    cells: Sequence[Cell], seeds: Sequence[int], scores: Sequence[str], jobs: int
) -> Iterator[tuple[Cell, Outcome]]:
    """Train the cells, in order or in parallel; yield each with its outcome as soon as it has ended."""
    if jobs == 1:
        for number, cell in enumerate(cells, start=1):
            PartialState().print(f"\n== cell {number} of {len(cells)}: {_title(cell)}", flush=True)
            yield cell, _train(cell, seeds, scores, labelled=False)
        return
    for cell, call in run_jobs(partial(_train, seeds=seeds, scores=scores, labelled=True), cells, jobs):
        try:
            yield cell, result_of(call)
        except UserError as error:  # a process was killed, which also ends the processes of the other cells
            found = read_outcome(cell, seeds, scores)
            reason = f"{error}; run the same command again to resume"
            yield cell, found if found.state == "finished" else Outcome("failed", reason=reason)


def _write_tables(
    table: Table, outcomes: dict[Cell, Outcome], seeds: Sequence[int], overrides: Sequence[str], output: Path
) -> str:
    """Write the tables of the finished cells; return the Markdown."""
    if any(row.arm for row in table.rows):
        found = differences(table, outcomes)
        text = difference_table(table, found, outcomes, seeds, overrides)
        lines = difference_csv(found)
        difference_figure(found, output / f"{table.name}.png")
    else:
        text, lines = markdown_table(table, outcomes, seeds, overrides), csv_table(table, outcomes, seeds)
    write_text(output / f"{table.name}.md", text)
    write_text(output / f"{table.name}.csv", lines)
    return text


def _train(cell: Cell, seeds: Sequence[int], scores: Sequence[str], *, labelled: bool) -> Outcome:
    try:
        train_seeds(cell.config, seeds, label=_title(cell) if labelled else None)
    except UserError as error:
        logger.error("this cell failed: %s", error)
        return Outcome("failed", reason=str(error))
    except Exception as error:  # for example, out of memory or no network for one encoder; other cells may succeed
        logger.exception("this cell failed")
        return Outcome("failed", reason=" ".join(f"{type(error).__name__}: {error}".split()))
    return read_outcome(cell, seeds, scores)


def _write_set(cell: Cell) -> None:
    """Generate the synthetic data set of a cell, if it does not exist."""
    root = Path(cell.config.data.root)
    if root.exists():
        return
    print(f"writing a synthetic data set to {root}", flush=True)
    generate_whole(root, get_format(cell.config.data.format).task, DATA_SEED)


def _title(cell: Cell) -> str:
    return f"{cell.row} on {cell.column}"
