"""Tests that every registered system must pass; a new system is tested without a change in this file."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from reference_models.systems import get_system, list_systems
from reference_models.systems.base import Encoded, System
from reference_models.training.optimizer import parameter_groups
from tests.reference_models.tiny_models import make_batch, make_model

SHIPPED = [name for name in list_systems() if get_system(name).__module__.startswith("reference_models.")]
CASES = [(name, task) for name in SHIPPED for task in get_system(name).tasks or ("ner", "re")]
MODULES: dict[str, dict[str, Any]] = {
    "neither": {"attn_mixup": False, "semantic_weight": 0.0},
    "semantic": {"attn_mixup": False, "semantic_weight": 0.5},
    "mixup": {"attn_mixup": True, "semantic_weight": 0.0, "mixup": {"dropout": 0.0}},
    "both": {"attn_mixup": True, "semantic_weight": 0.5, "mixup": {"dropout": 0.0}},
}
each_case = pytest.mark.parametrize(("name", "task"), CASES)
each_choice = pytest.mark.parametrize("modules", MODULES)


def make_system(name: str, task: str, modules: str = "both", **options: Any) -> System:
    return make_model(get_system(name), task=task, **MODULES[modules], **options)


def without_dropout(system: System) -> System:
    for module in system.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name, value in vars(system.config.text_config).items():
        if "dropout" in name and value:
            setattr(system.config.text_config, name, 0.0)
    for module in system.modules():  # attention layers of transformers have their own rate
        for rate in ("attention_dropout", "dropout_prob"):
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)
    return system


def unlabelled(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}


@torch.no_grad()
def scores_of(system: System, batch: Mapping[str, Tensor]) -> Tensor:
    scores: Tensor = system.eval()(**unlabelled(batch)).scores
    return scores


def real_scores(system: System, batch: Mapping[str, Tensor], samples: int) -> Iterator[Tensor]:
    """Yield the scores of each sample without padding."""
    scores, mask = scores_of(system, batch), batch.get("word_mask")
    for sample in range(samples):
        yield scores[sample] if mask is None else scores[sample][mask[sample]]


@each_case
@each_choice
def test_every_trainable_parameter_receives_a_gradient(name: str, task: str, modules: str) -> None:
    system = make_system(name, task, modules).train()
    system(**make_batch(task)).loss.backward()
    trainable = {key: p for key, p in system.named_parameters() if p.requires_grad}
    silent = {key for key, p in trainable.items() if p.grad is None or not p.grad.abs().sum() > 0}
    # The same number added to all keys of a query cancels in the softmax over them; so does one added to all samples.
    silent = {key for key in silent if not key.endswith(("key.bias", "gates.bias"))}
    assert silent == set()
    assert all(p.grad.isfinite().all() for p in trainable.values() if p.grad is not None)
    assert (system.mixer is not None, system.semantic is not None) == (
        MODULES[modules]["attn_mixup"],
        MODULES[modules]["semantic_weight"] > 0,
    )


@each_case
def test_every_trainable_parameter_is_in_one_optimizer_group(name: str, task: str) -> None:
    system = make_system(name, task)
    groups = parameter_groups(system, system.learning_rates(), learning_rate=1.0, weight_decay=0.1)
    grouped = Counter(id(parameter) for group in groups for parameter in group["params"])
    assert grouped == Counter(id(parameter) for parameter in system.parameters() if parameter.requires_grad)


@each_case
def test_scores_depend_only_on_h(name: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores stay the same if the output of `encode` has only `h` and its mask."""
    system, batch = make_system(name, task), make_batch(task)
    expected = scores_of(system, batch)
    encoded = system.encode(unlabelled(batch))
    monkeypatch.setattr(system, "encode", lambda _: Encoded(encoded.h, encoded.mask))
    assert torch.equal(system(input_ids=torch.zeros(1, 1, dtype=torch.long)).scores, expected)


