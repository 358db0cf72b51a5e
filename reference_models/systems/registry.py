"""Registry of systems, and their Hugging Face configurations, which are generated from their settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from reference_models.config import SystemConfig
from reference_models.errors import UserError
from reference_models.names import Registry

if TYPE_CHECKING:
    from reference_models.systems.base import System

AnySystem = TypeVar("AnySystem", bound="type[System]")
_SYSTEMS: "Registry[type[System]]" = Registry("system", "package.module:name for one of another package")


class HubConfig(PreTrainedConfig):
    """Configuration of every saved system, in addition to its settings.

    The class is written in the style from before transformers made configurations dataclasses, because old and new
    versions of transformers accept it.

    Args:
        text_config: Configuration of the text encoder, as an object or a dict; BERT's by default.
        task: Name of the task.
        labels: Labels in the order of their ids.
        vocabulary: Number of tokens of the tokenizer, for systems with their own token embeddings.
        rare_words: Number of tokens that occur once in the training text, see `learn_words`.
        characters: Number of character ids, for systems with character embeddings.
        **values: Settings of the system by name, and the common entries of transformers configurations.
    """

    checked: ClassVar[type[SystemConfig]]
    keys_to_ignore_at_inference = ["task_loss", "semantic_loss", "scores"]  # noqa: RUF012
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        *,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        task: str = "",
        labels: Sequence[str] = (),
        vocabulary: int = 0,
        rare_words: int = 0,
        characters: int = 0,
        **values: Any,
    ) -> None:
        if not isinstance(text_config, PreTrainedConfig):
            text_config = AutoConfig.for_model(**({"model_type": "bert"} | (text_config or {})))
        self.text_config = text_config
        self.task, self.labels = task, list(labels)
        self.vocabulary, self.rare_words, self.characters = vocabulary, rare_words, characters
        names = {part.name for part in fields(self.checked)}
        settings = self.checked(**{name: values.pop(name) for name in names & values.keys()})
        for name in names:
            setattr(self, name, getattr(settings, name))
        super().__init__(**values)


def register(name: str) -> Callable[[AnySystem], AnySystem]:
    """Register a subclass of `System` under a name, for the settings of a run and for transformers' Auto classes.

    The class sets `config_class` to its settings, a dataclass derived from `SystemConfig`. The decorator moves them to
    `settings_class` and sets `config_class` to a Hugging Face configuration generated from them.

    Args:
        name: Name as in `system: umt`; the `model_type` of saved models is "attnmixup-" followed by the name.

    Returns:
        A decorator that returns the class.

    Raises:
        ValueError: If another system has this name.
        TypeError: If the class does not set `config_class`, or not to a subclass of `SystemConfig`.
    """

    def add(system: AnySystem) -> AnySystem:
        settings = vars(system).get("config_class")
        if not (isinstance(settings, type) and issubclass(settings, SystemConfig)) or settings is SystemConfig:
            raise TypeError(f"{system.__qualname__} must set config_class to a dataclass derived from SystemConfig")
        _SYSTEMS.add(name, system)
        system.settings_class = settings
        system.config_class = _make_config(name, settings)
        AutoConfig.register(system.config_class.model_type, system.config_class, exist_ok=True)
        AutoModel.register(system.config_class, system, exist_ok=True)
        return system

    return add


def get_system(name: str) -> "type[System]":
    """Return the class of a system.

    Args:
        name: Name in the registry. "package.module:name" imports the module first, for a system of another package.

    Returns:
        The class, a subclass of `System`.

    Raises:
        UserError: If there is no system of that name, or the module cannot be imported.
    """
    module, _, short = name.rpartition(":")
    if module:
        try:
            import_module(module)
        except ImportError as error:
            raise UserError(f"system {name!r}: the module {module} cannot be imported ({error})") from error
    return _SYSTEMS.find(short)


def list_systems() -> list[str]:
    """Return the names of all systems in alphabetical order."""
    return list(_SYSTEMS)


def _make_config(name: str, settings: type[SystemConfig]) -> type[PreTrainedConfig]:
    # A subclass, because `strict` changes the class that it is given.
    checked: type[SystemConfig] = strict(dataclass(type(settings.__name__, (settings,), {"__doc__": settings.__doc__})))
    content: dict[str, Any] = {
        "checked": checked,
        # New versions of transformers treat a name such as "temperature" as a generation setting unless it is
        # declared, and they generate an __init__ for a class that does not define one.
        "__annotations__": {part.name: Any for part in fields(settings)},
        "__init__": HubConfig.__init__,
        "model_type": f"attnmixup-{name}",  # "bert" is already taken by transformers
        "__module__": settings.__module__,
        "__doc__": settings.__doc__,
    }
    return type(f"{settings.__name__}Hub", (HubConfig,), content)
