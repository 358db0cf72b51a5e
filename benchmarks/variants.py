"""A training step from the computation of published code to ours, one measure after another."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.batches import Task
from benchmarks.release import looped_gates, slot_passes
from reference_models.encoders.attention import NAMES, Implementation
from reference_models.encoders.dropout import FastDropout, replace_dropout
from reference_models.systems.i2srm import I2SRM
from reference_models.training.products import keeps_float32

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Variant:
    """How a step is computed; the result is the same up to rounding. The default is the way of I2SRM's release.

    Attributes:
        frozen: no gradients of the backbone, which are thrown away otherwise.
        once: one pass of the backbone in channels_last and in evaluation mode, 8 images at a time, instead of one in
            training mode for each slot, and one more for the class logits.
        vectorised: gates of the prefix without loops.
        unpadded: sentences as long as the longest of the batch, not of `batches.LIMIT` sub-words.
        grouped: sentences of about one length in a batch, instead of any.
        attention: of the text encoder.
        fused: AdamW in one kernel.
        fast: faster float32 products; on a CPU that would not keep float32's accuracy the usual ones.
        fast_dropout: cheaper random numbers for dropout.
        rows: gradients of embeddings by rows, which nothing undoes: such a way needs a process of its own.
        kept: freed memory stays with the process, as `rows`.
        cached: features of the images are there.
        half: the other dtype of mixed precision; None for float32 alone.
        modules: with AttnMixup and the semantic loss.
    """

    frozen: bool = False
    once: bool = False
    vectorised: bool = False
    unpadded: bool = False
    grouped: bool = False
    attention: Implementation = "eager"
    fused: bool = False
    fast: bool = False
    fast_dropout: bool = False
    rows: bool = False
    kept: bool = False
    cached: bool = False
    half: torch.dtype | None = None
    modules: bool = True


RELEASE = Variant()
# HVPNeT's code for entities: no modules, a frozen backbone (in training mode), a pass for each slot.
HVPNET = Variant(frozen=True, modules=False)
PUBLISHED: dict[Task, tuple[str, Variant]] = {"re": ("I2SRM's release", RELEASE), "ner": ("HVPNeT's code", HVPNET)}
FAST, ROWS, KEPT = "faster float32 products", "gradients of words by rows", "freed memory kept"
MEASURES: dict[str, dict[str, object]] = {
    "one pass of a frozen backbone, channels_last": {"once": True, "frozen": True},
    "vectorised gates": {"vectorised": True},
    "padding to the longest of the batch": {"unpadded": True},
    "batches of about one length": {"grouped": True},
    "SDPA": {"attention": "sdpa"},
    "fused AdamW": {"fused": True},
    "cheaper random numbers": {"fast_dropout": True},
    FAST: {"fast": True},
    ROWS: {"rows": True},
    KEPT: {"kept": True},
    "feature cache": {"cached": True},
    "bfloat16": {"half": torch.bfloat16},
}


def ladder(task: Task) -> dict[str, Variant]:
    """Published code for a task, and what each measure, added to those before it, makes of it."""
    name, variant = PUBLISHED[task]
    steps = {name: variant}
    for name, change in MEASURES.items():
        variant = replace(variant, **change)
        steps[f"+ {name}"] = variant
    if not variant.modules:
        steps["both modules, in float32"] = replace(variant, modules=True, half=None)
    return steps


OURS = replace(list(ladder("re").values())[-1], half=None)


@contextmanager
def computing(model: I2SRM, variant: Variant, *, batch_statistics: bool = True) -> Iterator[None]:
    """Let a model compute in the way of a variant; with `batch_statistics=False` those of the backbone stay fixed."""
    model.vision.frozen = variant.once
    model.vision.requires_grad_(not variant.frozen)
    model.train()
    model.vision.train(batch_statistics)
    model.text_encoder.body.set_attn_implementation(NAMES[variant.attention])
    replace_dropout(model, FastDropout if variant.fast_dropout else nn.Dropout)
    mixer, modules = model.prefix.mixer, (model.mixer, model.semantic)
    if not variant.once:
        model.image_features = partial(slot_passes, model, logits=variant.modules)
    if not variant.vectorised:
        mixer.forward = partial(looped_gates, mixer)
    if not variant.modules:
        model.mixer = model.semantic = None
    before = torch.get_float32_matmul_precision()
    faster = variant.fast and (model.device.type != "cpu" or keeps_float32(model.device))
    torch.set_float32_matmul_precision("medium" if faster else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        model.mixer, model.semantic = modules
        for module, name in ((model, "image_features"), (mixer, "forward")):
            module.__dict__.pop(name, None)


def training_step(model: I2SRM, optimizer: torch.optim.Optimizer, batch: Batch, variant: Variant) -> None:
    """Forward, backward, clipping, AdamW."""
    with computing(model, variant):
        loss_of(model, batch, variant).backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    model.zero_grad()


def loss_of(model: I2SRM, batch: Batch, variant: Variant) -> Tensor:
    """The loss of a batch, computed as `computing` set it."""
    with torch.autocast(batch["input_ids"].device.type, variant.half, enabled=variant.half is not None):
        loss: Tensor = model(**batch).loss
    return loss


def make_optimizers(model: I2SRM) -> dict[bool, torch.optim.Optimizer]:
    """AdamW over what is trained, by whether it is fused."""
    own = [p for name, p in model.named_parameters() if not name.startswith("vision.")]
    return {
        fused: torch.optim.AdamW(own, lr=1e-5, weight_decay=1e-2, fused=fused, foreach=False) for fused in (False, True)
    }
