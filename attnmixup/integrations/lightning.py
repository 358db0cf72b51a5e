"""Lightning: the steps of a LightningModule around a MixedModel, with a schedule of the strength."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import AdamW, Optimizer

from attnmixup.integrations.loop import MixedModel
from attnmixup.schedule import Shape, strength_at
from attnmixup.training import warn_of_missing_parameters


class AttnMixupSteps:
    """Trains a :class:`MixedModel` on batches that are dicts of its arguments.

    To be inherited together with the ``LightningModule`` of ``lightning`` or ``pytorch_lightning``, whichever is used::

        class Module(AttnMixupSteps, LightningModule):
            pass

    Args:
        model: Encoder, mixer and head.
        learning_rate: Of AdamW.
        shape: How the strength of the mixer rises, see :func:`attnmixup.schedule.strength_at`.
        ramp_steps: Steps until the strength is full.
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
        """Warn of trainable parameters that no optimizer holds, if ``configure_optimizers`` was overridden."""
        if len(self.trainer.optimizers) == 1:
            warn_of_missing_parameters(self.model, self.trainer.optimizers[0])

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Loss of the final set."""
        self.model.mixer.set_strength(strength_at(self.global_step, steps=self.ramp_steps, shape=self.shape))
        output = self.model(**batch)
        if self.global_step % self.trainer.log_every_n_steps == 0:
            self.log_dict({f"train/{name}": value for name, value in output.mixed.stats().items()})
        loss: Tensor = output.loss
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Loss of the samples as they are."""
        output = self.model(**batch)
        self.log("val/loss", output.loss, batch_size=len(output.logits))

    def configure_optimizers(self) -> Optimizer:
        """AdamW over all parameters, those of the two modules included."""
        return AdamW(self.model.parameters(), lr=self.learning_rate)
