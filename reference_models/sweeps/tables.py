"""The paper's tables as settings: what each row and column changes, and the numbers printed there."""

from dataclasses import dataclass, field
from typing import Any

import yaml

from reference_models.names import unknown
from reference_models.settings import CONFIGS

SWEEPS = CONFIGS / "sweeps"


@dataclass(frozen=True)
class Column:
    """An image encoder, which has a column for each data set."""

    name: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A variant of the model.

    Attributes:
        name: as it is printed.
        system: name of the system's file.
        settings: what changes that, as keys of the command line.
        task: that it is for; None for all.
        base: what is varied, in a table of arms.
        arm: how it is varied, such as "AttnMixup".
        paper: the paper's numbers (percent) for each data set: for each column, each score; None for one that the
            paper does not have.
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
    """A table of the paper.

    Attributes:
        name: "table1" and so on.
        title: what it shows.
        scores: which scores of the test split.
        data: the paper's data sets, by the names of their configurations.
        synthetic: the synthetic sets that it can be tried on.
        rows: variants of the model.
        columns: image encoders; one without a name if the table has none.
        settings: what all cells share; unlike that of rows and columns, it can be changed on the command line.
        notes: what a reader must know to compare.
        costs: whether the size of the models and the time of an epoch are told too.
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
        """The keys that differ between cells."""
        parts: tuple[Row | Column, ...] = (*self.rows, *self.columns)
        return {key for part in parts for key in part.settings}


def load_table(name: str) -> Table:
    """A table by its name.

    Raises:
        UserError: there is none of that name.
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
