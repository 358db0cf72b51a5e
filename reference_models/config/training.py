"""The settings of the training."""

import math
from dataclasses import dataclass, field
from typing import Literal

from reference_models.config.checks import check_at_least
from reference_models.errors import UserError

Threads = int | Literal["measured"]
Logger = Literal["none", "tensorboard", "wandb"]


@dataclass
class TrainingConfig:
    """How it is trained (section 4.2 of the paper).

    Args:
        epochs: passes over the training split.
        batch_size: samples that one process takes at once.
        accumulation: batches of a step; 2 of 8 give the gradient of 16 (AttnMixup still sees 8).
        learning_rate: peak rate of all that `learning_rates` does not name.
        learning_rates: peak rates by the beginning of parameters' names, as in {text_encoder: 1e-5, head.crf: 1e-2};
            the longest beginning counts. Without one for it, a head learns at 5e-2 where it has a CRF, and at 1e-3
            where it has none; a system can have further rates of its own.
        optimizer: "adamw" or "sgd".
        momentum: of sgd.
        weight_decay: of the weights.
        decay_all: decay biases and norms too, as published code does.
        warmup: share of the steps over which the rates rise.
        schedule: how the rates go on after the warm-up: they fall to 0 ("linear", "cosine"), stay ("constant"), or are
            divided by 1 + 0.05 x whole epochs ("inverse").
        clip: largest norm of the gradient, to which longer ones are scaled; 0 for no limit.
        precision: "bf16" or "fp16" for mixed precision; "fp16" needs an accelerator.
        fast_float32: faster float32 products, about twice as fast on many CPUs; refused where the machine would trade
            accuracy for it.
        fast_dropout: cheaper random numbers for dropout on a CPU, where they take a tenth of a step; a seed then gives
            another run than without it.
        threads: that compute on the CPU; 0 for as many as PyTorch takes by itself, "measured" for the number of which a
            short measurement at the start finds it the fastest. Sums of another number of threads can differ in their
            last digits.
        keep_memory: keep the memory that the process frees, instead of handing it back and faulting it in again in each
            step; for Linux with the GNU C library. The process then holds its peak to its end.
        compile: compile the text encoder by `torch.compile`, for GPUs; it begins with a minute of compiling, and CPUs
            lose by it.
        gradient_checkpointing: compute the layers of the text encoder twice instead of keeping their activations.
        group_by_length: make batches of sentences of about one length.
        shuffle: False shows the samples of each epoch in the order of the file, as some published code does.
        keep: epoch whose weights are kept: the "best" on validation (the first of equals), or the "last".
        patience: epochs without a better F1 on validation after which the training stops early; 0 for never. The rates
            still fall as if all epochs came.
        checkpoint_steps: steps between two checkpoints; 0 for one at the end of each epoch, which there is in any case.
        seed: of everything random.
        workers: processes that load images beside the training; 0 loads them in it.
        log_to: also log to "tensorboard", in the folder of the run, or to "wandb", whose package is to be installed.
    """

    epochs: int = 25
    batch_size: int = 16
    accumulation: int = 1
    learning_rate: float = 3e-5
    learning_rates: dict[str, float] = field(default_factory=dict)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.0
    weight_decay: float = 1e-2
    decay_all: bool = False
    warmup: float = 0.06
    schedule: Literal["linear", "cosine", "constant", "inverse"] = "linear"
    clip: float = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    fast_float32: bool = False
    fast_dropout: bool = False
    threads: Threads = 0
    keep_memory: bool = False
    compile: bool = False
    gradient_checkpointing: bool = False
    group_by_length: bool = False
    shuffle: bool = True
    keep: Literal["best", "last"] = "best"
    patience: int = 0
    checkpoint_steps: int = 0
    seed: int = 0
    workers: int = 0
    log_to: Logger = "none"

    def __post_init__(self) -> None:
        least = {"learning_rate": 0, "momentum": 0, "weight_decay": 0, "warmup": 0, "clip": 0}
        least |= {"patience": 0, "checkpoint_steps": 0, "seed": 0, "workers": 0}
        if self.threads != "measured":
            least |= {"threads": 0}
        check_at_least(self, "training", epochs=1, batch_size=1, accumulation=1, **least)
        for prefix, rate in self.learning_rates.items():
            if not 0 <= rate < math.inf:
                raise UserError(f"training.learning_rates.{prefix} must be 0 or more and finite, got {rate}")
        if self.warmup >= 1:
            raise UserError(f"training.warmup is a share of the steps and must be below 1, got {self.warmup}")
        if self.group_by_length and not self.shuffle:
            raise UserError(
                "training.group_by_length has an order of its own, and training.shuffle=false keeps that of the file; "
                "choose one of both"
            )
