"""Loading of plug-ins: packages that add tasks, data formats, systems, detectors or metrics."""

from importlib.metadata import entry_points

from reference_models.errors import UserError

GROUP = "reference_models.plugins"


def load_plugins() -> None:
    """Import the modules in the entry point group `GROUP` of installed packages; each module registers what it adds.

    Raises:
        UserError: If a module cannot be imported.
    """
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # a third-party module can raise any exception
            name = point.dist.name if point.dist else point.value
            raise UserError(f"the plug-in {name} cannot be loaded ({type(error).__name__}: {error})") from error
