"""Inference on samples, shared by evaluation, prediction and analysis."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from reference_models.data.samples import Sample
from reference_models.systems.base import SystemOutput
from reference_models.tasks.heads import Head
from reference_models.tasks.processor import Processor
from reference_models.tasks.task import Item, Prediction

Result = TypeVar("Result")


class Scorer(Protocol):
    """Interface of a model for inference: a `System` in evaluation mode, or its ONNX graphs."""

    @property
    def head(self) -> Head:
        """Head that decodes the scores."""

    @property
    def device(self) -> torch.device:
        """Device of the batches."""

    def __call__(self, **batch: Tensor) -> SystemOutput:
        """Compute predictions and scores for a batch of the processor."""


@dataclass(frozen=True)
class PredictedBatch:
    """Predictions for a batch.

    Attributes:
        ids: Ids decoded by the head: tags (B, words), with -100 after the last word, or relations (B,).
        scores: Scores of the head, (B, words, labels) or (B, labels).
    """

    ids: Tensor
    scores: Tensor


def predict_samples(
    model: Scorer,
    processor: Processor,
    samples: Sequence[Sample],
    lengths: Sequence[int],
    item: Callable[[int], dict[str, Any]],
    *,
    batch_size: int,
    probabilities: bool = True,
    progress: bool = False,
) -> list[Prediction]:
    """Predict samples with a model in evaluation mode.

    Args:
        model: The model.
        processor: Processor of the model.
        samples: Samples to predict.
        lengths: Length of each sample in sub-words; samples of similar length share a batch.
        item: Returns the encoded sample of an index, with its images.
        batch_size: Number of samples in a batch.
        probabilities: Compute the probabilities of the predictions.
        progress: Show a progress bar.

    Returns:
        One prediction per sample, in the order of the samples.
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
    """Apply a function to batches of samples of similar length, which need little padding.

    Args:
        lengths: Length of each sample in sub-words. The longest samples come first, so that a batch that does not fit
            into memory fails at once. Samples of equal length keep their order.
        batch_size: Number of samples in a batch.
        function: Maps the indices of the samples of a batch to one result each.

    Returns:
        One result per sample, in the order of `lengths`.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    results: dict[int, Result] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        results.update(zip(batch, function(batch), strict=True))
    return [results[number] for number in range(len(lengths))]


def load_batch(model: Scorer, processor: Processor, items: Sequence[Item]) -> dict[str, Tensor]:
    """Collate encoded samples to one batch on the device of the model.

    Args:
        model: The model.
        processor: Processor of the model.
        items: The encoded samples, with their images.

    Returns:
        Output of `Processor.collate`, with `labels` if they are known.
    """
    return {name: value.to(model.device) for name, value in processor.collate(items).items()}


@torch.inference_mode()
def predict_batch(model: Scorer, processor: Processor, items: Sequence[dict[str, Any]]) -> PredictedBatch:
    """Predict encoded samples; their labels are ignored.

    Args:
        model: The model, in evaluation mode.
        processor: Processor of the model.
        items: The encoded samples, with their images.

    Returns:
        Ids and scores, on the device of the model.

    Raises:
        ValueError: If the model is in training mode.
    """
    batch = load_batch(model, processor, items)
    batch.pop("labels", None)
    output = model(**batch)
    if output.predictions is None or output.scores is None:
        raise ValueError("expected a model in evaluation mode; call model.eval()")
    return PredictedBatch(output.predictions, output.scores)
