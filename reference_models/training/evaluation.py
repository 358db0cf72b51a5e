"""Predictions of a model on a split, and their scores."""

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
    """Scores and predictions of a split.

    Attributes:
        task: Task with its labels.
        scores: Scores over all samples; samples without a prediction count as missed.
        samples: All samples of the split.
        predictions: Predicted answer of each sample; `Task.unanswered` for samples without a prediction.
        missed: Ids of the samples that have no prediction because of the length limit.
    """

    task: Task
    scores: dict[str, float]
    samples: Sequence[Sample]
    predictions: list[Answer]
    missed: frozenset[str] = frozenset()

    def classes(self) -> dict[str, dict[str, float]]:
        """Return the scores of each entity type or each relation; see `class_scores`."""
        return self.task.class_scores(map(self.task.true_answer, self.samples), self.predictions)


def evaluate_split(model: Scorer, split: EncodedSplit, batch_size: int, *, progress: bool = True) -> Evaluation:
    """Predict a split with a model in evaluation mode, in mini-batches of similar length, and score it."""
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
    """Score predicted ids, one row per sample that the split keeps, over all samples of the split."""
    rows = zip(split.samples, predictions.tolist(), strict=True)
    return score_answers(split, [split.processor.decode(sample, row) for sample, row in rows])


def score_answers(split: EncodedSplit, answers: Sequence[Answer]) -> Evaluation:
    """Score answers, one per sample that the split keeps, over all samples of the split."""
    task, missed, remaining = split.processor.task, frozenset(split.dropped), iter(answers)
    predicted = [task.unanswered() if sample.id in missed else next(remaining) for sample in split.whole]
    true = [task.true_answer(sample) for sample in split.whole]
    scores = task.score(true, predicted) | more_scores(task.name, true, predicted)
    return Evaluation(task, scores, split.whole, predicted, missed)


def write_predictions(path: Path, evaluation: Evaluation) -> None:
    """Write one JSON object per line: id, words, image, prediction and true answer, see `Task.to_row`.

    `too_long` marks samples without a prediction, because an entity is beyond the length limit.
    """
    with path.open("w", encoding="utf-8") as file:
        for sample, predicted in zip(evaluation.samples, evaluation.predictions, strict=True):
            image = sample.image and str(sample.image)
            row: dict[str, Any] = {"id": sample.id, "words": sample.words, "image": image}
            row |= evaluation.task.to_row(sample, predicted)
            if sample.id in evaluation.missed:
                row["too_long"] = True
            line = json.dumps(row, ensure_ascii=False)
            # A path that is not UTF-8 contains lone surrogates, which can only be written as escapes.
            file.write((json.dumps(row) if HALF.search(line) else line) + "\n")
