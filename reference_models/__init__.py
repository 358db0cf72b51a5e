"""The complete I2SRM system, built on `attnmixup`, and other systems with the same interface.

Public names are imported on first use, because importing torch and transformers takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reference_models.config import RunConfig
    from reference_models.data.dataset import load_dataset
    from reference_models.data.samples import Sample
    from reference_models.prediction import Predictor
    from reference_models.settings import read_settings
    from reference_models.systems.registry import list_systems
    from reference_models.training.run import evaluate, train

__all__ = [
    "Predictor",
    "RunConfig",
    "Sample",
    "evaluate",
    "list_systems",
    "load_dataset",
    "read_settings",
    "train",
]

_MODULES = {
    "Predictor": "prediction",
    "RunConfig": "config",
    "Sample": "data.samples",
    "evaluate": "training.run",
    "list_systems": "systems",
    "load_dataset": "data.dataset",
    "read_settings": "settings",
    "train": "training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
