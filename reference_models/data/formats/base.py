"""The interface of a data format, and the registry of formats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from reference_models.data.formats.layout import Layout
from reference_models.data.samples import Sample, Split, read_crop_names
from reference_models.errors import UserError
from reference_models.names import Registry

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
AnyFormat = TypeVar("AnyFormat", bound="type[DataFormat]")

_FORMATS: Registry[DataFormat] = Registry("data format")


def register_format(name: str) -> Callable[[AnyFormat], AnyFormat]:
    """Make a subclass of `DataFormat` known under a name.

    Args:
        name: as in `data.format`.

    Returns:
        A decorator that gives the class back.

    Raises:
        ValueError: another format has this name.
    """

    def add(kind: AnyFormat) -> AnyFormat:
        _FORMATS.add(name, kind())
        kind.name = name
        return kind

    return add


def get_format(name: str) -> DataFormat:
    """A data format by its name.

    Raises:
        UserError: there is none of that name.
    """
    return _FORMATS.find(name)


def list_formats() -> list[str]:
    """The names of all data formats, in the order of the alphabet."""
    return list(_FORMATS)


def recognise(root: Path) -> DataFormat:
    """The format of the files below a folder.

    Raises:
        UserError: there is no such folder, or its files are of no format, or of several.
    """
    if not root.is_dir():
        raise UserError(f"{root}: expected the folder of a data set, and there is none")
    found = [kind for kind in _FORMATS.values() if kind.recognises(root)]
    if len(found) == 1:
        return found[0]
    got = f"of several ({', '.join(kind.name for kind in found)})" if found else "of none"
    raise UserError(
        f"{root}: expected the files of one data format, these are {got}; the formats are {', '.join(list_formats())}, "
        "and data.format (--format of `i2srm data check`) names one"
    )


class DataFormat(ABC):
    """How the splits of a data set lie below a folder, and how they are read and written.

    Attributes:
        name: in the registry.
        has_images: whether samples have images.
        task: name of the task that the files have labels for; see `find_task`.
    """

    name: ClassVar[str]
    task: ClassVar[str]
    has_images: ClassVar[bool] = True

    @abstractmethod
    def layout(self, root: Path, split: Split) -> Layout:
        """Where the parts of a split are; whether they exist is not looked at."""

    @abstractmethod
    def read(
        self, root: Path, split: Split, *, pairs: bool | None = None, visual: bool = True, max_crops: int = 3
    ) -> Iterator[Sample]:
        """Read a split, sample by sample; whether images and crops exist is not looked at.

        Args:
            root: folder of the data set.
            split: which part.
            pairs: whether a sample is a relation of two entities, where a format has both; None for what its files have
                labels for.
            visual: False reads the text alone and touches neither images nor crop dictionary.
            max_crops: how many crops a sample keeps at most, the first ones.

        Returns:
            The samples, in the order of the file.

        Raises:
            UserError: naming file, line, what was expected and what came.
        """

    def write(self, root: Path, samples: Mapping[Split, Sequence[Sample]], labels: Sequence[str] | None = None) -> None:
        """Write the label files and crop dictionaries of a data set, whose images and crops lie in their folders.

        Args:
            root: folder of the data set.
            samples: of each split.
            labels: those of `labels`, where the format lists them.

        Raises:
            UserError: this format is only read, or a sample has what it cannot hold.
        """
        raise UserError(f"the data format {self.name} is only read; write another one, such as jsonl")

    def recognises(self, root: Path) -> bool:
        """Whether a split of this format is below a folder."""
        return any(path.is_file() for split in SPLITS for path in self.layout(root, split).labels)

    def find_task(self, root: Path) -> str:
        """The task that the files below a folder have labels for."""
        return self.task

    def labels(self, root: Path) -> list[str] | None:
        """The labels that the data set lists beside its samples, in the order of their ids; None without a list.

        Raises:
            UserError: the list cannot be read.
        """
        return None

    def crop_names(self, root: Path, split: Split, max_crops: int) -> dict[Any, tuple[str, ...]]:
        """The crop dictionary of a split, see `read_crop_names`; none for 0 crops."""
        place = self.layout(root, split)
        key_type: Any = place.key_type
        return read_crop_names(place.dictionaries, key_type, max_crops) if max_crops else {}


def relative_name(path: Path, folder: Path, sample: Sample) -> str:
    """The name of an image or crop that a label file in this format can hold.

    Raises:
        UserError: the file is not below the folder where the format has such files.
    """
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        raise UserError(f"{sample.id}: expected {path} to lie below {folder}, where this data format looks") from None
