"""The MNRE reader: samples, file locations, and errors for invalid files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference_models.data.formats.mnre import Mnre, read_relations
from reference_models.data.samples import Sample, Split
from reference_models.errors import UserError

ROW: dict[str, Any] = {
    "token": ["Ann", "Lee", "lives", "in", "Rome"],
    "h": {"name": "Ann Lee", "pos": [0, 2]},
    "t": {"name": "Rome", "pos": [4, 5]},
    "img_id": "a b.jpg",
    "relation": "/per/loc/place_of_residence",
}
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(root: Path, split: Split, **options: Any) -> list[Sample]:
    return list(Mnre().read(root, split, **options))


def write(root: Path, *rows: object) -> None:
    (root / "txt" / "ours_train.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "txt").mkdir()
    relations = {"/per/loc/place_of_residence": 1, "None": 0}
    (tmp_path / "ours_rel2id.json").write_text(json.dumps(relations))
    write(tmp_path, ROW, {**ROW, "relation": "None", "caption": ["two", "dogs"], "extra": 1, "h": {"pos": (2, 3)}})
    crops = {1: ["x.png", "y z.png", "w.png", "v.png"], 0: [], 900: ["no row.png"]}
    torch.save(crops, tmp_path / "txt" / "mre_train_dict.pth")
    return tmp_path


def test_text_and_paths_are_read(root: Path) -> None:
    words, image, crops = tuple(ROW["token"]), root / "img_org/train/a b.jpg", root / "img_vg/train/crops"
    assert read(root, "train") == [
        Sample("ours_train.txt:1", words, image, (), None, (0, 2), (4, 5), "/per/loc/place_of_residence"),
        Sample(
            "ours_train.txt:2",
            words,
            image,
            (crops / "x.png", crops / "y z.png", crops / "w.png"),
            None,
            (2, 3),
            (4, 5),
            "None",
            (("caption", "two dogs"),),
        ),
    ]
    assert [crop.name for crop in read(root, "train", max_crops=1)[1].crops] == ["x.png"]


def test_text_only_reading_ignores_images(root: Path) -> None:
    (root / "txt" / "mre_train_dict.pth").write_bytes(b"never opened")
    samples = read(root, "train", visual=False)
    assert [(sample.image, sample.crops, sample.head) for sample in samples] == [(None, (), (0, 2)), (None, (), (2, 3))]


@pytest.mark.parametrize("name", ["ours_val.txt", "ours_val .txt"])
def test_both_validation_file_names_are_found(root: Path, name: str) -> None:
    (root / "txt" / name).write_text(str(ROW))
    torch.save({0: ["x.png"]}, root / "txt" / "mre_dev_dict.pth")
    (sample,) = read(root, "valid")
    assert Mnre().layout(root, "valid").labels[0].name == name
    assert sample.id == f"{name}:1"
    assert sample.image == root / "img_org" / "val" / "a b.jpg"
    assert sample.crops == (root / "img_vg" / "val" / "crops" / "x.png",)


def test_windows_line_endings_and_blank_last_lines_are_ignored(root: Path) -> None:
    expected = read(root, "train")
    path = root / "txt" / "ours_train.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n \n\n")
    assert read(root, "train") == expected


def changed(key: str, value: object) -> dict[str, Any]:
    return {**ROW, key: value}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("", "expected a row, got a blank line"),
        ("__import__('os').abort()", r"got code or a damaged row \(not executed\): \"__import__"),
        ("{'token': name}", "got code or a damaged row"),
        ("{'token': [", "got code or a damaged row"),
        ("{[]: 1}", "got code or a damaged row"),
        ("(" * 5000, "got code or a damaged row"),
        ("9" * 5000, "got code or a damaged row"),
        (f"{{'img_id': 'b.jpg', {str(ROW)[1:]}", "an object has the key 'img_id' twice; merge the two values"),
        (str(ROW).replace("'pos'", "'pos': 0, 'pos'", 1), "an object has the key 'pos' twice"),
        ("[1, 2]", r"expected a Python dict literal, got '\[1, 2\]'"),
        ({"token": ["a"]}, r"expected the key 'h' .*got the keys \['token'\]"),
        (changed("token", "Ann"), "expected a list of words under 'token', got 'Ann'"),
        (changed("token", ["Ann", 3]), "expected a list of words under 'token'"),
        (changed("token", []), "expected a sentence of non-empty words, got no words"),
        (changed("token", ["Ann", "", "a", "b", "c"]), "expected a sentence of non-empty words"),
        (changed("h", [0, 2]), r"expected a dict whose 'pos' is \[start, end\], .* under 'h'"),
        (changed("h", {"name": "Ann"}), "expected a dict whose 'pos' .* under 'h'"),
        (changed("t", {"pos": [0, 1, 2]}), "expected a dict whose 'pos' .* under 't'"),
        (changed("t", {"pos": [0, True]}), "expected a dict whose 'pos' .* under 't'"),
        (changed("t", {"pos": [0, 1.5]}), "expected a dict whose 'pos' .* under 't'"),
        (changed("h", {"pos": [3, 6]}), r"the head entity's span \[3, 6\] is empty or not inside the sentence of 5"),
        (changed("t", {"pos": [3, 3]}), r"the tail entity's span \[3, 3\] is empty"),
        (changed("t", {"pos": [4, 2]}), r"the tail entity's span \[4, 2\]"),
        (changed("img_id", ""), "expected the file name of an image under 'img_id'"),
        (changed("img_id", None), "expected the file name of an image under 'img_id'"),
        (changed("caption", 3), "expected a string or a list of words under 'caption', got '3'"),
        (changed("relation", 3), "expected the name of a relation under 'relation'"),
        (changed("relation", "/per/cat"), r"unknown relation '/per/cat', expected one of those in .*ours_rel2id\.json"),
    ],
)
def test_invalid_row_raises(root: Path, row: object, message: str) -> None:
    write(root, ROW, row, ROW)
    with pytest.raises(UserError, match=rf"ours_train\.txt:2: .*{message}|ours_train\.txt:2: {message}"):
        read(root, "train")


def test_samples_are_read_lazily(root: Path) -> None:
    write(root, ROW, "no row")
    samples = Mnre().read(root, "train")
    assert next(samples).id.endswith(":1")
    with pytest.raises(UserError, match="no row"):
        next(samples)


def test_code_in_a_row_is_not_executed(root: Path) -> None:
    write(root, {**ROW, "token": "TRAP"})
    path = root / "txt" / "ours_train.txt"
    path.write_text(path.read_text().replace("'TRAP'", f"open({str(root / 'trap')!r}, 'w')"))
    with pytest.raises(UserError, match=r"ours_train\.txt:1: .*not executed"):
        read(root, "train")
    assert not (root / "trap").exists()


def test_missing_or_empty_file_raises(root: Path) -> None:
    with pytest.raises(UserError, match=r"ours_test\.txt: cannot be read"):
        read(root, "test")
    write(root)
    with pytest.raises(UserError, match=r"ours_train\.txt: the file is empty"):
        read(root, "train")


def test_crop_dictionary_with_image_names_raises(root: Path) -> None:
    torch.save({"a b.jpg": ["x.png"]}, root / "txt" / "mre_train_dict.pth")
    with pytest.raises(UserError, match=r"mre_train_dict\.pth: .*dict of int to .*got the key 'a b\.jpg'"):
        read(root, "train")


def test_relations_are_sorted_by_id(root: Path) -> None:
    assert list(read_relations(root).items()) == [("None", 0), ("/per/loc/place_of_residence", 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'None': 0}", "expected a JSON object"),
        ("[" * 100_000, "expected a JSON object"),
        ("[0]", "expected a JSON object of relation names to integer ids"),
        ('{"None": "0"}', "expected a JSON object of relation names to integer ids"),
        ('{"None": 0, "a": true}', "expected a JSON object of relation names to integer ids"),
        ('{"None": 0, "a": 2}', r"expected the ids 0, 1, 2, \.\.\., each once, got \[0, 2\]"),
        ('{"None": 1, "a": 1}', r"expected the ids 0, 1, 2, \.\.\., each once, got \[1, 1\]"),
        ("{}", "expected one relation or more, got none"),
        ('{"None": 0, "a": 1, "a": 2}', r"expected a JSON object .* \(an object has the key 'a' twice\)"),
        ("", "the file is empty"),
    ],
)
def test_invalid_relation_file_raises(root: Path, text: str, message: str) -> None:
    (root / "ours_rel2id.json").write_text(text)
    with pytest.raises(UserError, match=rf"ours_rel2id\.json: {message}"):
        read_relations(root)


WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5), min_size=1, max_size=6)


@given(st.lists(WORDS, min_size=1, max_size=4))
@SHARED
def test_round_trip(root: Path, sentences: list[list[str]]) -> None:
    write(root, *({**ROW, "token": words, "h": {"pos": [0, 1]}, "t": {"pos": [0, len(words)]}} for words in sentences))
    samples = read(root, "train")
    assert [list(sample.words) for sample in samples] == sentences
    assert [len(sample.words[slice(*sample.tail or ())]) for sample in samples] == [len(words) for words in sentences]


@given(st.data())
@settings(SHARED, max_examples=200)
def test_corrupted_file_gives_samples_or_a_user_error(root: Path, data: st.DataObject) -> None:
    content = bytearray(f"{ROW}\n{ROW}\n".encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        cut = data.draw(st.integers(0, 3))
        content[at : at + cut] = data.draw(st.one_of(st.binary(max_size=3), st.sampled_from([b"\n", b"'", b"]", b"9"])))
    (root / "txt" / "ours_train.txt").write_bytes(content)
    samples, message = [], ""
    try:
        samples = read(root, "train")
    except UserError as error:
        message = str(error)
    assert samples or "ours_train.txt" in message


@pytest.mark.parametrize("name", ["../../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "x\0y.jpg"])
def test_image_paths_outside_the_data_raise(name: str, root: Path) -> None:
    write(root, ROW, {**ROW, "img_id": name})
    with pytest.raises(UserError, match=r"ours_train\.txt:2: expected .* below \S+img_org/train .*, got"):
        read(root, "train")
    assert read(root, "train", visual=False)[1].image is None


def test_crop_paths_outside_the_data_raise(root: Path) -> None:
    torch.save({0: ["x.png"], 1: ["../../../x.png"]}, root / "txt" / "mre_train_dict.pth")
    with pytest.raises(UserError, match=r"ours_train\.txt:2, its crops: .* below \S+crops .*, got '\.\./\.\./"):
        read(root, "train")
