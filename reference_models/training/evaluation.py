"""Predictions of a model for a split, and their scores."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from reference_models.data.samples import HALF, Sample
from reference_models.systems.inference import Scorer, predict_samples
from reference_models.tasks.dataset import EncodedSplit
from reference_models.tasks.metrics import more_scores
from reference_models.tasks.task import Answer, Task

Result = TypeVar("Result")


@dataclass(frozen=True)
class Evaluation:
    """Scores of a split, and for each of its samples what was predicted.

    Attributes:
        task: with its labels.
        scores: over all samples, with those that were never predicted as missed.
        samples: all of the split.
        predictions: the answer for each sample; `Task.unanswered` for those that were never predicted.
        missed: ids of the samples that the length limit keeps from being predicted.
    """

    task: Task
    scores: dict[str, float]
    samples: Sequence[Sample]
    predictions: list[Answer]
    missed: frozenset[str] = frozenset()

    def classes(self) -> dict[str, dict[str, float]]:
        """The scores of each type of entity, or of each relation; see `class_scores`."""
        return self.task.class_scores(map(self.task.true_answer, self.samples), self.predictions)


def evaluate_split(model: Scorer, split: EncodedSplit, batch_size: int, *, progress: bool = True) -> Evaluation:
    """Predict with a model in evaluation mode, in batches of about one length, and score a split."""
    predictions = predict_samples(
        model,
        split.processor,
        split.samples,
        split.lengths,
        split.__getitem__,
        batch_size=batch_size,
        probabilities=False,
        progress=progress,
    )
    return score_answers(split, [prediction.answer for prediction in predictions])


def score(split: EncodedSplit, predictions: np.ndarray) -> Evaluation:
    """Score predicted ids, one row for each sample that the split keeps, over all of its samples."""
    rows = zip(split.samples, predictions.tolist(), strict=True)
    return score_answers(split, [split.processor.decode(sample, row) for sample, row in rows])


def score_answers(split: EncodedSplit, answers: Sequence[Answer]) -> Evaluation:
    """Score answers, one for each sample that the split keeps, over all of its samples."""
    task, missed, remaining = split.processor.task, frozenset(split.dropped), iter(answers)
    predicted = [task.unanswered() if sample.id in missed else next(remaining) for sample in split.whole]
    true = [task.true_answer(sample) for sample in split.whole]
    scores = task.score(true, predicted) | more_scores(task.name, true, predicted)
    return Evaluation(task, scores, split.whole, predicted, missed)


def write_predictions(path: Path, evaluation: Evaluation) -> None:
    """One JSON object a line: id, words, image, and what was predicted beside what is true, see `Task.to_row`.

    `too_long` marks the samples that were not predicted, because an entity lies behind the length limit.
    """
    with path.open("w", encoding="utf-8") as file:
        for sample, predicted in zip(evaluation.samples, evaluation.predictions, strict=True):
            image = sample.image and str(sample.image)
            row: dict[str, Any] = {"id": sample.id, "words": sample.words, "image": image}
            row |= evaluation.task.to_row(sample, predicted)
            if sample.id in evaluation.missed:
                row["too_long"] = True
            line = json.dumps(row, ensure_ascii=False)
            # A path that is no UTF-8 has half characters for its bytes, which only an escape can write.
            file.write((json.dumps(row) if HALF.search(line) else line) + "\n")
