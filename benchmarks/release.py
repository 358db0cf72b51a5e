"""The computation of the published code, re-created on our model's weights: the same numbers at the original cost."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from benchmarks.batches import IMAGES
from reference_models.encoders.stages import GatedPerceptron, Pooling, pool_stages
from reference_models.encoders.vision import MEAN, RESNET_STAGES, STD
from reference_models.systems.i2srm import I2SRM
from reference_models.systems.images import ImageFeatures


def slot_passes(model: I2SRM, batch: Mapping[str, Tensor], *, attend_absent: bool, logits: bool) -> ImageFeatures:
    """Compute `I2SRM.image_features` with one pass per slot, and one more for the class logits of the whole images."""
    present = batch["image_mask"]
    seen = present.any(dim=1, keepdim=True).expand_as(present) if attend_absent else present
    mean, std = (torch.tensor(v, device=present.device).view(3, 1, 1) for v in (MEAN, STD))
    pixels = (batch["pixel_values"] / 255 - mean) / std
    passes = [model.vision.body(pixels[:, slot]) for slot in range(IMAGES)]
    image = model.vision.body(pixels[:, 0])["fc"].masked_fill(~seen[:, :1], 0.0) if logits else None
    cells = [
        torch.stack(maps, dim=1)
        for maps in zip(*(pool(features, model.vision.pooling) for features in passes), strict=True)
    ]
    return ImageFeatures({"cells": torch.cat(cells, dim=-1)[seen]}, {"cells": seen}, image)


def pool(features: Mapping[str, Tensor], pooling: Pooling) -> tuple[Tensor, ...]:
    return pool_stages([features[name] for name in RESNET_STAGES], pooling)


def perceptron_of(model: I2SRM) -> GatedPerceptron:
    """Return the mixer of the visual prefix, which in all models here is that of the release."""
    mixer = model.prefix.mixer
    if not isinstance(mixer, GatedPerceptron):
        raise TypeError(f"expected the visual prefix of the release, got {type(mixer).__name__}")
    return mixer


def looped_gates(mixer: GatedPerceptron, cells: Sequence[Tensor]) -> Tensor:
    """Compute `GatedPerceptron.forward` in loops over images, layers and shares."""
    images = torch.cat(list(cells), dim=-1).unflatten(0, (-1, IMAGES)).unbind(dim=1)
    shares = [mixer.perceptron(image).chunk(mixer.shares, dim=-1) for image in images]
    tokens = []
    for weight, bias in zip(mixer.gates.weight.split(mixer.shares), mixer.gates.bias.split(mixer.shares), strict=True):
        mixed = []
        for parts in shares:
            seen = torch.stack(parts).sum(dim=0).flatten(1) / len(parts)
            gate = F.softmax(F.leaky_relu(F.linear(seen, weight, bias)), dim=-1)
            total = torch.zeros_like(parts[0])
            for number, part in enumerate(parts):
                total = total + torch.einsum("bg,blh->blh", gate[:, number].view(-1, 1), part)
            mixed.append(total)
        tokens.append(rearrange(mixed, "n b p f -> (b n) p f"))
    return torch.stack(tokens)
