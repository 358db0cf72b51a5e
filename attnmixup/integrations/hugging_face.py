"""Hugging Face: both modules in a (token) classification model that works with an unmodified Trainer."""

import copy
import inspect
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils.generic import ModelOutput

from attnmixup.attn_mixup import AttnMixup
from attnmixup.batch_norm import statistics_of_originals
from attnmixup.criteria import IGNORED, Criterion
from attnmixup.integrations.loop import check_images
from attnmixup.mixed_batch import MixedBatch
from attnmixup.schedule import Shape, strength_at
from attnmixup.semantic_kl import SemanticKLLoss
from attnmixup.training import warn_of_missing_parameters

# Number of unused losses before an error; a trainer uses the loss of a step before it takes the next one.
PATIENCE = 20
PROBLEMS: dict[str, Criterion] = {
    "regression": F.mse_loss,
    "single_label_classification": F.cross_entropy,
    "multi_label_classification": F.binary_cross_entropy_with_logits,
}
# Models whose own loss takes float labels as a distribution over classes if the config has no problem type.
SOFT_LABEL_MODELS = ("deberta", "deberta-v2")


class _Bound:
    """A method of a wrapper with the signature of the wrapped model."""

    def __init__(self, method: Callable[..., Any], wrapper: "AttnMixupForClassification") -> None:
        self.method, self.wrapper = method, wrapper

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.method(self.wrapper, *arguments, **options)

    @property
    def __signature__(self) -> Signature:
        return _signature_for(_forward_of(self.wrapper.model))


