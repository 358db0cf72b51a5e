"""Tables of the paper as settings: what each row and column changes, and the published numbers."""

from dataclasses import dataclass, field
from typing import Any

import yaml

from reference_models.names import unknown
from reference_models.settings import CONFIGS

SWEEPS = CONFIGS / "sweeps"


@dataclass(frozen=True)
class Column:
    """Image encoder with its settings; it has one column per data set."""

    name: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """Variant of the model.

    Attributes:
        name: Printed name.
        system: Name of the system file.
        settings: Settings that differ from the system file, by keys of the command line.
        task: Task of the row; None for all tasks.
        base: Name of the varied system, in a table with arms.
        arm: Name of the variation, such as "AttnMixup".
        paper: The paper's numbers (percent) per data set: all scores of the first column, then of the next; None for a
            missing number.
    """

    name: str
    system: str = "i2srm"
    settings: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    base: str = ""
    arm: str = ""
    paper: dict[str, list[float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Table of the paper.

    Attributes:
        name: "table1" and so on.
        title: Title of the table.
        scores: Scores of the test split that the table shows.
        data: The paper's data sets, by the names of their data files.
        synthetic: Synthetic data sets that the table can be tried on.
        rows: Variants of the model.
        columns: Image encoders; a single one without a name if the table does not vary them.
        settings: Settings of all cells. Unlike settings of rows and columns, they can be changed on the command line.
        notes: Notes that a reader needs to compare the numbers.
        costs: Whether to show the model size and the time per epoch.
    """

    name: str
    title: str
    scores: tuple[str, ...]
    data: tuple[str, ...]
    synthetic: tuple[str, ...]
    rows: tuple[Row, ...]
    columns: tuple[Column, ...] = (Column("", {}),)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    costs: bool = False

    def varied(self) -> set[str]:
        """Return the keys that differ between cells."""
        parts: tuple[Row | Column, ...] = (*self.rows, *self.columns)
        return {key for part in parts for key in part.settings}


def load_table(name: str) -> Table:
    """Load a table by its name.

    Raises:
        UserError: If there is no table of this name.
    """
    known = sorted(path.stem for path in SWEEPS.glob("*.yaml"))
    if name not in known:
        raise unknown("sweep", name, known)
    content = yaml.safe_load((SWEEPS / f"{name}.yaml").read_text(encoding="utf-8"))
    if (other := content.pop("systems_of", None)) is not None:
        arms = content.pop("arms")
        content["rows"] = [
            Row(f"{row.name}, {name}", row.system, row.settings | settings, row.task, base=row.name, arm=name)
            for row in load_table(other).rows
            for name, settings in ((arm["name"], arm["settings"]) for arm in arms)
        ]
    else:
        content["rows"] = [Row(**row) for row in content["rows"]]
    if "columns" in content:
        content["columns"] = [Column(**column) for column in content["columns"]]
    parts: dict[str, Any] = {key: tuple(part) if isinstance(part, list) else part for key, part in content.items()}
    return Table(name, **parts)
