"""What differs between the tasks, one file each; a task is found by its name."""

from reference_models.tasks.ner import NamedEntities
from reference_models.tasks.re import Relations
from reference_models.tasks.task import Answer, HeadSettings, Line, Prediction, Task, get_task, list_tasks, register

__all__ = [
    "Answer",
    "HeadSettings",
    "Line",
    "NamedEntities",
    "Prediction",
    "Relations",
    "Task",
    "get_task",
    "list_tasks",
    "register",
]
