"""Attention of each word of a post to each of its images, from the text layers to the visual prefix."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reference_models.config import SLOTS
from reference_models.data.samples import Sample
from reference_models.encoders.attention import NAMES
from reference_models.encoders.text import TextEncoder
from reference_models.systems.base import System
from reference_models.tasks.processor import Processor


@dataclass(frozen=True)
class CropAttention:
    """Attention of words to images.

    Attributes:
        words: Words as the model reads them, including markers, up to the length limit.
        images: Images that the words attend to.
        shares: (words, images), share from 0 to 1 of a word's attention that goes to an image, averaged over the
            layers, the heads and the sub-words of the word. The rest goes to the text.
    """

    words: list[str]
    images: list[Path]
    shares: Tensor


@torch.inference_mode()
def crop_attention(model: System, processor: Processor, sample: Sample) -> CropAttention | None:
    """Compute the attention for one sample; the model must be in evaluation mode.

    Returns:
        The attention; None if the system has no attention to single images, or the sample has no image for it.
    """
    if model.prefix_images is None or model.text_encoder is None:
        return None
    slots = processor.image_paths(sample)[SLOTS[model.prefix_images]]
    if not any(slots):
        return None
    batch = processor.collate([processor.encode(sample) | {"pixels": processor.pixels(sample)}])
    batch = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
    weights = record_attention(model, model.text_encoder, batch)
    words = processor.task.words_read(sample)
    _, numbers = processor.subwords(words)
    count = len(numbers)
    # The prefix comes before the text and has the same number of tokens for each image.
    to_images = weights[:, : weights.shape[1] - count].reshape(count, len(slots), -1).sum(dim=2)
    rows = [
        to_images[[place for place, number in enumerate(numbers) if number == word]].mean(dim=0)
        for word in range(max(number for number in numbers if number is not None) + 1)
    ]
    shown = [place for place, path in enumerate(slots) if path is not None]
    images = [path for path in slots if path is not None]
    return CropAttention(words[: len(rows)], images, torch.stack(rows)[:, shown].cpu())


def record_attention(model: System, encoder: TextEncoder, batch: dict[str, Tensor]) -> Tensor:
    """Return the text encoder's attention (L, P + L) in a batch of one sample, averaged over layers and heads."""
    body = encoder.body
    recorded: list[Tensor] = []

    def ask(_: nn.Module, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return given, named | {"output_attentions": True}

    def keep(_: nn.Module, given: Any, output: Any) -> None:
        recorded.extend(layer[0].mean(dim=0) for layer in output.attentions)

    hooks = [body.register_forward_pre_hook(ask, with_kwargs=True), body.register_forward_hook(keep)]
    before = body.config._attn_implementation
    body.set_attn_implementation(NAMES["eager"])
    try:
        model.encode(batch)
    finally:
        body.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()
    return torch.stack(recorded).mean(dim=0).float()