class _WithSignatureOfModel:
    """Decorator that gives each instance a :class:`_Bound` method; a Trainer selects columns by its signature."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method
        self.__doc__ = method.__doc__

    def __get__(self, instance: "AttnMixupForClassification | None", owner: type) -> Callable[..., Any]:
        return self.method if instance is None else _Bound(self.method, instance)


class AttnMixupForClassification(nn.Module):
    """A classification or token-classification model that mixes the input of its head.

    The embeddings are the input of the head: ``(B, C)`` after a pooler, or ``(B, L, C)``. Any model works if its head
    is a module that treats rows independently and the mixer has the width of the embeddings. Pass an instance to a
    ``Trainer``, which sees the arguments of the model and of :meth:`forward`. Trainer checkpoints contain both modules.
    :meth:`save_pretrained` saves the model without them, because only training uses them.

    Some heads, such as the head of RoBERTa, read only the first token of ``(B, L, C)``. The wrapper detects this when
    it is created by running a copy of the head on a probe. If the logits depend only on the first token, only the first
    token is mixed.

    Activation checkpointing of the model's layers works. The head may use it inside its ``forward``, but must not be
    checkpointed as a whole, because the recomputation would run it without mixing.

    LoRA: wrap the model with peft before this class (or ``wrapped.model`` afterwards). Do not wrap this class, because
    names in ``target_modules`` may also match modules of the mixer. Pass ``head`` as it is named in the
    ``named_modules()`` of the resulting model.

    Args:
        model: A model such as those of ``AutoModelForSequenceClassification`` or ``AutoModelForTokenClassification``.
        mixer: The mixer; its width is the width of the head's input.
        head: Name of the head's module within ``model``, such as ``"classifier.1"`` for a layer of a Sequential.
        criterion: Any criterion that :meth:`MixedBatch.loss` accepts. None is the criterion of the model, chosen by
            ``config.problem_type`` or, if that is None, by the number of labels and their dtype.
        semantic: Adds the semantic loss between the input of the head and ``image_embeddings`` in training.
        semantic_weight: Weight of the semantic loss (lambda_sem in Eq. 17 and 19).
        first_token_only: Whether the head reads only the first token, so that only this token is mixed; None detects
            it.
        allow_unused_loss: In training, do not raise an error if many losses in a row receive no gradient.
    """

    # Tells Trainer that the loss is the mean of a batch, so that gradient accumulation averages it.
    accepts_loss_kwargs = False

    # Not PreTrainedModel: some of its methods have no type hints.
    model: Any

    def __init__(
        self,
        model: PreTrainedModel,
        mixer: AttnMixup,
        *,
        head: str = "classifier",
        criterion: Criterion | None = None,
        semantic: SemanticKLLoss | None = None,
        semantic_weight: float = 0.5,
        first_token_only: bool | None = None,
        allow_unused_loss: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.mixer, self.config = model, mixer, model.config
        self.head, self.criterion = head, criterion
        self.allow_unused_loss, self._unused_losses = allow_unused_loss, 0
        self.semantic, self.semantic_weight = semantic, semantic_weight
        module = model.get_submodule(head)
        self.first_token_only = _reads_first_token(module, mixer.dim) if first_token_only is None else first_token_only
        if _mix_input not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_mix_input)

    @_WithSignatureOfModel
    def forward(
        self,
        *arguments: Any,
        labels: Tensor | None = None,
        image_embeddings: Tensor | None = None,
        sample_mask: Tensor | None = None,
        **inputs: Any,
    ) -> ModelOutput | tuple[Any, ...]:
        """Run the model with the final set as the head's input, and return the logits of the original samples.

        Args:
            *arguments: Passed to the model.
            labels: Targets ``(B,)`` or ``(B, K)``; for tokens ``(B, L)``, where -100 does not count in the loss.
            image_embeddings: Shape ``(B, D)``, required in training with the semantic loss.
            sample_mask: Shape ``(B,)``, False for a sample without an image.
            **inputs: Passed to the model. An ``attention_mask`` ``(B, L)`` is also the mask of the embeddings.

        Returns:
            The model's output: loss (with labels), logits ``(B, ...)``, and its other fields.

        Raises:
            TypeError: If there are too many positional arguments, or one is also given by keyword.
            ValueError: In training without labels; in training if there is a semantic loss without images or images
                without a semantic loss; if the head does not run exactly once, on the rows of the logits; or
                if the attention mask does not match the embeddings.
            RuntimeError: In training, if the last 20 losses received no gradient; see ``allow_unused_loss``.
        """
        if arguments:
            signature = _signature_for(_forward_of(self.model))
            # Raises TypeError for an argument that is superfluous or given twice.
            signature.bind_partial(*arguments, **inputs)
            inputs |= zip(signature.parameters, arguments, strict=False)
        labels = inputs.pop("labels", labels)
        as_tuple = inputs.pop("return_dict", None) is False
        if self.training and labels is None:
            raise ValueError(
                "In training the model needs labels: it mixes them and computes the loss itself. A Trainer with "
                "label_smoothing_factor, compute_loss_func or its own compute_loss removes the labels: pass the loss "
                "to AttnMixupForClassification instead, as in criterion=partial(F.cross_entropy, label_smoothing=0.1)."
            )
        if self.training:
            check_images(self.semantic, image_embeddings, "image_embeddings")
        call = _Call(self, labels, inputs.get("attention_mask"))
        outer, _running.call = _running.call, call
        try:
            output: ModelOutput = self.model(**inputs, return_dict=True)
        finally:
            _running.call = outer
            call.end()
        logits = output["logits"]
        if call.mixed is None or logits.shape[:1] != call.mixed.lam.shape:
            raise _wrong_head(self)
        fields = {**output, "logits": call.mixed.originals(logits)}
        if labels is not None:
            fields["loss"] = self._loss(call.mixed, logits, labels)
            if self.training and self.semantic is not None:
                images_present = None if sample_mask is None else sample_mask.bool()
                semantic = self.semantic(call.embeddings, image_embeddings, mask=call.mask, sample_mask=images_present)
                fields["loss"] = fields["loss"] + self.semantic_weight * semantic
        result = type(output)(**fields)
        return result.to_tuple() if as_tuple else result

    def _loss(self, mixed: MixedBatch, logits: Tensor, labels: Tensor) -> Tensor:
        criterion = _criterion_of(self.config, logits, labels) if self.criterion is None else self.criterion
        is_value = labels.is_floating_point() or criterion is F.mse_loss
        if is_value and logits.shape[-1] == 1 and logits.ndim == labels.ndim + 1:
            logits = logits.squeeze(-1)
        loss = mixed.loss(criterion, logits)
        if self.training and loss.requires_grad and not torch.compiler.is_compiling():
            self._check_use(loss)
        return loss

    def _check_use(self, loss: Tensor) -> None:
        """Raise if no loss of the last steps has received a gradient, as in a Trainer that computes its own."""
        if self._unused_losses >= PATIENCE and not self.allow_unused_loss:
            # A corrected training loop can go on with this instance.
            self._unused_losses = 0
            raise RuntimeError(
                f"The last {PATIENCE} losses of AttnMixupForClassification were not used for training. A loss that is "
                "computed from its logits covers the original samples only, without mixing: train with output.loss, "
                "and pass another loss as criterion. If one backward pass covers more losses, or if you do not train "
                "with them, pass allow_unused_loss=True."
            )

        def used(gradient: Tensor) -> None:
            self._unused_losses = 0

        loss.register_hook(used)
        self._unused_losses += 1

    def __getattr__(self, name: str) -> Any:
        """Look up missing attributes in the model, such as ``device`` or ``gradient_checkpointing_enable``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)

    def save_pretrained(self, folder: str | Path, *, state_dict: dict[str, Any] | None = None, **options: Any) -> None:
        """Save only the model, so that ``AutoModelForSequenceClassification.from_pretrained`` and others can load it.

        Args:
            folder: Output directory.
            state_dict: State of this wrapper, if it must not be read from the wrapper (as with sharded training).
            **options: Options of the model's own ``save_pretrained``.
        """
        if state_dict is not None:
            state_dict = {
                name.removeprefix("model."): tensor for name, tensor in state_dict.items() if name.startswith("model.")
            }
        self.model.save_pretrained(folder, state_dict=state_dict, **options)


