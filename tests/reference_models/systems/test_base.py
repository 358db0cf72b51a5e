"""The base class of all systems: the two modules, the head and the losses, with a custom `encode`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnmixup import SemanticKLLoss
from reference_models.config import SystemConfig
from reference_models.errors import UserError
from reference_models.systems.base import Encoded, System
from reference_models.systems.registry import register
from tests.reference_models.tiny_models import RELATIONS, make_batch, make_model


@dataclass
class GivenConfig(SystemConfig):
    head_dropout: float = 0.0
    attn_mixup: bool = True
    semantic_weight: float = 0.5
    vision: str = "tiny"


@register("given")
class Given(System):
    """A system that gets its encoded batch as input; images have the 64 features of the tiny backbone."""

    config_class = GivenConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.finish(6)

    def make_text_encoder(self) -> None:
        return None

    def encode(self, batch: Mapping[str, Tensor]) -> Encoded:
        losses = {name: batch[name] for name in batch if name.endswith("_loss")}
        return Encoded(batch["h"], None, batch["image"], batch["has_image"], losses)


def make_given(**options: Any) -> Given:
    torch.manual_seed(0)
    return Given(Given.config_class(task="re", labels=RELATIONS, **options))


def make_given_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "h": torch.randn(4, 6, generator=generator),
        "image": torch.randn(4, 64, generator=generator),
        "has_image": torch.tensor([True, False, True, False]),
        "labels": torch.tensor([0, 1, 2, 1]),
    }


def test_loss_is_task_loss_plus_weighted_semantic_loss() -> None:
    model, batch = make_given(semantic_weight=0.3, attn_mixup=False).train(), make_given_batch()
    output = model(**batch)
    task = F.cross_entropy(model.head(batch["h"]), batch["labels"])
    rows = SemanticKLLoss(6, 64, reduction="none")
    rows.load_state_dict(model.semantic.state_dict())
    semantic = rows(batch["h"], batch["image"])[batch["has_image"]].mean()
    torch.testing.assert_close(output.task_loss, task)
    torch.testing.assert_close(output.semantic_loss, semantic)
    torch.testing.assert_close(output.loss, task + 0.3 * semantic)
    assert not output.task_loss.requires_grad
    assert output.predictions is None


@pytest.mark.parametrize("filler", [-3.0, 1e30])
def test_samples_without_an_image_have_no_semantic_loss(filler: float) -> None:
    model, batch = make_given(attn_mixup=False).train(), make_given_batch()
    batch["h"].requires_grad_()
    first = model(**batch).loss
    other = batch["image"].masked_fill(~batch["has_image"][:, None], filler)
    second = model(**(batch | {"image": other})).loss
    assert torch.equal(first, second)
    model.semantic.zero_grad()
    model(**(batch | {"image": other.requires_grad_()})).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.semantic.parameters())


def test_mixup_acts_only_in_training_and_uses_the_labels() -> None:
    model, batch = make_given(mixup={"dropout": 0.0}).train(), make_given_batch()
    generator = torch.random.get_rng_state()
    output = model(**batch)
    torch.random.set_rng_state(generator)
    mixed = model.mixer(batch["h"], batch["labels"])
    assert len(mixed.embeddings) == 8
    torch.testing.assert_close(output.task_loss, mixed.loss(F.cross_entropy, model.head(mixed.embeddings)))
    model.eval()
    torch.testing.assert_close(model(**batch).loss, F.cross_entropy(model.head(batch["h"]), batch["labels"]))


def test_evaluation_is_deterministic_and_needs_no_labels() -> None:
    for task, shape in (("re", (4,)), ("ner", (4, 5))):
        model, batch = make_model(task=task).eval(), make_batch(task)
        labels = batch.pop("labels")
        state = torch.random.get_rng_state()
        output = model(**batch)
        assert torch.equal(state, torch.random.get_rng_state())
        assert output.loss is None
        assert output.predictions.shape == shape
        assert len(output.scores) == 4
        assert model(labels=labels, **batch).loss.isfinite()


def test_modules_can_be_switched_off() -> None:
    model = make_given(attn_mixup=False, semantic_weight=0.0).train()
    assert model.mixer is None
    assert model.semantic is None
    output = model(**make_given_batch())
    assert output.semantic_loss is None
    assert output.loss == output.task_loss


def test_training_without_labels_raises() -> None:
    batch = make_given_batch()
    del batch["labels"]
    with pytest.raises(ValueError, match="training needs labels"):
        make_given().train()(**batch)


@pytest.mark.parametrize(
    ("mixup", "expected"),
    [
        ({"sampling": "slice", "sample_ratio": 0.05, "final": "mixed"}, "model.mixup: .*raise sample_ratio"),
        ({"sampling": "slice", "sample_ratio": 0.05}, "model.mixup: .*pairs"),
    ],
)
def test_settings_that_leave_too_few_pairs_are_errors_of_the_user(mixup: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        make_given(mixup=mixup).train()(**make_given_batch())


def test_options_are_passed_to_both_modules() -> None:
    model = make_given(mixup={"preset": "release"}, semantic={"project": "image", "temperature": 2.0})
    assert model.mixer.options.final == "slice"
    assert model.semantic.image_projection.weight.shape == (6, 64)
    assert model.semantic.temperature == 2.0
