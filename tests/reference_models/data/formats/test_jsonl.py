"""JSON Lines files: tokens or text, arbitrary labels, images and crops, and errors for invalid lines."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference_models.data.bio import spans, tags_of_spans
from reference_models.data.formats import Jsonl, recognise
from reference_models.data.samples import Sample
from reference_models.errors import UserError

SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROW: dict[str, Any] = {
    "id": "post 7",
    "tokens": ["Bert", "sings", "in", "New", "York"],
    "image": "images/a b.jpg",
    "crops": ["c/1.png", "c/2.png", "c/3.png", "c/4.png"],
    "image_texts": {"caption": "a muppet", "ocr": "Sesame Street"},
    "entities": [{"start": 3, "end": 5, "label": "place"}, {"start": 0, "end": 1, "label": "muppet"}],
}
PAIR = {"head": 1, "tail": [3, 5], "label": "sings_in"}


def read(root: Path, *rows: object, **options: Any) -> list[Sample]:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (root / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return list(Jsonl().read(root, "train", **options))


def test_words_entities_and_paths_are_read(tmp_path: Path) -> None:
    [sample] = read(tmp_path, ROW)
    assert sample == Sample(
        "train.jsonl:1",
        tuple(ROW["tokens"]),
        tmp_path / "images" / "a b.jpg",
        tuple(tmp_path / "c" / f"{number}.png" for number in (1, 2, 3)),
        ("B-muppet", "O", "O", "B-place", "I-place"),
        image_texts=(("caption", "a muppet"), ("ocr", "Sesame Street")),
    )
    assert read(tmp_path, ROW, max_crops=1)[0].crops == sample.crops[:1]
    assert recognise(tmp_path).name == "jsonl"


def test_text_only_reading_ignores_images(tmp_path: Path) -> None:
    [sample] = read(tmp_path, {**ROW, "image": "../x"}, visual=False)
    assert (sample.image, sample.crops) == (None, ())


def test_entity_offsets_of_a_text_are_characters(tmp_path: Path) -> None:
    text = " Bert sings\tin  New\u3000York "
    entities = [(text.index("Bert"), 5, "muppet"), (text.index("New"), text.index("k") + 1, "place")]
    row = {"text": text, "entities": [{"start": s, "end": e, "label": kind} for s, e, kind in entities]}
    [sample] = read(tmp_path, row)
    assert (sample.words, sample.image) == (tuple(ROW["tokens"]), None)
    assert sample.tags == ("B-muppet", "O", "O", "B-place", "I-place")


def test_each_relation_is_a_sample(tmp_path: Path) -> None:
    other = {"head": [0, 1], "tail": 0, "label": "likes"}
    rows = [{**ROW, "relations": [PAIR]}, {**ROW, "relations": [PAIR, other]}, {**ROW, "relations": []}]
    samples = read(tmp_path, *rows)
    assert [(sample.id, sample.head, sample.tail, sample.relation) for sample in samples] == [
        ("train.jsonl:1", (0, 1), (3, 5), "sings_in"),
        ("train.jsonl:2.1", (0, 1), (3, 5), "sings_in"),
        ("train.jsonl:2.2", (0, 1), (3, 5), "likes"),
    ]
    assert all(sample.tags is None for sample in samples)
    assert Jsonl().find_task(tmp_path) == "re"
    assert [sample.tags is None for sample in read(tmp_path, *rows, pairs=False)] == [False] * 3
    read(tmp_path, ROW)
    assert Jsonl().find_task(tmp_path) == "ner"


def test_lines_without_crops_use_the_crop_dictionary(tmp_path: Path) -> None:
    torch.save({0: ["a/x.png"], 2: ["y.png", "z.png"]}, tmp_path / "crops_train_dict.pth")
    bare = {key: value for key, value in ROW.items() if key != "crops"}
    first, second = read(tmp_path, {**bare, "relations": [PAIR]}, {**bare, "relations": [PAIR, PAIR]})[::2]
    folder = tmp_path / "crops" / "train"
    assert first.crops == (folder / "a" / "x.png",)
    assert second.crops == (folder / "y.png", folder / "z.png")
    assert read(tmp_path, bare, max_crops=0)[0].crops == ()


def changed(key: str, value: object) -> dict[str, Any]:
    return {**ROW, key: value}


def entity(**fields: object) -> dict[str, Any]:
    return changed("entities", [{"start": 0, "end": 1, "label": "a", **fields}])


def pair(**fields: object) -> dict[str, Any]:
    return changed("relations", [{**PAIR, **fields}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "expected a JSON object, got '{'"),
        ("[1]", r"expected a JSON object, got '\[1\]'"),
        ("[" * 100_000, "expected a JSON object"),
        (changed("photo", "a.jpg"), "unknown key 'photo', the known keys are id, tokens, text"),
        (changed("text", "a b"), "expected either 'tokens' .* or 'text' .*, got the keys"),
        ({"image": "a.jpg"}, "expected either 'tokens'"),
        (changed("tokens", "Bert"), "expected a list of words under 'tokens', got 'Bert'"),
        (changed("tokens", []), "expected a sentence of non-empty words|is empty or not inside the sentence of 0"),
        ({"text": 3}, "expected a string under 'text', got '3'"),
        (changed("image", ""), "'image': expected the path of a file .*, got ''"),
        (changed("image", "../a.jpg"), "'image': expected the name of a file below"),
        (changed("crops", "a.png"), "expected a list of paths under 'crops'"),
        (changed("crops", ["/a.png"]), "'crops': expected the name of a file below"),
        (changed("image_texts", {"caption": 3}), "'image_texts': expected an object of image texts by kind"),
        (changed("entities", {}), "expected a list of objects under 'entities'"),
        (changed("entities", [3]), "expected a list of objects under 'entities'"),
        (entity(label=""), "expected an entity with 'start', 'end' and 'label'"),
        (entity(start="0"), r"expected the span of an entity as integers \[start, end\]"),
        (entity(start=True), r"expected the span of an entity as integers \[start, end\]"),
        (entity(end=0), r"the entity \[0, 0\] \(a\) is empty or not inside the sentence of 5 words"),
        (entity(end=6), r"the entity \[0, 6\] \(a\) is empty or not inside"),
        (changed("entities", [*ROW["entities"], ROW["entities"][0]]), r"the entity \[3, 5\] \(place\) overlaps"),
        ({"text": "in Rome.", "entities": [{"start": 3, "end": 7, "label": "a"}]}, "does not start and end at word"),
        (pair(head=2), "expected 'head' to be the index of one of the 2 .*, got 2"),
        (pair(head=-1), "expected 'head' to be the index of one of the 2 .*, got -1"),
        (pair(tail=[3]), r"expected the span of an entity as integers \[start, end\], got \[3\]"),
        (pair(tail=[3, 9]), r"the tail entity's span \[3, 9\] is empty or not inside the sentence"),
        (pair(label=None), "expected a relation with 'head', 'tail' and 'label'"),
    ],
)
def test_invalid_line_raises(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(UserError, match=rf"train\.jsonl:2(: |, ).*({message})"):
        read(tmp_path, {"tokens": ["a"]}, row)


def test_missing_split_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl: cannot be read"):
        list(Jsonl().read(tmp_path, "train", pairs=False))


@st.composite
def samples(draw: st.DrawFn, *, pairs: bool, folder: Path = Path("data")) -> Sample:
    words = tuple(draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=5)))
    bounds = st.tuples(st.integers(0, len(words) - 1), st.integers(1, 3)).map(lambda b: (b[0], min(sum(b), len(words))))
    texts = tuple(draw(st.dictionaries(st.text("ab", min_size=1), st.text("xy"), max_size=2)).items())
    image = draw(st.none() | st.text("ab", min_size=1).map(lambda name: folder / f"{name}.jpg"))
    crops = () if image is None else tuple(draw(st.lists(st.just(folder / "c" / "x.png"), max_size=3)))
    if pairs:
        name = draw(st.text("pq", min_size=1))
        return Sample("x:1", words, image, crops, None, draw(bounds), draw(bounds), name, texts)
    tags = tags_of_spans(len(words), sorted(spans([draw(st.sampled_from(["O", "I-a", "B-é f"])) for _ in words])), "x")
    return Sample("x:1", words, image, crops, tags, image_texts=texts)


@given(data=st.data(), pairs=st.booleans())
@SHARED
def test_round_trip(tmp_path: Path, data: st.DataObject, pairs: bool) -> None:
    made = data.draw(st.lists(samples(pairs=pairs, folder=tmp_path), min_size=1, max_size=3))
    Jsonl().write(tmp_path, {"train": made})
    back = list(Jsonl().read(tmp_path, "train"))

    def content(sample: Sample) -> dict[str, Any]:
        return {key: value for key, value in vars(sample).items() if key != "id"}

    assert list(map(content, back)) == list(map(content, made))
    assert Jsonl().find_task(tmp_path) == ("re" if pairs else "ner")


@given(st.data())
@settings(SHARED, max_examples=200)
def test_corrupted_file_gives_samples_or_a_user_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(f"{json.dumps({**ROW, 'relations': [PAIR]})}\n{json.dumps(ROW)}\n".encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        cut = data.draw(st.integers(0, 3))
        content[at : at + cut] = data.draw(st.one_of(st.binary(max_size=3), st.sampled_from([b"\n", b'"', b"]", b"9"])))
    (tmp_path / "train.jsonl").write_bytes(content)
    message = "train.jsonl"
    try:
        list(Jsonl().read(tmp_path, "train"))
    except UserError as error:
        message = str(error)
    assert "train.jsonl" in message