class StrengthCallback(TrainerCallback):
    """Schedule the strength of a mixer over a share of the training steps.

    Args:
        mixer: The mixer.
        shape: See :func:`attnmixup.schedule.strength_at`.
        ramp: Share of all steps after which the strength is 1.
    """

    def __init__(self, mixer: AttnMixup, *, shape: Shape = "linear", ramp: float = 0.1) -> None:
        self.mixer, self.shape, self.ramp = mixer, shape, ramp

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Warn about trainable parameters that the optimizer does not hold."""
        if model is not None and optimizer is not None:
            warn_of_missing_parameters(model, optimizer)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the strength for the next step."""
        steps = max(1, round(self.ramp * state.max_steps))
        self.mixer.set_strength(strength_at(state.global_step, steps=steps, shape=self.shape))


@dataclass
class _Call:
    """State of one forward pass, shared by the wrapper and the hook on the head."""

    wrapper: AttnMixupForClassification
    labels: Tensor | None
    attention_mask: Tensor | None
    embeddings: Tensor | None = None
    mask: Tensor | None = None
    mixed: MixedBatch | None = None
    until_end: ExitStack | None = None

    def __post_init__(self) -> None:
        self.head: nn.Module = self.wrapper.model.get_submodule(self.wrapper.head)

    def mix(self, embeddings: Tensor) -> Tensor:
        """Return the mixed input for the head in place of ``embeddings``, shape ``(B, C)`` or ``(B, L, C)``."""
        if self.mixed is not None:
            raise _wrong_head(self.wrapper)
        self.embeddings = embeddings
        if self.wrapper.training and embeddings.ndim == 3 and self.attention_mask is not None:
            self.mask = _mask_of_embeddings(self.wrapper.model, embeddings, self.attention_mask)
        first_only = self.wrapper.first_token_only and embeddings.ndim == 3
        used, mask = (embeddings[:, 0], None) if first_only else (embeddings, self.mask)
        target_mask = None if self.labels is None else _target_mask(self.labels, used)
        self.mixed = self.wrapper.mixer(used, self.labels, mask=mask, target_mask=target_mask)
        if any(isinstance(layer, _BatchNorm) and layer.training for layer in self.head.modules()):
            # The lock protects threads that share a head, or that share hooks as the replicas of DataParallel do.
            self.until_end = ExitStack()
            self.until_end.enter_context(_batch_norm_lock)
            self.until_end.enter_context(statistics_of_originals(self.head, self.mixed))
        return self.mixed.embeddings.unsqueeze(1) if first_only else self.mixed.embeddings

    def end(self) -> None:
        """Close the contexts in which the head ran."""
        if self.until_end is not None:
            self.until_end.close()


class _Running(threading.local):
    """The call that runs in this thread. torch.compile cannot set a context variable, so this is thread-local."""

    def __init__(self) -> None:
        self.call: _Call | None = None


_running = _Running()
_batch_norm_lock = threading.RLock()


