"""The checkpoints of a run, of which a kill at any instant leaves only whole ones."""

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
    """Asks for a checkpoint every so many steps.

    Not at the end of an epoch: the one written there comes after the evaluation, which a run that goes on from an
    earlier one would miss.
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
    """Where the checkpoint of a step is."""
    return folder / f"checkpoint-{step}"


def finish_checkpoint(folder: Path, step: int, best_step: int | None) -> None:
    """Make what was written into `PARTIAL` the checkpoint of `step`, and remove those that are neither it nor the best.

    A checkpoint comes and goes by one renaming, before which and after which the folder is sound.
    """
    (folder / PARTIAL).rename(checkpoint_folder(folder, step))
    kept = {checkpoint_folder(folder, step), checkpoint_folder(folder, best_step or step)}
    for old in folder.glob("checkpoint-*"):
        if old not in kept:
            shutil.rmtree(old.rename(folder / REMOVED))


def check_checkpoint(folder: str) -> None:
    """Check that all of a checkpoint is there: what is missing would be made anew, and the run would be another one.

    Raises:
        UserError: a file is missing.
    """
    for name in FILES:
        if not (Path(folder) / name).is_file():
            raise UserError(f"{Path(folder) / name} is missing from a checkpoint; {ADVICE}")


def last_checkpoint(folder: Path) -> str | None:
    """The checkpoint to go on from, if there is one; what a kill left half-written or half-removed is cleared away."""
    for name in (PARTIAL, REMOVED):
        shutil.rmtree(folder / name, ignore_errors=True)
    return get_last_checkpoint(folder) if folder.is_dir() else None
