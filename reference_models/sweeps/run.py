"""`i2srm sweep`: trains the cells of a table that are missing, and keeps the table of what is finished."""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from accelerate import PartialState

from reference_models.data.formats import get_format
from reference_models.data.synthetic import generate
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
# The data of a sweep stay the same while the seeds of the training vary.
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
    """The cells of a table with their states, a line each; nothing is trained.

    Raises:
        UserError: as `run_sweep`.
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
    """Train what is missing of a table, cell by cell; returns how many cells failed.

    After each cell the table of all that is finished is in `output`, as NAME.md and NAME.csv. The same command goes on
    where a sweep was stopped. A cell that fails is shown as such with its reason, and the others go on.

    Args:
        name: "table1" to "table6", or "plug-and-play".
        data: names of data sets; none for those of the paper. A synthetic one that does not exist is generated.
        seeds: of the training.
        output: folder of the sweep.
        overrides: settings for all cells, as on the command line.
        systems: names of the systems' files whose rows are trained; none for all.
        jobs: cells that are trained at once, each in a process of its own.

    Returns:
        How many cells failed.

    Raises:
        UserError: no such table, system, data set or setting, seeds that are not different whole numbers from 0, or
            `jobs` that cannot be; then nothing was written.
    """
    table = _load(name, systems)
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"expected different seeds, one or more, each 0 or more, got {list(seeds)}")
    cells = make_cells(table, data or table.data, output, overrides)
    state = PartialState()
    if jobs < 1 or (jobs > 1 and os.environ.get("WORLD_SIZE", "1") != "1"):
        raise UserError(f"--jobs must be 1 or more, and 1 where several processes train together, got {jobs}")
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
    """Train the cells, in their order or several at once; each with how it ended, as soon as it has."""
    if jobs == 1:
        for number, cell in enumerate(cells, start=1):
            PartialState().print(f"\n== cell {number} of {len(cells)}: {_title(cell)}", flush=True)
            yield cell, _train(cell, seeds, scores, labelled=False)
        return
    for cell, call in run_jobs(partial(_train, seeds=seeds, scores=scores, labelled=True), cells, jobs):
        try:
            yield cell, result_of(call)
        except UserError as error:  # a process was killed, which ends those of the other cells too
            found = read_outcome(cell, seeds, scores)
            reason = f"{error}; the same command goes on"
            yield cell, found if found.state == "finished" else Outcome("failed", reason=reason)


def _write_tables(
    table: Table, outcomes: dict[Cell, Outcome], seeds: Sequence[int], overrides: Sequence[str], output: Path
) -> str:
    """Write what is finished; returns the Markdown."""
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
    except Exception as error:  # one encoder may not fit the memory, or its weights not be reached: the others may
        logger.exception("this cell failed")
        return Outcome("failed", reason=" ".join(f"{type(error).__name__}: {error}".split()))
    return read_outcome(cell, seeds, scores)


def _write_set(cell: Cell) -> None:
    """Generate the cell's synthetic set unless it exists; it appears whole or not at all."""
    root = Path(cell.config.data.root)
    if root.exists():
        return
    print(f"writing a synthetic set into {root}", flush=True)
    partial = root.parent.with_name(f"{root.parent.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    generate(partial / root.name, get_format(cell.config.data.format).task, DATA_SEED)
    partial.rename(root.parent)


def _title(cell: Cell) -> str:
    return f"{cell.row} on {cell.column}"
