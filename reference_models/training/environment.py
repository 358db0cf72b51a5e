"""Environment of a run: package versions and device, which are recorded but are not settings."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("attnmixup", "torch", "torchvision", "transformers", "accelerate")


def environment(device: torch.device) -> dict[str, str]:
    """Return the versions of Python and the main packages, and the name of the device."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # a source tree that is not installed
            versions[package] = "unknown"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return versions | {"device": f"{device.type} ({name})"}
