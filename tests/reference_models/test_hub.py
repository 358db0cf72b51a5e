"""Weights from the torchvision hub: a malicious file in the cache raises and is not executed."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torchvision.models import ResNet18_Weights, WeightsEnum, resnet18
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights
from transformers import PreTrainedTokenizerFast

from reference_models import hub
from reference_models.config.grounding import GroundingConfig
from reference_models.errors import UserError
from reference_models.grounding.detectors import load_detector
from reference_models.systems.base import System
from reference_models.systems.build import build_system
from reference_models.systems.i2srm import I2SRMConfig
from reference_models.tasks import Relations
from reference_models.tasks.processor import Processor


def hub_file(weights: WeightsEnum) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name


class Malicious:
    """A class whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache" / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "cache"


def build_backbone() -> System:
    words = {"[PAD]": 0, "[UNK]": 1}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="[UNK]")), pad_token="[PAD]", unk_token="[UNK]"
    )
    processor = Processor(tokenizer, Relations(["None", "peer"]), image_size=64)
    return build_system("i2srm", I2SRMConfig(text="tiny", vision="resnet18", vision_weights="imagenet"), processor)


READERS: dict[str, tuple[WeightsEnum, Callable[[], object]]] = {
    "model.vision_weights": (ResNet18_Weights.IMAGENET1K_V1, build_backbone),
    "grounding.weights": (
        FasterRCNN_ResNet50_FPN_V2_Weights.DEFAULT,
        lambda: load_detector(GroundingConfig(detector="torchvision")),
    ),
}


@pytest.mark.parametrize("setting", READERS)
@pytest.mark.parametrize("content", ["malicious", "damaged"])
def test_malicious_or_damaged_cache_file_raises_and_is_not_executed(setting: str, content: str, tmp_path: Path) -> None:
    weights, read = READERS[setting]
    trace = tmp_path / "executed"
    hub_file(weights).write_bytes(
        pickle.dumps(Malicious(trace)) if content == "malicious" else b"PK\x03\x04 no archive"
    )
    with pytest.raises(
        UserError, match=rf"^{setting}: expected .* in {hub_file(weights)}, but .* not executed; delete it"
    ):
        read()
    assert not trace.exists()


def test_backbone_loads_weights_from_the_cache() -> None:
    torch.manual_seed(1)
    saved = resnet18().state_dict()
    torch.save(saved, hub_file(ResNet18_Weights.IMAGENET1K_V1))
    for name, value in build_backbone().vision.body.state_dict().items():
        assert torch.equal(value, saved[name]), name


@pytest.mark.parametrize("setting", READERS)
def test_failed_download_names_the_weights_and_their_path(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    weights, read = READERS[setting]
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match=rf"^{setting}: .*cannot be downloaded to {hub_file(weights)} \(no route"):
        read()


@pytest.mark.parametrize("setting", READERS)
def test_offline_mode_raises_without_download(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, read = READERS[setting]
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=rf"^{setting}: .* not in {hub_file(weights)}, and HF_HUB_OFFLINE forbids"):
        read()
