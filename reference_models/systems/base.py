"""What every model of the bench shares: both modules of `attnmixup`, the head and the losses. A system is a `fuse`."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from attnmixup import AttnMixup, SemanticKLLoss
from reference_models.systems.configuration import I2SRMConfig
from reference_models.tasks import get_task


@dataclass(frozen=True)
class Fused:
    """What a system makes of a batch.

    Attributes:
        h: (B, words, C) for tagging, (B, C) for relations; all that the score depends on.
        mask: (B, words), True = real word; None for relations.
        image: (B, D), the embedding of the whole picture; None where no picture was looked at.
        has_image: (B,), True where `image` holds one.
    """

    h: Tensor
    mask: Tensor | None = None
    image: Tensor | None = None
    has_image: Tensor | None = None


@dataclass
class ExtractorOutput(ModelOutput):
    """What a model returns; the losses where labels were given, the rest in evaluation mode.

    Attributes:
        loss: task loss + semantic_weight * semantic loss, a scalar.
        task_loss: cross-entropy or negative log-likelihood per word, a scalar.
        semantic_loss: mean L_sem (nats) over the samples with a picture, a scalar.
        predictions: ids of tags (B, words), -100 behind the last word; or of relations (B,).
        scores: (B, words, labels) or (B, labels) before the CRF or softmax.
    """

    loss: Tensor | None = None
    task_loss: Tensor | None = None
    semantic_loss: Tensor | None = None
    predictions: Tensor | None = None
    scores: Tensor | None = None


class Extractor(PreTrainedModel):
    """Base of all systems: `fuse` -> AttnMixup (in training) -> head -> task loss + lambda_sem L_sem (Eq. 17, 19).

    A subclass builds its encoders in `__init__`, calls `finish` last, and implements `fuse`.
    """

    config_class = I2SRMConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _keep_in_fp32_modules_strict = ("crf",)  # its sums over words lose too much in bfloat16
    # What training alone reads is saved, but a model that is loaded for prediction has no place for it.
    _keys_to_ignore_on_load_unexpected = (r"^mixer\.", r"^semantic\.", r"^vision\.body\.(fc|classifier)\.")
    accepts_loss_kwargs = False  # each loss is a mean: Trainer divides it by the accumulation steps

    def finish(self, width: int, image_width: int | None) -> None:
        """Make the head and the two modules for an `h` of `width` features and an image embedding of `image_width`."""
        config = self.config
        self.head = get_task(config.task).make_head(width, config)
        self.mixer = AttnMixup(width, **(config.mixup or {})) if config.attn_mixup else None
        self.semantic = None
        if image_width is not None and config.semantic_weight > 0:
            self.semantic = SemanticKLLoss(width, image_width, **(config.semantic or {}))
        self.post_init()

    @abstractmethod
    def fuse(self, batch: Mapping[str, Tensor]) -> Fused:
        """Turn a batch of the processor into `Fused`."""

    def _init_weights(self, module: nn.Module) -> None:
        """Keep what the module's own constructor drew."""

    def forward(self, labels: Tensor | None = None, **batch: Tensor) -> ExtractorOutput:
        """Losses and, in evaluation mode, predictions for what `Processor.collate` made.

        Args:
            labels: tags (B, words) or relations (B,).
            **batch: everything else of the batch.

        Raises:
            ValueError: no labels in training.
        """
        if self.training and labels is None:
            raise ValueError("training needs labels; call model.eval() to predict without them")
        fused = self.fuse(batch)
        if not self.training:
            scores = self.head(fused.h)
            loss = None if labels is None else self.head.loss(scores, labels, fused.mask).mean()
            predictions = self.head.decode(scores, fused.mask)
            return ExtractorOutput(loss=loss, task_loss=loss, predictions=predictions, scores=scores)
        if self.mixer is None:
            task_loss = self.head.loss(self.head(fused.h), labels, fused.mask).mean()
        else:
            mixed = self.mixer(fused.h, labels, mask=fused.mask)
            task_loss = mixed.loss(self.head.loss, self.head(mixed.embeddings))
        if self.semantic is None or fused.image is None or fused.has_image is None:
            return ExtractorOutput(loss=task_loss, task_loss=task_loss.detach())
        semantic_loss = self.semantic(fused.h, fused.image, mask=fused.mask, sample_mask=fused.has_image)
        loss = task_loss + self.config.semantic_weight * semantic_loss
        return ExtractorOutput(loss=loss, task_loss=task_loss.detach(), semantic_loss=semantic_loss.detach())
