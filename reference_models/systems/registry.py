"""The registry of systems, and the Hugging Face configuration that is made from the settings of each."""

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
    """What the configuration of every saved system holds beside its settings.

    It is written as classes of transformers were before they became dataclasses, which old and new versions read.

    Args:
        text_config: configuration of the text encoder, or its content; that of BERT by default.
        task: name of the task.
        labels: in the order of their ids.
        vocabulary: tokens of the tokenizer, for a system that has its own table of them.
        rare_words: how many of them, see `learn_words`, occur once in the training text.
        characters: ids of characters, for a system that has its own table of them.
        **values: settings of the system by name, and what transformers keeps in every configuration.
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
    """Make a subclass of `System` known under a name, to the settings of a run and to transformers' Auto classes.

    The class names its settings, a dataclass derived from `SystemConfig`, as `config_class`. From these a Hugging Face
    configuration is made, which takes their place there; the dataclass stays as `settings_class`.

    Args:
        name: as in `system: umt`; the `model_type` of saved models is "attnmixup-" and the name.

    Returns:
        A decorator that gives the class back.

    Raises:
        ValueError: another system has this name.
        TypeError: the class has no `config_class` of its own, or one that is no settings.
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
    """The class of a system.

    Args:
        name: in the registry; "package.module:name" imports the module first, for a system of another package.

    Returns:
        The class, a subclass of `System`.

    Raises:
        UserError: there is none of that name, or the module cannot be imported.
    """
    module, _, short = name.rpartition(":")
    if module:
        try:
            import_module(module)
        except ImportError as error:
            raise UserError(f"system {name!r}: the module {module} cannot be imported ({error})") from error
    return _SYSTEMS.find(short)


def list_systems() -> list[str]:
    """The names of all systems, in the order of the alphabet."""
    return list(_SYSTEMS)


def _make_config(name: str, settings: type[SystemConfig]) -> type[PreTrainedConfig]:
    # A class of its own, because `strict` changes the one that it is given.
    checked: type[SystemConfig] = strict(dataclass(type(settings.__name__, (settings,), {"__doc__": settings.__doc__})))
    content: dict[str, Any] = {
        "checked": checked,
        # New versions take a name such as "temperature" for one of generation unless it is declared, and make an
        # __init__ for a class that has none of its own.
        "__annotations__": {part.name: Any for part in fields(settings)},
        "__init__": HubConfig.__init__,
        "model_type": f"attnmixup-{name}",  # "bert" alone is transformers' own
        "__module__": settings.__module__,
        "__doc__": settings.__doc__,
    }
    return type(f"{settings.__name__}Hub", (HubConfig,), content)
