"""The release preset has the total loss of a second implementation, which loops over images, tokens and samples.

The second implementation follows the published code: ResNet stages are pooled with a kernel of half their side,
rounded down; (channels, 2, 2) is reinterpreted as four tokens (4, channels), and keys and values as (heads, tokens,
width); text positions start after the visual tokens; slices of H, H* and the mixed rows are truncated; the means over
real and over synthetic rows are added. It has no dropout, and uses a fixed partner per row of the pool and one lambda.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import ResNet, resnet18

from attnmixup import SampleAttention, sampling
from reference_models.settings import read_settings
from reference_models.systems.i2srm import I2SRM, RELEASE
from tests.reference_models.slow_encoder import encode_sentence
from tests.reference_models.tiny_models import make_batch, make_model, text_config

# The loss of the model with seed 0 on the batch below, computed by `slow_loss`.
EXPECTED_LOSS = 2.0896949
LAM = 0.3
SIDE = 160  # the last stage is 5 x 5
# Settings that differ from the release; each must change the loss.
CHANGES = {
    "scramble_cells": False,
    "scramble_heads": False,
    "shift_positions": False,
    "stage_pooling": "whole",
    "attend_absent": False,
    "mixup": {"preset": "release", "counts": "round"},
}


@pytest.fixture(autouse=True)
def fixed_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pair each row of the pool with the row two positions later."""
    monkeypatch.setattr(sampling, "draw_permutation", lambda group, **_: (torch.arange(len(group)) + 2) % len(group))
    monkeypatch.setattr(sampling, "draw_lam", lambda _, count, **__: torch.full((count,), LAM))


def make_release(**changes: Any) -> I2SRM:
    model = make_model(
        vision="resnet18", freeze_image_backbone=True, text_config=text_config("roberta"), **(RELEASE | changes)
    )
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif "rate" in vars(module):
            vars(module)["rate"] = 0.0
    for layer in model.text_encoder.body.encoder.layer:
        layer.attention.self.dropout.p = 0.0
    model.train()
    return model


def release_batch() -> dict[str, Tensor]:
    batch = make_batch(present=[[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]])
    pixels = batch["pixel_values"].flatten(0, 1).float()
    large = F.interpolate(pixels, SIDE, mode="bilinear").round().to(torch.uint8)
    batch["pixel_values"] = large.view(4, 4, 3, SIDE, SIDE)
    return batch


@torch.no_grad()
def slow_loss(model: I2SRM, batch: dict[str, Tensor]) -> float:
    net = resnet18().eval()
    net.load_state_dict(model.vision.body.state_dict())
    rows, logits = [], []
    for sample in range(4):
        tokens = []
        for slot in range(4):
            stages, classes = slow_backbone(net, batch["pixel_values"][sample, slot], batch["image_mask"][sample, slot])
            tokens.append(torch.cat([slow_pool(stage) for stage in stages]).flatten().view(4, -1))
            logits += [classes] if slot == 0 else []
        rows.append(slow_pair(model, batch, sample, tokens))
    h, y = torch.stack(rows), batch["labels"]
    star = slow_attention(model.mixer.attention, h)
    size = len(h)
    pool = [(h[i], int(y[i])) for i in range(int(0.7 * size))]
    pool += [(star[i], int(y[i])) for i in range(int((1 - 0.7) * size), size)]
    real = [(h[i], int(y[i])) for i in range(size)] + [(star[i], int(y[i])) for i in range(int(0.6 * size))]
    made = []
    for number in range(int(0.4 * len(pool))):
        (first, a), (second, b) = pool[number], pool[(number + 2) % len(pool)]
        scores = model.head.linear(LAM * first + (1 - LAM) * second)
        made.append(LAM * entropy(scores, a) + (1 - LAM) * entropy(scores, b))
    given = [entropy(model.head.linear(row), label) for row, label in real]
    task_loss = sum(given) / len(given) + sum(made) / len(made)
    project, divergence = model.semantic.image_projection, 0.0
    assert project is not None
    for text, image in zip(h, logits, strict=True):
        p, q = text.softmax(0), project(image).softmax(0)
        divergence += sum(float(p[i]) * math.log(p[i] / q[i]) for i in range(len(p))) / size
    return task_loss + 0.5 * divergence


