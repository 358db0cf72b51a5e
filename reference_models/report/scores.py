"""What was predicted beside what is true: scores of each type, and which types are taken for which."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reference_models.report.markup import Markup, heat_map, table
from reference_models.training.metrics import relation_scores, spans

Outcome = tuple[str, str]
NONE = "None"


def outcomes(row: Mapping[str, Any]) -> list[Outcome]:
    """The true and the predicted relation of a row of predictions, or the same of each place in its sentence.

    An entity is missed where nothing was predicted at its very words, and spurious where there is none: `NONE` then
    stands for its other side.
    """
    if isinstance(row["true"], str):
        return [(row["true"], row["predicted"])]
    true, said = ({(start, end): kind for start, end, kind in spans(row[key])} for key in ("true", "predicted"))
    return [(true.get(place, NONE), said.get(place, NONE)) for place in sorted(true | said)]


def types_by_support(pairs: Sequence[Outcome]) -> list[str]:
    """The types that occur, those with the most true samples first."""
    support = Counter(true for true, _ in pairs)
    return sorted({kind for pair in pairs for kind in pair} - {NONE}, key=lambda kind: (-support[kind], kind))


def type_table(pairs: Sequence[Outcome], noun: str) -> Markup:
    """Precision, recall and F1 of each type, in percent, and of all."""
    rows = []
    for kind in types_by_support(pairs):
        true, said = ([name if name == kind else NONE for name in side] for side in zip(*pairs, strict=True))
        rows.append([kind, *_score_cells(true, said)])
    true, said = ([pair[side] for pair in pairs] for side in (0, 1))
    return table([noun, "precision", "recall", "F1", "true", "predicted"], [*rows, ["all", *_score_cells(true, said)]])


def confusion_map(pairs: Sequence[Outcome], *, missed: str, spurious: str) -> Markup:
    """Rows are what is true, columns what was predicted.

    Args:
        pairs: of all samples.
        missed: name of the column of what is something and was predicted to be nothing.
        spurious: name of the row of the opposite.
    """
    counts, support = Counter(pairs), Counter(true for true, _ in pairs)
    kinds = [*types_by_support(pairs), NONE]
    cells = []
    for true in kinds:
        line = [counts[true, said] for said in kinds]
        cells.append([(str(count or ""), count / max(support[true], 1)) for count in line])
    rows, columns = ([*kinds[:-1], name] for name in (spurious, missed))
    return heat_map("true \\ predicted", rows, columns, cells)


def _score_cells(true: Sequence[str], said: Sequence[str]) -> list[str]:
    scores = relation_scores(true, said, NONE)
    percent = [f"{100 * scores[name]:.2f}" for name in ("precision", "recall", "f1")]
    return [*percent, *(str(sum(name != NONE for name in side)) for side in (true, said))]
