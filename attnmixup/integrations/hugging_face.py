"""Hugging Face: both modules in a model for (token) classification, for a Trainer that needs no change."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.generic import ModelOutput

from attnmixup.attn_mixup import AttnMixup
from attnmixup.mixed_batch import Criterion, MixedBatch
from attnmixup.schedule import Shape, strength_at
from attnmixup.semantic_kl import SemanticKLLoss


class AttnMixupForClassification(nn.Module):
    """A classification or token-classification model that mixes what goes into its head.

    The embeddings are whatever the head is given: ``(B, C)`` after a pooler, or ``(B, L, C)``. With a mixer of that
    width, any model works whose head is a module that treats rows independently. Give an instance to a ``Trainer``;
    afterwards ``wrapped.model.save_pretrained(...)`` saves the model without the two modules, of use in training only.

    Args:
        model: Such as ``AutoModelForSequenceClassification`` or ``AutoModelForTokenClassification`` give.
        mixer: As wide as the input of the head.
        head: Name of the head's module within ``model``.
        criterion: Any that :meth:`MixedBatch.loss` takes.
        semantic: Adds the semantic loss in training, where ``image_embeddings`` come with the batch.
        semantic_weight: Weight of the semantic loss (lambda_sem in Eq. 17 and 19).
    """

    # Trainer: the loss is the mean of a batch, so that gradient accumulation has to average it.
    accepts_loss_kwargs = False

    def __init__(
        self,
        model: PreTrainedModel,
        mixer: AttnMixup,
        *,
        head: str = "classifier",
        criterion: Criterion = F.cross_entropy,
        semantic: SemanticKLLoss | None = None,
        semantic_weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.model, self.mixer, self.config = model, mixer, model.config
        self.head, self.criterion = head, criterion
        self.semantic, self.semantic_weight = semantic, semantic_weight

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        image_embeddings: Tensor | None = None,
        **inputs: Any,
    ) -> ModelOutput:
        """Run the model; the head sees the final set, and the output has the logits of the samples that came in.

        Args:
            input_ids: Passed to the model, as is everything else but ``labels`` and ``image_embeddings``.
            attention_mask: Shape ``(B, L)``; also the mask of sequences of embeddings.
            token_type_ids: Shape ``(B, L)``.
            labels: Targets; for tokens ``(B, L)``, where -100 has no part in the loss.
            image_embeddings: Shape ``(B, D)``, for the semantic loss.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs |= {name: tensor for name, tensor in given.items() if tensor is not None}
        seen: list[tuple[Tensor, Tensor | None, MixedBatch]] = []

        def mix(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            embeddings = arguments[0]
            mask = attention_mask.bool() if attention_mask is not None and embeddings.ndim == 3 else None
            by_token = labels is not None and labels.ndim == 2 and not labels.is_floating_point()
            target_mask = labels != -100 if labels is not None and by_token else None
            mixed = self.mixer(embeddings, labels, mask=mask, target_mask=target_mask)
            seen.append((embeddings, mask, mixed))
            return (mixed.embeddings, *arguments[1:])

        hook = self.model.get_submodule(self.head).register_forward_pre_hook(mix)
        try:
            output: ModelOutput = self.model(**inputs, return_dict=True)
        finally:
            hook.remove()
        logits = output["logits"]
        if len(seen) != 1 or len(logits) != len(seen[0][2].lam):
            raise ValueError(
                f"{type(self.model).__name__}.{self.head} must run once and its rows must be those of the logits: "
                "give the name of the module that makes the logits."
            )
        embeddings, mask, mixed = seen[0]
        if labels is not None:
            output["loss"] = mixed.loss(self.criterion, logits)
            if self.training and self.semantic is not None and image_embeddings is not None:
                semantic = self.semantic(embeddings, image_embeddings, mask=mask)
                output["loss"] = output["loss"] + self.semantic_weight * semantic
        output["logits"] = mixed.originals(logits)
        return output


class StrengthCallback(TrainerCallback):
    """Schedules the strength of a mixer over a share of the training's steps.

    Args:
        mixer: The mixer.
        shape: See :func:`attnmixup.schedule.strength_at`.
        ramp: Share of all steps after which the strength is full.
    """

    def __init__(self, mixer: AttnMixup, *, shape: Shape = "linear", ramp: float = 0.1) -> None:
        self.mixer, self.shape, self.ramp = mixer, shape, ramp

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the strength of the step that begins."""
        steps = max(1, round(self.ramp * state.max_steps))
        self.mixer.set_strength(strength_at(state.global_step, steps=steps, shape=self.shape))
