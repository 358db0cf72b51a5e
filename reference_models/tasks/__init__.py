"""Tasks, one file each, and everything that differs between them. A task is selected by name."""

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
