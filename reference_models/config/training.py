"""Training settings."""

import math
from dataclasses import dataclass, field
from typing import Literal

from reference_models.config.checks import check_at_least, check_seed
from reference_models.errors import UserError

Threads = int | Literal["measured"]
Logger = Literal["none", "tensorboard", "wandb"]


@dataclass
class TrainingConfig:
    """How a system is trained (section 4.2 of the paper).

    Args:
        epochs: Passes over the training split.
        batch_size: Mini-batch size per process.
        accumulation: Mini-batches per optimizer step; 2 of 8 give the gradient of 16 (AttnMixup still sees 8).
        learning_rate: Peak learning rate of all parameters that `learning_rates` does not match.
        learning_rates: Peak learning rates by prefix of the parameter name, as in {text_encoder: 1e-5, head.crf: 1e-2};
            the longest matching prefix wins. Without an entry, a head with a CRF uses 5e-2 and a head without one 1e-3;
            a system can define more rates.
        optimizer: "adamw" or "sgd".
        momentum: Momentum of sgd.
        weight_decay: Weight decay of the weights.
        decay_all: Apply weight decay also to biases and norms, as published code does.
        warmup: Fraction of the steps over which the learning rates rise.
        schedule: Learning rates after the warm-up: decay to 0 ("linear", "cosine"), stay constant ("constant"), or are
            divided by 1 + 0.05 x completed epochs ("inverse").
        clip: Maximum gradient norm; larger gradients are scaled down to it. 0 for no limit.
        precision: "fp32", or "bf16" or "fp16" for mixed precision; "fp16" needs an accelerator.
        fast_float32: Faster float32 products, about twice as fast on many CPUs; refused on machines where they would
            lose accuracy.
        fast_dropout: Cheaper random numbers for dropout on a CPU, where they take a tenth of a step. The same seed then
            gives different results than without it.
        threads: Number of CPU threads; 0 for the default of PyTorch, "measured" for the fastest number in a short
            measurement at the start. The number of threads can change the last digits of sums.
        keep_memory: Keep freed memory in the process instead of returning it to the system in each step, which causes
            page faults. For Linux with the GNU C library. The process then holds its peak memory until it ends.
        compile: Compile the text encoder with `torch.compile`, for GPUs. Compiling takes a minute at the start; on CPUs
            it makes training slower.
        gradient_checkpointing: Recompute the layers of the text encoder in the backward pass instead of storing their
            activations.
        group_by_length: Build mini-batches of sentences of similar length.
        shuffle: Shuffle the samples in each epoch; false keeps the order of the file, as some published code does.
        keep: Epoch whose weights are kept: the "best" on the validation split (the first one on ties), or the "last".
        patience: Stop early after this number of epochs without a better validation F1; 0 for never. The learning rate
            schedule still covers all epochs.
        checkpoint_steps: Steps between two checkpoints; 0 for none except the one at the end of each epoch.
        seed: Seed of all random numbers, from 0 to 4294967295.
        workers: Processes that load images in parallel to the training; 0 loads them in the training process.
        log_to: Also log to "tensorboard" (in the run directory) or "wandb"; the package must be installed.
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
        least |= {"patience": 0, "checkpoint_steps": 0, "workers": 0}
        if self.threads != "measured":
            least |= {"threads": 0}
        check_at_least(self, "training", epochs=1, batch_size=1, accumulation=1, **least)
        check_seed("training.seed", self.seed)
        for prefix, rate in self.learning_rates.items():
            if not 0 <= rate < math.inf:
                raise UserError(f"training.learning_rates.{prefix} must be 0 or more and finite, got {rate}")
        if self.warmup >= 1:
            raise UserError(f"training.warmup is a fraction of the steps and must be below 1, got {self.warmup}")
        if self.group_by_length and not self.shuffle:
            raise UserError(
                "training.group_by_length changes the order of the samples, but training.shuffle=false keeps the order "
                "of the file; set only one of the two"
            )
