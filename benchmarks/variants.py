"""Variants of a training step, from the computation of published code to ours, one measure at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.batches import Task
from benchmarks.release import looped_gates, perceptron_of, slot_passes
from reference_models.encoders.attention import NAMES, Implementation
from reference_models.encoders.dropout import FastDropout, replace_dropout
from reference_models.systems.i2srm import I2SRM
from reference_models.training.products import keeps_float32

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Variant:
    """How a step is computed. Variants give the same result up to rounding. The default is I2SRM's release.

    Attributes:
        frozen: The backbone computes no gradients. Otherwise they are computed and discarded.
        once: One pass of the backbone in channels_last and evaluation mode, 8 images at a time. Otherwise one pass in
            training mode for each slot, and one more for the class logits.
        vectorised: The gates of the prefix are computed without loops.
        unpadded: Sentences are padded to the longest of the batch, not to `batches.LIMIT` sub-words.
        grouped: A batch has sentences of similar length, instead of any length.
        attention: Attention implementation of the text encoder.
        fused: AdamW runs in one kernel.
        fast: Faster float32 products. A CPU where they would not keep float32's accuracy uses the usual products.
        fast_dropout: Cheaper random numbers for dropout.
        rows: Row-wise gradients of word embeddings. This cannot be undone, so such a variant needs a new process.
        kept: The process keeps freed memory. This also needs a new process.
        cached: Image features come from the cache.
        half: The low-precision dtype of mixed precision; None for float32 only.
        modules: AttnMixup and the semantic loss are used.
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
# HVPNeT's code for entities has no modules, a frozen backbone (in training mode) and one pass for each slot.
HVPNET = Variant(frozen=True, modules=False)
PUBLISHED: dict[Task, tuple[str, Variant]] = {"re": ("I2SRM's release", RELEASE), "ner": ("HVPNeT's code", HVPNET)}
FAST, ROWS, KEPT = "faster float32 products", "gradients of words by rows", "freed memory kept"
RANDOM = "cheaper random numbers"
MEASURES: dict[str, dict[str, Any]] = {
    "one pass of a frozen backbone, channels_last": {"once": True, "frozen": True},
    "vectorised gates": {"vectorised": True},
    "padding to the longest of the batch": {"unpadded": True},
    "batches of similar length": {"grouped": True},
    "SDPA": {"attention": "sdpa"},
    "fused AdamW": {"fused": True},
    RANDOM: {"fast_dropout": True},
    FAST: {"fast": True},
    ROWS: {"rows": True},
    KEPT: {"kept": True},
    "feature cache": {"cached": True},
    "bfloat16": {"half": torch.bfloat16},
}


def ladder(task: Task) -> dict[str, Variant]:
    """Return the variants of a task by name: the published code, then one more measure for each variant."""
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
    """Make a model compute as a variant says. `batch_statistics=False` fixes the batch statistics of the backbone."""
    model.vision.frozen = variant.once
    model.vision.requires_grad_(not variant.frozen)
    model.train()
    model.vision.train(batch_statistics)
    model.text_encoder.body.set_attn_implementation(NAMES[variant.attention])
    replace_dropout(model, FastDropout if variant.fast_dropout else nn.Dropout)
    mixer, modules = perceptron_of(model), (model.mixer, model.semantic)
    if not variant.once:
        model.__dict__["image_features"] = partial(slot_passes, model, logits=variant.modules)
    if not variant.vectorised:
        mixer.__dict__["forward"] = partial(looped_gates, mixer)
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
    """Run forward, backward, clipping and AdamW. Call it inside `computing`, which takes several milliseconds."""
    loss_of(model, batch, variant).backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    model.zero_grad()


def loss_of(model: nn.Module, batch: Batch, variant: Variant) -> Tensor:
    """Return the loss of a batch. Call it inside `computing`."""
    with torch.autocast(batch["input_ids"].device.type, variant.half, enabled=variant.half is not None):
        loss: Tensor = model(**batch).loss
    return loss


def make_optimizers(model: I2SRM) -> dict[bool, torch.optim.Optimizer]:
    """Return AdamW over all trained parameters, unfused (False) and fused (True).

    Unfused is PyTorch's default, as in published code: many parameters per kernel on a GPU, one by one on a CPU.
    """
    own = [p for name, p in model.named_parameters() if not name.startswith("vision.")]
    # With fused=False, PyTorch would go through the parameters one by one on a GPU too.
    return {fused: torch.optim.AdamW(own, lr=1e-5, weight_decay=1e-2, fused=fused or None) for fused in (False, True)}
