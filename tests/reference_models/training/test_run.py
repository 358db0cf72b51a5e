"""What is loaded of a run: for prediction without what acts in training alone, for the report all of it."""

import logging
from pathlib import Path

import pytest
import torch
from tiny_runs import config

from reference_models.systems.inference import predict_batch
from reference_models.tasks.dataset import EncodedSplit
from reference_models.training.run import load_model, load_whole_model, read_split

FOR_TRAINING = ("mixer.", "semantic.")


def test_for_prediction_nothing_is_loaded_that_acts_in_training_alone(
    data: Path, finished: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model, processor = load_model(finished)
    assert caplog.messages == []
    whole, _ = load_whole_model(finished)
    assert all(any(name.startswith(part) for name in whole.state_dict()) for part in FOR_TRAINING)
    wanted = {name: value for name, value in whole.state_dict().items() if not name.startswith(FOR_TRAINING)}
    assert model.state_dict().keys() == wanted.keys()
    assert not model.training
    assert not whole.training
    samples, _ = read_split(config(data, finished), "test")
    split = EncodedSplit(samples, processor)
    items = [split[number] for number in range(len(split))]
    ours, theirs = (predict_batch(each, processor, items) for each in (model, whole))
    assert torch.equal(ours.scores, theirs.scores)
    assert torch.equal(ours.ids, theirs.ids)
