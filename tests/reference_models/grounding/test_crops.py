"""Making crops: output files, resuming an interrupted run, bad images, and protection of existing dictionaries."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from reference_models.config import DataConfig
from reference_models.config.grounding import GroundingConfig
from reference_models.data.formats import get_format
from reference_models.data.images import check_images, load_image
from reference_models.data.samples import Sample
from reference_models.data.synthetic import generate
from reference_models.errors import UserError
from reference_models.grounding.boxes import Box
from reference_models.grounding.crops import make_crops
from reference_models.grounding.queries import image_queries

SIZES = {"train": 7, "valid": 3, "test": 2}
CENTRE = GroundingConfig(detector="centre", size=32, batch_size=2)


class TruthDetector:
    """Detector that returns the true boxes of the synthetic images, each with the first phrase of its image."""

    name, version = "truth", "1"

    def __init__(self, root: Path, format: Any, takes_phrases: bool) -> None:
        self.takes_phrases = takes_phrases
        self.boxes: dict[bytes, list[list[int]]] = {}
        for split in SIZES:
            rows = [json.loads(line) for line in (root / f"truth_{split}.jsonl").read_text().splitlines()]
            samples = list(get_format(format).read(root, split))
            for row, sample in zip(rows, samples, strict=True):
                with Image.open(sample.image) as image:
                    self.boxes[image.convert("RGB").tobytes()] = [figure["box"] for figure in row["objects"]]

    def detect(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Box]]:
        return [
            [Box(*box, 0.9 - 0.1 * rank, wanted[0] if wanted else None) for rank, box in enumerate(known)]
            for known, wanted in zip((self.boxes[image.tobytes()] for image in images), phrases, strict=True)
        ]


@pytest.fixture(params=["twitter", "mnre"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> DataConfig:
    root = tmp_path / "set"
    generate(root, "ner" if request.param == "twitter" else "re", 0, SIZES)
    return DataConfig(format=request.param, root=str(root))


@pytest.fixture
def bare(data: DataConfig) -> DataConfig:
    """A data set without crop dictionaries."""
    for split in SIZES:
        get_format(data.format).layout(Path(data.root), split).dictionaries[0].unlink()
    return data


def read(data: DataConfig, split: Any) -> list[Sample]:
    return list(get_format(data.format).read(Path(data.root), split))


def make(data: DataConfig, config: GroundingConfig = CENTRE, detector: Any = None) -> Any:
    return make_crops(data, config, detector=detector, progress=False)


def file_contents(data: DataConfig) -> dict[str, bytes]:
    folder = Path(data.root).parent
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_crops_match_the_regions_of_the_true_boxes(bare: DataConfig) -> None:
    truth = TruthDetector(Path(bare.root), bare.format, takes_phrases=bare.format == "mnre")
    summaries = make(bare, GroundingConfig(size=40, batch_size=3), truth)
    for split, summary in zip(SIZES, summaries, strict=True):
        samples = read(bare, split)
        assert check_images(samples, "error", progress=False)[0] == samples
        for sample in samples:
            image = Image.open(sample.image).convert("RGB")
            boxes = truth.boxes[image.tobytes()]
            assert len(sample.crops) == len(boxes)
            for crop, box in zip(sample.crops, boxes, strict=True):
                region = np.asarray(image.crop(tuple(box)).resize((40, 40), Image.Resampling.BILINEAR))
                assert np.array_equal(load_image(crop, 40).permute(1, 2, 0).numpy(), region)
        rows = [json.loads(line) for line in summary.manifest.read_text().splitlines()]
        assert [row["crop"] for row in rows] == [
            str(crop.relative_to(get_format(bare.format).layout(Path(bare.root), split).crops))
            for s in samples
            for crop in s.crops
        ]
        by_id = {sample.id: sample for sample in samples}
        for row in rows:
            sample = by_id[row["sample"]]
            phrase = " ".join(sample.words[slice(*sample.head)]) if sample.head else None
            assert row["phrase"] == phrase
            assert (Path(bare.root) / row["image"]).samefile(sample.image)
            assert (row["detector"], row["version"]) == ("truth", "1")
        assert (summary.images, summary.crops, summary.empty) == (len(samples), len(rows), 0)
        assert str(summary.dictionary) in summary.text()


def test_top_limits_the_crops_of_an_image(bare: DataConfig) -> None:
    make(bare, GroundingConfig(detector="centre", top=2, size=16))
    assert {len(sample.crops) for sample in read(bare, "valid")} == {2}


def stop_after(calls: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that it raises KeyboardInterrupt after a number of successful calls."""
    left = iter(range(calls))

    def stopping(*arguments: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    return stopping


@pytest.mark.parametrize("calls", [0, 1, 3, 5, 7, 11, 12, 13, 14, 23, 24, 25, 40])
def test_interrupted_run_resumes_with_the_same_result(
    bare: DataConfig, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file_contents(bare)
    summaries = make(bare)
    expected = file_contents(bare)
    for name in set(expected) - set(before):
        (Path(bare.root).parent / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", stop_after(calls, __import__("os").replace))
        with pytest.raises(KeyboardInterrupt):
            make(bare)
    assert make(bare) == summaries
    assert {name: content for name, content in file_contents(bare).items() if not name.endswith(".part")} == expected
    with monkeypatch.context() as patch:
        patch.setattr("reference_models.grounding.detectors.CentreDetector.detect", None)  # is not called again
        assert make(bare) == summaries


def test_run_interrupted_during_cleanup_is_complete(bare: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", stop_after(2, Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            make(bare)
    assert (Path(bare.root) / "crops_test.partial.jsonl").exists()
    stopped = file_contents(bare)
    make(bare)
    assert set(stopped) - set(file_contents(bare)) == {"set/crops_test.partial.jsonl", "set/crops.lock"}
    assert all(stopped[name] == content for name, content in file_contents(bare).items())


def test_truncated_journal_line_and_missing_crop_are_recomputed(
    bare: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    summaries = make(bare)
    expected = file_contents(bare)
    path = summaries[0].dictionary
    path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("torch.save", stop_after(0, torch.save))
        with pytest.raises(KeyboardInterrupt):
            make(bare)
    journal = Path(bare.root) / "crops_train.partial.jsonl"
    journal.write_bytes(journal.read_bytes()[:-40])
    next(summaries[0].folder.iterdir()).unlink()  # a missing crop is also made again
    make(bare)
    assert {name: content for name, content in file_contents(bare).items() if not name.endswith(".part")} == expected


def test_bad_images_are_counted_named_and_skipped(bare: DataConfig) -> None:
    first, second, third, *_ = read(bare, "train")
    first.image.unlink()
    second.image.write_bytes(b"no image")
    Image.new("RGB", (1, 500)).save(third.image)
    train, valid, _ = make(bare)
    assert (train.images, train.crops, len(train.bad), valid.bad) == (7, 12, 3, ())
    for line, sample in zip(train.bad, (first, second, third), strict=True):
        assert line.startswith(f"{sample.image} of {sample.id}: ")
        assert line in train.text()
    names = torch.load(train.dictionary, weights_only=True)
    assert len(names) == 4
    assert [len(sample.crops) for sample in read(bare, "train")] == [0, 0, 0, 3, 3, 3, 3]
    rows = [json.loads(line) for line in train.manifest.read_text().splitlines()]
    assert [row["sample"] for row in rows if row["problem"]] == [first.id, second.id, third.id]


def test_images_without_boxes_have_empty_dictionary_entries(bare: DataConfig) -> None:
    class Blind:
        name, version, takes_phrases = "blind", "1", False

        def detect(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Box]]:
            return [[] for _ in images]

    train, *_ = make(bare, CENTRE, Blind())
    assert (train.crops, train.empty) == (0, 7)
    assert list(torch.load(train.dictionary, weights_only=True).values()) == [[]] * 7


def test_split_without_images_has_an_empty_dictionary(tmp_path: Path) -> None:
    Image.new("RGB", (60, 60)).save(tmp_path / "a.png")
    for split in SIZES:
        row = {"tokens": ["a"], "entities": []} | ({} if split == "valid" else {"image": "a.png"})
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row))
    data = DataConfig(format="jsonl", root=str(tmp_path))
    summaries = make(data)
    valid = summaries[1]
    assert (valid.images, valid.crops, valid.detector) == (0, 0, "centre")
    assert valid.text() == f"valid: no sample has an image; the dictionary {valid.dictionary} is empty"
    assert torch.load(valid.dictionary, weights_only=True) == {}
    assert valid.manifest.read_text() == ""
    before = file_contents(data)
    assert make(data) == summaries
    assert file_contents(data) == before
    torch.save({0: ["x.png"]}, valid.dictionary)
    with pytest.raises(UserError, match=r"crops_valid_dict\.pth: this crop dictionary was made by others"):
        make(data)


def test_second_process_raises_while_crops_are_locked(bare: DataConfig) -> None:
    before = file_contents(bare)
    with (
        FileLock(Path(bare.root) / "crops.lock"),
        pytest.raises(UserError, match=r"another process .* of \S*set; wait"),
    ):
        make(bare)
    assert set(file_contents(bare)) - {"set/crops.lock"} == set(before)
    make(bare)
    assert not (Path(bare.root) / "crops.lock").exists()


def test_existing_dictionary_is_kept_unless_overwrite(data: DataConfig) -> None:
    before = file_contents(data)
    with pytest.raises(UserError, match=r"set_train_dict\.pth|mre_train_dict\.pth: this crop dictionary was made by"):
        make(data)
    assert file_contents(data) == before
    make(data, GroundingConfig(detector="centre", size=32, overwrite=True))
    after = file_contents(data)
    changed = {name for name in before if after[name] != before[name]}
    assert len(changed) == 3
    assert all(name.endswith("_dict.pth") for name in changed)
    with pytest.raises(UserError, match=r"train_dict\.pth: this crop dictionary was made by others or with other"):
        make(data, GroundingConfig(detector="centre", size=48))
    make(data, GroundingConfig(detector="centre", size=48, overwrite=True))


def test_interrupted_run_with_other_settings_raises(bare: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", stop_after(4, __import__("os").replace))
        with pytest.raises(KeyboardInterrupt):
            make(bare)
    other = {"detector": "centre", "size": 16, "batch_size": 2}
    with pytest.raises(UserError, match=r"crops_train\.partial\.jsonl: .* an interrupted run with other settings"):
        make(bare, GroundingConfig(**other))
    make(bare, GroundingConfig(**other, overwrite=True))
    assert {Image.open(crop).size for sample in read(bare, "train") for crop in sample.crops} == {(16, 16)}


def test_unwritable_output_raises(bare: DataConfig) -> None:
    (Path(bare.root) / "crops_train.partial.part").mkdir()
    with pytest.raises(UserError, match=r"crops_train\.partial\.part: cannot be written \("):
        make(bare)


def test_image_shared_by_samples_is_queried_once() -> None:
    samples = [Sample(f"a:{n}", ("w",), Path(image)) for n, image in enumerate(["x.jpg", "y.jpg", "x.jpg"])]
    phrases = [("dog", "cat"), ("cat",), ("sun", "dog")]
    first, second = image_queries(samples, phrases, str)
    assert (first.key, first.samples) == ("x.jpg", ("a:0", "a:2"))
    assert list(first.phrases.items()) == [("dog", "a:0"), ("cat", "a:0"), ("sun", "a:2")]
    assert second.phrases == {"cat": "a:1"}
    assert [image.key for image in image_queries(samples, phrases, int)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"threshold": 2}, "from 0 to 1, got 2"), ({"top": 0}, "top must be 1"), ({"size": 0}, "size")],
)
def test_invalid_settings_raise(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GroundingConfig(**wrong)


def test_full_disk_raises(data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for dictionary in Path(data.root).rglob("*_dict.pth"):
        dictionary.unlink()
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match=r"crops/\S+\.png: cannot be written \(No space left on device\)"):
        make_crops(data, CENTRE)
