"""Packages that add tasks, data formats, systems, detectors or metrics of their own."""

from importlib.metadata import entry_points

from reference_models.errors import UserError

GROUP = "reference_models.plugins"


def load_plugins() -> None:
    """Import the modules that installed packages name in the entry point group `GROUP`; they register what they add.

    Raises:
        UserError: a module cannot be imported.
    """
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # a module of others can fail with any exception
            name = point.dist.name if point.dist else point.value
            raise UserError(f"the plug-in {name} cannot be loaded ({type(error).__name__}: {error})") from error
