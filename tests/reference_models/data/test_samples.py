"""Validation of a sample, and the file readers that the data formats share."""

import hashlib
import json
import logging
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference_models.data.samples import (
    Region,
    Sample,
    fingerprint,
    read_crop_names,
    read_lines,
    read_objects,
    spooled,
)
from reference_models.errors import UserError
from reference_models.tasks.ner import tags_of

TAGS = tuple(tags_of(("PER", "LOC", "ORG", "MISC")))


def test_sample_defaults_and_equality() -> None:
    sample = Sample("a.txt:1", ("Ann", "sings"), tags=("B-PER", "O"), crops=(Path("b.png"),))
    assert (sample.image, sample.head, sample.tail, sample.relation) == (None, None, None, None)
    assert sample == Sample("a.txt:1", ("Ann", "sings"), tags=("B-PER", "O"), crops=(Path("b.png"),))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"words": ()}, r"a\.txt:7: .*non-empty words, got no words"),
        ({"words": ("a", "")}, r"a\.txt:7: .*non-empty words"),
        ({"words": ("a", "\ud83d")}, r"a\.txt:7: .*half a character"),
        ({"tags": ("O",)}, r"a\.txt:7: expected one tag for each word, got 1 tags for 3 words"),
        ({"tags": ("O", "O", "CAT")}, r"a\.txt:7: unknown tag 'CAT', expected O, B-TYPE or I-TYPE"),
        ({"tags": ("O", "O", "B-")}, r"a\.txt:7: unknown tag 'B-'"),
        ({"head": (0, 1)}, r"a\.txt:7: expected both head and tail"),
        ({"head": (0, 4), "tail": (1, 2)}, r"a\.txt:7: the head entity's span \[0, 4\] .* 3 words"),
        ({"head": (0, 1), "tail": (2, 2)}, r"a\.txt:7: the tail entity's span \[2, 2\] is empty"),
        ({"head": (0, 1), "tail": (2, 1)}, r"a\.txt:7: the tail entity's span \[2, 1\]"),
        ({"head": (-1, 1), "tail": (1, 2)}, r"a\.txt:7: the head entity's span \[-1, 1\]"),
    ],
)
def test_invalid_sample_raises(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sample(**{"id": "a.txt:7", "words": ("a", "b", "c"), **fields})


@given(st.integers(-2, 6), st.integers(-2, 6))
def test_span_must_be_nonempty_and_inside_the_sentence(start: int, end: int) -> None:
    words = ("a", "b", "c", "d")
    valid = start in range(4) and end in range(start + 1, 5)
    if valid:
        assert words[start:end]
        Sample("a:1", words, head=(start, end), tail=(0, 1))
    else:
        with pytest.raises(UserError, match="head"):
            Sample("a:1", words, head=(start, end), tail=(0, 1))


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    words = draw(st.lists(st.text(min_size=1), min_size=1, max_size=5))
    inside = st.integers(0, len(words) - 1).flatmap(lambda start: st.tuples(st.just(start), st.just(start + 1)))
    paths = st.text(st.characters(exclude_characters="\0")).map(Path)
    pair = draw(st.none() | st.tuples(inside, inside))
    return Sample(
        draw(st.text()),
        tuple(words),
        draw(st.none() | paths),
        tuple(draw(st.lists(paths, max_size=3))),
        draw(st.none() | st.tuples(*[st.sampled_from(TAGS)] * len(words))),
        *(pair or (None, None)),
        draw(st.none() | st.text()),
        tuple(draw(st.lists(st.tuples(st.text(), st.text()), max_size=2))),
        tuple(draw(st.lists(st.builds(Region, *[st.floats(0, 1)] * 4, st.text()), max_size=2))),
    )


@given(st.lists(samples(), max_size=3))
def test_sample_json_round_trip(rows: list[Sample]) -> None:
    assert [Sample.from_json(json.loads(json.dumps(row.to_json()))) for row in rows] == rows
    kept = spooled(rows)
    assert list(kept) == rows
    assert [hash(row) for row in kept] == [hash(row) for row in rows]


def peak_memory(call: Callable[[], object]) -> int:
    """Peak memory that Python allocated during the call, in bytes."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_read_lines_streams_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a line\n" * 1_000_000 + b"\xff")
    assert peak_memory(lambda: next(read_lines(path))) < 500_000
    with pytest.raises(UserError, match=r"a\.txt:1000001: expected UTF-8, byte 1 of"):
        list(read_lines(path))


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo\u2028\x85\x0b\r still two\nthree".encode())
    assert list(read_lines(path)) == ["one", "two\u2028\x85\x0b\r still two", "three"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.txt: the file is empty"),
        (b"\n \n\xc2\xa0\n", r"a\.txt: the file is empty"),
        (b"\xef\xbb\xbf", r"a\.txt: the file is empty"),
        (b"good\nba\xffd\n", r"a\.txt:2: expected UTF-8, byte 3 "),
        (None, r"a\.txt: cannot be read \(No such file"),
    ],
)
def test_invalid_text_file_raises(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_lines(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('{"entities": [1], "tokens": [], "entities": []}', "entities"),
        ('{"relations": [{"head": 1, "tail": 2, "head": 1}]}', "head"),
    ],
)
def test_duplicate_json_key_raises(tmp_path: Path, line: str, key: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"entities": [{{"type": 1}}, {{"type": 1}}]}}\n\n{line}\n')
    rows = read_objects(path)
    assert next(rows) == (1, {"entities": [{"type": 1}, {"type": 1}]})
    with pytest.raises(UserError, match=rf"a\.jsonl:3: an object has the key '{key}' twice; merge the two values, or"):
        next(rows)


def test_crop_names_keep_their_order_up_to_the_limit(tmp_path: Path) -> None:
    torch.save({7: ["c.png", "a b.png", "d.png"], 2: []}, tmp_path / "a.pth")
    candidates = [tmp_path / "absent.pth", tmp_path / "a.pth"]
    assert read_crop_names(candidates, int, 2) == {7: ("c.png", "a b.png"), 2: ()}
    assert read_crop_names(candidates, int, 0) == {7: (), 2: ()}


def test_missing_crop_dictionary_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert read_crop_names([tmp_path / "a.pth", tmp_path / "b.pth"], str, 3) == {}
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'a.pth'}: this crop dictionary does not exist, so no sample of this split has object crops; "
        "`i2srm data crops` can make them"
    ]


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (["a.png"], "got list"),
        ({1: ["a.png"]}, "got the key 1"),
        ({"a": "a.png"}, "under the key 'a'"),
        ({"a": ["a.png", 3]}, "under the key 'a'"),
        ({"a": ["a.png"], "b": [""]}, "under the key 'b'"),
        ({"a": [torch.zeros(1)]}, "under the key 'a'"),
    ],
)
def test_invalid_crop_dictionary_raises(tmp_path: Path, content: object, got: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=rf"a\.pth: expected .* str to lists of crop file names .*{got}"):
        read_crop_names([tmp_path / "a.pth"], str, 3)


def test_boolean_row_index_raises(tmp_path: Path) -> None:
    torch.save({True: ["a.png"]}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="got the key True"):
        read_crop_names([tmp_path / "a.pth"], int, 3)


def test_negative_max_crops_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_crops must be 0 or more, got -1"):
        read_crop_names([tmp_path / "a.pth"], int, -1)


class Hostile:
    """An object whose pickle contains a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("as_torch_file", [True, False])
def test_code_in_a_crop_dictionary_is_not_executed(tmp_path: Path, as_torch_file: bool) -> None:
    trap, path = tmp_path / "trap", tmp_path / "a.pth"
    content = {"a": [Hostile(trap)]}
    if as_torch_file:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match=r"a\.pth: .* damaged file or one with other objects \(not executed\)"):
        read_crop_names([path], str, 3)
    assert not trap.exists()


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_corrupted_crop_dictionary_gives_names_or_a_user_error(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a.jpg": ["1.png", "2.png"]}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    names, message = {}, f"{path}: expected"
    try:
        names = read_crop_names([path], str, 3)
    except UserError as error:
        message = str(error)
    assert message.startswith(f"{path}: expected")
    assert all(isinstance(key, str) and all(isinstance(name, str) for name in names[key]) for key in names)


def test_fingerprint_depends_on_bytes_and_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"one\r\n")
    second.write_bytes(b"two\n")
    assert fingerprint([first, second]) == hashlib.sha256(b"one\r\ntwo\n").hexdigest()[:12]
    assert fingerprint([first, second]) != fingerprint([second, first])


def test_fingerprint_reads_large_files_in_chunks(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(20_000_000)
    assert peak_memory(lambda: fingerprint([path])) < 1_000_000
    assert fingerprint([path]) == hashlib.sha256(bytes(20_000_000)).hexdigest()[:12]
