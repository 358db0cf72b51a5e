"""Progress output of the training: Trainer's progress bars, and one readable line per epoch."""

from typing import Any

from tqdm import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Bars(ProgressCallback):
    """Trainer's progress bars, without its lines of raw numbers."""

    def on_log(self, *args: object, **kwargs: object) -> None:
        """Called by Trainer; does nothing, because `EpochLines` prints the log."""

    def close(self) -> None:
        """Close the open progress bars."""
        for bar in (self.training_bar, self.prediction_bar):
            if bar is not None:
                bar.close()


class EpochLines(TrainerCallback):
    """Print one line per epoch with its losses and the validation F1.

    Args:
        label: Prefix of the lines.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._losses = self._waited = ""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: object,
    ) -> None:
        """Called by Trainer, first with the losses, then with the scores."""
        if not state.is_world_process_zero or logs is None:
            return
        if "loss" in logs:
            parts = (("task loss", "task_loss"), ("semantic loss", "semantic_loss"))
            self._losses = ", ".join(f"{label} {logs[key]:.4f}" for label, key in parts if key in logs)
            self._waited = f"waited {logs['waited']:.0%} for data"
        elif "eval_f1" in logs:
            epoch, seconds = f"epoch {logs['epoch']:g} of {state.num_train_epochs}", f"{logs['seconds']:.0f} s"
            tqdm.write(
                f"{self._label}{epoch}: {self._losses}, validation F1 {100 * logs['eval_f1']:.2f} "
                f"({seconds}; {self._waited})"
            )
