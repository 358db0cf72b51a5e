"""HVPNeT: equality with I2SRM without both modules, published faults as options, and the prefix."""

from typing import Any

import pytest
import torch

from reference_models.systems.hvpnet import HVPNeT
from reference_models.systems.i2srm import I2SRM
from tests.reference_models.tiny_models import make_batch, make_model

PUBLISHED = {"prefix": "release", "pair": "marker", "freeze_image_backbone": True}


@pytest.mark.parametrize("task", ["ner", "re"])
@pytest.mark.parametrize("options", [{}, {"prefix": "paper"}, {"fusion": "concat"}], ids=str)
def test_hvpnet_is_bit_identical_to_i2srm_without_both_modules(task: str, options: dict[str, Any]) -> None:
    ours = make_model(HVPNeT, task=task, **options)
    theirs = make_model(I2SRM, task=task, attn_mixup=False, semantic_weight=0.0, **PUBLISHED | options)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    batch, losses, gradients = make_batch(task), [], []
    for system in (ours, theirs):
        torch.manual_seed(1)
        loss = system.train()(**batch).loss
        loss.backward()
        losses.append(loss)
        gradients.append({name: p.grad for name, p in system.named_parameters() if p.grad is not None})
    assert torch.equal(*losses)
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())


@pytest.mark.parametrize("scrambled", [False, True])
def test_heads_share_features_only_when_scrambled(scrambled: bool) -> None:
    system, batch = make_model(HVPNeT, scramble_heads=scrambled), make_batch(present=[[1, 1, 1, 1]] * 4)
    last, width = system.prefix.mixer.perceptron[2], system.text_encoder.width
    column = torch.arange(last.out_features) % (2 * width)  # position within a share: keys, then values
    others = (column >= width // system.text_encoder.heads) & (column < width)
    with torch.no_grad():
        for parameter in (last.weight, last.bias):
            parameter[others] = 0
        features = system.image_features(batch)
        keys = system.prefix(features.rows["cells"], features.seen["cells"]).keys
    assert keys[:, :, 0].abs().sum() > 0
    assert (keys[:, :, 1:].abs().sum() > 0) == scrambled


def test_gates_sum_to_one() -> None:
    system, batch = make_model(HVPNeT), make_batch()
    cells = system.image_features(batch).rows["cells"]
    with torch.no_grad():
        constant = torch.ones_like(cells)
        mixer = system.prefix.mixer
        mixer.perceptron[2].weight.zero_()
        mixer.perceptron[2].bias.fill_(3.0)
        tokens = mixer(constant.split(system.vision.stage_widths, dim=-1))
    torch.testing.assert_close(tokens, torch.full_like(tokens, 3.0))


@pytest.mark.parametrize("task", ["ner", "re"])
def test_frozen_head_gets_no_gradient(task: str) -> None:
    system = make_model(HVPNeT, task=task, train_head=False).train()
    system(**make_batch(task)).loss.backward()
    assert [p.grad for p in system.head.parameters()] == [None] * len(list(system.head.parameters()))
    assert system.prefix.mixer.gates.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("drifting", [False, True])
def test_frozen_backbone_updates_statistics_only_in_train_mode(drifting: bool) -> None:
    system = make_model(HVPNeT, backbone_train_mode=drifting).train()
    before = {name: value.clone() for name, value in system.vision.named_buffers()}
    system(**make_batch()).loss.backward()
    assert all(torch.equal(value, before[name]) != drifting for name, value in system.vision.named_buffers())
    assert all(p.grad is None for p in system.vision.parameters())
