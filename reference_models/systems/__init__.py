"""Systems, one per file, with their registry and base class. Importing this package registers all systems."""

from importlib import import_module
from pkgutil import iter_modules

from reference_models.systems.registry import get_system, list_systems, register

__all__ = ["get_system", "list_systems", "register"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
