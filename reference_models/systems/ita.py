"""ITA (Wang et al., NAACL 2022): the image as text after the sentence, aligned with the sentence alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reference_models.config import Inputs, TextSystemConfig, check_at_least
from reference_models.encoders.text import TextEncoder
from reference_models.errors import UserError
from reference_models.systems.base import Encoded, System
from reference_models.systems.registry import register
from reference_models.tasks.heads import LinearHead, SoftmaxTaggingHead, TaggingHead


@dataclass
class ITAConfig(TextSystemConfig):
    """Settings of ITA, in addition to the common ones. `head_dropout` is the rate at which the head ignores words.

    The published code weights the loss of the sentence with the texts by 1/2, the loss of the sentence alone by 1 and
    the alignment by 1/2. With a task loss of weight 1, this is `text_weight=2` and `alignment_weight=1`.

    Args:
        texts: Kinds of texts about the image, in the order in which they follow the sentence.
        text_length: Maximum number of sub-words of these texts.
        text_weight: w_T, the weight of the loss of the sentence alone.
        alignment_weight: w_cva, the weight of the divergence between both views.
        temperature: tau, which flattens the compared marginals; 4 for Twitter-2015 and 2 for Twitter-2017 in the paper.
        shared_word_dropout: Drop the same word positions in all sentences of a batch, as the published code does.
        predict: Input of predictions: the sentence with the texts ("both"), or only the sentence ("text").
    """

    texts: list[str] = field(default_factory=lambda: ["tags", "caption", "ocr"])
    text_length: int = 128
    text_weight: float = 1.0
    alignment_weight: float = 0.5
    temperature: float = 4.0
    shared_word_dropout: bool = False
    predict: Literal["both", "text"] = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, "model", text_length=2, text_weight=0, alignment_weight=0, temperature=1e-3)
        if not self.texts:
            raise UserError("model.texts: expected at least one kind of texts about the image, such as [tags]")

    @property
    def inputs(self) -> Inputs:
        """See `SystemConfig`."""
        return Inputs(texts=self.texts, text_length=self.text_length)


class WordDropout(nn.Dropout):
    """Sets whole words to zero in training, without scaling up the others.

    Args:
        p: Dropout rate.
        shared: Drop the same word positions in all sentences of a batch.
    """

    def __init__(self, p: float, *, shared: bool = False) -> None:
        super().__init__(p)
        self.shared = shared

    def forward(self, rows: Tensor) -> Tensor:
        """Apply dropout to the words of `rows` (N, words, C)."""
        if not self.training or self.p == 0:
            return rows
        places = rows.shape[1:2] if self.shared else rows.shape[:2]
        kept = torch.rand(places, device=rows.device) >= self.p
        return torch.where(kept[..., None], rows, 0.0)


def view_divergence(teacher: Tensor, student: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Compute tau^2 KL(q || q') between the flattened marginals q ~ p^(1/tau) of two views, averaged over the words.

    Args:
        teacher: Log-marginals (B, words, tags), without gradient.
        student: Log-marginals (B, words, tags).
        mask: (B, words), True = real word.
        temperature: tau.

    Returns:
        Divergences (B,), in nats.
    """
    first = (teacher.detach() / temperature).log_softmax(dim=-1)
    second = (student / temperature).log_softmax(dim=-1)
    divergence = (first.exp() * (first - second)).sum(dim=-1).masked_fill(~mask, 0.0)
    return temperature**2 * divergence.sum(dim=1) / mask.sum(dim=1)


@register("ita")
class ITA(System):
    """Image-text alignment: one text encoder and one head for the sentence with and without the texts.

    The losses are per word, as in all systems; the paper's are per sentence.
    """

    config_class = ITAConfig
    settings: ITAConfig
    text_encoder: TextEncoder
    head: TaggingHead | SoftmaxTaggingHead
    tasks = ("ner",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.finish(self.text_encoder.width)

    def make_head(self, width: int) -> LinearHead:
        """Create the task's head with dropout of whole words; see `System`."""
        head = self.task.make_head(width, self.config)
        head.dropout = WordDropout(self.settings.head_dropout, shared=self.settings.shared_word_dropout)
        return head

    def encode(self, batch: Mapping[str, Tensor]) -> Encoded:
        """Return the states of the words, encoded together with the texts about the image; see `System`."""
        if not self.training:
            both = self.settings.predict == "both"
            return Encoded(*self._words(batch, "joined_ids", "joined_mask") if both else self._words(batch))
        h, mask = self._words(batch, "joined_ids", "joined_mask")
        scores = self.head(self._words(batch)[0])
        settings = self.settings
        losses: dict[str, Tensor] = {}
        if settings.text_weight > 0:
            losses["text_loss"] = settings.text_weight * self.head.loss(scores, batch["labels"], mask).mean()
        if settings.alignment_weight > 0:
            with torch.no_grad():
                teacher = self.head.log_marginals(self.head(h), mask)
            student = self.head.log_marginals(scores, mask)
            divergence = view_divergence(teacher, student, mask, settings.temperature)
            losses["alignment_loss"] = settings.alignment_weight * divergence.mean()
        return Encoded(h, mask, losses=losses)

    def _words(
        self, batch: Mapping[str, Tensor], ids: str = "input_ids", seen: str = "attention_mask"
    ) -> tuple[Tensor, Tensor]:
        """Return the states of the words and their mask; texts after a sentence do not change the word positions."""
        h, _ = self.task.gather(self.text_encoder(batch[ids], batch[seen]), batch, self.config)
        return h, batch["word_mask"]
