"""The model and the batches that a training step is measured on."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import RobertaConfig

from benchmarks.batches import LIMIT, RELATIONS, TAGS, Task, image_batch, text_batch
from benchmarks.variants import OURS, Batch, Variant, computing, loss_of
from reference_models.systems.i2srm import I2SRM
from reference_models.systems.i2srm import RELEASE as RELEASE_READING

TINY_TEXT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}


@dataclass(frozen=True)
class Size:
    """The text encoder beside RoBERTa-base, the image backbone, and the side of an image."""

    text: dict[str, int]
    vision: str
    side: int


SIZES = {"base": Size({}, "resnet50", 224), "tiny": Size(TINY_TEXT, "resnet18", 64)}  # tiny is for the tests


def make_model(task: Task, size: Size) -> I2SRM:
    """I2SRM in the release's reading, with random weights."""
    torch.manual_seed(0)
    config = I2SRM.config_class(
        text_config=RobertaConfig(vocab_size=50269, max_position_embeddings=514, type_vocab_size=1, **size.text),
        vision=size.vision,
        task=task,
        labels=[str(number) for number in range(TAGS if task == "ner" else RELATIONS)],
        freeze_image_backbone=True,
        **RELEASE_READING,
    )
    return I2SRM(config)


@dataclass(frozen=True)
class Work:
    """A batch of sentences, as short as it can be and padded as the release does, with their images.

    Attributes:
        lengths: sub-words of each sentence.
        texts: by whether the text is unpadded.
        images: pixels, and where there is an image.
        cache: what the feature cache gives for them.
    """

    lengths: Tensor
    texts: dict[bool, Batch]
    images: Batch
    cache: Batch

    def batch(self, variant: Variant) -> Batch:
        """What the model takes in a variant."""
        return self.texts[variant.unpadded] | (self.cache if variant.cached else self.images)


def make_work(model: I2SRM, lengths: Tensor, side: int, *, seed: int = 0) -> Work:
    """Random sentences of these lengths, with images of noise."""
    images = image_batch(len(lengths), torch.Generator().manual_seed(seed), side=side)
    texts = {}
    for unpadded in (False, True):
        texts[unpadded] = text_batch(
            model.config.task,
            lengths,
            torch.Generator().manual_seed(seed),
            vocabulary=model.text_encoder.body.config.vocab_size,
            padded=int(lengths.max()) if unpadded else LIMIT,
        )
    with torch.inference_mode(), computing(model, OURS):
        features = model.vision(images["pixel_values"].flatten(0, 1))
    slots = images["image_mask"].shape
    cells, logits = (features[view].unflatten(0, slots).clone() for view in ("cells", "logits"))
    cache = {"image_cells": cells, "image_logits": logits[:, :1], "image_mask": images["image_mask"]}
    return Work(lengths, texts, images, cache)


def results_without_chance(
    task: Task, size: Size, lengths: Tensor, variants: Mapping[str, Variant]
) -> dict[str, tuple[float, float]]:
    """Loss and gradients of one batch, without dropout and with fixed batch statistics; the same pairs are mixed.

    Returns:
        For each variant the loss, and how far the gradients of all that is trained are from those of the first variant
        (the norm of the difference over the norm).
    """
    model = make_model(task, size)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "rate"):
            module.rate = 0.0
    trained = [p for name, p in model.named_parameters() if not name.startswith("vision.")]
    work = make_work(model, lengths, size.side)
    found = {}
    first: Tensor | None = None
    for name, variant in variants.items():
        torch.manual_seed(0)
        with computing(model, variant, batch_statistics=False):
            loss = loss_of(model, work.batch(variant), variant)
            loss.backward()
        gradients = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained])
        model.zero_grad()
        first = gradients if first is None else first
        found[name] = float(loss.detach()), float((gradients - first).norm() / first.norm())
    return found