def _mix_input(head: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Pre-forward hook of a head. It is never removed and acts only inside a wrapper call of the same thread."""
    call = _running.call
    if call is None or call.head is not head:
        return None
    if not arguments:
        raise ValueError(
            f"{type(head).__name__} gets its input by keyword, expected it as the first positional argument: choose "
            "another module as head, such as a layer inside this one."
        )
    return (call.mix(arguments[0]), *arguments[1:])


def _wrong_head(wrapper: AttnMixupForClassification) -> ValueError:
    return ValueError(
        f"{type(wrapper.model).__name__}.{wrapper.head} must run once per forward pass, on the rows of the logits: "
        "set head to the name of the module that computes the logits."
    )


def _forward_of(model: Any) -> Callable[..., Any]:
    """Return ``forward`` of the model's class; if peft wraps the model, of the inner model's class."""
    base: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(base).forward


@cache
def _signature_for(forward: Callable[..., Any]) -> Signature:
    """Return the signature of a model's ``forward`` without ``self``, plus the arguments that the wrapper adds."""
    own = list(inspect.signature(forward).parameters.values())[1:]
    names = {parameter.name for parameter in own}
    added = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Tensor | None)
        for name in ("labels", "image_embeddings", "sample_mask")
        if name not in names
    ]
    positional = [parameter for parameter in own if parameter.kind < Parameter.KEYWORD_ONLY]
    return Signature([*positional, *added, *own[len(positional) :]])


def _reads_first_token(head: nn.Module, dim: int) -> bool:
    """Return whether a head gives the same output for ``(B, L, C)`` and for its first token ``(B, 1, C)``."""
    try:
        # Calling ``forward`` directly skips the hooks of the head.
        logits = copy.deepcopy(head).to("cpu", torch.float32).eval().forward
        probe = torch.linspace(-1, 1, 2 * 3 * dim).reshape(2, 3, dim)
        with torch.no_grad():
            whole, first, second = logits(probe), logits(probe[:, :1]), logits(probe[:, 1:2])
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False
    if not isinstance(whole, Tensor) or whole.ndim != 2 or whole.shape != first.shape:
        return False
    return torch.allclose(whole, first) and not torch.allclose(first, second)


def _mask_of_embeddings(model: nn.Module, embeddings: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the attention mask as a boolean mask of the embeddings, shape ``(B, L)``."""
    if attention_mask.shape == embeddings.shape[:2]:
        return attention_mask.bool()
    downsample: Any = getattr(model, "_get_feature_vector_attention_mask", None)
    if downsample is not None and attention_mask.ndim == 2:
        mask: Tensor = downsample(embeddings.shape[1], attention_mask)
        return mask.bool()
    raise ValueError(
        f"The attention mask {tuple(attention_mask.shape)} must be as long as the embeddings {tuple(embeddings.shape)} "
        f"of the head's input, and {type(model).__name__} has no _get_feature_vector_attention_mask to shorten it: "
        "choose a head whose input has one vector per position of the mask, or one vector per sample."
    )


def _target_mask(labels: Tensor, embeddings: Tensor) -> Tensor | None:
    """Return which labels count if each token has one. As in the model, this ignores the attention mask."""
    if embeddings.ndim < 3 or labels.ndim < 2 or labels.shape[:2] != embeddings.shape[:2]:
        return None
    if labels.ndim == 2 and not labels.is_floating_point():
        return labels != IGNORED
    return torch.ones(labels.shape[:2], dtype=torch.bool, device=labels.device)


def _criterion_of(config: PretrainedConfig, logits: Tensor, labels: Tensor) -> Criterion:
    """Return the criterion that transformers models use: that of the problem type, or cross entropy for tokens."""
    if logits.ndim > 2:
        return F.cross_entropy
    problem = getattr(config, "problem_type", None)
    if problem is None:
        has_several = labels.is_floating_point() and config.model_type not in SOFT_LABEL_MODELS
        by_labels = "multi_label_classification" if has_several else "single_label_classification"
        problem = "regression" if config.num_labels == 1 else by_labels
    if problem not in PROBLEMS:
        raise ValueError(
            f"config.problem_type must be one of {', '.join(PROBLEMS)} or None, got {problem!r}: correct it, or pass a "
            "criterion."
        )
    return PROBLEMS[problem]
