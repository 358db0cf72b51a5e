"""Building a model from settings: local weights, invalid weights, and files that would execute code."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torchvision import models as torchvision_models
from transformers import AutoModel, DebertaV2Config, PreTrainedTokenizerFast

from reference_models.errors import UserError
from reference_models.systems import get_system
from reference_models.systems.bert import BERTConfig
from reference_models.systems.build import build_system
from reference_models.systems.i2srm import I2SRMConfig
from reference_models.systems.pcnn import PCNNConfig
from reference_models.tasks import NamedEntities, get_task
from reference_models.tasks import task as task_module
from reference_models.tasks.processor import Processor
from reference_models.tasks.re import MARKERS
from tests.reference_models.tiny_models import make_batch, text_config

TINY = {"text": "tiny", "vision": "tiny", "vision_weights": "none"}


def make_processor(task: str = "re", words: int = 50) -> Processor:
    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {f"w{i}": i for i in range(2, words)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="[UNK]")), pad_token="[PAD]", unk_token="[UNK]"
    )
    return Processor(tokenizer, get_task(task)(["None", "peer", "place"]), max_length=24, image_size=64)


def save_resnet(path: Path, **kwargs: Any) -> dict[str, Tensor]:
    torch.manual_seed(1)
    weights: dict[str, Tensor] = torchvision_models.resnet18(weights=None, **kwargs).state_dict()
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return weights


def test_settings_are_passed_to_the_model() -> None:
    settings = I2SRMConfig(
        **TINY,
        prefix="release",
        fusion="concat",
        attention="eager",
        semantic_weight=0.2,
        mixup={"preset": "release"},
        freeze_image_backbone=True,
        head_dropout=0.3,
    )
    model = build_system("i2srm", settings, make_processor())
    config = model.config
    assert (config.prefix, config.fusion, config.attention) == ("release", "concat", "eager")
    assert (config.semantic_weight, config.head_dropout) == (0.2, 0.3)
    assert config.freeze_image_backbone
    assert model.mixer.options.final == "slice"
    assert model.text_encoder.body.config.vocab_size == 50 + len(MARKERS)
    assert model.text_encoder.body.embeddings.word_embeddings.padding_idx == 0


def test_a_task_that_is_derived_from_that_of_the_system_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mentions(NamedEntities):
        name = "mentions"

    monkeypatch.setitem(task_module._TASKS._known, "mentions", Mentions)
    for system in ("ita", "adapcoatt"):
        settings = get_system(system).settings_class(text="tiny", vision="tiny")
        assert build_system(system, settings, make_processor("mentions")).task is Mentions
        with pytest.raises(UserError, match=f"the system {system} is for ner, but the data are for re"):
            build_system(system, settings, make_processor("re"))


def test_text_only_model_has_no_vision() -> None:
    model = build_system("bert", BERTConfig(**TINY), make_processor("ner"))
    assert model.vision is None
    assert model.semantic is None


def test_words_of_pcnn_without_a_vector_are_normal_if_others_have_one(tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_text(f"w2{' 1' * 50}\nw3{' 2' * 50}\n")
    drawn = {}
    torch.manual_seed(0)
    for vectors in ("none", str(tmp_path / "glove.txt")):
        system = build_system("pcnn", PCNNConfig(word_vectors=vectors), make_processor(words=2000))
        drawn[vectors] = system.words.weight
        assert not drawn[vectors][0].any()
    uniform, normal = drawn.values()
    assert uniform.abs().max() <= 0.25
    assert normal[[2, 3]].tolist() == [[1] * 50, [2] * 50]
    assert normal[4:].std().item() == pytest.approx(50**-0.5, rel=0.02)
    assert normal[4:].abs().max() > 0.5
    assert normal[1].abs().max() > 0.25  # the unknown word


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_backbone_loads_weights_from_a_local_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"resnet18{suffix}"
    weights = save_resnet(path)
    settings = I2SRMConfig(text="tiny", vision="resnet18", vision_weights=str(path))
    model = build_system("i2srm", settings, make_processor())
    for name, value in model.vision.body.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_class_logits_load_weights_from_the_file(tmp_path: Path) -> None:
    weights = save_resnet(tmp_path / "resnet18.pth")
    settings = I2SRMConfig(text="tiny", vision="resnet18", vision_weights=str(tmp_path / "resnet18.pth"))
    model = build_system(
        "i2srm", replace(settings, image_signal="logits", semantic={"project": "image"}), make_processor()
    )
    assert torch.equal(model.vision.body.state_dict()["fc.weight"], weights["fc.weight"])
    assert model.semantic.image_projection.weight.shape == (256, 1000)
    torch.save({k: v for k, v in weights.items() if not k.startswith("fc")}, tmp_path / "headless.pth")
    settings = I2SRMConfig(text="tiny", vision="resnet18", vision_weights=str(tmp_path / "headless.pth"))
    with pytest.raises(UserError, match=r"does not fit resnet18: fc\.bias"):
        build_system("i2srm", replace(settings, image_signal="logits"), make_processor())


def test_weights_of_older_torch_without_counters_load(tmp_path: Path) -> None:
    weights = {k: v for k, v in save_resnet(tmp_path / "new.pth").items() if "num_batches" not in k}
    torch.save(weights, tmp_path / "old.pth")
    settings = I2SRMConfig(text="tiny", vision="resnet18", vision_weights=str(tmp_path / "old.pth"))
    model = build_system("i2srm", settings, make_processor())
    assert torch.equal(model.vision.body.state_dict()["conv1.weight"], weights["conv1.weight"])


def test_weights_of_another_backbone_raise(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    save_resnet(path)
    for vision in ("resnet34", "resnet50", "mobilenet_v2"):
        settings = I2SRMConfig(text="tiny", vision=vision, vision_weights=str(path))
        with pytest.raises(UserError, match=rf"does not fit {vision}: \S+"):
            build_system("i2srm", settings, make_processor())


def test_weights_of_another_shape_raise(tmp_path: Path) -> None:
    weights = save_resnet(tmp_path / "a.pth")
    torch.save(weights | {"conv1.weight": torch.zeros(1)}, tmp_path / "b.pth")
    settings = I2SRMConfig(text="tiny", vision="resnet18", vision_weights=str(tmp_path / "b.pth"))
    with pytest.raises(UserError, match=r"does not fit resnet18: conv1\.weight"):
        build_system("i2srm", settings, make_processor())


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., IO[Any]], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("content", ["malicious", "damaged", "list", "numbers", "missing"])
def test_invalid_weights_file_raises_and_is_not_executed(content: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "executed"
    if content == "malicious":
        path.write_bytes(pickle.dumps(Malicious(trace)))
    elif content == "damaged":
        path.write_bytes(b"PK\x03\x04 no archive")
    elif content != "missing":
        torch.save([1, 2] if content == "list" else {"conv1.weight": 3}, path)
    settings = I2SRMConfig(text="tiny", vision="resnet18", vision_weights=str(path))
    with pytest.raises(UserError, match=r"model\.vision_weights: "):
        build_system("i2srm", settings, make_processor())
    assert not trace.exists()


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_text_encoder_loads_weights_from_a_local_folder(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(3)
    saved = AutoModel.from_config(text_config(family)).to(dtype)
    saved.save_pretrained(tmp_path)
    model = build_system("i2srm", I2SRMConfig(**(TINY | {"text": str(tmp_path)})), make_processor())
    state = model.text_encoder.body.state_dict()
    assert len(state) > 10
    for name, value in saved.state_dict().items():
        if name in state:  # all but the pooler; the entity markers extend the word embedding
            assert state[name].dtype == torch.float32
            assert torch.equal(state[name][: len(value)], value.float()), name
    assert len(model.text_encoder.body.get_input_embeddings().weight) == 50 + len(MARKERS)
    assert model.train()(**make_batch()).loss.isfinite()


@pytest.mark.parametrize(("family", "longest"), [("bert", 64), ("roberta", 61), ("modernbert", 64)])
def test_length_limit_beyond_the_encoder_raises(family: str, longest: int, tmp_path: Path) -> None:
    config = text_config(family)
    config.max_position_embeddings = 64
    config.pad_token_id = 2
    AutoModel.from_config(config).save_pretrained(tmp_path)
    settings, processor = I2SRMConfig(**(TINY | {"text": str(tmp_path)})), make_processor()
    processor.max_length = longest
    model = build_system("i2srm", settings, processor).eval()
    ids = torch.full((1, longest), 5)
    assert model.text_encoder(ids, torch.ones_like(ids)).shape[1] == longest  # every position exists
    processor.max_length = longest + 1
    with pytest.raises(
        UserError, match=rf"data\.max_length is {longest + 1}, but .* reads at most {longest} sub-words"
    ):
        build_system("i2srm", settings, processor)


def test_text_encoder_that_cannot_be_loaded_raises(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nowhere"), str(tmp_path)):
        with pytest.raises(UserError, match=r"model\.text: no encoder could be loaded"):
            build_system("i2srm", I2SRMConfig(**(TINY | {"text": name})), make_processor())
    AutoModel.from_config(text_config("bert")).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"model\.text: no encoder could be loaded"):
        build_system("i2srm", I2SRMConfig(**(TINY | {"text": str(tmp_path)})), make_processor())


def test_text_encoder_without_prefix_support_raises(tmp_path: Path) -> None:
    config = DebertaV2Config(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'deberta-v2' cannot use a visual prefix"):
        build_system("i2srm", I2SRMConfig(**(TINY | {"text": str(tmp_path)})), make_processor())


@pytest.mark.parametrize("mixup", [{"colour": 1}, {"heads": -1}, {"sample_ratio": 2.0}])
def test_invalid_mixup_option_raises(mixup: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"model\.mixup or model\.semantic: "):
        build_system("i2srm", I2SRMConfig(**TINY, mixup=mixup), make_processor())
