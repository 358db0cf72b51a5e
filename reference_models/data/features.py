"""Image features on disk: shards that are written atomically and read row by row, and an index of their rows."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from reference_models.config import SLOTS, Slots, View
from reference_models.errors import UserError
from reference_models.files import writable

KEY = "V16"  # half a SHA-256
BLANK = bytes(16)  # key of a missing image, whose pixel values are zero after normalisation
ROW = ("keys", "features")  # tensors of a shard, in addition to the checksums of their rows


def path_key(path: Path | None) -> bytes:
    """Return the key of a path; None gives the key of the blank image."""
    return BLANK if path is None else sha256(os.fsencode(path)).digest()[:16]


def content_key(path: Path | None) -> bytes:
    """Return the key of the content of a file; None gives the key of the blank image."""
    if path is None:
        return BLANK
    with path.open("rb") as file:
        return file_digest(file, "sha256").digest()[:16]


def shard_file(folder: Path, number: int) -> Path:
    """Return the path of a shard."""
    return folder / f"shard-{number:06}.safetensors"


def write_shard(path: Path, keys: np.ndarray, features: np.ndarray) -> None:
    """Write a shard atomically.

    Args:
        path: Path from `shard_file`.
        keys: Keys of the images, (N,) of dtype `KEY`.
        features: Features of one view, (N, ...), float32.
    """
    tensors = dict(zip(ROW, (keys.view(np.uint8).reshape(-1, 16), features), strict=True))
    tensors["checksums"] = np.array([_checksum(row) for row in zip(*tensors.values(), strict=True)], np.uint32)
    partial = path.with_name(f"{path.name}.partial")
    content = save(tensors)  # `save_file` would create a file that other users cannot read
    with writable(path):
        partial.write_bytes(content)
        partial.replace(path)


def read_index(folder: Path) -> Index:
    """Build the index of all shards in a folder.

    Raises:
        UserError: If a shard is damaged. The message names the file.
    """
    files = sorted(folder.glob("shard-*.safetensors"))
    keys = [_open(file).get_tensor("keys").view(KEY)[:, 0] for file in files]
    numbers = [int(file.stem.removeprefix("shard-")) for file in files]
    places = [np.stack([np.full(len(k), n), np.arange(len(k))], 1) for n, k in zip(numbers, keys, strict=True)]
    return Index.make(np.concatenate([np.empty(0, KEY), *keys]), np.concatenate([np.empty((0, 2), int), *places]))


def _open(path: Path) -> Any:
    try:
        shard = safe_open(path, "np")
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error
    if set(shard.keys()) != {*ROW, "checksums"}:
        raise _damaged(path, f"it holds {', '.join(sorted(shard.keys()))}")
    return shard


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is a damaged feature file ({reason}); delete it, and the next run computes it again")


def _checksum(row: Iterable[np.ndarray]) -> int:
    return reduce(lambda checksum, part: zlib.crc32(part.data, checksum), row, 0)


@dataclass(frozen=True)
class Index:
    """Mapping from keys to rows of shards.

    Attributes:
        keys: Sorted keys, (N,) of dtype `KEY`.
        places: Shard number and row number of each key, (N, 2), int32.
    """

    keys: np.ndarray
    places: np.ndarray

    @classmethod
    def make(cls, keys: np.ndarray, places: np.ndarray) -> Index:
        """Build an index from unsorted keys."""
        order = np.argsort(keys)
        return cls(keys[order], places[order].astype(np.int32))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the places (M, 2) of keys (M,); -1 for unknown keys."""
        places = np.full((len(keys), 2), -1, np.int32)
        if len(self.keys):
            nearest = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
            known = self.keys[nearest] == keys
            places[known] = self.places[nearest[known]]
        return places


class FeatureCache:
    """Features of the images of a split. Each process memory-maps a shard when it first reads from it.

    Args:
        views: For each view, the folder of its shards and an index by `path_key` that includes the blank image.
        slots: For each view, the images of a sample that it covers.
    """

    def __init__(self, views: Mapping[View, tuple[Path, Index]], slots: Mapping[View, Slots]) -> None:
        self.views, self.slots = dict(views), dict(slots)
        self._shards: dict[Path, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_shards": {}}

    def read(self, paths: Sequence[Path | None]) -> dict[str, Tensor]:
        """Read the views of a sample's images, each under its name in a mini-batch, such as `image_grid`.

        Args:
            paths: Paths of the whole image and the crops; None for the blank image.

        Returns:
            Features of each view, (images, ...), float32.

        Raises:
            ValueError: If an image has no cached features.
            UserError: If a shard is damaged. The message names the file.
        """
        features = {}
        for view, (folder, index) in self.views.items():
            own = paths[SLOTS[self.slots[view]]]
            rows = []
            for path, (number, row) in zip(own, index.find(_keys(own)).tolist(), strict=True):
                if row < 0:
                    raise ValueError(f"{path} is not among the images with cached features")
                rows.append(self._read_row(shard_file(folder, number), row))
            features[f"image_{view}"] = torch.from_numpy(np.stack(rows))
        return features

    def _read_row(self, file: Path, row: int) -> np.ndarray:
        if file not in self._shards:
            self._shards[file] = _open(file)
        *parts, checksum = (self._shards[file].get_slice(name)[row] for name in (*ROW, "checksums"))
        if _checksum(parts) != checksum:
            raise _damaged(file, f"row {row} does not match its checksum")
        features: np.ndarray = parts[1]
        return features


def _keys(paths: Sequence[Path | None]) -> np.ndarray:
    return np.array([path_key(path) for path in paths], KEY)
