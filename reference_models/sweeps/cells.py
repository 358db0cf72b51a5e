"""Cells of a table: the settings of their runs and the paper's numbers."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reference_models.config import RunConfig
from reference_models.data.formats import get_format
from reference_models.errors import UserError
from reference_models.settings import flat_settings, read_settings, shared_overrides
from reference_models.sweeps.tables import Table

TITLES = {"twitter2015": "Twitter-2015", "twitter2017": "Twitter-2017", "mnre": "MNRE"}


@dataclass(frozen=True, eq=False)
class Cell:
    """One configuration of a table, trained once per seed. Cells are compared by identity.

    Attributes:
        row: Name of the variant.
        column: Data set, and image encoder if the table varies it.
        data: Name of the data file in `configs/data`.
        config: Settings of its runs, except the seed; `config.output` is the folder of the runs.
        paper: The paper's numbers (percent) by score; empty if the paper has none.
    """

    row: str
    column: str
    data: str
    config: RunConfig
    paper: dict[str, float]


def make_cells(table: Table, data: Sequence[str], output: Path, overrides: Sequence[str]) -> list[Cell]:
    """Return the cells of a table for the given data sets, row by row, with overrides from the command line.

    If a synthetic data set does not exist at the path of its settings, the sweep uses its own one below `output`, also
    when it resumes.

    Raises:
        UserError: If the table does not have a data set, a data set is given twice, an override does not exist or would
            change what the table compares, or a data folder does not exist.
    """
    for name in data:
        if name not in (*table.data, *table.synthetic):
            raise UserError(
                f"{table.name} has no data set {name!r}; it has {', '.join(table.data)} and the synthetic data sets "
                f"{', '.join(table.synthetic)}"
            )
    if len(set(data)) < len(data):
        raise UserError(f"expected different data sets, got {' '.join(data)}; name each data set once")
    systems = sorted({row.system for row in table.rows})
    shared = shared_overrides(overrides, systems) if overrides else {}
    _check_overrides(table, data, shared)
    roots = {name: read_settings(name).data.root for name in data if name in table.synthetic}
    cells = []
    for row in table.rows:
        for name in data:
            for index, column in enumerate(table.columns):
                words = [*_words(table.settings), *shared.get(row.system, [])]
                words += _words(row.settings | column.settings)
                config = read_settings(name, words, system=row.system)
                if row.task not in (None, get_format(config.data.format).task):
                    continue
                label = ", ".join(filter(None, (TITLES.get(name, name), column.name)))
                if name in roots:
                    root = _synthetic_root(config.data.root, roots[name], output / "data" / name / "posts")
                    config = replace(config, data=replace(config.data, root=root))
                config = replace(config, output=str(output / _slug(row.name) / _slug(label)))
                printed = zip(table.scores, row.paper.get(name, [])[index * len(table.scores) :], strict=False)
                paper = {score: number for score, number in printed if number is not None}
                cells.append(Cell(row.name, label, name, config, paper))
    return cells


def _synthetic_root(given: str, shipped: str, own: Path) -> str:
    if given == shipped:
        return str(own) if own.exists() or not Path(given).exists() else given
    if not Path(given).exists():
        raise UserError(f"data.root: there is no folder {given}; remove it, and the sweep writes a synthetic data set")
    return given


def _check_overrides(table: Table, data: Sequence[str], overrides: Mapping[str, Sequence[str]]) -> None:
    for name in data:
        changed = set()
        for system, own in overrides.items():
            before, after = (flat_settings(asdict(read_settings(name, words, system=system))) for words in ([], own))
            changed |= {key for key in before | after if before.get(key) != after.get(key)}
        if taken := changed & table.varied():
            raise UserError(f"{table.name} compares values of {', '.join(sorted(taken))}; do not set it for all cells")
        if "training.seed" in changed:
            raise UserError("set the seeds of a sweep with --seeds, not with training.seed")
        if "data.root" in changed and len(data) > 1:
            raise UserError(
                f"data.root is the folder of one data set, but the sweep has {len(data)}; choose one with --data"
            )


def _words(settings: Mapping[str, Any]) -> list[str]:
    return [
        word
        for key, value in settings.items()
        for word in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
