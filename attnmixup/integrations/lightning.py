"""Lightning: the steps of a LightningModule for a MixedModel, with a schedule of the strength."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import AdamW, Optimizer

from attnmixup.integrations.loop import MixedModel
from attnmixup.schedule import Shape, strength_at
from attnmixup.training import warn_of_missing_parameters


class AttnMixupSteps:
    """Steps that train a :class:`MixedModel` on batches that are dicts of its arguments.

    Inherit from it together with the ``LightningModule`` of ``lightning`` or ``pytorch_lightning``::

        class Module(AttnMixupSteps, LightningModule):
            pass

    Args:
        model: Encoder, mixer and head.
        learning_rate: Learning rate of AdamW.
        shape: How the strength of the mixer rises, see :func:`attnmixup.schedule.strength_at`. ``"constant"`` leaves
            the strength unchanged.
        ramp_steps: Number of steps until the strength is 1.
    """

    trainer: Any
    global_step: int
    log: Callable[..., None]
    log_dict: Callable[..., None]

    def __init__(
        self, model: MixedModel, *, learning_rate: float = 1e-3, shape: Shape = "constant", ramp_steps: int = 1
    ) -> None:
        super().__init__()
        self.model, self.learning_rate = model, learning_rate
        self.shape, self.ramp_steps = shape, ramp_steps

    def on_train_start(self) -> None:
        """Warn about trainable parameters that no optimizer of ``configure_optimizers`` holds."""
        warn_of_missing_parameters(self.model, *self.trainer.optimizers)

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Return the loss of the final set and log it."""
        if self.shape != "constant":
            self.model.mixer.set_strength(strength_at(self.global_step, steps=self.ramp_steps, shape=self.shape))
        output = self.model(**batch)
        interval = self.trainer.log_every_n_steps
        if interval and self.global_step % interval == 0:
            self.log_dict({f"train/{name}": value for name, value in output.mixed.stats().items()})
        loss: Tensor = output.loss
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Log the loss of the original samples."""
        output = self.model(**batch)
        self.log("val/loss", output.loss, batch_size=len(output.logits))

    def configure_optimizers(self) -> Optimizer:
        """Return AdamW over all parameters, including those of both modules."""
        return AdamW(self.model.parameters(), lr=self.learning_rate)
