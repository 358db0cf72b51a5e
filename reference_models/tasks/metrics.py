"""Scores of both tasks: micro precision, recall and F1 over entity spans, and over relations without None."""

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

    The function gets the true and the predicted answers (a list of tags, or a relation, for each sample) and returns a
    number.

    Args:
        name: of the score.
        task: name of the task.

    Returns:
        A decorator that gives the function back.

    Raises:
        ValueError: the task has another metric of this name.
    """

    def add(metric: Metric) -> Metric:
        _METRICS.setdefault(task, Registry(f"metric of the task {task}")).add(name, metric)
        return metric

    return add


def more_scores(task: str, true: Sequence[Any], predicted: Sequence[Any]) -> dict[str, float]:
    """The scores that `register_metric` added to a task."""
    return {name: metric(true, predicted) for name, metric in _METRICS.get(task, {}).items()}


def ner_scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], types: Iterable[str] = ()
) -> dict[str, float]:
    """Micro precision, recall and F1 over the entity spans of all sentences, and the F1 of some types ("PER_f1", ...).

    Args:
        gold: the true tags of each sentence.
        predicted: the predicted tags. A sentence may have fewer than in `gold`: words cut off by the length limit
            count as outside, so their entities are missed.
        types: those whose F1 is wanted, also where none of them occurs.

    Returns:
        Fractions from 0 to 1; 0.0 where nothing was there to divide by.

    Raises:
        ValueError: another number of sentences, or a sentence with more predicted tags than words.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"expected one prediction a sentence, got {len(predicted)} for {len(gold)} sentences")
    true, guessed = set(), set()
    for index, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted, strict=True)):
        if len(predicted_tags) > len(gold_tags):
            raise ValueError(f"sentence {index}: {len(predicted_tags)} predicted tags for {len(gold_tags)} words")
        true |= {(index, *span) for span in spans(gold_tags)}
        guessed |= {(index, *span) for span in spans(predicted_tags)}
    scores = _prf(len(true & guessed), len(guessed), len(true))
    for kind in types:
        of_kind = {span for span in true | guessed if span[-1] == kind}
        scores[f"{kind}_f1"] = _prf(len(true & guessed & of_kind), len(guessed & of_kind), len(true & of_kind))["f1"]
    return scores


def relation_scores(
    gold: Sequence[str], predicted: Sequence[str | None], none: str | None = NO_RELATION
) -> dict[str, float]:
    """Micro precision, recall and F1 over the relations other than `none`, and the accuracy over all.

    Returns:
        Fractions from 0 to 1; 0.0 where nothing was there to divide by.

    Raises:
        ValueError: another number of predictions than of true relations.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"expected one prediction a pair, got {len(predicted)} for {len(gold)} pairs")
    pairs = list(zip(gold, predicted, strict=True))
    correct = sum(true == guess != none for true, guess in pairs)
    scores = _prf(correct, sum(guess != none for guess in predicted), sum(true != none for true in gold))
    scores["accuracy"] = sum(true == guess for true, guess in pairs) / len(pairs) if pairs else 0.0
    return scores


def class_scores(
    true: Collection[tuple[Any, ...]], predicted: Collection[tuple[Any, ...]]
) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each class.

    Args:
        true: what is there, each as a tuple that ends with its class, such as (sentence, start, end, type).
        predicted: what was predicted, likewise; each tuple once.

    Returns:
        For each class {"precision", "recall", "f1", "support"}, the most frequent first; those that are only predicted
        come last.
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
