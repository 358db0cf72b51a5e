"""The model and the mini-batches of the training steps that are measured."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import RobertaConfig

from attnmixup import AttnMixup
from attnmixup.sampling import MixupPlan
from benchmarks.batches import LABELS, LIMIT, Task, image_batch, text_batch
from benchmarks.variants import OURS, Batch, Variant, computing, loss_of
from reference_models.systems.i2srm import I2SRM
from reference_models.systems.i2srm import RELEASE as RELEASE_READING
from reference_models.training.embeddings import write_used_rows

Model = TypeVar("Model", bound=nn.Module)

TINY_TEXT: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}


@dataclass(frozen=True)
class Size:
    """Options of the text encoder that differ from RoBERTa-base, name of the image backbone, and image size."""

    text: dict[str, Any]
    vision: str
    side: int


SIZES = {"base": Size({}, "resnet50", 224), "tiny": Size(TINY_TEXT, "resnet18", 64)}  # tiny is for the tests


def make_model(task: Task, size: Size) -> I2SRM:
    """Return I2SRM as in the release, with random weights."""
    torch.manual_seed(0)
    kind: Any = I2SRM.config_class
    config = kind(
        text_config=RobertaConfig(vocab_size=50269, max_position_embeddings=514, type_vocab_size=1, **size.text),
        vision=size.vision,
        task=task,
        labels=[str(number) for number in range(LABELS[task])],
        freeze_image_backbone=True,
        **RELEASE_READING,
    )
    return I2SRM(config)


@dataclass(frozen=True)
class Work:
    """A mini-batch of sentences, with minimal padding and with that of the release, and their images.

    Attributes:
        lengths: Number of sub-words of each sentence.
        texts: Texts padded as in the release (False), and to the longest sentence (True).
        images: Pixels and image mask.
        cache: Features of the images, as the feature cache returns them, and image mask.
    """

    lengths: Tensor
    texts: dict[bool, Batch]
    images: Batch
    cache: Batch

    def batch(self, variant: Variant) -> Batch:
        """Return the inputs of the model for a variant."""
        return self.texts[variant.unpadded] | (self.cache if variant.cached else self.images)


def make_work(model: I2SRM, lengths: Tensor, side: int, *, seed: int = 0) -> Work:
    """Return random sentences of these lengths with noise images, on the device of the model."""
    images = to_device(image_batch(len(lengths), torch.Generator().manual_seed(seed), side=side), model.device)
    texts = {}
    for unpadded in (False, True):
        text = text_batch(
            model.config.task,
            lengths,
            torch.Generator().manual_seed(seed),
            vocabulary=model.text_encoder.body.config.vocab_size,
            padded=int(lengths.max()) if unpadded else LIMIT,
        )
        texts[unpadded] = to_device(text, model.device)
    # In float32, like the cache of a run. On a GPU, the faster products would be TF32.
    with torch.inference_mode(), computing(model, replace(OURS, fast=False)):
        features = model.vision(images["pixel_values"].flatten(0, 1))
    slots = images["image_mask"].shape
    cells, logits = (features[view].unflatten(0, slots).clone() for view in ("cells", "logits"))
    cache = {"image_cells": cells, "image_logits": logits[:, :1], "image_mask": images["image_mask"]}
    return Work(lengths, texts, images, cache)


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def on_device(model: Model, device: torch.device) -> Model:
    """Move a model to a device. Called on a transformers model itself, `to` has no usable types."""
    return model.to(device)


def results_without_chance(
    task: Task, size: Size, lengths: Tensor, variants: Mapping[str, Variant]
) -> dict[str, tuple[float, float]]:
    """Compare loss and gradients of one batch between variants, without dropout and with fixed batch statistics.

    All variants mix the same pairs.

    Returns:
        For each variant, the loss and the relative distance of the gradients of all trained parameters to those of the
        first variant (the norm of the difference over the norm).
    """
    # Gradients by rows cannot be undone, so their variants have a model of their own, with the same weights.
    models = {rows: make_model(task, size) for rows in (False, True)}
    write_used_rows(models[True])
    for model in models.values():
        leave_out_dropout(model)
    work = make_work(models[False], lengths, size.side)
    results = {name: result_without_chance(models[way.rows], work, way) for name, way in variants.items()}
    first = next(iter(results.values()))[1]
    return {name: (loss, distance(gradients, first)) for name, (loss, gradients) in results.items()}


def leave_out_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif "rate" in vars(module):
            vars(module)["rate"] = 0.0


def result_without_chance(model: I2SRM, work: Work, variant: Variant) -> tuple[float, Tensor]:
    """Return the loss of a model, and the flattened gradients of all trained parameters on the CPU.

    The model must have no dropout. Pairs are drawn on the CPU, so that they are the same on every device.
    """
    # Small gradients underflow in float16. Scaling by a power of two avoids this and causes no rounding.
    scale = 2.0**10 if variant.half is torch.float16 else 1.0
    torch.manual_seed(0)
    with computing(model, variant, batch_statistics=False), drawing_on_cpu(model.mixer):
        loss = loss_of(model, work.batch(variant), variant)
        (scale * loss).backward()
    trained = [p for name, p in model.named_parameters() if not name.startswith("vision.")]
    gradients = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained])
    model.zero_grad()
    return float(loss.detach()), gradients.cpu() / scale


@contextmanager
def drawing_on_cpu(mixer: AttnMixup | None) -> Iterator[None]:
    """Make AttnMixup draw its pairs on the CPU, on whichever device it mixes them."""
    if mixer is None:
        yield
        return
    draw = mixer.draw

    def on_cpu(size: int, *, device: torch.device, targets: Tensor, **_: object) -> MixupPlan:
        plan = draw(size, targets=targets.cpu(), device=torch.device("cpu"))
        return plan_to_device(plan, device)

    mixer.__dict__["draw"] = on_cpu
    try:
        yield
    finally:
        del mixer.__dict__["draw"]


def plan_to_device(plan: MixupPlan, device: torch.device) -> MixupPlan:
    moved: dict[str, Any] = {name: part.to(device) for name, part in vars(plan).items() if isinstance(part, Tensor)}
    return replace(plan, **moved)


def distance(values: Tensor, reference: Tensor) -> float:
    """Return the norm of the difference over the norm of the reference."""
    return float((values - reference).norm() / reference.norm())
