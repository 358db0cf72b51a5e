"""Tables that compare predictions with the truth: scores of each type, and the confusion of types."""

from collections import Counter
from collections.abc import Sequence

from reference_models.report.markup import Markup, heat_map, table
from reference_models.tasks.metrics import relation_scores

Outcome = tuple[str | None, str | None]  # true and predicted class; None for no entity or relation
NOTHING = ""  # stands for None in the scorer; no class has this name


def types_by_support(pairs: Sequence[Outcome]) -> list[str]:
    """Return the types that occur, sorted by their number of true occurrences, largest first."""
    support = Counter(true for true, _ in pairs)
    kinds = {kind for pair in pairs for kind in pair if kind is not None}
    return sorted(kinds, key=lambda kind: (-support[kind], kind))


def type_table(pairs: Sequence[Outcome], noun: str) -> Markup:
    """Make a table of precision, recall and F1 in percent, for each type and for all."""
    rows = []
    for kind in types_by_support(pairs):
        alone = [(kind if true == kind else None, kind if found == kind else None) for true, found in pairs]
        rows.append([kind, *_score_cells(alone)])
    return table([noun, "precision", "recall", "F1", "true", "predicted"], [*rows, ["all", *_score_cells(pairs)]])


def confusion_map(pairs: Sequence[Outcome], *, missed: str, spurious: str) -> Markup:
    """Make a confusion matrix with true types as rows and predicted types as columns.

    Args:
        pairs: Outcomes of all samples.
        missed: Name of the column that counts true entities or relations without a prediction.
        spurious: Name of the row that counts predictions without a true entity or relation.

    Returns:
        A table of counts, coloured by their share of the row.
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
