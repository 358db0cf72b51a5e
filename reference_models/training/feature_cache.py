"""Cache of image features of a frozen backbone: each image is computed once for all runs."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
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

from reference_models.config import SLOTS, Resize, Slots, View
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
from reference_models.data.images import RESIZE_VERSION, load_image
from reference_models.data.threads import map_ahead
from reference_models.encoders.stages import GRID
from reference_models.encoders.vision import CLASSIFIERS, GRID_SIDE, MEAN, STD, VisionBackbone
from reference_models.errors import UserError
from reference_models.tasks.dataset import EncodedSplit
from reference_models.training.folder import write_json
from reference_models.training.products import float32_convolutions

META, LOCK = "meta.json", "lock"
BATCH = 16  # images per forward pass
SHARD = 32  # forward passes per shard; a shard has about 36 MB for ResNet-50


def fill_cache(
    folder: Path, backbone: VisionBackbone, split: EncodedSplit, views: Mapping[View, Slots], *, progress: bool = True
) -> FeatureCache:
    """Compute the features of a split's images that the cache does not contain yet.

    Each view of each backbone has its own subfolder, named by a hash of everything that the features depend on except
    the image, see `describe`; adding a view does not change the others. Images are identified by the content of their
    files: identical images share a row, and a changed image gets a new row. Every file is read to hash it.

    An interrupted call resumes after its last shard. If several processes call it, one computes and the others wait.

    Args:
        folder: Cache folder; it can hold features of several backbones.
        backbone: Backbone in evaluation mode, on the device that computes the features.
        split: Split with the images.
        views: The views to compute, and of which images.
        progress: Show progress bars.

    Returns:
        A cache that reads the views of every image of the split.

    Raises:
        ValueError: If the backbone is in training mode, or the processor has no images.
        UserError: If the folder cannot be created, a shard is damaged, or an image cannot be read or changes during the
            call.
    """
    if backbone.training:
        raise ValueError("expected a backbone in evaluation mode, because training changes the features")
    size, resize = split.processor.image_size, split.processor.resize
    if size is None:
        raise ValueError("expected a processor with an image_size, got one for text only")
    metas = {view: describe(backbone, view, size, resize) for view in views}
    places = {view: folder / sha256(json.dumps(meta).encode()).hexdigest()[:32] for view, meta in metas.items()}

    slots = SLOTS[next(iter(views.values()))] if len(set(views.values())) == 1 else SLOTS["all"]
    names, first = np.unique(np.fromiter(map(path_key, _paths(split, slots)), KEY), return_index=True)
    order = np.argsort(first)
    names, first = names[order], first[order]
    paths = tqdm(_pick(split, slots, first), total=len(first), desc="hashing images", disable=not progress)
    keys = np.fromiter(map_ahead(content_key, paths), KEY)
    numbers = Index.make(names, np.stack([np.arange(len(names))] * 2, axis=1))
    # For each view, the positions of its images in `names`.
    own = {
        view: numbers.find(np.unique(np.fromiter(map(path_key, _paths(split, SLOTS[views[view]])), KEY)))[:, 0]
        for view in views
    }
    if any((read_index(places[view]).find(keys[own[view]]) < 0).any() for view in views):
        with ExitStack() as locks:
            for view in sorted(views):
                try:
                    places[view].mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise UserError(
                        f"data.feature_cache: {folder} cannot be created or written to ({error.strerror})"
                    ) from error
                locks.enter_context(FileLock(places[view] / LOCK))
                write_json(places[view] / META, metas[view])
            # Another process may have written features while this one waited for the lock.
            indices = {view: read_index(places[view]) for view in views}
            lacking = {view: own[view][indices[view].find(keys[own[view]])[:, 0] < 0] for view in views}
            wanted = np.unique(np.concatenate(list(lacking.values())))
            missing = wanted[np.sort(np.unique(keys[wanted], return_index=True)[1])]  # first of identical images
            pairs = zip(map(bytes, keys[missing]), _pick(split, slots, first[missing]), strict=True)
            images = tqdm(pairs, total=len(missing), desc="computing features", disable=not progress)
            passes = _compute(backbone, size, resize, images)
            _write_shards(places, indices, {view: keys[lacking[view]] for view in views}, passes)
    found = {}
    for view, place in places.items():
        found[view] = place, Index.make(names[own[view]], read_index(place).find(keys[own[view]]))
    return FeatureCache(found, views)


def describe(backbone: VisionBackbone, view: View, image_size: int, resize: Resize = "squash") -> dict[str, Any]:
    """Return everything that a view depends on except the image file, as plain types."""
    return {
        "view": view,
        "backbone": backbone.name,
        "weights": weights_fingerprint(backbone.body, () if view == "logits" else CLASSIFIERS),
        "image_size": image_size,
        "resize": f"{resize} {RESIZE_VERSION}",
        "mean": MEAN,
        "std": STD,
        "cells": {"cells": GRID, "grid": GRID_SIDE}.get(view),
        # Only if it is not the default, so that older caches are still found.
        **({"pooling": backbone.pooling} if view == "cells" and backbone.pooling != "whole" else {}),
    }


def weights_fingerprint(module: nn.Module, without: tuple[str, ...] = ()) -> str:
    """Compute the SHA-256 of the names, dtypes, shapes and bytes of all weights and buffers, on any device.

    Args:
        module: Module with the weights.
        without: Prefixes of names to skip.

    Returns:
        64 hex digits.
    """
    digest = sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if name.startswith(without):
            continue
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _paths(split: EncodedSplit, slots: slice) -> Iterator[Path | None]:
    """Yield the images of all samples, with repetitions, and None for each empty slot."""
    return chain.from_iterable(split.processor.image_paths(sample)[slots] for sample in split.samples)


def _pick(split: EncodedSplit, slots: slice, positions: np.ndarray) -> Iterator[Path | None]:
    """Yield the paths at the given positions, in order; a list of all paths of a split may not fit in memory."""
    wanted = np.zeros(positions.max(initial=-1) + 1, bool)
    wanted[positions] = True
    return compress(_paths(split, slots), wanted)


def _load(size: int, resize: Resize, image: tuple[bytes, Path | None]) -> tuple[bytes, Tensor | None]:
    key, path = image
    pixels = None if path is None else load_image(path, size, resize)
    if content_key(path) != key:
        raise UserError(f"{path}: the file changed while its features were computed; run the command again")
    return key, pixels


def _compute(
    backbone: VisionBackbone, size: int, resize: Resize, images: Iterable[tuple[bytes, Path | None]]
) -> Iterator[tuple[np.ndarray, dict[View, np.ndarray]]]:
    """Yield content keys and all views of each forward pass, for images given as content keys and paths.

    All passes have the same size, so that the features of an image do not depend on the number of missing images.
    """
    device = next(backbone.parameters()).device
    loaded = map_ahead(partial(_load, size, resize), images)
    while batch := list(islice(loaded, BATCH)):
        pixels = torch.zeros(BATCH, 3, size, size, dtype=torch.uint8)
        shown = torch.zeros(BATCH, dtype=torch.bool)
        for row, (_, image) in enumerate(batch):
            if image is not None:
                pixels[row], shown[row] = image, True
        with torch.inference_mode(), torch.autocast(device.type, enabled=False), float32_convolutions():
            features = backbone(pixels.to(device), shown.to(device))
        views = {view: rows[: len(batch)].float().cpu().numpy() for view, rows in features.items()}
        yield np.array([key for key, _ in batch], KEY), views


def _write_shards(
    places: Mapping[View, Path],
    indices: Mapping[View, Index],
    wanted: Mapping[View, np.ndarray],
    passes: Iterator[tuple[np.ndarray, dict[View, np.ndarray]]],
) -> None:
    """Write the features that each view needs into new shards; numbering continues after the existing shards."""
    numbers = {view: count(index.places[:, 0].max(initial=-1) + 1) for view, index in indices.items()}
    while rows := list(islice(passes, SHARD)):
        keys = np.concatenate([key for key, _ in rows])
        for view, place in places.items():
            own = np.isin(keys, wanted[view])
            if own.any():
                features = np.concatenate([views[view] for _, views in rows])[own]
                write_shard(shard_file(place, next(numbers[view])), keys[own], features)
