"""Each image is encoded only once, and training with the cache gives the same results."""

import multiprocessing
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from reference_models.config import Slots, View
from reference_models.data.features import FeatureCache, read_index
from reference_models.data.formats.twitter import Twitter
from reference_models.data.images import RESIZE_VERSION, load_image
from reference_models.data.synthetic import generate
from reference_models.data.tokenizer import learn_tokenizer
from reference_models.encoders.vision import VisionBackbone
from reference_models.errors import UserError
from reference_models.settings import read_settings
from reference_models.tasks import NamedEntities
from reference_models.tasks import processor as processor_module
from reference_models.tasks.dataset import EncodedSplit
from reference_models.tasks.ner import tags_of
from reference_models.tasks.processor import Processor
from reference_models.training import feature_cache
from reference_models.training.feature_cache import describe, fill_cache, weights_fingerprint
from reference_models.training.folder import METRICS
from reference_models.training.run import evaluate, train
from tests.reference_models.training.tiny_runs import PROCESSES, arguments, assert_same_run, history, start

TAGS = tuple(tags_of(("PER", "LOC", "ORG", "MISC")))

FROZEN = ("--model.freeze_image_backbone", "true")
VIEWS: tuple[View, ...] = ("cells", "pooled")


def make_split(data: Path, size: int = 32) -> EncodedSplit:
    samples = list(Twitter().read(data, "test"))
    tokenizer = learn_tokenizer((sample.words for sample in samples), 100)
    return EncodedSplit(samples, Processor(tokenizer, NamedEntities(TAGS), image_size=size))


def make_backbone(name: str = "tiny", *, views: Iterable[View] = VIEWS, seed: int = 0) -> VisionBackbone:
    torch.manual_seed(seed)
    return VisionBackbone(name, frozen=True, views=views)


