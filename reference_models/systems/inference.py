"""The one way from samples to what a model says of them: evaluation, prediction and analysis go through it."""

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
    """What predictions are made with: a `System` in evaluation mode, or its ONNX graphs."""

    @property
    def head(self) -> Head:
        """Decodes the scores."""

    @property
    def device(self) -> torch.device:
        """Where batches belong."""

    def __call__(self, **batch: Tensor) -> SystemOutput:
        """Predictions and scores for a batch of the processor."""


@dataclass(frozen=True)
class PredictedBatch:
    """What a model says of a batch.

    Attributes:
        ids: that the head decodes: tags (B, words), -100 behind the last word; or relations (B,).
        scores: of the head, (B, words, labels) or (B, labels).
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

    Returns:
        A result for each sample, in the order of `lengths`.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    results: dict[int, Result] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        results.update(zip(batch, function(batch), strict=True))
    return [results[number] for number in range(len(lengths))]


def load_batch(model: Scorer, processor: Processor, items: Sequence[Item]) -> dict[str, Tensor]:
    """Encoded samples as one batch on the model's device.

    Args:
        model: which.
        processor: of the model.
        items: the encoded samples, with their images.

    Returns:
        What `Processor.collate` gives, with `labels` where they are known.
    """
    return {name: value.to(model.device) for name, value in processor.collate(items).items()}


@torch.inference_mode()
def predict_batch(model: Scorer, processor: Processor, items: Sequence[dict[str, Any]]) -> PredictedBatch:
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
    batch = load_batch(model, processor, items)
    batch.pop("labels", None)
    output = model(**batch)
    if output.predictions is None or output.scores is None:
        raise ValueError("expected a model in evaluation mode, call model.eval()")
    return PredictedBatch(output.predictions, output.scores)
