"""Findings of a section: checks and tables of measurements, stored as JSON and shown as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | int | float | None


@dataclass(frozen=True)
class Check:
    """A condition that must hold; `detail` is the measured number or the reason of a failure."""

    name: str
    passed: bool
    detail: str = ""


@dataclass
class Table:
    """A table of measured numbers. Each row is printed when it is added."""

    title: str
    columns: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Add a row with one cell per column; None marks a number that cannot be measured here."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{self.title}: expected {len(self.columns)} cells, got {len(cells)}")
        self.rows.append(list(cells))
        print(f"    {', '.join(map(shown, cells))}", flush=True)


@dataclass
class Findings:
    """Findings of one section.

    Attributes:
        section: Name of the section.
        checks: Conditions that were checked.
        tables: Measured numbers.
        seconds: Duration.
        error: End of the traceback if the section did not finish, or the reason why it was not run.
        was_run: False if the time limit was reached before the section could start.
    """

    section: str
    checks: list[Check] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None
    was_run: bool = True

    @property
    def good(self) -> bool:
        """Whether the section finished and all its checks hold."""
        return self.error is None and all(check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """The result in a word or two."""
        if not self.was_run:
            return "not run"
        return "ok" if self.good else "failed"

    def check(self, name: str, passed: bool, detail: str = "") -> None:
        """Record and print whether a condition holds."""
        self.checks.append(Check(name, passed, detail))
        print(f"    {'ok    ' if passed else 'FAILED'} {name} {detail}", flush=True)

    def check_near(self, name: str, error: float, most: float) -> None:
        """Record whether an error is at most `most`."""
        self.check(name, error <= most, f"{error:.1e}, at most {most:.0e}")

    def table(self, title: str, *columns: str) -> Table:
        """Add a new table and return it."""
        self.tables.append(Table(title, columns))
        return self.tables[-1]


def from_json(values: dict[str, Any]) -> Findings:
    """Return findings from their `dataclasses.asdict` form."""
    checks = [Check(**check) for check in values.pop("checks")]
    tables = [Table(**table) for table in values.pop("tables")]
    return Findings(**values, checks=checks, tables=tables)


def to_markdown(title: str, all_findings: Sequence[Findings]) -> str:
    """Return one Markdown page with a summary line for each section, all checks, errors and tables."""
    lines = [f"# {title}", "", "| section | checks that hold | seconds | |", "|---|---|---|---|"]
    for found in all_findings:
        held = sum(check.passed for check in found.checks)
        verdict = "ok" if found.good else f"**{found.verdict}**"
        lines.append(f"| {found.section} | {held} of {len(found.checks)} | {found.seconds:.0f} | {verdict} |")
    for found in all_findings:
        lines += ["", f"## {found.section}"]
        if found.error is not None:
            lines += ["", "```", found.error.rstrip(), "```"]
        lines += [""] * bool(found.checks)
        lines += [f"- {'ok' if c.passed else '**failed**'}: {c.name} {c.detail}".rstrip() for c in found.checks]
        for table in found.tables:
            lines += ["", f"{table.title}:", "", f"| {' | '.join(table.columns)} |", "|---" * len(table.columns) + "|"]
            lines += [f"| {' | '.join(map(shown, row))} |" for row in table.rows]
    return "\n".join(lines) + "\n"


def shown(cell: Cell) -> str:
    """Return a cell as text, with three digits for a float."""
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return "-" if cell is None else str(cell)
