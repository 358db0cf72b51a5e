"""Encoded splits: relations that are too long raise or are dropped, and images are loaded with their sample."""

import gc
import json
import logging
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reference_models.data.features import KEY, FeatureCache, path_key, read_index, shard_file, write_shard
from reference_models.data.formats.mnre import Mnre
from reference_models.data.images import check_images
from reference_models.data.samples import Sample, spooled
from reference_models.data.tokenizer import learn_tokenizer
from reference_models.tasks import Relations
from reference_models.tasks.dataset import EncodedSplit
from reference_models.tasks.processor import Processor
from reference_models.tasks.subwords import TooLongError

SHORT = Sample("f:1", ("a", "b"), head=(0, 1), tail=(1, 2), relation="None")
LONG = Sample("f:2", ("a",) * 30, head=(0, 1), tail=(29, 30), relation="None")


def make(image_size: int | None = None) -> Processor:
    return Processor(learn_tokenizer([["a", "b"]] * 4, 50), Relations(["None"]), max_length=16, image_size=image_size)


def test_long_relation_raises_by_default() -> None:
    with pytest.raises(TooLongError, match="f:2"):
        EncodedSplit([SHORT, LONG], make())


def test_dropped_relations_are_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        split = EncodedSplit([LONG, SHORT, LONG], make(), "drop")
    assert (len(split), list(split.samples), split.dropped) == (1, [SHORT], ["f:2", "f:2"])
    assert "dropped 2 samples that are too long: f:2, f:2" in caplog.text


def test_images_are_loaded_with_their_sample(tmp_path: Path) -> None:
    Image.new("RGB", (6, 6), (7, 8, 9)).save(tmp_path / "a.png")
    sample = Sample("f:1", ("a", "b"), tmp_path / "a.png", head=(0, 1), tail=(1, 2), relation="None")
    split = EncodedSplit([sample], make(4))
    pixels, present = split[0]["pixels"]
    assert pixels[0, :, 0, 0].tolist() == [7, 8, 9]
    assert present.tolist() == [True, False, False, False]
    assert "pixels" not in EncodedSplit([sample], make())[0]


def test_cached_features_replace_images(tmp_path: Path) -> None:
    image, crop = tmp_path / "a.jpg", tmp_path / "b.jpg"  # these files do not exist and must not be opened
    generator = np.random.default_rng(0)
    cells, pooled = (generator.normal(size=(3, width)).astype(np.float32) for width in (24, 2))
    keys = np.array([path_key(path) for path in (image, crop, None)], KEY)
    views = {}
    for view, rows in (("cells", cells.reshape(3, 4, 6)), ("pooled", pooled)):
        (tmp_path / view).mkdir()
        write_shard(shard_file(tmp_path / view, 0), keys, rows)
        views[view] = tmp_path / view, read_index(tmp_path / view)
    features = FeatureCache(views, {"cells": "crops", "pooled": "whole"})
    sample = Sample("f:1", ("a", "b"), image, (crop,), head=(0, 1), tail=(1, 2), relation="None")
    bare = Sample("f:2", ("a", "b"), head=(0, 1), tail=(1, 2), relation="None")
    split = EncodedSplit([sample, bare], make(4), features=features)
    batch = split.processor.collate([split[0], split[1]])
    rows = np.array([[0, 1, 2, 2], [2, 2, 2, 2]])
    assert "pixel_values" not in batch
    assert torch.equal(batch["image_cells"].flatten(2), torch.tensor(cells[rows[:, 1:]]))
    assert torch.equal(batch["image_pooled"], torch.tensor(pooled[rows[:, :1]]))
    assert batch["image_mask"].tolist() == [[True, True, False, False], [False] * 4]


def write_rows(root: Path, count: int) -> None:
    (root / "txt").mkdir(parents=True)
    (root / "img_org" / "train").mkdir(parents=True)
    Image.new("RGB", (6, 6)).save(root / "img_org" / "train" / "a.png")
    (root / "ours_rel2id.json").write_text(json.dumps({"None": 0}))
    row = {"token": ["a", "b"] * 6, "h": {"pos": [0, 1]}, "t": {"pos": [1, 2]}, "img_id": "a.png", "relation": "None"}
    (root / "txt" / "ours_train.txt").write_text(f"{row}\n" * count)


def test_split_needs_a_few_bytes_of_memory_per_row(tmp_path: Path) -> None:
    processor, held = Processor(learn_tokenizer([["a", "b"]] * 4, 50), Relations(["None"]), image_size=4), []
    for count in (100, 500, 2500):  # the first run fills Python's caches
        write_rows(tmp_path / str(count), count)
        tracemalloc.start()
        samples, _ = check_images(spooled(Mnre().read(tmp_path / str(count), "train")), "error", progress=False)
        split = EncodedSplit(samples, processor)
        gc.collect()
        held.append(tracemalloc.get_traced_memory())
        tracemalloc.stop()
        assert len(split) == len(split.lengths) == count
    now, peak = ((held[2][kind] - held[1][kind]) / 2000 for kind in (0, 1))
    assert now < 30
    assert peak < 60
