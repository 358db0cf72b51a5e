"""Prediction of a split in batches, compared with one sample at a time."""

from pathlib import Path

import pytest
import torch

from reference_models.systems.inference import map_by_length, predict_batch
from reference_models.tasks.dataset import EncodedSplit
from reference_models.training.evaluation import evaluate_split
from reference_models.training.run import load_model, read_split
from tests.reference_models.training.tiny_runs import config


@pytest.fixture(scope="module")
def split(data: Path, finished: Path) -> EncodedSplit:
    samples, _ = read_split(config(data, finished), "test")
    return EncodedSplit(samples, load_model(finished)[1])


def test_batched_predictions_equal_those_of_single_samples(split: EncodedSplit, finished: Path) -> None:
    model, _ = load_model(finished)
    assert len(set(split.lengths)) > 3
    alone = [predict_batch(model, split.processor, [split[number]]) for number in range(len(split))]
    labels = [split.processor.decode(s, o.ids[0].tolist()) for s, o in zip(split.samples, alone, strict=True)]
    evaluation = evaluate_split(model, split, 5, progress=False)
    assert evaluation.predictions == labels
    assert evaluation.samples == split.samples

    def scores(numbers: list[int]) -> list[torch.Tensor]:
        return list(predict_batch(model, split.processor, [split[number] for number in numbers]).scores)

    for one, row in zip(alone, map_by_length(split.lengths, 5, scores), strict=True):
        torch.testing.assert_close(row[: one.scores.shape[1]], one.scores[0], rtol=0, atol=1e-5)


def test_prediction_in_training_mode_raises(split: EncodedSplit, finished: Path) -> None:
    with pytest.raises(ValueError, match="needs labels"):
        predict_batch(load_model(finished)[0].train(), split.processor, [split[0]])


def test_empty_split_has_no_predictions(split: EncodedSplit, finished: Path) -> None:
    empty = EncodedSplit([], split.processor)
    assert evaluate_split(load_model(finished)[0], empty, 5, progress=False).predictions == []
