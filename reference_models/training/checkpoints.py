"""Checkpoints of a run, written so that a kill at any time leaves only complete ones."""

import shutil
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import SAFE_WEIGHTS_NAME

from reference_models.errors import UserError

FILES = (SAFE_WEIGHTS_NAME, OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME)
ADVICE = "delete the folder of this checkpoint, and the run resumes from an earlier one or starts again"
PARTIAL, REMOVED = "partial", "removed"


class StepCheckpoints(TrainerCallback):
    """Request a checkpoint every `every` steps, except at the end of an epoch.

    Trainer writes the checkpoint of an epoch after its evaluation. A run that resumed from a checkpoint before the
    evaluation would skip the evaluation.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        """Called by Trainer."""
        steps_of_epoch = state.max_steps // state.num_train_epochs
        if state.global_step % self.every == 0 and state.global_step % steps_of_epoch:
            control.should_save = True
        return control


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return folder / f"checkpoint-{step}"


def finish_checkpoint(folder: Path, step: int, best_step: int | None) -> None:
    """Rename `PARTIAL` to the checkpoint of `step`, and remove all other checkpoints except the best one.

    Each checkpoint appears and disappears by a single rename, so the folder is valid before and after it.
    """
    (folder / PARTIAL).rename(checkpoint_folder(folder, step))
    kept = {checkpoint_folder(folder, step), checkpoint_folder(folder, best_step or step)}
    for old in folder.glob("checkpoint-*"):
        if old not in kept:
            shutil.rmtree(old.rename(folder / REMOVED))


def check_checkpoint(folder: str) -> None:
    """Check that a checkpoint is complete. Trainer would reinitialise a missing part, which changes the result.

    Raises:
        UserError: If a file is missing.
    """
    for name in FILES:
        if not (Path(folder) / name).is_file():
            raise UserError(f"{Path(folder) / name} is missing from a checkpoint; {ADVICE}")


def last_checkpoint(folder: Path) -> str | None:
    """Return the checkpoint to resume from, or None; remove partial checkpoints that a kill left behind."""
    for name in (PARTIAL, REMOVED):
        shutil.rmtree(folder / name, ignore_errors=True)
    return get_last_checkpoint(folder) if folder.is_dir() else None
