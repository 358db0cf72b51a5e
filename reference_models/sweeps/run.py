"""`i2srm sweep`: trains the cells of a table that are missing, and keeps the table of what is finished."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState

from reference_models.data.formats import get_format
from reference_models.data.synthetic import generate
from reference_models.errors import UserError
from reference_models.sweeps.cells import Cell, make_cells
from reference_models.sweeps.outcome import Outcome, read_outcome
from reference_models.sweeps.report import csv_table, markdown_table
from reference_models.sweeps.tables import load_table
from reference_models.training.seeds import train_seeds

logger = logging.getLogger(__name__)
# The data of a sweep stay the same while the seeds of the training vary.
DATA_SEED = 0


def list_cells(name: str, data: Sequence[str], seeds: Sequence[int], output: Path, overrides: Sequence[str]) -> str:
    """The cells of a table with their states, a line each; nothing is trained.

    Raises:
        UserError: as `run_sweep`.
    """
    table = load_table(name)
    cells = make_cells(table, data or table.data, output, overrides)
    states = [read_outcome(cell, seeds, table.scores).state for cell in cells]
    lines = [f"{state:<14}  {_title(cell)}  ({cell.config.output})" for cell, state in zip(cells, states, strict=True)]
    return "\n".join([*lines, f"{states.count('finished')} of {len(cells)} are finished"])


def run_sweep(name: str, data: Sequence[str], seeds: Sequence[int], output: Path, overrides: Sequence[str]) -> int:
    """Train what is missing of a table, cell by cell; returns how many cells failed.

    After each cell the table of all that is finished is in `output`, as NAME.md and NAME.csv. The same command goes on
    where a sweep was stopped. A cell that fails is shown as such with its reason, and the others go on.

    Args:
        name: "table1" to "table6".
        data: names of data sets; none for those of the paper. A synthetic one that does not exist is generated.
        seeds: of the training.
        output: folder of the sweep.
        overrides: settings for all cells, as on the command line.

    Returns:
        How many cells failed.

    Raises:
        UserError: no such table, data set or setting, or seeds that are not different whole numbers from 0; then
            nothing was written.
    """
    table = load_table(name)
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"expected different seeds, one or more, each 0 or more, got {list(seeds)}")
    cells = make_cells(table, data or table.data, output, overrides)
    state = PartialState()
    with state.main_process_first():
        for cell in cells:
            if cell.data in table.synthetic:
                _write_set(cell)
    outcomes = {cell: read_outcome(cell, seeds, table.scores) for cell in cells}
    for number, cell in enumerate(cells, start=1):
        state.print(f"\n== cell {number} of {len(cells)}: {_title(cell)}", flush=True)
        outcomes[cell] = _train(cell, seeds, table.scores)
        if state.is_main_process:
            output.mkdir(parents=True, exist_ok=True)
            _write(output / f"{name}.md", markdown_table(table, outcomes, seeds, overrides))
            _write(output / f"{name}.csv", csv_table(table, outcomes, seeds))
    state.print(f"\n{markdown_table(table, outcomes, seeds, overrides)}\n{name}.md and {name}.csv are in {output}/")
    return sum(outcome.state == "failed" for outcome in outcomes.values())


def _train(cell: Cell, seeds: Sequence[int], scores: Sequence[str]) -> Outcome:
    try:
        train_seeds(cell.config, seeds)
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


def _write(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _title(cell: Cell) -> str:
    return f"{cell.row} on {cell.column}"
