"""Loading a run: for prediction without the modules used only in training, for the report completely."""

import logging
from pathlib import Path

import pytest
import torch

from reference_models.data.samples import Sample
from reference_models.settings import read_settings
from reference_models.systems.build import build_system
from reference_models.systems.inference import predict_batch
from reference_models.tasks.dataset import EncodedSplit
from reference_models.tasks.processor import Processor
from reference_models.training.run import load_model, load_whole_model, make_processor, read_split
from tests.reference_models.training.tiny_runs import config

TRAINING_ONLY = ("mixer.", "semantic.")


def test_load_model_omits_modules_used_only_in_training(
    data: Path, finished: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model, processor = load_model(finished)
    assert caplog.messages == []
    whole, _ = load_whole_model(finished)
    assert all(any(name.startswith(part) for name in whole.state_dict()) for part in TRAINING_ONLY)
    wanted = {name: value for name, value in whole.state_dict().items() if not name.startswith(TRAINING_ONLY)}
    assert model.state_dict().keys() == wanted.keys()
    assert not model.training
    assert not whole.training
    samples, _ = read_split(config(data, finished), "test")
    split = EncodedSplit(samples, processor)
    items = [split[number] for number in range(len(split))]
    ours, theirs = (predict_batch(each, processor, items) for each in (model, whole))
    assert torch.equal(ours.scores, theirs.scores)
    assert torch.equal(ours.ids, theirs.ids)


def test_rare_words_of_the_training_split_are_kept_in_the_processor(tmp_path: Path) -> None:
    """Rare words occur once in the training split. Each training run passes their number to the system."""
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
