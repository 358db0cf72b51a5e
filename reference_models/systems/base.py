"""Base class of all systems: head, losses, AttnMixup and the semantic loss. A subclass implements `encode`."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from attnmixup import AttnMixup, SemanticKLLoss
from reference_models.config import SLOTS, Slots, SystemConfig, View
from reference_models.encoders.text import TextEncoder
from reference_models.encoders.vision import VisionBackbone
from reference_models.encoders.weights import fill_text
from reference_models.encoders.words import fill_words
from reference_models.errors import UserError
from reference_models.systems.images import ImageFeatures
from reference_models.tasks import Task, get_task
from reference_models.tasks.heads import Head


@dataclass(frozen=True)
class Encoded:
    """Encoded batch.

    Attributes:
        h: Input of the head, (B, words, C) for tagging or (B, C) for relations.
        mask: (B, words), True = real word; None for relations.
        image: (B, D), embedding of the whole image for the semantic loss; None lets the base class compute it.
        has_image: (B,), True for samples with an image.
        losses: Additional losses of the system: weighted scalars by name, computed on the B original samples. They are
            used only in training.
    """

    h: Tensor
    mask: Tensor | None = None
    image: Tensor | None = None
    has_image: Tensor | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class SystemOutput(ModelOutput):
    """Output of a system: losses if labels are given; predictions and scores in evaluation mode.

    Attributes:
        loss: Task loss + semantic_weight * semantic loss + additional losses of the system, a scalar. In evaluation
            mode, the task loss.
        task_loss: Cross-entropy or negative log-likelihood per word, a scalar.
        semantic_loss: Mean L_sem (nats) over the samples with an image, a scalar; only in training.
        own_losses: Additional losses of the system, scalars by name; only in training.
        predictions: Ids of tags (B, words), with -100 after the last word, or of relations (B,).
        scores: Scores before the CRF or softmax, (B, words, labels) or (B, labels).
    """

    loss: Tensor | None = None
    task_loss: Tensor | None = None
    semantic_loss: Tensor | None = None
    own_losses: dict[str, Tensor] | None = None
    predictions: Tensor | None = None
    scores: Tensor | None = None


class System(PreTrainedModel):
    """Base of all systems: `encode` -> AttnMixup (in training) -> head -> task loss + lambda_sem L_sem (Eq. 17, 19).

    A subclass sets `config_class` to its settings dataclass and implements `encode`. Its `__init__` calls the base
    class, creates its modules and then calls `finish`. It annotates `settings`, `text_encoder` and `vision` with their
    specific types.

    Attributes:
        tasks: Names of the supported tasks, which include tasks derived from them; None for all.
        settings: The settings, an instance of `settings_class`.
        task: The class of the task.
        text_encoder: A transformers encoder, or None if the system has none.
        vision: The image backbone, or None if the system reads no images.
        words: Word embeddings; only in systems with `WordSystemConfig`.
    """

    config_class: Any = SystemConfig
    tasks: ClassVar[tuple[str, ...] | None] = None
    settings_class: ClassVar[type[SystemConfig]]
    settings: SystemConfig
    text_encoder: TextEncoder | None
    vision: VisionBackbone | None
    words: nn.Embedding
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _keep_in_fp32_modules_strict = ["crf"]  # noqa: RUF012 - its sums over words lose too much in bfloat16
    # These weights are saved, but a model loaded for prediction does not have the modules that only training uses.
    _keys_to_ignore_on_load_unexpected = [r"^mixer\.", r"^semantic\.", r"^vision\."]  # noqa: RUF012
    accepts_loss_kwargs = False  # each loss is a mean: Trainer divides it by the accumulation steps

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.settings = self.settings_class(**{f.name: getattr(config, f.name) for f in fields(self.settings_class)})
        self.task: type[Task] = get_task(config.task)
        self.text_encoder = self.make_text_encoder()
        self.vision = None
        if views := self.settings.image_views:
            self.vision = VisionBackbone(
                self.settings.vision,
                frozen=self.settings.freeze_image_backbone,
                train_mode=self.settings.backbone_train_mode,
                views=views.keys(),
                pooling=self.settings.stage_pooling,
            )

    def make_text_encoder(self) -> TextEncoder | None:
        """Create the text encoder; systems with another encoder or without one override this."""
        return TextEncoder(self.config.text_config, fusion=None)

    def fill_text_encoder(self, pretrained: PreTrainedModel, name: str) -> None:
        """Copy the weights of `pretrained`, called `name` in errors, into the text encoder; see `fill_text`."""
        if self.text_encoder is not None:
            fill_text(self.text_encoder, pretrained, name)

    def fill_words(self, path: str, ids: Mapping[str, int]) -> None:
        """Copy the vectors of a file into the word embeddings; see `encoders.words.fill_words`."""
        fill_words(self.words, path, ids)

    def make_head(self, width: int) -> Head:
        """Create the head for an `h` of `width` features; systems with another head override this."""
        return self.task.make_head(width, self.config)

    def finish(self, width: int) -> None:
        """Create the head, AttnMixup and the semantic loss for an `h` of `width` features."""
        settings = self.settings
        self.head = self.make_head(width)
        self.mixer = AttnMixup(width, **settings.mixup) if settings.attn_mixup else None
        self.semantic = None
        if self.vision is not None and settings.semantic_weight > 0:
            self.semantic = SemanticKLLoss(width, self.vision.widths[settings.image_signal], **settings.semantic)
        self.post_init()

    @abstractmethod
    def encode(self, batch: Mapping[str, Tensor]) -> Encoded:
        """Encode a batch of the processor.

        Args:
            batch: Output of `Processor.collate`; in training it includes `labels`.

        Returns:
            The encoded batch, see `Encoded`.
        """

    @property
    def prefix_images(self) -> Slots | None:
        """Images that every text layer attends to through separate tokens; None if the system has no such prefix."""
        return None

    def learning_rates(self) -> dict[str, float]:
        """Return default peak learning rates by parameter name prefix; the training settings can override them."""
        return {"head": self.head.learning_rate}

    def image_features(self, batch: Mapping[str, Tensor], *, attend_absent: bool = False) -> ImageFeatures:
        """Return the image views of the settings' `inputs`, from the batch or from one pass of the backbone.

        Args:
            batch: Batch with `image_mask` (B, 1 + crops), and either `pixel_values` or the views, such as `image_grid`.
            attend_absent: Include absent images of samples that have another image, as zeros.

        Returns:
            The features, see `ImageFeatures`.
        """
        return self._load_views(
            batch, self.settings.inputs.images, attend_absent, self.training and self.semantic is not None
        )

    def semantic_image(
        self, batch: Mapping[str, Tensor], features: ImageFeatures | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the embedding of each whole image for the semantic loss.

        Args:
            batch: As in `encode`.
            features: Features that were already computed; None computes them.

        Returns:
            Embeddings (B, D), zeros for samples without an image, and a mask (B,), True for samples with an image.
            Both are None if the semantic loss is off or `features` has no embedding, as in evaluation.
        """
        if self.semantic is None:
            return None, None
        if features is None:
            features = self._load_views(batch, {}, False, True)
        return features.image, None if features.image is None else batch["image_mask"][:, 0]

    def _load_views(
        self, batch: Mapping[str, Tensor], views: Mapping[View, Slots], attend_absent: bool, with_image: bool
    ) -> ImageFeatures:
        """Compute or read views of images, and the embedding for the semantic loss if requested."""
        if self.vision is None:
            raise ValueError(f"{type(self).__name__} reads images, but the `inputs` of its settings have no views")
        wanted = list(views.items())
        if with_image:
            wanted.append((self.settings.image_signal, "whole"))
        present = seen = batch["image_mask"]
        if attend_absent:
            seen = present.any(dim=1, keepdim=True).expand_as(present)
        if "pixel_values" in batch:
            inside = []
            for _, slots in wanted:
                inside.append(torch.zeros_like(seen))
                inside[-1][:, SLOTS[slots]] = seen[:, SLOTS[slots]]
            looked = torch.stack(inside).any(dim=0)
            computed = self.vision(batch["pixel_values"][looked], present[looked])
            rows = [computed[view][own[looked]] for (view, _), own in zip(wanted, inside, strict=True)]
        else:
            rows = [self._read(batch, view, slots)[seen[:, SLOTS[slots]]] for view, slots in wanted]
        masks = {view: seen[:, SLOTS[slots]] for view, slots in views.items()}
        image = None
        if with_image:
            image = rows[-1].new_zeros(len(seen), *rows[-1].shape[1:])
            image[seen[:, 0]] = rows[-1]
        return ImageFeatures(dict(zip(views, rows, strict=False)), masks, image)

    def _read(self, batch: Mapping[str, Tensor], view: View, slots: Slots) -> Tensor:
        """Read a view from the batch, which may hold more images than `slots`."""
        stored = batch[f"image_{view}"]
        return stored[:, SLOTS[slots]] if self.settings.image_views[view] == "all" else stored

    def _init_weights(self, module: nn.Module) -> None:
        """Keep the initial weights from the constructor of the module."""

    def forward(self, labels: Tensor | None = None, **batch: Tensor) -> SystemOutput:
        """Compute the losses and, in evaluation mode, the predictions for a batch of `Processor.collate`.

        Args:
            labels: Tags (B, words) or relations (B,).
            **batch: The rest of the batch.

        Returns:
            The output, see `SystemOutput`.

        Raises:
            ValueError: If labels are missing in training.
            UserError: If the settings of `model.mixup` do not fit the batch, for example because they leave no pairs.
        """
        if not self.training:
            encoded = self.encode(batch)
            scores = self.head(encoded.h)
            loss = None if labels is None else self.head.loss(scores, labels, encoded.mask).mean()
            predictions = self.head.decode(scores, encoded.mask)
            return SystemOutput(loss=loss, task_loss=loss, predictions=predictions, scores=scores)
        if labels is None:
            raise ValueError("training needs labels; call model.eval() to predict without them")
        encoded = self.encode({**batch, "labels": labels})
        if self.mixer is None:
            task_loss = self.head.loss(self.head(encoded.h), labels, encoded.mask).mean()
        else:
            try:
                mixed = self.mixer(encoded.h, labels, mask=encoded.mask)
            except ValueError as error:
                raise UserError(f"model.mixup: {error}") from error
            task_loss = mixed.loss(self.head.loss, self.head(mixed.embeddings))
        output = SystemOutput(loss=task_loss + sum(encoded.losses.values()), task_loss=task_loss.detach())
        if encoded.losses:
            output.own_losses = {name: loss.detach() for name, loss in encoded.losses.items()}
        if self.semantic is not None:
            image, has_image = encoded.image, encoded.has_image
            if image is None:
                image, has_image = self.semantic_image(batch)
            semantic_loss = self.semantic(encoded.h, image, mask=encoded.mask, sample_mask=has_image)
            output.loss = output.loss + self.settings.semantic_weight * semantic_loss
            output.semantic_loss = semantic_loss.detach()
        return output
