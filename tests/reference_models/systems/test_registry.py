"""The registry: the command line trains a system of another package, and mistakes raise clear errors."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

from reference_models.cli import main
from reference_models.config import SystemConfig
from reference_models.data.synthetic import generate
from reference_models.errors import UserError
from reference_models.systems import get_system, list_systems, register
from reference_models.systems.base import System

TOY = '''
    """A system of another package: the image is added to the text, and kept small by a loss of its own."""

    from dataclasses import dataclass

    import torch
    from torch import nn

    from reference_models.config import Inputs, TextSystemConfig
    from reference_models.systems.base import Encoded, System
    from reference_models.systems.registry import register


    @dataclass
    class ToyConfig(TextSystemConfig):
        """Settings of the toy.

        Args:
            strength: of the image.
        """

        strength: float = 1.0

        @property
        def inputs(self) -> Inputs:
            return Inputs(images={"pooled": "whole"})


    @register("toy")
    class Toy(System):
        config_class = ToyConfig

        def __init__(self, config):
            super().__init__(config)
            self.image_map = nn.Linear(self.vision.widths["pooled"], self.text_encoder.width)
            self.finish(self.task.width(self.text_encoder.width))

        def encode(self, batch):
            features = self.image_features(batch)
            image = self.image_map(features.padded("pooled")[:, 0]) * features.seen["pooled"]
            hidden = self.text_encoder(batch["input_ids"], batch["attention_mask"])
            hidden = hidden + self.settings.strength * image[:, None]
            losses = {"size_loss": 0.1 * image.square().mean()}
            return Encoded(*self.task.gather(hidden, batch, self.config), *self.semantic_image(batch, features), losses)
'''
RUN = """
    system: toy_package:toy
    model: {strength: 0.5, attn_mixup: true, semantic_weight: 0.5}
    training: {learning_rates: {image_map: 1.0e-2, head: 1.0e-2}}
"""


@pytest.mark.parametrize("task", ["ner", "re"])
def test_external_system_trains_evaluates_and_predicts(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy_package.py").write_text(dedent(TOY))
    (tmp_path / "toy.yaml").write_text(dedent(RUN))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_package", raising=False)
    data, run = tmp_path / "data" / "posts", tmp_path / "run"
    generate(data, task, 0, {"train": 16, "valid": 8, "test": 8})
    sizes = ["--training.epochs", "1", "--training.batch_size", "8", "--model.tiny_vocabulary", "100"]
    paths = ["--data.root", str(data), "--output", str(run)]
    assert main(["train", f"synthetic-{task}", str(tmp_path / "toy.yaml"), *paths, *sizes]) == 0
    history = json.loads((run / "history.json").read_text())
    assert {"task_loss", "semantic_loss", "size_loss"} <= history[0].keys()
    assert json.loads((run / "model" / "config.json").read_text())["strength"] == 0.5
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["scores"]
    assert found == json.loads((run / "metrics.json").read_text())["test"]
    entities = [] if task == "ner" else ["--head", "Ruby Vex", "--tail", "Rome"]
    assert main(["predict", str(run), "--text", "Ruby Vex in Rome", *entities]) == 0
    assert main(["train", f"synthetic-{task}", str(tmp_path / "toy.yaml"), *paths, "--model.strenth", "1"]) == 2
    assert "toy_package:toy has no setting model.strenth; did you mean model.strength?" in capsys.readouterr().err


def test_package_systems_are_listed_and_unknown_names_raise() -> None:
    assert {"bert", "hvpnet", "i2srm"} <= set(list_systems())
    with pytest.raises(UserError, match=r"unknown system 'hvpnett', expected one of .*hvpnet"):
        get_system("hvpnett")


def test_missing_config_class_and_duplicate_name_raise() -> None:
    @dataclass
    class OtherConfig(SystemConfig):
        pass

    with pytest.raises(TypeError, match="must set config_class to a dataclass derived from SystemConfig"):

        @register("without")
        class Without(System):
            pass

    with pytest.raises(ValueError, match="the system 'bert' is already registered"):

        @register("bert")
        class Other(System):
            config_class = OtherConfig
