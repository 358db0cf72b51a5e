"""Every trainable parameter is in exactly one group, with the learning rate of its module."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reference_models.config import TrainingConfig
from reference_models.data.tokenizer import learn_tokenizer
from reference_models.errors import UserError
from reference_models.systems.base import System
from reference_models.systems.build import build_system
from reference_models.systems.registry import get_system
from reference_models.tasks import get_task
from reference_models.tasks.ner import tags_of
from reference_models.tasks.processor import Processor
from reference_models.training.optimizer import inverse_schedule, make_optimizer, parameter_groups
from tests.reference_models.training.tiny_runs import config

TAGS = tuple(tags_of(("PER", "LOC", "ORG", "MISC")))

RATES = {"text_encoder": 2.0, "vision": 3.0, "prefix": 4.0, "mixer": 5.0, "semantic": 5.5, "head": 6.0}


def build(task: str, name: str = "i2srm", **options: object) -> System:
    tokenizer = learn_tokenizer([["a", "few", "words"], ["more", "words"]], 60)
    processor = Processor(tokenizer, get_task(task)(TAGS), image_size=32)
    tiny = {"text": "tiny", "vision": "tiny", "vision_weights": "none"}
    return build_system(name, get_system(name).settings_class(**tiny, **options), processor)


def groups_of(model: nn.Module, rates: Mapping[str, float], learning_rate: float = 1.0) -> list[dict[str, Any]]:
    return parameter_groups(model, rates, learning_rate=learning_rate, weight_decay=0.1)


@pytest.mark.parametrize("task", ["ner", "re"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"freeze_image_backbone": True},
        {"attn_mixup": False, "semantic_weight": 0.0},
        {"mixup": {"preset": "release"}},
    ],
    ids=str,
)
def test_every_trainable_parameter_is_in_one_group(task: str, options: dict[str, object]) -> None:
    model = build(task, **options)
    children = {name.split(".")[0] for name, _ in model.named_parameters()}
    groups = groups_of(model, {name: rate for name, rate in RATES.items() if name in children})
    seen = Counter(id(parameter) for group in groups for parameter in group["params"])
    assert seen == Counter(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    assert all(group["params"] for group in groups)
    assert len({group["name"] for group in groups}) == len(groups)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == RATES[name.split(".")[0]], name


def test_frozen_backbone_is_in_no_group() -> None:
    model = build("ner", freeze_image_backbone=True)
    assert not any(group["name"].startswith("vision") for group in groups_of(model, RATES))


def test_norms_and_biases_are_not_decayed() -> None:
    model = build("ner")
    decay = {id(p): group["weight_decay"] for group in groups_of(model, RATES) for p in group["params"]}
    assert decay[id(model.head.linear.weight)] == decay[id(model.head.crf.transitions)] == 0.1
    assert decay[id(model.head.linear.bias)] == decay[id(model.mixer.attention.norm.weight)] == 0.0


def test_decay_all_includes_norms_and_biases() -> None:
    groups = parameter_groups(build("ner"), RATES, learning_rate=1.0, weight_decay=0.1, decay_all=True)
    assert {group["weight_decay"] for group in groups} == {0.1}
    assert not any(group["name"].endswith("no decay") for group in groups)


@pytest.mark.parametrize(
    ("task", "options", "rate"),
    [("re", {}, 1e-3), ("ner", {}, 5e-2), ("ner", {"tag_head": "softmax"}, 1e-3)],
    ids=str,
)
def test_only_a_crf_head_uses_the_crf_learning_rate(task: str, options: dict[str, object], rate: float) -> None:
    model = build(task, **options)
    groups = groups_of(model, model.learning_rates(), 3e-5)
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates.pop("head") == rates.pop("head, no decay") == rate
    assert set(rates.values()) == {3e-5}


def test_longest_prefix_wins_and_ends_at_a_dot() -> None:
    model = build("ner")
    rates = {"head": 2.0, "head.crf": 3.0, "text_encoder.body.encoder.layer.1": 4.0}
    found = {id(p): group["lr"] for group in groups_of(model, rates) for p in group["params"]}
    assert found[id(model.head.linear.weight)] == 2.0
    assert found[id(model.head.crf.transitions)] == 3.0
    layers = model.text_encoder.body.encoder.layer
    assert {found[id(p)] for p in layers[1].parameters()} == {4.0}
    assert {found[id(p)] for p in layers[2].parameters()} == {1.0}


@pytest.mark.parametrize("prefix", ["heads", "head.lin", "head.linear.weight.x", ""])
def test_prefix_without_a_match_raises(prefix: str) -> None:
    with pytest.raises(UserError, match=rf"starts with '{prefix}'; the top-level modules are text_encoder, vision,"):
        groups_of(build("re"), {prefix: 1.0})


def test_demo_sets_its_own_head_learning_rate(data: Path, tmp_path: Path) -> None:
    assert config(data, tmp_path).training.learning_rates == {"head": 1e-2}


def test_sgd_uses_momentum_and_weight_decay() -> None:
    layer = nn.Linear(2, 1)
    layer.weight.data.fill_(1.0)
    optimizer = make_optimizer(TrainingConfig(optimizer="sgd", momentum=0.5), groups_of(layer, {}, 0.1))
    expected, velocity = 1.0, 0.0
    for _ in range(3):
        layer.weight.grad = torch.full((1, 2), 2.0)
        optimizer.step()
        velocity = 0.5 * velocity + 2.0 + 0.1 * expected  # momentum, gradient, decay
        expected -= 0.1 * velocity
    torch.testing.assert_close(layer.weight.data, torch.full((1, 2), expected))
    assert isinstance(make_optimizer(TrainingConfig(), groups_of(layer, {})), torch.optim.AdamW)


def test_inverse_schedule_warms_up_then_decays_per_epoch() -> None:
    factors = [inverse_schedule(step, steps_per_epoch=4, warmup_steps=2) for step in (0, 1, 2, 3, 4, 7, 8, 80)]
    assert factors == pytest.approx([0, 0.5, 1, 1, 1 / 1.05, 1 / 1.05, 1 / 1.1, 1 / 2])


@pytest.mark.parametrize(
    "option", [{"learning_rates": {"head": -1.0}}, {"warmup": 1.0}, {"accumulation": 0}, {"clip": -1.0}], ids=str
)
def test_invalid_settings_raise(option: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(option))):
        TrainingConfig(**option)
