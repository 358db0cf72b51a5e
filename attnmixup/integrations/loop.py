"""Plain PyTorch loop: an encoder and a head with both modules between them, and one epoch of training."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from attnmixup.attn_mixup import AttnMixup
from attnmixup.batch_norm import statistics_of_originals
from attnmixup.criteria import Criterion
from attnmixup.mixed_batch import MixedBatch
from attnmixup.semantic_kl import SemanticKLLoss
from attnmixup.training import warn_of_missing_parameters


def check_images(semantic: SemanticKLLoss | None, image: Tensor | None, name: str = "image") -> None:
    """Raise ValueError if there is a semantic loss without images, or images without a semantic loss."""
    if semantic is not None and image is None:
        raise ValueError(
            f"The semantic loss needs {name} in training, got None: pass it, with sample_mask for samples without an "
            "image, or leave out semantic."
        )
    if semantic is None and image is not None:
        raise ValueError(f"Got {name} without a semantic loss: pass semantic=SemanticKLLoss(...), or leave out {name}.")


@dataclass(frozen=True)
class MixedOutput:
    """Output of :class:`MixedModel`.

    Attributes:
        logits: Logits of the original samples, shape ``(B, ...)``.
        loss: A scalar; None without targets.
        mixed: The final set used for the loss.
    """

    logits: Tensor
    loss: Tensor | None
    mixed: MixedBatch


class MixedModel(nn.Module):
    """Encoder, AttnMixup and head. BatchNorm layers of the head update running statistics from original rows only.

    Args:
        encoder: Maps inputs to embeddings ``(B, C)`` or ``(B, L, C)``.
        head: Maps embeddings to logits, row by row.
        mixer: Mixes the embeddings in training.
        criterion: Any criterion that :meth:`MixedBatch.loss` accepts.
        semantic: Adds the semantic loss between embeddings and the image in training.
        semantic_weight: Weight of the semantic loss (lambda_sem in Eq. 17 and 19).
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        mixer: AttnMixup,
        *,
        criterion: Criterion = F.cross_entropy,
        semantic: SemanticKLLoss | None = None,
        semantic_weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.mixer = encoder, head, mixer
        self.criterion, self.semantic, self.semantic_weight = criterion, semantic, semantic_weight

    def forward(
        self,
        inputs: Any,
        targets: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        target_mask: Tensor | None = None,
        image: Tensor | None = None,
        sample_mask: Tensor | None = None,
    ) -> MixedOutput:
        """Compute the logits, and the loss if there are targets.

        Args:
            inputs: Passed to the encoder.
            targets: Passed to the mixer, like ``mask`` and ``target_mask``.
            mask: Boolean, True for real samples or tokens.
            target_mask: Boolean, True for the targets' real tokens.
            image: Image embeddings ``(B, D)``, required in training with the semantic loss.
            sample_mask: Boolean, shape ``(B,)``, False for a sample without an image.

        Returns:
            Logits of the original samples, shape ``(B, ...)``, the loss, a scalar or None, and the final set.

        Raises:
            ValueError: In training, if there is a semantic loss without images or images without a semantic loss.
        """
        if self.training and targets is not None:
            check_images(self.semantic, image)
        embeddings = self.encoder(inputs)
        mixed = self.mixer(embeddings, targets, mask=mask, target_mask=target_mask)
        with statistics_of_originals(self.head, mixed):
            logits = self.head(mixed.embeddings)
        loss = None if targets is None else mixed.loss(self.criterion, logits)
        if loss is not None and self.training and self.semantic is not None:
            semantic = self.semantic(embeddings, image, mask=mask, sample_mask=sample_mask)
            loss = loss + self.semantic_weight * semantic
        return MixedOutput(mixed.originals(logits), loss, mixed)


def train_epoch(model: nn.Module, batches: Iterable[dict[str, Any]], optimizer: Optimizer) -> dict[str, float]:
    """Train on every batch once.

    Args:
        model: A :class:`MixedModel`.
        batches: Dicts of arguments for its ``forward``.
        optimizer: Optimizer of all parameters of the model.

    Returns:
        The statistics of the last batch, and the mean ``loss``.

    Warns:
        UserWarning: If trainable parameters of the model are not in the optimizer.
    """
    model.train()
    warn_of_missing_parameters(model, optimizer)
    last: MixedBatch | None = None
    losses: list[Tensor] = []
    for batch in batches:
        output: MixedOutput = model(**batch)
        if output.loss is None:
            raise ValueError("Every batch needs targets for training.")
        optimizer.zero_grad()
        torch.autograd.backward(output.loss)
        optimizer.step()
        last = output.mixed
        losses.append(output.loss.detach())
    stats = {} if last is None else last.stats()
    return stats | {"loss": float(torch.stack(losses).mean()) if losses else 0.0}
