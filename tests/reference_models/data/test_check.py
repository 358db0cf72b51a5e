"""Check of a data set: its counts, and all problems reported together."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from reference_models.data.check import check_data, orphan_tags
from reference_models.data.formats import recognise
from reference_models.data.samples import Sample, fingerprint
from reference_models.data.synthetic import generate
from reference_models.errors import UserError

SIZES = {"train": 8, "valid": 3, "test": 3}


@pytest.fixture
def ner(tmp_path: Path) -> Path:
    generate(tmp_path / "ner", "ner", 0, SIZES)
    return tmp_path / "ner"


@pytest.fixture
def relations(tmp_path: Path) -> Path:
    generate(tmp_path / "re", "re", 0, SIZES)
    return tmp_path / "re"


def test_valid_data_set_has_no_fatal_problem(ner: Path) -> None:
    report = check_data(None, ner, progress=False)
    train = report.splits[0]
    assert report.format == "twitter"
    assert [split.samples for split in report.splits] == [8, 3, 3]
    assert [split.images for split in report.splits] == [8, 3, 3]
    assert report.fingerprint == fingerprint(ner / f"{split}.txt" for split in SIZES)
    assert train.fingerprint == fingerprint([ner / "train.txt"])
    assert train.labels is not None
    assert sum(train.labels.values()) == (ner / "train.txt").read_text().count("\tB-")
    lengths = sorted(len(block.splitlines()) - 1 for block in (ner / "train.txt").read_text().split("\n\n"))
    assert train.words == (lengths[0], (lengths[3] + lengths[4]) / 2, lengths[-1])
    dictionary = torch.load(ner / "ner_train_dict.pth", weights_only=True)
    counts = [len(names) for names in dictionary.values()]
    assert train.crops == {count: counts.count(count) for count in sorted(set(counts))}
    assert (train.missing, train.broken, train.keys_without_row, report.unused, report.fatal) == ((), (), 0, (), ())
    assert list(json.loads(json.dumps(report.to_json()))["duplicate_images"]) == [
        "train/valid",
        "train/test",
        "valid/test",
    ]


def test_missing_broken_unused_files_and_unmatched_keys_are_reported(ner: Path) -> None:
    images, crops = ner.with_name("ner_images"), ner.with_name("ner_aux_images") / "train" / "crops"
    (images / "train_0.jpg").unlink()
    (images / "train_1.jpg").write_bytes(b"no image")
    shutil.copy(images / "train_2.jpg", images / "another.jpg")
    (crops / "own" / "x.png").parent.mkdir()
    (crops / "own" / "x.png").write_bytes(b"")
    path = ner / "ner_train_dict.pth"
    torch.save({**torch.load(path, weights_only=True), "gone.jpg": ["gone.png"]}, path)
    report = check_data(None, ner, progress=False)
    train = report.splits[0]
    assert train.missing == (str(images / "train_0.jpg"),)
    assert train.broken is not None
    assert [file.partition(":")[0] for file in train.broken] == [str(images / "train_1.jpg")]
    assert report.unused == (str(images / "another.jpg"), str(crops / "own" / "x.png"))
    assert train.keys_without_row == 1
    assert len(report.fatal) == 1
    assert "train: 2 of " in report.fatal[0]
    assert check_data(None, ner, bad_images="blank", progress=False).fatal == ()
    assert check_data(None, ner, bad_images="drop", progress=False).fatal == ()
    for image in images.glob("train_*"):
        image.unlink()
    assert len(check_data(None, ner, bad_images="drop", progress=False).fatal) == 1


def test_crops_beyond_max_crops_are_counted_but_not_decoded(ner: Path) -> None:
    path = ner / "ner_train_dict.pth"
    torch.save({"train_0.jpg": ["a.png", "b.png"]}, path)
    train = check_data(None, ner, max_crops=1, progress=False).splits[0]
    assert train.crops == {0: 7, 2: 1}
    assert train.missing is not None
    assert [Path(file).name for file in train.missing] == ["a.png"]


def test_problems_of_all_splits_are_collected(ner: Path) -> None:
    (ner / "train.txt").write_text("IMGID:1\nword\tX\n")
    (ner / "valid.txt").unlink()
    (ner / "ner_test_dict.pth").write_bytes(b"damaged")
    report = check_data(None, ner, progress=False)
    assert [split.samples for split in report.splits] == [None, None, 3]
    assert len(report.fatal) == 3
    for problem, expected in zip(report.fatal, ("unknown tag", "cannot be read", "ner_test_dict"), strict=True):
        assert expected in problem
    assert (report.fingerprint, report.unused) == (None, None)
    assert report.table().splitlines()[-1].endswith(report.fatal[-1])
    assert check_data(None, ner, visual=False).fatal == report.fatal[:2]


def test_relation_data_set_with_duplicates(relations: Path) -> None:
    shutil.copy(relations / "img_org" / "train" / "train_0.jpg", relations / "img_org" / "test" / "test_1.jpg")
    rows = (relations / "txt" / "ours_train.txt").read_text().splitlines()
    path = relations / "txt" / "ours_test.txt"
    path.write_text("\n".join([*path.read_text().splitlines(), rows[0].replace("train_0.jpg", "test_1.jpg")]) + "\n")
    report = check_data(None, relations, progress=False)
    assert report.format == "mnre"
    assert [split.labels and sum(split.labels.values()) for split in report.splits] == [8, 3, 4]
    assert [split.images for split in report.splits] == [8, 3, 3]
    assert report.duplicate_sentences == {"train/valid": 0, "train/test": 1, "valid/test": 0}
    assert report.duplicate_images == {"train/valid": 0, "train/test": 1, "valid/test": 0}
    assert report.splits[2].crops is not None
    assert report.splits[2].crops[0] >= 1  # the added row has no key in the dictionary
    (relations / "ours_rel2id.json").unlink()
    assert len(check_data(None, relations, progress=False).fatal) == 1  # reported once, not once per split


def test_missing_crop_dictionary_is_not_fatal(relations: Path) -> None:
    (relations / "txt" / "mre_dev_dict.pth").unlink()
    valid = check_data("mnre", relations, progress=False).splits[1]
    assert (valid.crops, valid.keys_without_row, valid.fatal) == (None, None, ())


def test_table_has_a_column_per_split(ner: Path) -> None:
    lines = check_data(None, ner, progress=False).table().splitlines()
    assert lines[2].split() == ["train", "valid", "test"]
    assert lines[3].split() == ["samples", "8", "3", "3"]
    assert len({len(line) for line in lines[2:8]}) == 1


def test_orphan_tags_are_counted() -> None:
    tags = ("I-PER", "I-PER", "B-LOC", "I-ORG", "O", "I-LOC", "B-PER", "I-PER")
    assert orphan_tags([Sample("a:1", ("w",) * 8, tags=tags), Sample("a:2", ("w",), tags=("I-PER",))]) == 4


def test_format_is_recognised_or_raises(tmp_path: Path, ner: Path, relations: Path) -> None:
    assert (recognise(ner).name, recognise(relations).name) == ("twitter", "mnre")
    with pytest.raises(UserError, match=r"expected files that match one data format, these match none; .* are conll, "):
        recognise(tmp_path)
    with pytest.raises(UserError, match=r"nowhere: expected the folder of a data set, but this folder does not exist"):
        recognise(tmp_path / "nowhere")
    shutil.copytree(relations / "txt", ner / "txt")
    with pytest.raises(UserError, match=r"these match several \(mnre, twitter\)"):
        recognise(ner)
