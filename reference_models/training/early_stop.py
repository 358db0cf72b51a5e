"""Stops a training whose F1 on validation has not risen for some epochs."""

from collections.abc import Mapping, Sequence

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


def is_exhausted(history: Sequence[Mapping[str, float]], patience: int) -> bool:
    """Whether the last `patience` epochs of a log brought no F1 above the best before them."""
    scores = [entry["eval_f1"] for entry in history if "eval_f1" in entry]
    return len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])


class EarlyStop(TrainerCallback):
    """Ends the training after `patience` epochs without a better F1; it depends on the log alone, so it can resume."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        """Called by Trainer."""
        if is_exhausted(state.log_history, self.patience):
            control.should_training_stop = True
        return control
