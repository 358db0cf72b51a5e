"""The systems: one file each, a registry, and what they share. Importing this package registers them all."""

from importlib import import_module
from pkgutil import iter_modules

from reference_models.systems.registry import get_system, list_systems, register

__all__ = ["get_system", "list_systems", "register"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
