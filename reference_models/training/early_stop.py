"""Early stopping when the validation F1 no longer improves."""

from collections.abc import Mapping, Sequence

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


def is_exhausted(history: Sequence[Mapping[str, float]], patience: int) -> bool:
    """Return whether the last `patience` epochs of a log did not improve on the best earlier F1."""
    scores = [entry["eval_f1"] for entry in history if "eval_f1" in entry]
    return len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])


class EarlyStop(TrainerCallback):
    """Stop training after `patience` epochs without a better F1. It depends only on the log, so it can be resumed."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        """Called by Trainer."""
        if is_exhausted(state.log_history, self.patience):
            control.should_training_stop = True
        return control