@each_case
def test_padding_and_other_samples_do_not_change_scores(name: str, task: str) -> None:
    system, batch = make_system(name, task), make_batch(task)
    expected = list(real_scores(system, batch, 4))
    alone = {key: value[1:3] for key, value in batch.items()}
    for one, other in zip(real_scores(system, alone, 2), expected[1:3], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    longer = dict(batch)
    for key, value in batch.items():
        if key == "characters":
            longer[key] = torch.nn.functional.pad(value, (0, 2, 0, 3))
        elif value.ndim == 2 and key != "image_mask":
            longer[key] = torch.nn.functional.pad(value, (0, 3))
    for one, other in zip(real_scores(system, longer, 4), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@each_case
def test_absent_images_do_not_change_scores(name: str, task: str) -> None:
    system, batch = make_system(name, task), make_batch(task)
    expected = scores_of(system, batch)
    absent = ~batch["image_mask"][..., None, None, None]
    noise = torch.randint_like(batch["pixel_values"], 256)
    other = batch | {"pixel_values": torch.where(absent, noise, batch["pixel_values"])}
    assert torch.equal(scores_of(system, other), expected)
    without = batch | {"image_mask": torch.zeros_like(batch["image_mask"])}
    torch.testing.assert_close(scores_of(system, without)[1], expected[1], atol=1e-5, rtol=1e-4)


@each_case
def test_present_image_changes_scores_if_the_system_reads_images(name: str, task: str) -> None:
    system, batch = make_system(name, task), make_batch(task)
    moved = (scores_of(system, batch) - scores_of(system, batch | {"pixel_values": 255 - batch["pixel_values"]})).abs()
    assert (moved.flatten(1).amax(dim=1)[[0, 3]] > 1e-6).all() == bool(system.settings.inputs.images)


@each_case
@each_choice
def test_saved_system_loads_identically(name: str, task: str, modules: str, tmp_path: Path) -> None:
    system, batch = make_system(name, task, modules), make_batch(task)
    expected = scores_of(system, batch)
    system.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(system)
    torch.testing.assert_close(loaded.state_dict(), system.state_dict(), rtol=0, atol=0)
    # The kernel of an LSTM depends on the memory layout of its weights.
    close = 1e-7 if any(isinstance(module, torch.nn.LSTM) for module in system.modules()) else 0.0
    assert (scores_of(loaded, batch) - expected).abs().max() <= close
    assert loaded.settings == system.settings
    assert AutoConfig.from_pretrained(tmp_path).task == task
    light = AutoModel.from_pretrained(tmp_path, attn_mixup=False, semantic_weight=0.0)
    assert (scores_of(light, batch) - expected).abs().max() <= close
    assert not any(key.startswith(("mixer", "semantic")) for key in light.state_dict())


@each_case
def test_own_losses_use_only_the_original_samples(name: str, task: str) -> None:
    """With the same weights, the system's own losses are the same with and without AttnMixup."""
    mixed = without_dropout(make_system(name, task, "both")).train()
    plain = copy.deepcopy(mixed)
    plain.mixer = None
    batch = make_batch(task)
    torch.manual_seed(3)
    one = mixed(**batch).own_losses
    torch.manual_seed(3)
    other = plain(**batch).own_losses
    assert (one is None) == (other is None)
    for key in one or {}:
        torch.testing.assert_close(one[key], other[key])


@each_case
def test_bfloat16_and_autocast(name: str, task: str, tmp_path: Path) -> None:
    system, batch = make_system(name, task), make_batch(task)
    exact = scores_of(system, batch)
    near = 0.2 * max(1.0, exact.abs().max().item())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = scores_of(system, batch)
        loss = system.train()(**batch).loss
    torch.testing.assert_close(mixed.float(), exact, atol=near, rtol=0.1)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in system.parameters())
    system.save_pretrained(tmp_path)
    reduced = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    torch.testing.assert_close(scores_of(reduced, batch).float(), exact, atol=near, rtol=0.1)


@each_case
def test_evaluation_is_deterministic_and_predicts_every_sample(name: str, task: str) -> None:
    system, batch = make_system(name, task).eval(), make_batch(task)
    state = torch.random.get_rng_state()
    output = system(**unlabelled(batch))
    assert torch.equal(state, torch.random.get_rng_state())
    assert output.loss is None
    assert output.own_losses is None
    assert len(output.predictions) == 4
    assert system(**batch).loss.isfinite()
