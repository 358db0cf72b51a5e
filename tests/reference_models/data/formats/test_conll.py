"""CoNLL files: columns, file names, arbitrary types, and errors for invalid files."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference_models.data.formats import Conll, Twitter, recognise
from reference_models.data.samples import Sample
from reference_models.errors import UserError

TEXT = "-DOCSTART- -X- O\n\nBert NNP B-muppet\nsings VBZ O\n\n\nin\tIN\tO\nNew York\tNNP\tI-place\n"
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(root: Path, text: str | bytes = TEXT) -> list[Sample]:
    (root / "train.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(Conll().read(root, "train"))


def test_first_and_last_columns_are_read(tmp_path: Path) -> None:
    expected = [
        Sample("train.txt:3", ("Bert", "sings"), tags=("B-muppet", "O")),
        Sample("train.txt:7", ("in", "New York"), tags=("O", "I-place")),
    ]
    assert read(tmp_path) == expected
    assert read(tmp_path, TEXT.replace("\n", "\r\n").rstrip()) == expected


@pytest.mark.parametrize("name", ["valid.txt", "dev.txt", "val.txt", "valid.conll", "dev.conll"])
def test_common_file_names_are_recognised(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(TEXT)
    assert [sample.id for sample in Conll().read(tmp_path, "valid")] == [f"{name}:3", f"{name}:7"]
    assert recognise(tmp_path).name == "conll"


def test_twitter_files_are_not_recognised_as_conll(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("IMGID:1\nBert\tB-PER\n")
    assert recognise(tmp_path).name == "twitter"
    assert not Conll().recognises(tmp_path)
    (tmp_path / "train.txt").write_text("some text\n")
    with pytest.raises(UserError, match="these match none"):
        recognise(tmp_path)
    assert not Twitter().recognises(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"train\.txt: the file is empty"),
        ("Bert B-PER\nword\n", r"train\.txt:2: expected a word and a tag, separated by a tab or space, got 'word'"),
        ("Bert\tB-PER\n\tO\n", r"train\.txt:2: expected a word and a tag"),
        ("Bert\tB-PER\nsings\tVBZ\n", r"train\.txt:2: unknown tag 'VBZ', expected O, B-TYPE or I-TYPE"),
        (b"Bert\tB-PER\n\xff\tO\n", r"train\.txt:2: expected UTF-8"),
    ],
)
def test_invalid_file_raises(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


WORD = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1, max_size=5).filter(
    lambda word: word.strip(" ") and not word.startswith(("-DOCSTART-", "\ufeff"))
)
TAG = st.sampled_from(["O", "B-a", "I-a", "B-b c", "I-é-"])


@given(st.lists(st.lists(st.tuples(WORD, TAG), min_size=1, max_size=4), min_size=1, max_size=4))
@SHARED
def test_round_trip(tmp_path: Path, sentences: list[list[tuple[str, str]]]) -> None:
    made = [Sample("x:1", tuple(w for w, _ in rows), tags=tuple(t for _, t in rows)) for rows in sentences]
    Conll().write(tmp_path, {"train": made})
    back = list(Conll().read(tmp_path, "train"))
    assert [(sample.words, sample.tags) for sample in back] == [(sample.words, sample.tags) for sample in made]
    assert len({sample.id for sample in back}) == len(back)
