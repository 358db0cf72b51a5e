"""Every trainable parameter in exactly one group, with the rate of its part."""

from collections import Counter
from pathlib import Path

import pytest
from tiny_runs import config
from torch import nn

from reference_models.config import ModelConfig, TrainingConfig
from reference_models.data.samples import TAGS
from reference_models.data.tokenizer import learn_tokenizer
from reference_models.errors import UserError
from reference_models.systems.build import build_model
from reference_models.systems.i2srm import I2SRM
from reference_models.tasks import get_task
from reference_models.tasks.processor import Processor
from reference_models.training.optimizer import learning_rates, parameter_groups

RATES = TrainingConfig(
    learning_rate=1.0,
    text_learning_rate=2.0,
    vision_learning_rate=3.0,
    prefix_learning_rate=4.0,
    regulariser_learning_rate=5.0,
    head_learning_rate=6.0,
)
CHILDREN = {"text": 2.0, "vision": 3.0, "prefix": 4.0, "mixer": 5.0, "semantic": 5.0, "head": 6.0}


def build(task: str, **options: object) -> I2SRM:
    tokenizer = learn_tokenizer([["a", "few", "words"], ["more", "words"]], 60)
    processor = Processor(tokenizer, get_task(task)(TAGS), image_size=32)
    return build_model(ModelConfig(text="tiny", vision="tiny", vision_weights="none", **options), processor)


def groups_of(model: nn.Module, settings: TrainingConfig) -> list[dict]:
    rates = learning_rates(settings, model["head"] if isinstance(model, nn.ModuleDict) else model.head)
    return parameter_groups(model, rates, learning_rate=settings.learning_rate, weight_decay=0.1)


@pytest.mark.parametrize("task", ["ner", "re"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"freeze_image_backbone": True},
        {"visual": False},
        {"attn_mixup": False, "semantic_weight": 0.0},
        {"mixup": {"preset": "release"}},
    ],
    ids=str,
)
def test_every_trainable_parameter_is_in_one_group(task: str, options: dict[str, object]) -> None:
    model = build(task, **options)
    groups = groups_of(model, RATES)
    seen = Counter(id(parameter) for group in groups for parameter in group["params"])
    assert seen == Counter(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    assert all(group["params"] for group in groups)
    assert len({group["name"] for group in groups}) == len(groups)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == CHILDREN[name.split(".")[0]], name


def test_frozen_backbone_is_in_no_group() -> None:
    model = build("ner", freeze_image_backbone=True)
    assert not any(group["name"].startswith("vision") for group in groups_of(model, RATES))


def test_norms_and_biases_are_not_decayed() -> None:
    model = build("ner")
    decay = {id(p): group["weight_decay"] for group in groups_of(model, RATES) for p in group["params"]}
    assert decay[id(model.head.linear.weight)] == decay[id(model.head.crf.transitions)] == 0.1
    assert decay[id(model.head.linear.bias)] == decay[id(model.mixer.attention.norm.weight)] == 0.0


@pytest.mark.parametrize(
    ("task", "options", "rate"),
    [("re", {}, 1e-3), ("ner", {}, 5e-2), ("ner", {"tag_head": "softmax"}, 1e-3)],
    ids=str,
)
def test_only_a_crf_learns_at_the_rate_of_a_crf(task: str, options: dict[str, object], rate: float) -> None:
    rates = {group["name"]: group["lr"] for group in groups_of(build(task, **options), TrainingConfig())}
    assert rates.pop("heads") == rates.pop("heads, no decay") == rate
    assert set(rates.values()) == {3e-5}


def test_demo_has_its_own_rate_of_the_head(data: Path, tmp_path: Path) -> None:
    assert learning_rates(config(data, tmp_path).training, build("ner").head) == {"heads": 1e-2}


def test_a_part_of_another_name_learns_at_the_general_rate() -> None:
    model = nn.ModuleDict({"fusion": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    assert {group["name"]: group["lr"] for group in groups_of(model, RATES)} == {
        "fusion": 1.0,
        "fusion, no decay": 1.0,
        "heads": 6.0,
        "heads, no decay": 6.0,
    }


@pytest.mark.parametrize("option", [{"text_learning_rate": -1.0}, {"warmup": 1.0}, {"accumulation": 0}], ids=str)
def test_impossible_settings_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(option))):
        TrainingConfig(**option)
