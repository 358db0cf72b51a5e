"""What every system shares: both modules of `attnmixup`, the head and the losses. A system is an `encode`."""

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
from reference_models.systems.images import ImageFeatures
from reference_models.tasks import Task, get_task
from reference_models.tasks.heads import Head


@dataclass(frozen=True)
class Encoded:
    """What a system makes of a batch.

    Attributes:
        h: (B, words, C) for tagging, (B, C) for relations; all that the score depends on.
        mask: (B, words), True = real word; None for relations.
        image: (B, D), the embedding of the whole image for the semantic loss; None leaves it to the base class.
        has_image: (B,), True where `image` holds one.
        losses: the system's own losses, scalars by name, already weighted. They are of the B original samples, and of
            use in training only.
    """

    h: Tensor
    mask: Tensor | None = None
    image: Tensor | None = None
    has_image: Tensor | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class SystemOutput(ModelOutput):
    """What a system returns; the losses where labels were given, the rest in evaluation mode.

    Attributes:
        loss: task loss + semantic_weight * semantic loss + the system's own losses, a scalar.
        task_loss: cross-entropy or negative log-likelihood per word, a scalar.
        semantic_loss: mean L_sem (nats) over the samples with an image, a scalar.
        own_losses: the system's own losses, scalars by name.
        predictions: ids of tags (B, words), -100 behind the last word; or of relations (B,).
        scores: (B, words, labels) or (B, labels) before the CRF or softmax.
    """

    loss: Tensor | None = None
    task_loss: Tensor | None = None
    semantic_loss: Tensor | None = None
    own_losses: dict[str, Tensor] | None = None
    predictions: Tensor | None = None
    scores: Tensor | None = None


class System(PreTrainedModel):
    """Base of all systems: `encode` -> AttnMixup (in training) -> head -> task loss + lambda_sem L_sem (Eq. 17, 19).

    A subclass sets `config_class` to its settings, makes its own modules in `__init__` between the base class's and
    `finish`, and implements `encode`. It narrows the types of `settings`, `text_encoder` and `vision` to what it has.

    Attributes:
        tasks: names of the tasks that the system is for; None for any.
        settings: the settings, an instance of `settings_class`.
        task: the class of the task.
        text_encoder: an encoder of transformers, or None for a system without one.
        vision: the image backbone, or None for a system that reads no images.
        words: the table of words, of systems with `WordSystemConfig` alone.
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
    # What training alone reads is saved, but a model that is loaded for prediction has no place for it.
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
        """The text encoder; a system whose encoder is another one, or that has none, overrides this."""
        return TextEncoder(self.config.text_config, fusion=None)

    def fill_text_encoder(self, pretrained: PreTrainedModel, name: str) -> None:
        """Give the text encoder the weights of `pretrained`, called `name`; see `fill_text` for what it raises."""
        if self.text_encoder is not None:
            fill_text(self.text_encoder, pretrained, name)

    def make_head(self, width: int) -> Head:
        """The output layer for an `h` of `width` features; a system with a head of its own overrides this."""
        return self.task.make_head(width, self.config)

    def finish(self, width: int) -> None:
        """Make the head and the two modules for an `h` of `width` features."""
        settings = self.settings
        self.head = self.make_head(width)
        self.mixer = AttnMixup(width, **settings.mixup) if settings.attn_mixup else None
        self.semantic = None
        if self.vision is not None and settings.semantic_weight > 0:
            self.semantic = SemanticKLLoss(width, self.vision.widths[settings.image_signal], **settings.semantic)
        self.post_init()

    @abstractmethod
    def encode(self, batch: Mapping[str, Tensor]) -> Encoded:
        """Turn a batch of the processor into `Encoded`.

        Args:
            batch: what `Processor.collate` made; in training with `labels`.

        Returns:
            See `Encoded`.
        """

    @property
    def prefix_images(self) -> Slots | None:
        """The images that every text layer attends to, each by tokens of its own; None for a system without them."""
        return None

    def learning_rates(self) -> dict[str, float]:
        """Peak rates by the beginning of parameters' names, where the settings of the training name none."""
        return {"head": self.head.learning_rate}

    def image_features(self, batch: Mapping[str, Tensor], *, attend_absent: bool = False) -> ImageFeatures:
        """The views of the settings' `inputs`, as they were read with a batch, or by one pass of the backbone.

        Args:
            batch: with `image_mask` (B, 1 + crops), and `pixel_values` or the views, such as `image_grid`.
            attend_absent: look at absent images too, as zeros, of samples that have another one.

        Returns:
            See `ImageFeatures`.
        """
        return self._look(
            batch, self.settings.inputs.images, attend_absent, self.training and self.semantic is not None
        )

    def semantic_image(
        self, batch: Mapping[str, Tensor], features: ImageFeatures | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The embedding of each whole image for the semantic loss.

        Args:
            batch: as for `encode`.
            features: those that were computed already; without them, they are.

        Returns:
            Embeddings (B, D), zeros without an image, and where there is one (B,); None where the loss is switched off
            or `features` do not have it, as in evaluation.
        """
        if self.semantic is None:
            return None, None
        if features is None:
            features = self._look(batch, {}, False, True)
        return features.image, None if features.image is None else batch["image_mask"][:, 0]

    def _look(
        self, batch: Mapping[str, Tensor], views: Mapping[View, Slots], attend_absent: bool, with_image: bool
    ) -> ImageFeatures:
        """Views of images, and the embedding for the semantic loss if it is asked for."""
        if self.vision is None:
            raise ValueError(f"{type(self).__name__} asked for images, and its settings name no views of them")
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
        """A view that was read with the batch, perhaps of more images than are wanted."""
        stored = batch[f"image_{view}"]
        return stored[:, SLOTS[slots]] if self.settings.image_views[view] == "all" else stored

    def _init_weights(self, module: nn.Module) -> None:
        """Keep what the module's own constructor drew."""

    def forward(self, labels: Tensor | None = None, **batch: Tensor) -> SystemOutput:
        """Losses and, in evaluation mode, predictions for what `Processor.collate` made.

        Args:
            labels: tags (B, words) or relations (B,).
            **batch: everything else of the batch.

        Returns:
            See `SystemOutput`.

        Raises:
            ValueError: no labels in training.
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
            mixed = self.mixer(encoded.h, labels, mask=encoded.mask)
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
