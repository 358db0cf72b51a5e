"""Interface of a data format, and the registry of data formats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from reference_models.data.formats.layout import Layout
from reference_models.data.samples import Sample, Split, read_crop_names
from reference_models.errors import UserError
from reference_models.names import Registry, suggest_path

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
AnyFormat = TypeVar("AnyFormat", bound="type[DataFormat]")

_FORMATS: Registry[DataFormat] = Registry("data format")


def register_format(name: str) -> Callable[[AnyFormat], AnyFormat]:
    """Register a subclass of `DataFormat` under a name.

    Args:
        name: Name for the setting `data.format`.

    Returns:
        A decorator that returns the class unchanged.

    Raises:
        ValueError: If another format has this name.
    """

    def add(kind: AnyFormat) -> AnyFormat:
        _FORMATS.add(name, kind())
        kind.name = name
        return kind

    return add


def get_format(name: str) -> DataFormat:
    """Return a data format by its name.

    Raises:
        UserError: If the name is unknown.
    """
    return _FORMATS.find(name)


def list_formats() -> list[str]:
    """Return the names of all data formats in alphabetical order."""
    return list(_FORMATS)


def check_root(root: Path) -> None:
    """Check that the folder of a data set exists.

    Raises:
        UserError: If it does not. The message suggests a folder of a similar name.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: expected the folder of a data set, but this folder does not exist{suggest_path(root)}"
        )


def recognise(root: Path) -> DataFormat:
    """Detect the data format of the files below a folder.

    Raises:
        UserError: If the folder does not exist, or its files match no format or several.
    """
    check_root(root)
    found = [kind for kind in _FORMATS.values() if kind.recognises(root)]
    if len(found) == 1:
        return found[0]
    got = f"several ({', '.join(kind.name for kind in found)})" if found else "none"
    raise UserError(
        f"{root}: expected files that match one data format, these match {got}; the formats are "
        f"{', '.join(list_formats())}; choose one with data.format (or --format of `i2srm data check`)"
    )


class DataFormat(ABC):
    """Base class of data formats: the file layout of a data set, and how its splits are read and written.

    Attributes:
        name: Name in the registry.
        has_images: Whether samples have images.
        task: Name of the task that the files have labels for; see `find_task`.
    """

    name: ClassVar[str]
    task: ClassVar[str]
    has_images: ClassVar[bool] = True

    @abstractmethod
    def layout(self, root: Path, split: Split) -> Layout:
        """Return the paths of the parts of a split. They may not exist."""

    @abstractmethod
    def read(
        self, root: Path, split: Split, *, pairs: bool | None = None, visual: bool = True, max_crops: int = 3
    ) -> Iterator[Sample]:
        """Read a split sample by sample. The existence of images and crops is not checked.

        Args:
            root: Folder of the data set.
            split: Name of the split.
            pairs: Whether a sample is a relation of two entities, for formats that support both tasks. None uses the
                task that the files have labels for.
            visual: If False, only the text is read, and images and the crop dictionary are not used.
            max_crops: Maximum number of crops per sample, the first ones.

        Returns:
            The samples, in the order of the file.

        Raises:
            UserError: If a file is missing or invalid. The message gives file, line, what was expected and what was
                found.
        """

    def write(self, root: Path, samples: Mapping[Split, Sequence[Sample]], labels: Sequence[str] | None = None) -> None:
        """Write the label files and crop dictionaries of a data set. The images and crops must already be in place.

        Args:
            root: Folder of the data set.
            samples: Samples of each split.
            labels: All labels, for formats that store a list of them, see `labels`.

        Raises:
            UserError: If this format is read-only, or it cannot store a sample.
        """
        raise UserError(f"the data format {self.name} is read-only; write another format, such as jsonl")

    def recognises(self, root: Path) -> bool:
        """Return whether a folder contains a split in this format."""
        return any(path.is_file() for split in SPLITS for path in self.layout(root, split).labels)

    def find_task(self, root: Path) -> str:
        """Return the task that the files below a folder have labels for."""
        return self.task

    def labels(self, root: Path) -> list[str] | None:
        """Return the labels listed in a separate file of the data set, in the order of their ids; None without one.

        Raises:
            UserError: If the list cannot be read.
        """
        return None

    def crop_names(self, root: Path, split: Split, max_crops: int) -> dict[Any, tuple[str, ...]]:
        """Read the crop dictionary of a split, see `read_crop_names`; empty if `max_crops` is 0."""
        place = self.layout(root, split)
        key_type: Any = place.key_type
        return read_crop_names(place.dictionaries, key_type, max_crops) if max_crops else {}


def relative_name(path: Path, folder: Path, sample: Sample) -> str:
    """Return the path of an image or crop relative to the folder in which the data format stores such files.

    Raises:
        UserError: If the file is not below that folder.
    """
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        raise UserError(
            f"{sample.id}: expected {path} to be below {folder}, where this data format looks for it; move the file"
        ) from None
