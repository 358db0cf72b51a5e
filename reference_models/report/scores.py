"""What was predicted beside what is true: scores of each type, and which types are taken for which."""

from collections import Counter
from collections.abc import Sequence

from reference_models.report.markup import Markup, heat_map, table
from reference_models.tasks.metrics import relation_scores

Outcome = tuple[str | None, str | None]  # true and predicted class; None where there is nothing
NOTHING = ""  # what the scorer takes for nothing; no class has this name


def types_by_support(pairs: Sequence[Outcome]) -> list[str]:
    """The types that occur, those with the most true samples first."""
    support = Counter(true for true, _ in pairs)
    kinds = {kind for pair in pairs for kind in pair if kind is not None}
    return sorted(kinds, key=lambda kind: (-support[kind], kind))


def type_table(pairs: Sequence[Outcome], noun: str) -> Markup:
    """Precision, recall and F1 of each type, in percent, and of all."""
    rows = []
    for kind in types_by_support(pairs):
        alone = [(kind if true == kind else None, kind if found == kind else None) for true, found in pairs]
        rows.append([kind, *_score_cells(alone)])
    return table([noun, "precision", "recall", "F1", "true", "predicted"], [*rows, ["all", *_score_cells(pairs)]])


def confusion_map(pairs: Sequence[Outcome], *, missed: str, spurious: str) -> Markup:
    """Rows are what is true, columns what was predicted.

    Args:
        pairs: of all samples.
        missed: name of the column of what is something and was predicted to be nothing.
        spurious: name of the row of the opposite.

    Returns:
        A table of counts, whose colours are shares of the rows.
    """
    counts, support = Counter(pairs), Counter(true for true, _ in pairs)
    kinds = [*types_by_support(pairs), None]
    cells = []
    for true in kinds:
        line = [counts[true, predicted] for predicted in kinds]
        cells.append([(str(count or ""), count / max(support[true], 1)) for count in line])
    rows, columns = ([*types_by_support(pairs), name] for name in (spurious, missed))
    return heat_map("true \\ predicted", rows, columns, cells)


def _score_cells(pairs: Sequence[Outcome]) -> list[str]:
    true, predicted = ([pair[side] or NOTHING for pair in pairs] for side in (0, 1))
    scores = relation_scores(true, predicted, NOTHING)
    percent = [f"{100 * scores[name]:.2f}" for name in ("precision", "recall", "f1")]
    return [*percent, *(str(sum(name != NOTHING for name in side)) for side in (true, predicted))]
