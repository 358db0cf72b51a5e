"""Time a batch of images and crops: features read from the cache, compared with loading and computing them.

python -m benchmarks.feature_cache [--vision resnet50] [--samples 50]
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import median_seconds, seconds
from reference_models.config import Slots, View
from reference_models.data.features import FeatureCache, content_key
from reference_models.data.samples import Sample
from reference_models.data.threads import map_ahead
from reference_models.data.tokenizer import learn_tokenizer
from reference_models.encoders.vision import VisionBackbone
from reference_models.tasks import NamedEntities
from reference_models.tasks.dataset import EncodedSplit
from reference_models.tasks.ner import tags_of
from reference_models.tasks.processor import Processor
from reference_models.training.feature_cache import fill_cache

TAGS = tuple(tags_of(("PER", "LOC", "ORG", "MISC")))

BATCH, SLOTS, REPEATS = 16, 4, 5
SIDE = 224  # image size of the model
VIEWS: dict[View, Slots] = {"cells": "all", "pooled": "whole"}


def make_split(folder: Path, samples: int) -> EncodedSplit:
    """Write samples with an image and three crops each: JPEG files of 800 x 600 pixels and about 90 kB."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(SLOTS * samples)]
    for path in paths:
        blots = Image.fromarray(generator.integers(0, 255, (30, 40, 3), dtype=np.uint8))
        blots.resize((800, 600), Image.Resampling.BICUBIC).save(path, quality=90)
    rows = [paths[start : start + SLOTS] for start in range(0, len(paths), SLOTS)]
    posts = [Sample(f"x:{number}", ("a",), image, tuple(crops)) for number, (image, *crops) in enumerate(rows)]
    return EncodedSplit(posts, Processor(learn_tokenizer([["a"]] * 4, 50), NamedEntities(TAGS), image_size=SIDE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vision", default="resnet50")
    parser.add_argument("--samples", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = VisionBackbone(options.vision, frozen=True).eval()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split = make_split(folder, options.samples)
        numbers = np.random.default_rng(0).integers(len(split), size=BATCH).tolist()

        def load() -> dict[str, torch.Tensor]:
            return split.processor.collate([split[number] for number in numbers])

        loading, pixels = median_seconds(load, repeats=REPEATS), load()["pixel_values"].flatten(0, 1)
        with torch.inference_mode():
            computing = median_seconds(lambda: backbone(pixels), repeats=REPEATS)
        filling = seconds(lambda: fill_cache(folder, backbone, split, VIEWS))
        split.features = fill_cache(folder, backbone, split, VIEWS, progress=False)
        shards = list(folder.glob("*/shard-*"))
        warm = median_seconds(load, repeats=REPEATS)
        split.features = FeatureCache(split.features.views, VIEWS)  # a new cache has no shard open
        for shard in shards:
            with shard.open("rb") as file:
                os.fsync(file.fileno())  # pages not yet written to disk would stay in memory
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        cold = seconds(load)
        files = sorted(folder.glob("*.jpg"))
        hashing = median_seconds(lambda: list(map_ahead(content_key, files)), repeats=REPEATS)
        size = sum(file.stat().st_size for file in files) / 1e6
        kept = sum(shard.stat().st_size for shard in shards)
    count = SLOTS * options.samples
    print(f"{options.vision}, batches of {BATCH} samples with {SLOTS} images each, one thread")
    print(f"a batch: load {loading:.3f} s, compute {computing:.3f} s; read {warm:.4f} s, from disk {cold:.4f} s")
    print(f"all {count} images: fill {filling:.1f} s, hash {hashing:.3f} s ({size / hashing:.0f} MB/s)")
    print(f"on disk: {kept / count:,.0f} bytes per image")


if __name__ == "__main__":
    main()
