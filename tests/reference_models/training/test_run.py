"""What is loaded of a run: for prediction without what acts in training alone, for the report all of it."""

import logging
from pathlib import Path

import pytest
import torch
from tiny_runs import config

from reference_models.data.samples import Sample
from reference_models.settings import read_settings
from reference_models.systems.build import build_system
from reference_models.systems.inference import predict_batch
from reference_models.tasks.dataset import EncodedSplit
from reference_models.tasks.processor import Processor
from reference_models.training.run import load_model, load_whole_model, make_processor, read_split

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


def test_words_that_occur_once_in_the_training_reach_the_system_and_stay_with_its_processor(tmp_path: Path) -> None:
    """Those of the other splits count for nothing; every training tells the system of them again."""
    sentences = {"train": ("Rome is old", "rome is new"), "valid": ("old Lima",), "test": ("new Lima",)}
    samples = {
        split: [
            Sample(f"{split}:{n}", tuple(text.split()), tags=("B-LOC", *"O" * text.count(" ")))
            for n, text in enumerate(texts)
        ]
        for split, texts in sentences.items()
    }
    overrides = ["--data.format", "conll", "--data.root", str(tmp_path)]
    settings = read_settings(None, overrides, system="hbilstm-crf")
    processor = make_processor(settings, samples)
    assert processor.tokenizer.convert_ids_to_tokens([2, 3, 4, 5]) == ["new", "old", "is", "rome"]
    assert build_system(settings.system, settings.model, processor).config.rare_words == 2
    processor.save_pretrained(tmp_path)
    assert Processor.from_pretrained(tmp_path).rare_words == 2