def slow_backbone(net: ResNet, pixels: Tensor, is_there: Tensor) -> tuple[list[Tensor], Tensor]:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (pixels / 255 - mean[:, None, None]) / std[:, None, None] if is_there else torch.zeros(pixels.shape)
    x, stages = net.maxpool(net.relu(net.bn1(net.conv1(x[None])))), []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        stages.append(x[0])
    return stages, net.fc(net.avgpool(x).flatten())


def slow_pool(stage: Tensor) -> Tensor:
    side = stage.shape[1] // 2
    return F.avg_pool2d(stage, kernel_size=side, stride=side)


def slow_pair(model: I2SRM, batch: dict[str, Tensor], sample: int, images: list[Tensor]) -> Tensor:
    """Return the pair of entities of a sample, from the tokens (4, channels) of its four images."""
    config, mixer = model.text_encoder.body.config, model.prefix.mixer
    heads, width = config.num_attention_heads, config.hidden_size
    keys: list[list[Tensor]] = []
    values: list[list[Tensor]] = []
    for layer in range(config.num_hidden_layers):
        visual = []
        for image in images:
            shares = mixer.perceptron(image).chunk(4, dim=-1)
            scores = F.leaky_relu(mixer.gates(sum(shares).flatten() / 4))
            gate = scores[4 * layer : 4 * layer + 4].softmax(0)
            visual.append(sum(weight * share for weight, share in zip(gate, shares, strict=True)))
        key, value = torch.cat(visual).split(width, dim=-1)
        for half, kept in ((key, keys), (value, values)):
            by_head = half.reshape(-1).view(heads, 16, width // heads)
            kept.append([torch.cat([by_head[head, token] for head in range(heads)]) for token in range(16)])
    ids = batch["input_ids"][sample][batch["attention_mask"][sample] > 0].tolist()
    states = torch.stack(encode_sentence(model.text_encoder.body, ids, keys=keys, values=values, shift=16))
    spans = [batch[name][sample][: len(ids)] for name in ("head_mask", "tail_mask")]
    return torch.cat([states[span].mean(0) for span in spans])


def slow_attention(attention: SampleAttention, h: Tensor) -> Tensor:
    """Apply PyTorch's encoder layer across the samples, with our weights."""
    layer = torch.nn.TransformerEncoderLayer(h.shape[1], 4, 2048, dropout=0.2).eval()
    projections = (attention.project_query, attention.project_key, attention.project_value)
    parts = [projection.state_dict() for projection in projections]
    layer.self_attn.in_proj_weight.copy_(torch.cat([part["weight"] for part in parts]))
    layer.self_attn.in_proj_bias.copy_(torch.cat([part["bias"] for part in parts]))
    layer.self_attn.out_proj.load_state_dict(attention.project_output.state_dict())
    layer.norm1.load_state_dict(attention.norm.state_dict())
    layer.linear1.load_state_dict(attention.feed_forward.expand.state_dict())
    layer.linear2.load_state_dict(attention.feed_forward.contract.state_dict())
    layer.norm2.load_state_dict(attention.feed_forward.norm.state_dict())
    mixed: Tensor = layer(h)
    return mixed


def entropy(scores: Tensor, label: int) -> float:
    return math.log(sum(math.exp(score) for score in scores)) - float(scores[label])


def test_total_loss_equals_the_release() -> None:
    model, batch = make_release(), release_batch()
    loss = float(model(**batch).loss.detach())
    assert loss == pytest.approx(slow_loss(model, batch), rel=1e-5)
    assert loss == pytest.approx(EXPECTED_LOSS, rel=1e-4)


@pytest.mark.parametrize("name", CHANGES)
def test_every_changed_setting_changes_the_loss(name: str) -> None:
    release, other, batch = make_release(), make_release(**{name: CHANGES[name]}), release_batch()
    other.load_state_dict(release.state_dict())
    assert abs(float(other(**batch).loss.detach()) - EXPECTED_LOSS) > 1e-4


def test_release_file_sets_the_same_values_as_the_preset(tmp_path: Path) -> None:
    overrides = ["--data.root", str(tmp_path), "--output", str(tmp_path / "run")]
    settings = read_settings("mnre", overrides, system="i2srm-release")
    assert {name: getattr(settings.model, name) for name in RELEASE} == RELEASE
    assert settings.data.resize == "centre-crop"
    assert settings.training.clip == 0
    assert settings.training.decay_all
    assert settings.model.freeze_image_backbone
