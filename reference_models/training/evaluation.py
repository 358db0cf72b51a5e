"""Predictions of a model for a split, and their scores."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from reference_models.data.samples import HALF, Sample
from reference_models.systems.base import System, SystemOutput
from reference_models.tasks.dataset import EncodedSplit
from reference_models.tasks.metrics import more_scores
from reference_models.tasks.processor import Processor
from reference_models.tasks.task import Answer, Prediction, Task

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


@dataclass(frozen=True)
class PredictedBatch:
    """What a model says of a batch.

    Attributes:
        ids: that the head decodes: tags (B, words), -100 behind the last word; or relations (B,).
        scores: of the head, (B, words, labels) or (B, labels).
    """

    ids: Tensor
    scores: Tensor


def evaluate_split(model: System, split: EncodedSplit, batch_size: int, *, progress: bool = True) -> Evaluation:
    """Predict and score a split, in batches of about one length; the model is left in evaluation mode."""
    model.eval()
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


def predict_samples(
    model: System,
    processor: Processor,
    samples: Sequence[Sample],
    lengths: Sequence[int],
    item: Callable[[int], dict[str, Any]],
    *,
    batch_size: int,
    probabilities: bool = True,
    progress: bool = False,
) -> list[Prediction]:
    """Predictions of a model in evaluation mode: the one way from samples to answers.

    Args:
        model: which.
        processor: of the model.
        samples: what to predict for.
        lengths: of the samples in sub-words; batches are of about one length.
        item: the encoded sample of a number, with its images.
        batch_size: samples of a batch.
        probabilities: whether predictions have them.
        progress: show a progress bar.

    Returns:
        A prediction for each sample, in their order.
    """
    task = processor.task
    with tqdm(total=len(samples), desc="evaluating", disable=not progress) as bar:

        def predict(numbers: Sequence[int]) -> list[Prediction]:
            predicted = predict_batch(model, processor, [item(number) for number in numbers])
            chosen, ids = [samples[number] for number in numbers], predicted.ids.cpu()
            answers = [processor.decode(sample, row) for sample, row in zip(chosen, ids.tolist(), strict=True)]
            chances: Sequence[dict[Any, float]] = [{} for _ in chosen]
            if probabilities:
                chances = task.probabilities(chosen, ids, predicted.scores, model.head, processor.subwords)
            bar.update(len(numbers))
            return list(map(Prediction, answers, chances))

        return map_by_length(lengths, batch_size, predict)


def map_by_length(
    lengths: Sequence[int], batch_size: int, function: Callable[[Sequence[int]], Sequence[Result]]
) -> list[Result]:
    """Results for samples in their order, computed in batches of about one length, which need little padding.

    Args:
        lengths: of the samples, in sub-words. The longest come first, so that what memory cannot hold fails at once;
            samples of one length stay in their order.
        batch_size: samples of a batch.
        function: from the numbers of the samples of a batch to one result for each.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    results: dict[int, Result] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        results.update(zip(batch, function(batch), strict=True))
    return [results[number] for number in range(len(lengths))]


@torch.inference_mode()
def predict_batch(model: System, processor: Processor, items: Sequence[dict[str, Any]]) -> PredictedBatch:
    """Predict for encoded samples, whatever their labels.

    Args:
        model: in evaluation mode.
        processor: of the model.
        items: the encoded samples.

    Returns:
        Ids and scores, on the model's device.

    Raises:
        ValueError: the model is in training mode.
    """
    batch = processor.collate(items)
    batch.pop("labels", None)
    output: SystemOutput = model(**{name: value.to(model.device) for name, value in batch.items()})
    if output.predictions is None or output.scores is None:
        raise ValueError("expected a model in evaluation mode, call model.eval()")
    return PredictedBatch(output.predictions, output.scores)


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
