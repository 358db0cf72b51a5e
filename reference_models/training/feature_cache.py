"""Computes the features of a split's pictures by a frozen backbone: each picture once, whichever runs ask for it."""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from hashlib import sha256
from itertools import chain, compress, count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from tqdm import tqdm

from reference_models.data.features import (
    KEY,
    FeatureCache,
    Index,
    content_key,
    path_key,
    read_index,
    shard_file,
    write_shard,
)
from reference_models.data.images import RESIZE_VERSION, Resize, load_image
from reference_models.data.threads import map_ahead
from reference_models.encoders.stages import GRID
from reference_models.encoders.vision import MEAN, STD, VisionBackbone
from reference_models.errors import UserError
from reference_models.tasks.dataset import EncodedSplit
from reference_models.training.folder import write_json

META, LOCK = "meta.json", "lock"
BATCH = 16  # pictures of a pass
SHARD = 32  # passes of a shard, which is about 36 MB for ResNet-50


def fill_cache(folder: Path, backbone: VisionBackbone, split: EncodedSplit, *, progress: bool = True) -> FeatureCache:
    """Compute what a folder lacks of the features of a split's pictures.

    Below `folder` each backbone has a folder named by all that its features depend on beside the picture, see
    `describe`. There a picture is known by the content of its file: equal pictures share a row, and one that was
    changed is another. Every file is read for that.

    A call that was stopped goes on after its last shard. Of several processes one computes, and the others wait.

    Args:
        folder: of the features of any number of backbones.
        backbone: on the device that is to compute, in evaluation mode.
        split: whose pictures are wanted.
        progress: show progress bars.

    Raises:
        ValueError: the backbone is in training mode.
        UserError: a folder that cannot be made, a shard that is damaged, or a picture that cannot be read or changes
            meanwhile.
    """
    if backbone.training:
        raise ValueError("expected a backbone in evaluation mode, because one that learns changes its features")
    size, resize = split.processor.image_size, split.processor.resize
    meta = describe(backbone, size, resize)
    place = folder / sha256(json.dumps(meta).encode()).hexdigest()[:32]

    names, first = np.unique(np.fromiter(map(path_key, _slots(split)), KEY), return_index=True)
    order = np.argsort(first)
    names, first = names[order], first[order]
    paths = tqdm(_pick(split, first), total=len(first), desc="hashing images", disable=not progress)
    keys = np.fromiter(map_ahead(content_key, paths), KEY)
    if (read_index(place).find(keys) < 0).any():
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.feature_cache: {folder} cannot be made or written to ({error.strerror})") from error
        with FileLock(place / LOCK):
            write_json(place / META, meta)
            index = read_index(place)  # another process may have been at work until now
            _, once = np.unique(keys, return_index=True)
            missing = np.sort(once[index.find(keys[once])[:, 0] < 0])
            pairs = zip(map(bytes, keys[missing]), _pick(split, first[missing]), strict=True)
            pictures = tqdm(pairs, total=len(missing), desc="computing features", disable=not progress)
            _write_shards(place, index, _compute(backbone, size, resize, pictures))
    return FeatureCache(place, Index.make(names, read_index(place).find(keys)))


def describe(backbone: VisionBackbone, image_size: int, resize: Resize = "squash") -> dict[str, Any]:
    """All that the features of a picture depend on beside its file, as plain types."""
    return {
        "backbone": backbone.name,
        "signal": backbone.signal,
        "weights": weights_fingerprint(backbone.body),
        "image_size": image_size,
        "resize": f"{resize} {RESIZE_VERSION}",
        "mean": MEAN,
        "std": STD,
        "grid": GRID,
    }


def weights_fingerprint(module: nn.Module) -> str:
    """SHA-256 of the names, dtypes, shapes and bytes of all weights and buffers, on whatever device."""
    digest = sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _slots(split: EncodedSplit) -> Iterator[Path | None]:
    """The pictures of all samples, as often as they are listed, and None for each empty slot."""
    return chain.from_iterable(map(split.processor.pictures, split.samples))


def _pick(split: EncodedSplit, positions: np.ndarray) -> Iterator[Path | None]:
    """The slots at some positions, in their order; a split may hold more paths than should be kept in memory."""
    wanted = np.zeros(positions.max(initial=-1) + 1, bool)
    wanted[positions] = True
    return compress(_slots(split), wanted)


def _load(size: int, resize: Resize, picture: tuple[bytes, Path | None]) -> tuple[bytes, Tensor | None]:
    key, path = picture
    pixels = None if path is None else load_image(path, size, resize)
    if content_key(path) != key:
        raise UserError(f"{path}: the file changed while its features were computed; give the command again")
    return key, pixels


def _compute(
    backbone: VisionBackbone, size: int, resize: Resize, pictures: Iterable[tuple[bytes, Path | None]]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What `write_shard` takes, pass by pass, for content keys and paths.

    All passes have one size, so that no bit of a picture's features depends on how many others were missing.
    """
    device = next(backbone.parameters()).device
    loaded = map_ahead(partial(_load, size, resize), pictures)
    while batch := list(islice(loaded, BATCH)):
        pixels = torch.zeros(BATCH, 3, size, size, dtype=torch.uint8)
        shown = torch.zeros(BATCH, dtype=torch.bool)
        for row, (_, picture) in enumerate(batch):
            if picture is not None:
                pixels[row], shown[row] = picture, True
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            features = backbone(pixels.to(device), shown.to(device))
        both = torch.cat(features.cells, dim=-1), features.embedding
        yield np.array([key for key, _ in batch], KEY), *(part[: len(batch)].float().cpu().numpy() for part in both)


def _write_shards(place: Path, index: Index, passes: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """Write passes into shards, numbered on from those of the index."""
    for number in count(index.places[:, 0].max(initial=-1) + 1):
        if not (rows := list(islice(passes, SHARD))):
            return
        write_shard(shard_file(place, number), *map(np.concatenate, zip(*rows, strict=True)))
