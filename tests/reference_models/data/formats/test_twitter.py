"""The Twitter reader: samples, file locations, and errors for invalid files."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference_models.data.formats.twitter import Twitter
from reference_models.data.samples import Sample, Split
from reference_models.errors import UserError
from reference_models.tasks.ner import tags_of

TAGS = tuple(tags_of(("PER", "LOC", "ORG", "MISC")))

TEXT = "IMGID:1 a\nRT\tO\nNew\tB-LOC\nYork\tI-LOC\n\nIMGID:2\nThe\tB-OTHER\nVoice\tI-OTHER\nAnn\tI-PER\n\n"
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(root: Path, split: Split, **options: Any) -> list[Sample]:
    return list(Twitter().read(root, split, **options))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "tweets"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text(TEXT)
    torch.save(
        {"2.jpg": ["x.png", "y.png", "z.png", "w.png"], "no row.jpg": ["v.png"]}, folder / "tweets_train_dict.pth"
    )
    return folder


def test_text_and_paths_are_read(root: Path) -> None:
    images, crops = root.parent / "tweets_images", root.parent / "tweets_aux_images" / "train" / "crops"
    assert read(root, "train") == [
        Sample("train.txt:1", ("RT", "New", "York"), images / "1 a.jpg", (), ("O", "B-LOC", "I-LOC")),
        Sample(
            "train.txt:6",
            ("The", "Voice", "Ann"),
            images / "2.jpg",
            (crops / "x.png", crops / "y.png", crops / "z.png"),
            ("B-MISC", "I-MISC", "I-PER"),
        ),
    ]
    assert [crop.name for crop in read(root, "train", max_crops=1)[1].crops] == ["x.png"]
    assert Twitter().layout(root, "valid").labels == (root / "valid.txt",)


def test_text_only_reading_ignores_images(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "tweets_train_dict.pth").write_bytes(b"never opened")
    samples = read(root, "train", visual=False)
    assert [sample.words for sample in samples] == [("RT", "New", "York"), ("The", "Voice", "Ann")]
    assert all(sample.image is None and sample.crops == () for sample in samples)
    assert not caplog.records


@pytest.mark.parametrize("label", ["val", "valid"])
def test_both_validation_dictionary_names_are_found(root: Path, label: str) -> None:
    torch.save({"2.jpg": ["x.png"]}, root / f"tweets_{label}_dict.pth")
    (crop,) = read(root, "valid")[1].crops
    assert crop == root.parent / "tweets_aux_images" / "val" / "crops" / "x.png"


def test_missing_crop_dictionary_warns_once_and_gives_no_crops(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        samples = read(root, "test")
    assert [sample.crops for sample in samples] == [(), ()]
    assert samples[0].image == root.parent / "tweets_images" / "1 a.jpg"
    assert [record.getMessage() for record in caplog.records] == [
        f"{root / 'tweets_test_dict.pth'}: this crop dictionary does not exist, so no sample of this split has object "
        "crops; `i2srm data crops` can make them"
    ]


def test_current_folder_can_be_the_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert read(Path("."), "train") == read(root, "train")


def test_line_endings_and_blank_lines_do_not_change_samples(root: Path) -> None:
    expected = read(root, "train")
    for text in (TEXT.replace("\n", "\r\n"), TEXT.rstrip("\n"), TEXT.replace("\n\nIMGID", "\nIMGID"), "\n \n" + TEXT):
        (root / "train.txt").write_bytes(text.encode())
        samples = read(root, "train")
        assert [(sample.words, sample.tags, sample.crops) for sample in samples] == [
            (sample.words, sample.tags, sample.crops) for sample in expected
        ]


def test_unusual_words_are_kept(root: Path) -> None:
    words = ("\xa0", "a\u2028b", "\x85", "two words", "\U0001f600", "imgid:3", "#", "\ufffd")
    (root / "train.txt").write_text("IMGID:9\n" + "".join(f"{word}\tO\n" for word in words), encoding="utf-8")
    assert read(root, "train", visual=False)[0].words == words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"train\.txt: the file is empty"),
        ("word\tO\n", r"train\.txt:1: expected an 'IMGID:' line before the words of a sample, got 'word\\tO'"),
        ("IMGID:1\nw\tO\n\nword\tO\n", r"train\.txt:4: expected an 'IMGID:' line before"),
        ("IMGID:1\nw\tO\nword O\n", r"train\.txt:3: expected a word, a tab and a tag, got 'word O'"),
        ("IMGID:1\nw\tO\tO\n", r"train\.txt:2: expected a word, a tab and a tag, got 'w\\tO\\tO'"),
        ("IMGID:1\nw\tO\n\xa0\n", r"train\.txt:3: expected a word, a tab and a tag, got '\\xa0'"),
        ("IMGID:1\n\tO\n", r"train\.txt:2: expected a word, a tab and a tag, got '\\tO'"),
        ("IMGID:1\nw\tB-\n", r"train\.txt:2: unknown tag 'B-', expected O, B-TYPE or I-TYPE"),
        ("IMGID:1\nw\t\n", r"train\.txt:2: unknown tag ''"),
        ("IMGID:1\nw\tS-PER\n", r"train\.txt:2: unknown tag 'S-PER'"),
        ("IMGID:1\n\nIMGID:2\nw\tO\n", r"train\.txt:1: expected words below 'IMGID:1', this sample has none"),
        ("IMGID:1\nw\tO\n\nIMGID:2\n", r"train\.txt:4: expected words below 'IMGID:2'"),
        ("IMGID: \nw\tO\n", r"train\.txt:1: expected 'IMGID:' followed by the name of one image, got 'IMGID: '"),
        ("IMGID:1\tO\nw\tO\n", r"train\.txt:1: expected 'IMGID:' followed by the name of one image"),
        ("IMGID:1\nw\tO\n\udcff\tO\n", r"train\.txt:3: expected UTF-8"),
    ],
)
def test_invalid_file_raises(root: Path, text: str, message: str) -> None:
    (root / "train.txt").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=message):
        read(root, "train")


def test_samples_are_read_lazily(root: Path) -> None:
    (root / "train.txt").write_text("IMGID:1\nw\tO\n\nIMGID:2\nno tag\n")
    samples = Twitter().read(root, "train")
    assert next(samples).id.endswith(":1")
    with pytest.raises(UserError, match="no tag"):
        next(samples)


def test_missing_split_raises(root: Path) -> None:
    (root / "test.txt").unlink()
    with pytest.raises(UserError, match=r"test\.txt: cannot be read"):
        read(root, "test")


def test_crop_dictionary_with_row_indices_raises(root: Path) -> None:
    torch.save({0: ["x.png"]}, root / "tweets_train_dict.pth")
    with pytest.raises(UserError, match=r"tweets_train_dict\.pth: .*got the key 0"):
        read(root, "train")


WORD = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1, max_size=5)
SENTENCE = st.lists(
    st.tuples(WORD.filter(lambda word: not word.startswith("IMGID:")), st.sampled_from(TAGS)), min_size=1
)


@given(st.lists(SENTENCE, min_size=1, max_size=4))
@SHARED
def test_round_trip(root: Path, sentences: list[list[tuple[str, str]]]) -> None:
    blocks = [f"IMGID:{i}\n" + "".join(f"{word}\t{tag}\n" for word, tag in s) for i, s in enumerate(sentences)]
    (root / "train.txt").write_text("\n".join(blocks), encoding="utf-8", newline="\n")
    samples = read(root, "train", visual=False)
    assert [list(zip(sample.words, sample.tags or (), strict=True)) for sample in samples] == sentences
    assert len({sample.id for sample in samples}) == len(samples)


@given(st.data())
@settings(SHARED, max_examples=200)
def test_corrupted_file_gives_samples_or_a_user_error(root: Path, data: st.DataObject) -> None:
    content = bytearray(TEXT.encode())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content)))
        cut = data.draw(st.integers(0, 3))
        content[at : at + cut] = data.draw(st.one_of(st.binary(max_size=3), st.sampled_from([b"\n", b"\t", b"IMGID:"])))
    (root / "train.txt").write_bytes(content)
    samples, message = [], ""
    try:
        samples = read(root, "train")
    except UserError as error:
        message = str(error)
    assert samples or message.startswith(f"{root / 'train.txt'}:")


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../../x", "x\0y"])
def test_image_paths_outside_the_data_raise(name: str, root: Path) -> None:
    (root / "train.txt").write_text(f"IMGID:{name}\nRT\tO\n")
    with pytest.raises(UserError, match=r"train\.txt:1: expected the name of a file below \S+tweets_images"):
        read(root, "train")
    assert read(root, "train", visual=False)[0].image is None


@pytest.mark.parametrize("name", ["../../x.png", "/etc/x.png"])
def test_crop_paths_outside_the_data_raise(name: str, root: Path) -> None:
    torch.save({"2.jpg": ["x.png", name]}, root / "tweets_train_dict.pth")
    with pytest.raises(UserError, match=rf"train\.txt:6, its crops: expected .* below \S+crops .*, got '{name}'"):
        read(root, "train")


def test_images_in_subfolders_are_allowed(root: Path) -> None:
    (root / "train.txt").write_text("IMGID:day 1/a..b\nRT\tO\n")
    assert read(root, "train")[0].image == root.parent / "tweets_images" / "day 1" / "a..b.jpg"