def assert_equal(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def image_paths(split: EncodedSplit) -> list[Path]:
    paths = (path for sample in split.samples for path in (sample.image, *sample.crops))
    return list(dict.fromkeys(path for path in paths if path))


def fill(
    folder: Path, backbone: VisionBackbone, split: EncodedSplit, views: Mapping[View, Slots] | None = None
) -> tuple[FeatureCache, int]:
    """Return the cache and the number of images encoded for it. By default, cache all views of all images."""
    computed: list[int] = []
    hook = backbone.register_forward_pre_hook(lambda _, inputs: computed.append(int(inputs[1].sum())))
    try:
        views = views or dict.fromkeys(sorted(backbone.views), "all")
        return fill_cache(folder, backbone, split, views, progress=False), sum(computed)
    finally:
        hook.remove()


@pytest.fixture
def split(tmp_path: Path) -> EncodedSplit:
    """A separate data set of about 40 different images and crops, which a test may change."""
    generate(tmp_path / "set" / "posts", "ner", 0, {"train": 4, "valid": 4, "test": 16})
    return make_split(tmp_path / "set" / "posts")


@pytest.mark.parametrize(
    ("name", "views"), [("tiny", ("cells", "grid", "pooled")), ("resnet18", ("cells", "grid", "pooled", "logits"))]
)
def test_cached_features_equal_those_of_the_backbone(
    name: str, views: tuple[View, ...], split: EncodedSplit, tmp_path: Path
) -> None:
    backbone = make_backbone(name, views=views)
    cache, computed = fill(tmp_path / "cache", backbone, split)
    assert computed == len(image_paths(split)) > 30
    with torch.no_grad():
        blank = backbone(load_image(image_paths(split)[0], 32)[None], torch.tensor([False]))
        for path in (*image_paths(split), None):
            read = cache.read([path])
            direct = blank if path is None else backbone(load_image(path, 32)[None])
            assert set(read) == {f"image_{view}" for view in views}
            for view in views:
                torch.testing.assert_close(read[f"image_{view}"], direct[view], atol=1e-5, rtol=1e-4)
    shown = cache.read(image_paths(split)[:1])
    assert not torch.allclose(cache.read([None])["image_pooled"], shown["image_pooled"], atol=1e-2)


def test_features_are_computed_without_tf32(split: EncodedSplit, tmp_path: Path) -> None:
    backbone, allowed = make_backbone("tiny"), []
    backbone.register_forward_pre_hook(lambda *_: allowed.append(torch.backends.cudnn.allow_tf32))
    before = torch.backends.cudnn.allow_tf32
    fill(tmp_path / "cache", backbone, split)
    assert set(allowed) == {False}
    assert before
    assert torch.backends.cudnn.allow_tf32


def test_each_view_caches_only_its_own_image_paths(split: EncodedSplit, tmp_path: Path) -> None:
    backbone = make_backbone(views=("cells", "grid", "pooled"))
    views: dict[View, Slots] = {"cells": "crops", "grid": "whole"}
    cache, computed = fill(tmp_path, backbone, split, views)
    assert computed == len(image_paths(split))
    whole = {sample.image.read_bytes() for sample in split.samples if sample.image}
    crops = {crop.read_bytes() for sample in split.samples for crop in sample.crops}
    kept = {view: len(read_index(folder).keys) for view, (folder, _) in cache.views.items()}
    assert kept == {"cells": len(crops) + 1, "grid": len(whole)}  # a missing crop is a blank image
    sample = split.samples[0]
    paths = split.processor.image_paths(sample)
    read = cache.read(paths)
    everything, _ = fill(tmp_path / "all", backbone, split)
    wanted = everything.read(paths)
    torch.testing.assert_close(read["image_cells"], wanted["image_cells"][1:])
    torch.testing.assert_close(read["image_grid"], wanted["image_grid"][:1])
    assert "image_pooled" not in read


def test_adding_a_view_keeps_the_others(split: EncodedSplit, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    fill(folder, make_backbone("resnet18"), split)
    before = {path: path.read_bytes() for path in folder.glob("*/*") if path.name != "lock"}
    more = make_backbone("resnet18", views=("cells", "pooled", "logits"))
    more.body.load_state_dict(make_backbone("resnet18").body.state_dict(), strict=False)
    cache, computed = fill(folder, more, split)
    assert computed == len(image_paths(split))
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(folder.glob("*/shard-*"))) == 3
    assert cache.read([None]).keys() == {"image_cells", "image_pooled", "image_logits"}
    assert fill(folder, more, split)[1] == fill(folder, make_backbone("resnet18"), split)[1] == 0


def test_no_image_is_encoded_twice(split: EncodedSplit, tmp_path: Path) -> None:
    backbone = make_backbone()
    first = image_paths(split)[0]
    copy = first.with_name("copy.jpg")
    copy.write_bytes(first.read_bytes())
    split.samples[3] = replace(split.samples[3], image=copy)
    split.samples[4] = replace(split.samples[4], image=first)
    before = torch.get_rng_state()
    cache, computed = fill(tmp_path, backbone, split)
    assert computed == len({path.read_bytes() for path in image_paths(split)})
    assert_equal(cache.read([copy]), cache.read([first]))
    assert torch.equal(torch.get_rng_state(), before)
    _, again = fill(tmp_path, make_backbone(), split)
    assert again == 0


def test_changed_image_is_encoded_again(split: EncodedSplit, tmp_path: Path) -> None:
    backbone = make_backbone()
    path, other = image_paths(split)[:2]
    old, _ = fill(tmp_path, backbone, split)
    Image.new("RGB", (40, 40), "red").save(path, "PNG")
    new, computed = fill(tmp_path, backbone, split)
    assert computed == 1
    direct = backbone(load_image(path, 32)[None])
    torch.testing.assert_close(new.read([path])["image_pooled"], direct["pooled"], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(old.read([path])["image_pooled"], direct["pooled"], atol=1e-3)
    assert_equal(old.read([other]), new.read([other]))


def test_other_weights_or_resizing_use_another_folder(
    split: EncodedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = len(image_paths(split))
    _, computed = fill(tmp_path / "cache", make_backbone("resnet18"), split)
    assert computed == every
    assert fill(tmp_path / "cache", make_backbone("resnet18", seed=1), split)[1] == every
    nudged = make_backbone("resnet18")
    nudged.body.state_dict()["layer4.1.bn2.running_mean"][7] += 1e-3
    assert fill(tmp_path / "cache", nudged, split)[1] == every
    split.processor.image_size = 48
    assert fill(tmp_path / "cache", make_backbone("resnet18"), split)[1] == every
    split.processor.image_size = 32
    monkeypatch.setattr(feature_cache, "RESIZE_VERSION", RESIZE_VERSION + 1)
    assert fill(tmp_path / "cache", make_backbone("resnet18"), split)[1] == every
    monkeypatch.undo()
    assert fill(tmp_path / "cache", make_backbone("resnet18"), split)[1] == 0
    assert len(list((tmp_path / "cache").glob("*/meta.json"))) == 5 * len(VIEWS)


def test_fingerprint_covers_names_dtypes_shapes_and_bytes() -> None:
    def of(tensor: torch.Tensor, name: str = "weight") -> str:
        module = torch.nn.Module()
        module.register_buffer(name, tensor)
        return weights_fingerprint(module)

    weights = torch.arange(24.0).view(2, 3, 2, 2)
    assert of(weights) == of(weights.clone().to(memory_format=torch.channels_last))
    changed = weights.clone()
    changed[1, 2, 1, 1] = torch.nextafter(changed[1, 2, 1, 1], torch.tensor(99.0))
    others = [of(weights, "other"), of(weights.view(3, 2, 2, 2)), of(weights.view(torch.int32)), of(changed)]
    assert len({of(weights), *others}) == 5
    assert of(torch.tensor(1)) != of(torch.tensor(2))
    assert describe(make_backbone(), "cells", 32) == describe(make_backbone(), "cells", 32)
    assert describe(make_backbone(), "cells", 32) != describe(make_backbone(), "cells", 32, "centre-crop")
    assert describe(make_backbone(), "cells", 32) != describe(make_backbone(), "pooled", 32)


@pytest.mark.parametrize(("view", "differs"), [("logits", True), ("pooled", False)])
def test_classifier_weights_only_affect_the_logits_view(view: View, differs: bool) -> None:
    backbone = make_backbone("resnet18", views=("pooled", "logits"))
    before = describe(backbone, view, 32)
    backbone.body.fc.bias.data += 1
    assert (describe(backbone, view, 32) != before) == differs


def test_interrupted_fill_loses_at_most_one_shard(
    split: EncodedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "SHARD", 1)
    whole, _ = fill(tmp_path / "whole", make_backbone(), split)
    every = len(image_paths(split))

    def interrupt(path: Path, size: int, resize: str) -> torch.Tensor:
        if path == image_paths(split)[20]:
            raise KeyboardInterrupt
        return load_image(path, size)

    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "load_image", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fill(tmp_path / "stopped", make_backbone(), split)
    cache, computed = fill(tmp_path / "stopped", make_backbone(), split)
    assert every - 16 <= computed <= every - 15  # a shard of 16, one of which may be the blank image
    assert_equal(cache.read(image_paths(split)), whole.read(image_paths(split)))


def test_damaged_shard_raises_until_it_is_deleted(split: EncodedSplit, tmp_path: Path) -> None:
    cache, every = fill(tmp_path, make_backbone(), split)
    shard, _ = tmp_path.glob("*/shard-*")
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"{shard} is a damaged feature file .* delete it"):
        fill(tmp_path, make_backbone(), split)
    shard.unlink()
    again, computed = fill(tmp_path, make_backbone(), split)
    assert computed == every
    assert_equal(cache.read(image_paths(split)), again.read(image_paths(split)))


def test_unreadable_or_changing_image_raises(
    split: EncodedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image_paths(split)[5]
    good = path.read_bytes()
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match=rf"{path}: not an image"):
        fill(tmp_path, make_backbone(), split)
    path.write_bytes(good)

    def change(path: Path, size: int, resize: str) -> torch.Tensor:
        pixels = load_image(path, size)
        path.write_bytes(path.read_bytes() + b"more")
        return pixels

    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "load_image", change)
        with pytest.raises(UserError, match="changed while its features were computed"):
            fill(tmp_path, make_backbone(), split)
    assert fill(tmp_path, make_backbone(), split)[1] == len(image_paths(split))


def test_cache_folder_that_cannot_be_created_raises(split: EncodedSplit, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"data\.feature_cache: .*/file cannot be created or written to \(Not a directory\)"
    ):
        fill(tmp_path / "file", make_backbone(), split)


def test_backbone_in_training_mode_raises(split: EncodedSplit, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="evaluation mode"):
        fill_cache(tmp_path, VisionBackbone("tiny").train(), split, {"cells": "all"})


def fill_and_report(folder: Path, data: Path, count_file: Path) -> None:
    """In a separate process: fill slowly, and write the number of encoded images."""

    def slow_load(path: Path, size: int, resize: str) -> torch.Tensor:
        time.sleep(0.01)
        return load_image(path, size)

    patch = pytest.MonkeyPatch()
    patch.setattr(feature_cache, "SHARD", 1)
    patch.setattr(feature_cache, "load_image", slow_load)
    torch.set_num_threads(1)
    _, computed = fill(folder, make_backbone(), make_split(data))
    count_file.write_text(str(computed))


def test_processes_share_the_cache_and_keep_shards_of_a_killed_one(data: Path, tmp_path: Path) -> None:
    split, folder = make_split(data), tmp_path / "cache"
    first = PROCESSES.Process(target=fill_and_report, args=(folder, data, tmp_path / "killed"))
    first.start()
    while len(list(folder.glob("*/shard-000000*.safetensors"))) < len(VIEWS):
        time.sleep(0.002)
    first.kill()
    first.join()
    places = list(folder.iterdir())
    kept = min(len(read_index(place).keys) for place in places)
    assert kept > 0
    pair = [PROCESSES.Process(target=fill_and_report, args=(folder, data, tmp_path / name)) for name in "ab"]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
        assert process.exitcode == 0
    computed = sorted(int((tmp_path / name).read_text()) for name in "ab")
    different = len({path.read_bytes() for path in image_paths(split)})
    assert computed[0] == 0
    assert different - kept <= computed[1] <= different - kept + 1  # the blank image is not counted
    assert [len(read_index(place).keys) for place in places] == [different + 1] * len(VIEWS)
    assert fill(folder, make_backbone(), split)[1] == 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_same_features(method: str, split: EncodedSplit, tmp_path: Path) -> None:
    split.features, _ = fill(tmp_path, make_backbone(), split)
    alone = list(DataLoader(split, 5, collate_fn=split.processor.collate))  # also opens the shards in this process
    context = multiprocessing.get_context(method)
    loader = DataLoader(split, 5, collate_fn=split.processor.collate, num_workers=2, multiprocessing_context=context)
    for ours, theirs in zip(loader, alone, strict=True):
        assert ours.keys() == theirs.keys()
        assert {"image_cells", "image_pooled", "image_mask"} <= ours.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def run_config(task: str, data: Path, output: Path, *overrides: str) -> Any:
    basis = ["--data.root", str(data), "--output", str(output), "--training.batch_size", "8", "--training.epochs", "2"]
    return read_settings(f"synthetic-{task}", [*basis, *FROZEN, *overrides])


def refuse(*_: object) -> torch.Tensor:
    raise AssertionError("an image was decoded")


@pytest.mark.parametrize(
    ("task", "prefix", "signal"),
    [("ner", "paper", "pooled"), ("ner", "release", "logits"), ("re", "paper", "logits"), ("re", "release", "pooled")],
)
def test_losses_equal_those_without_a_cache(
    task: str, prefix: str, signal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "set" / "posts"
    generate(data, task, 0, {"train": 24, "valid": 8, "test": 8})
    vision = ("--model.vision", "resnet18", "--model.vision_weights", "none", "--data.image_size", "64")
    options = (*vision, "--model.prefix", prefix, "--model.image_signal", signal)
    train(run_config(task, data, tmp_path / "plain", *options))
    monkeypatch.setattr(processor_module, "load_image", refuse)  # the function that loads batches
    cached = run_config(task, data, tmp_path / "cached", *options, "--data.feature_cache", str(tmp_path / "cache"))
    metrics = train(cached)
    for ours, theirs in zip(history(tmp_path / "cached"), history(tmp_path / "plain"), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)

    monkeypatch.setattr(feature_cache, "load_image", refuse)
    assert evaluate(tmp_path / "cached", cached, "test").scores == metrics["test"]
    mixed = replace(cached, output=str(tmp_path / "mixed"), training=replace(cached.training, precision="bf16"))
    train(mixed)  # with the same cached features


def test_killed_run_with_a_cache_ends_like_an_uninterrupted_one(data: Path, tmp_path: Path) -> None:
    def command(name: str) -> list[str]:
        # File changes are counted in all paths that start with the run directory, so in its cache too.
        return arguments(data, tmp_path / name, *FROZEN, "--data.feature_cache", str(tmp_path / f"{name}-cache"))

    whole = start(command("whole"))
    whole.join()
    assert whole.exitcode == 0, (tmp_path / "whole.log").read_text()
    for die_at in count(2, 1 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 7):
        process = start(command("run"), die_at=die_at)
        process.join()
        if (tmp_path / "run" / METRICS).exists():
            break
        assert process.exitcode == 9, (tmp_path / "run.log").read_text()
    assert die_at > 20
    assert_same_run(tmp_path / "run", tmp_path / "whole")
