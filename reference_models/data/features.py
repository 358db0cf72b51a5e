"""Features of images on disk: shards that appear whole and are read row by row, and the index of what is in them."""

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
BLANK = bytes(16)  # the key of an image that is not there, which is read as zeros after the scaling
ROW = ("keys", "features")  # tensors of a shard, beside the checksums of their rows


def path_key(path: Path | None) -> bytes:
    """The key of a path; None is that of the blank image."""
    return BLANK if path is None else sha256(os.fsencode(path)).digest()[:16]


def content_key(path: Path | None) -> bytes:
    """The key of what is in a file; None is that of the blank image."""
    if path is None:
        return BLANK
    with path.open("rb") as file:
        return file_digest(file, "sha256").digest()[:16]


def shard_file(folder: Path, number: int) -> Path:
    """Where a shard is."""
    return folder / f"shard-{number:06}.safetensors"


def write_shard(path: Path, keys: np.ndarray, features: np.ndarray) -> None:
    """Write a shard that appears whole or not at all.

    Args:
        path: from `shard_file`.
        keys: (N,) of type `KEY`.
        features: (N, ...), float32, of one view.
    """
    tensors = dict(zip(ROW, (keys.view(np.uint8).reshape(-1, 16), features), strict=True))
    tensors["checksums"] = np.array([_checksum(row) for row in zip(*tensors.values(), strict=True)], np.uint32)
    partial = path.with_name(f"{path.name}.partial")
    content = save(tensors)  # `save_file` would keep other users from reading it
    with writable(path):
        partial.write_bytes(content)
        partial.replace(path)


def read_index(folder: Path) -> Index:
    """The index of all shards in a folder.

    Raises:
        UserError: a shard that is damaged, by its name.
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
    return UserError(f"{path} is a damaged file of features ({reason}); delete it, and the next run computes it again")


def _checksum(row: Iterable[np.ndarray]) -> int:
    return reduce(lambda checksum, part: zlib.crc32(part.data, checksum), row, 0)


@dataclass(frozen=True)
class Index:
    """Which row of which shard belongs to a key.

    Attributes:
        keys: (N,) of type `KEY`, in order.
        places: (N, 2), int32: for each the number of its shard, and its row there.
    """

    keys: np.ndarray
    places: np.ndarray

    @classmethod
    def make(cls, keys: np.ndarray, places: np.ndarray) -> Index:
        """An index of keys in any order."""
        order = np.argsort(keys)
        return cls(keys[order], places[order].astype(np.int32))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The places (M, 2) of keys (M,); -1 for those that are not there."""
        places = np.full((len(keys), 2), -1, np.int32)
        if len(self.keys):
            nearest = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
            known = self.keys[nearest] == keys
            places[known] = self.places[nearest[known]]
        return places


class FeatureCache:
    """The features of a split's images, in shards that each process maps into memory when it first reads of them.

    Args:
        views: for each view the folder of its shards and the index by `path_key`, with the blank image.
        slots: for each view the images of a sample that it is of.
    """

    def __init__(self, views: Mapping[View, tuple[Path, Index]], slots: Mapping[View, Slots]) -> None:
        self.views, self.slots = dict(views), dict(slots)
        self._shards: dict[Path, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_shards": {}}

    def read(self, paths: Sequence[Path | None]) -> dict[str, Tensor]:
        """The views of a sample's images, each under the name that a batch has for it, such as `image_grid`.

        Args:
            paths: of the whole image and the crops; None for the blank one.

        Returns:
            Each view (images, ...), float32.

        Raises:
            ValueError: an image that is not of the split.
            UserError: a shard that is damaged, by its name.
        """
        features = {}
        for view, (folder, index) in self.views.items():
            own = paths[SLOTS[self.slots[view]]]
            rows = []
            for path, (number, row) in zip(own, index.find(_keys(own)).tolist(), strict=True):
                if row < 0:
                    raise ValueError(f"{path} is not among the images whose features were computed")
                rows.append(self._read_row(shard_file(folder, number), row))
            features[f"image_{view}"] = torch.from_numpy(np.stack(rows))
        return features

    def _read_row(self, file: Path, row: int) -> np.ndarray:
        if file not in self._shards:
            self._shards[file] = _open(file)
        *parts, checksum = (self._shards[file].get_slice(name)[row] for name in (*ROW, "checksums"))
        if _checksum(parts) != checksum:
            raise _damaged(file, f"row {row} does not have its checksum")
        features: np.ndarray = parts[1]
        return features


def _keys(paths: Sequence[Path | None]) -> np.ndarray:
    return np.array([path_key(path) for path in paths], KEY)
