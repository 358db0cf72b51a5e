"""Posts: what is wrong with one is said, order is kept, a stopped file goes on, and batches change nothing."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reference_models.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from reference_models.data.samples import Sample
from reference_models.data.synthetic import generate
from reference_models.errors import UserError
from reference_models.grounding.config import GroundingConfig
from reference_models.grounding.posts import PostGrounder
from reference_models.models.int8 import Int8Linear, product_is_exact
from reference_models.prediction import WINDOW, Predictor, describe, predict_file
from reference_models.training.run import train

FORMATS = {"ner": "twitter", "re": "mnre"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for task, format_ in FORMATS.items():
        generate(folder / task / "posts", task, 0, {"train": 16, "valid": 4, "test": 4})
        data = DataConfig(format=format_, root=str(folder / task / "posts"), image_size=32)
        model = ModelConfig(text="tiny", vision="tiny", vision_weights="none")
        train(RunConfig(str(folder / f"run-{task}"), data, model, TrainingConfig(epochs=1, batch_size=8)))
    return folder


@pytest.fixture(scope="module")
def predictors(runs: Path) -> dict[str, Predictor]:
    return {task: Predictor(runs / f"run-{task}", batch_size=3) for task in FORMATS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 60), (200, 30, 30)).save(tmp_path / name)
    return tmp_path


def test_without_crops_the_picture_is_its_own_crop(predictors: dict[str, Predictor], folder: Path) -> None:
    read = predictors["ner"].read
    assert read({"text": "x y", "image": "a.png"}, folder).crops == (folder / "a.png",)
    assert read({"text": "x y", "image": "a.png", "crops": ["b.png"]}, folder).crops == (folder / "b.png",)
    assert read({"text": "x y"}, folder) == Sample("the post", ("x", "y"))


def test_a_picture_without_crops_is_given_to_the_detector(
    predictors: dict[str, Predictor], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = predictors["ner"]
    config = GroundingConfig(detector="centre", top=2, size=16)
    monkeypatch.setattr(predictor, "ground", PostGrounder("twitter", config, folder / "crops"))
    crops = predictor.read({"text": "x y", "image": "a.png"}, folder, "line 7").crops
    assert [crop.name for crop in crops] == ["line_7_0.png", "line_7_1.png"]
    assert all(Image.open(crop).size == (16, 16) for crop in crops)
    assert predictor.read({"text": "x y", "image": "a.png", "crops": ["b.png"]}, folder).crops == (folder / "b.png",)
    assert predictor.read({"text": "x y"}, folder).crops == ()
    with pytest.raises(UserError, match=r"c\.png: the file does not exist"):
        predictor.read({"text": "x y", "image": "c.png"}, folder)


def test_entities_are_found_word_by_word_and_not_twice_in_one_place(predictors: dict[str, Predictor]) -> None:
    read = predictors["re"].read
    sample = read({"text": "Ann met Ann Lee and Ann", "head": "Ann Lee", "tail": "Ann"}, Path())
    assert (sample.head, sample.tail) == ((2, 4), (0, 1))
    sample = read({"text": "Ann met Ann", "head": "Ann", "tail": "Ann"}, Path())
    assert (sample.head, sample.tail) == ((0, 1), (2, 3))


@pytest.mark.parametrize(
    ("task", "post", "message"),
    [
        (
            "re",
            {"text": "Ann met Bob", "head": "An", "tail": "Bob"},
            "the head entity 'An' does not stand in the sentence",
        ),
        ("re", {"text": "Ann met Bob", "head": "", "tail": "Bob"}, "the head entity ''"),
        ("re", {"text": "Ann met Bob", "head": "Ann", "tail": "Ann"}, "the tail entity 'Ann'"),
        ("re", {"text": "Ann met Bob", "head": "Ann"}, "needs head and tail"),
        ("ner", {"text": "Ann met Bob", "head": "Ann"}, "takes neither"),
        ("ner", {"text": "  "}, "expected a sentence"),
        ("ner", {"txt": "a"}, "expected a text"),
        ("ner", {"text": "a", "picture": "a.png"}, "unknown key 'picture'"),
        ("ner", {"text": 3}, "text must be a string"),
        ("ner", {"text": "\ud83d"}, "text must be a string of Unicode"),
        ("ner", {"text": "a", "crops": "a.png"}, "crops must be a list"),
        ("ner", {"text": "a", "crops": ["a.png"] * 4}, "at most 3 crops, got 4"),
        ("ner", {"text": "a", "image": "c.png"}, r"c\.png: the file does not exist"),
        ("re", {"text": "a " * 99 + "b", "head": "a", "tail": "b"}, None),
    ],
)
def test_what_is_wrong_with_a_post_is_said(
    task: str, post: dict[str, Any], message: str | None, predictors: dict[str, Predictor], folder: Path
) -> None:
    if message:
        with pytest.raises(UserError, match=message):
            predictors[task].read(post, folder)
    [record] = predictors[task].records([json.dumps(post).encode()], folder)
    assert set(record) == {"line", "error"}


def posts_file(folder: Path) -> Path:
    good = [{"id": i, "text": f"look , Ruby Vex {'again ' * i}!", "image": "a.png"} for i in range(8)]
    lines = [json.dumps(post) for post in good]
    lines[2:2] = ["", "not json", '["a list"]', '{"text": "x", "image": "gone.png"}']
    (folder / "posts.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\n")
    return folder / "posts.jsonl"


def test_a_file_keeps_its_order_with_one_record_a_line(predictors: dict[str, Predictor], folder: Path) -> None:
    counts = predict_file(predictors["ner"], posts_file(folder), folder / "out.jsonl")
    records = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert counts == {"lines": 13, "errors": 5, "done": 0}
    assert [record["line"] for record in records] == list(range(1, 14))
    assert [record["id"] for record in records if "entities" in record] == list(range(8))
    assert [record["line"] for record in records if "error" in record] == [3, 4, 5, 6, 13]
    with pytest.raises(UserError, match="exists already"):
        predict_file(predictors["ner"], folder / "posts.jsonl", folder / "out.jsonl")


@settings(max_examples=10)
@given(cut=st.integers(0, 900))
def test_a_stopped_file_goes_on_where_it_was(cut: int, predictors: dict[str, Predictor], folder: Path) -> None:
    posts, whole, again = posts_file(folder), folder / "whole.jsonl", folder / "again.jsonl"
    for path in (whole, again):
        path.unlink(missing_ok=True)
    predict_file(predictors["ner"], posts, whole)
    (folder / "again.jsonl.partial").write_bytes(whole.read_bytes()[:cut])
    counts = predict_file(predictors["ner"], posts, again)
    assert again.read_bytes() == whole.read_bytes()
    assert counts["done"] == whole.read_bytes()[:cut].count(b"\n")


def make_samples(predictor: Predictor, folder: Path, count: int) -> list[Sample]:
    """Samples of any length in any order, some of them of one length."""
    extra = {"head": "Ruby", "tail": "Vex"} if predictor.processor.task == "re" else {}
    words = [3 * n % 7 for n in range(count)]
    posts = [{"text": f"{'so ' * n}Ruby Vex", "image": ("a.png", "b.png")[n % 2], **extra} for n in words]
    return [predictor.read(post, folder) for post in posts]


@pytest.mark.parametrize("task", FORMATS)
def test_many_posts_say_what_each_says_alone(task: str, predictors: dict[str, Predictor], folder: Path) -> None:
    predictor = predictors[task]
    samples = make_samples(predictor, folder, 10)  # four batches of three
    for together, sample in zip(predictor.predict(samples), samples, strict=True):
        [alone] = predictor.predict([sample])
        assert alone.said == together.said
        assert len(together.said) == len(sample.words) or task == "re"
        assert alone.probabilities == pytest.approx(together.probabilities, abs=1e-5)
    assert predictor.predict([]) == []


def test_pictures_are_loaded_for_one_batch_at_a_time_and_texts_encoded_once(
    predictors: dict[str, Predictor], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, events = predictors["ner"], []

    def watch(name: str, size: Callable[[Any], int]) -> None:
        function = getattr(predictor.processor, name)

        def watched(given: Any) -> Any:
            events.append((name, size(given)))
            return function(given)

        monkeypatch.setattr(predictor.processor, name, watched)

    watch("encode", lambda sample: len(sample.words))
    watch("pixels", lambda sample: len(sample.words))
    watch("collate", len)
    lines = [json.dumps({"text": "so " * n, "image": "a.png"}).encode() for n in (1, 4, 2, 5, 3)]
    records = list(predictor.records(lines, folder))
    assert [record["line"] for record in records] == [1, 2, 3, 4, 5]
    assert events == [
        *[("encode", n) for n in (1, 4, 2, 5, 3)],
        *[("pixels", 5), ("pixels", 4), ("pixels", 3), ("collate", 3)],
        *[("pixels", 2), ("pixels", 1), ("collate", 2)],
    ]


def test_no_more_of_a_file_is_read_than_a_window(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    taken = itertools.count()
    lines = (json.dumps({"text": "so", "id": next(taken)}).encode() for _ in range(200))
    records = predictors["ner"].records(lines, tmp_path)
    assert next(records)["id"] == 0
    assert next(taken) == WINDOW * predictors["ner"].batch_size
    assert len(list(records)) == 199


@pytest.mark.skipif(not product_is_exact(), reason="this CPU has no exact product of int8 matrices")
@pytest.mark.parametrize("task", FORMATS)
def test_int8_says_nearly_the_same(task: str, predictors: dict[str, Predictor], runs: Path, folder: Path) -> None:
    ours, theirs = Predictor(runs / f"run-{task}", int8=True), predictors[task]
    assert any(isinstance(module, Int8Linear) for module in ours.model.text.modules())
    samples = make_samples(theirs, folder, 10)
    pairs = list(zip(ours.predict(samples), theirs.predict(samples), strict=True))
    assert sum(one.said == other.said for one, other in pairs) >= 8
    for one, other in pairs:
        assert one.probabilities == pytest.approx(other.probabilities, abs=0.05)


def test_predictions_in_plain_words() -> None:
    sample = Sample("x:1", ("Ann", "Lee", "in", "Rome"), head=(0, 2), tail=(3, 4))
    assert describe(sample, ["B-PER", "I-PER", "O", "B-LOC"]) == "Ann Lee [PER], Rome [LOC]"
    assert describe(sample, ["O"] * 4) == "no entity"
    assert describe(sample, "/per/loc/born") == "Ann Lee --[/per/loc/born]--> Rome"
