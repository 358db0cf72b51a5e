"""Scores of both tasks: micro precision, recall and F1 over entity spans, and over relations other than None."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from reference_models.data.bio import spans
from reference_models.names import Registry

NO_RELATION = "None"
Metric = Callable[[Sequence[Any], Sequence[Any]], float]
_METRICS: dict[str, Registry[Metric]] = {}  # by task


def register_metric(name: str, task: str) -> Callable[[Metric], Metric]:
    """Add a score to all evaluations of a task.

    The decorated function receives the true and the predicted answers (for each sample, a list of tags or a relation)
    and returns a number.

    Args:
        name: Name of the score.
        task: Name of the task.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        ValueError: If the task has another metric of this name.
    """

    def add(metric: Metric) -> Metric:
        _METRICS.setdefault(task, Registry(f"metric of the task {task}")).add(name, metric)
        return metric

    return add


def more_scores(task: str, true: Sequence[Any], predicted: Sequence[Any]) -> dict[str, float]:
    """Compute the scores that were added to a task with `register_metric`."""
    return {name: metric(true, predicted) for name, metric in _METRICS.get(task, {}).items()}


def ner_scores(
    true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], types: Iterable[str] = ()
) -> dict[str, float]:
    """Compute micro precision, recall and F1 over the entity spans of all sentences, and the F1 of some types.

    Args:
        true: True tags of each sentence.
        predicted: Predicted tags of each sentence. There may be fewer than in `true`: words beyond the length limit
            count as outside, so their entities are missed.
        types: Entity types whose F1 is added as "PER_f1" and so on, even if a type does not occur.

    Returns:
        Fractions from 0 to 1; 0.0 if the denominator is zero.

    Raises:
        ValueError: If the numbers of sentences differ, or a sentence has more predicted tags than words.
    """
    if len(true) != len(predicted):
        raise ValueError(f"expected one prediction per sentence, got {len(predicted)} for {len(true)} sentences")
    true_spans, predicted_spans = set(), set()
    for index, (true_tags, predicted_tags) in enumerate(zip(true, predicted, strict=True)):
        if len(predicted_tags) > len(true_tags):
            raise ValueError(
                f"sentence {index}: expected at most one predicted tag per word, got {len(predicted_tags)} predicted "
                f"tags for {len(true_tags)} words"
            )
        true_spans |= {(index, *span) for span in spans(true_tags)}
        predicted_spans |= {(index, *span) for span in spans(predicted_tags)}
    scores = _prf(len(true_spans & predicted_spans), len(predicted_spans), len(true_spans))
    for kind in types:
        true_of_kind, predicted_of_kind = (
            {span for span in found if span[-1] == kind} for found in (true_spans, predicted_spans)
        )
        correct = len(true_of_kind & predicted_of_kind)
        scores[f"{kind}_f1"] = _prf(correct, len(predicted_of_kind), len(true_of_kind))["f1"]
    return scores


def relation_scores(
    true: Sequence[str], predicted: Sequence[str | None], none: str | None = NO_RELATION
) -> dict[str, float]:
    """Compute micro precision, recall and F1 over the relations other than `none`, and the accuracy over all.

    Returns:
        Fractions from 0 to 1; 0.0 if the denominator is zero.

    Raises:
        ValueError: If the numbers of predictions and true relations differ.
    """
    if len(true) != len(predicted):
        raise ValueError(f"expected one prediction per pair, got {len(predicted)} for {len(true)} pairs")
    pairs = list(zip(true, predicted, strict=True))
    correct = sum(label == guess != none for label, guess in pairs)
    scores = _prf(correct, sum(guess != none for guess in predicted), sum(label != none for label in true))
    scores["accuracy"] = sum(label == guess for label, guess in pairs) / len(pairs) if pairs else 0.0
    return scores


def class_scores(
    true: Collection[tuple[Any, ...]], predicted: Collection[tuple[Any, ...]]
) -> dict[str, dict[str, float]]:
    """Compute precision, recall, F1 and support of each class.

    Args:
        true: True items as distinct tuples that end with the class, such as (sentence, start, end, type).
        predicted: Predicted items in the same form.

    Returns:
        {"precision", "recall", "f1", "support"} of each class, most frequent class first. Classes that are only
        predicted come last.
    """
    support, guessed = (Counter(item[-1] for item in items) for items in (true, predicted))
    correct = Counter(item[-1] for item in set(true) & set(predicted))
    names = sorted(support | guessed, key=lambda name: (-support[name], name))
    return {name: {**_prf(correct[name], guessed[name], support[name]), "support": support[name]} for name in names}


def _prf(correct: int, predicted: int, true: int) -> dict[str, float]:
    return {
        "precision": correct / predicted if predicted else 0.0,
        "recall": correct / true if true else 0.0,
        "f1": 2 * correct / (predicted + true) if predicted + true else 0.0,
    }
