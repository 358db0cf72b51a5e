"""Prediction of posts: clear errors, output order, resuming an interrupted file, and batching."""

import itertools
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reference_models.config import DataConfig, RunConfig, TrainingConfig
from reference_models.config.grounding import GroundingConfig
from reference_models.data.formats.mnre import Mnre
from reference_models.data.formats.twitter import Twitter
from reference_models.data.samples import Sample
from reference_models.data.synthetic import generate
from reference_models.encoders.int8 import Int8Linear, product_is_exact
from reference_models.errors import UserError
from reference_models.grounding.posts import PostGrounder
from reference_models.prediction import WINDOW, Predictor
from reference_models.prediction_file import predict_file
from reference_models.systems.i2srm import I2SRMConfig
from reference_models.tasks.dataset import EncodedSplit
from reference_models.training.evaluation import evaluate_split
from reference_models.training.run import train

FORMATS = {"ner": "twitter", "re": "mnre"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for task, format_ in FORMATS.items():
        generate(folder / task / "posts", task, 0, {"train": 16, "valid": 4, "test": 4})
        data = DataConfig(format=format_, root=str(folder / task / "posts"), image_size=32)
        model = I2SRMConfig(text="tiny", vision="tiny", vision_weights="none")
        train(RunConfig("i2srm", model, str(folder / f"run-{task}"), data, TrainingConfig(epochs=1, batch_size=8)))
    return folder


@pytest.fixture(scope="module")
def predictors(runs: Path) -> dict[str, Predictor]:
    return {task: Predictor(runs / f"run-{task}", batch_size=3) for task in FORMATS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 60), (200, 30, 30)).save(tmp_path / name)
    return tmp_path


def test_image_without_crops_warns_once_and_has_no_crops(
    predictors: dict[str, Predictor], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read = predictors["ner"].read
    with caplog.at_level(logging.WARNING):
        assert read({"text": "x y", "image": "a.png"}, folder, "line 1").crops == ()
        assert read({"text": "x y", "image": "a.png"}, folder, "line 2").crops == ()
    [message] = caplog.messages
    assert message.startswith("line 1: this model reads only the crops of an image, and there are none; give crops")
    assert read({"text": "x y", "image": "a.png", "crops": ["b.png"]}, folder).crops == (folder / "b.png",)
    assert read({"text": "x y"}, folder) == Sample("the post", ("x", "y"))


@pytest.mark.parametrize("task", FORMATS)
def test_posts_without_crops_match_evaluation(task: str, predictors: dict[str, Predictor], runs: Path) -> None:
    predictor, read = predictors[task], {"ner": Twitter().read, "re": Mnre().read}[task]
    samples = list(read(runs / task / "posts", "train", max_crops=0))
    evaluation = evaluate_split(predictor.model, EncodedSplit(samples, predictor.processor), 4, progress=False)
    posts = []
    for sample in samples:
        pair = {
            name: " ".join(sample.words[slice(*getattr(sample, name))]) for name in ("head", "tail") if task == "re"
        }
        posts.append({"text": " ".join(sample.words), "image": str(sample.image), **pair})
    read_again = [predictor.read(post, Path()) for post in posts]
    assert [prediction.answer for prediction in predictor.predict(read_again)] == evaluation.predictions


@pytest.mark.parametrize(("task", "pair"), [("ner", {}), ("re", {"head": "Ann", "tail": "Bob"})])
def test_words_beyond_the_length_limit_are_counted(
    task: str, pair: dict[str, str], predictors: dict[str, Predictor], folder: Path
) -> None:
    words = ["Ann", "Bob", *"x" * 100]
    posts = [{"text": " ".join(some), **pair} for some in (words, words[:9])]
    long, short = predictors[task].records([json.dumps(post).encode() for post in posts], folder)
    assert "words_cut" not in short
    limit = predictors[task].processor.max_length
    taken = 2 + (4 if task == "re" else 0)  # special tokens and entity markers
    subwords = predictors[task].processor.tokenizer(words[:2], is_split_into_words=True, add_special_tokens=False)
    assert long["words_cut"] == len(words) - 2 - (limit - taken - len(subwords["input_ids"]))


def test_detector_makes_crops_for_images_without_crops(
    predictors: dict[str, Predictor], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = predictors["ner"]
    config = GroundingConfig(detector="centre", top=2, size=16)
    monkeypatch.setattr(predictor, "ground", PostGrounder(False, config, folder / "crops"))
    crops = predictor.read({"text": "x y", "image": "a.png"}, folder, "line 7").crops
    assert [crop.name for crop in crops] == ["line_7_0.png", "line_7_1.png"]
    assert all(Image.open(crop).size == (16, 16) for crop in crops)
    sample, boxes = predictor.ground.locate(Sample("x:1", ("x",), folder / "a.png"), "post")
    assert [crop.name for crop in sample.crops] == ["post_0.png", "post_1.png"]
    assert [box.bounds() for box in boxes] == [(10, 10, 50, 50), (0, 0, 40, 40)]
    assert predictor.read({"text": "x y", "image": "a.png", "crops": ["b.png"]}, folder).crops == (folder / "b.png",)
    assert predictor.read({"text": "x y"}, folder).crops == ()
    with pytest.raises(UserError, match=r"c\.png: the file does not exist"):
        predictor.read({"text": "x y", "image": "c.png"}, folder)


def test_entity_pairs_match_whole_words_and_do_not_overlap(predictors: dict[str, Predictor]) -> None:
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
            "the head entity 'An' is not in the sentence",
        ),
        ("re", {"text": "Ann met Bob", "head": "", "tail": "Bob"}, "the head entity ''"),
        ("re", {"text": "Ann met Bob", "head": "Ann", "tail": "Ann"}, "the tail entity 'Ann'"),
        ("re", {"text": "Ann met Bob", "head": "Ann"}, "needs head and tail"),
        ("ner", {"text": "Ann met Bob", "head": "Ann"}, "unknown key 'head'"),
        ("ner", {"text": "  "}, "expected a sentence"),
        ("ner", {"txt": "a"}, "expected a text"),
        ("ner", {"text": "a", "photo": "a.png"}, "unknown key 'photo'"),
        ("ner", {"text": 3}, "text must be a string"),
        ("ner", {"text": "\ud83d"}, "text must be a string of Unicode"),
        ("ner", {"text": "a", "crops": "a.png"}, "crops must be a list"),
        ("ner", {"text": "a", "crops": ["a.png"] * 4}, "at most 3 crops, got 4"),
        ("ner", {"text": "a", "image": "c.png"}, r"c\.png: the file does not exist"),
        ("re", {"text": "a " * 99 + "b", "head": "a", "tail": "b"}, None),
    ],
)
def test_invalid_posts_raise_and_give_error_records(
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


def test_output_has_one_record_per_line_in_input_order(predictors: dict[str, Predictor], folder: Path) -> None:
    counts = predict_file(predictors["ner"], posts_file(folder), folder / "out.jsonl")
    records = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert counts == {"lines": 13, "errors": 5, "cut": 0, "done": 0}
    assert [record["line"] for record in records] == list(range(1, 14))
    assert [record["id"] for record in records if "entities" in record] == list(range(8))
    assert [record["line"] for record in records if "error" in record] == [3, 4, 5, 6, 13]
    with pytest.raises(UserError, match="already exists"):
        predict_file(predictors["ner"], folder / "posts.jsonl", folder / "out.jsonl")


def interrupt(predictor: Predictor, posts: Path, output: Path, content: bytes = b"") -> None:
    """Leave the files of a killed call, with `content` as its unfinished records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "records", stop)
        with pytest.raises(KeyboardInterrupt):
            predict_file(predictor, posts, output)
    output.with_name(f"{output.name}.partial").write_bytes(content)


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@settings(max_examples=10)
@given(cut=st.integers(0, 900))
def test_interrupted_file_resumes(cut: int, predictors: dict[str, Predictor], folder: Path) -> None:
    posts, whole, again = posts_file(folder), folder / "whole.jsonl", folder / "again.jsonl"
    for path in (whole, again, folder / "again.jsonl.partial"):
        path.unlink(missing_ok=True)
    predict_file(predictors["ner"], posts, whole)
    interrupt(predictors["ner"], posts, again, whole.read_bytes()[:cut])
    counts = predict_file(predictors["ner"], posts, again)
    assert again.read_bytes() == whole.read_bytes()
    assert counts["done"] == whole.read_bytes()[:cut].count(b"\n")
    assert {path.name for path in folder.iterdir() if "again" in path.name} == {"again.jsonl"}


def test_unfinished_records_of_another_call_are_not_continued(
    predictors: dict[str, Predictor], runs: Path, folder: Path
) -> None:
    posts, output = posts_file(folder), folder / "out.jsonl"
    interrupt(predictors["ner"], posts, output, b'{"line": 1}\n')
    left = (folder / "out.jsonl.partial").read_bytes()
    with pytest.raises(UserError, match=r"out\.jsonl\.partial holds .* of another call: model was \w+ and is now \w+"):
        predict_file(predictors["re"], posts, output)
    ground = PostGrounder(False, GroundingConfig(detector="centre"), folder / "crops")
    with pytest.raises(UserError, match=r"ground was None and is now centre 1, .*; delete it"):
        predict_file(Predictor(runs / "run-ner", ground=ground), posts, output)
    posts.write_bytes(posts.read_bytes()[1:])
    with pytest.raises(UserError, match=r"another call: input was \w+ and is now \w+; delete it"):
        predict_file(predictors["ner"], posts, output)
    (folder / "out.jsonl.partial.json").unlink()
    with pytest.raises(UserError, match="input was unknown"):
        predict_file(predictors["ner"], posts, output)
    assert (folder / "out.jsonl.partial").read_bytes() == left
    assert not output.exists()


def test_locked_output_file_raises(predictors: dict[str, Predictor], folder: Path) -> None:
    posts = posts_file(folder)
    with (
        FileLock(folder / "out.jsonl.lock"),
        pytest.raises(UserError, match=r"another process is writing .*out\.jsonl"),
    ):
        predict_file(predictors["ner"], posts, folder / "out.jsonl")
    assert not (folder / "out.jsonl.partial").exists()
    predict_file(predictors["ner"], posts, folder / "out.jsonl")
    assert not (folder / "out.jsonl.lock").exists()


def test_unreadable_or_unwritable_files_raise(predictors: dict[str, Predictor], folder: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jsonl: cannot be read \(No such file"):
        predict_file(predictors["ner"], folder / "gone.jsonl", folder / "out.jsonl")
    with pytest.raises(UserError, match=r"a\.png\S*: cannot be written \((Not a dir|File exists)"):
        predict_file(predictors["ner"], posts_file(folder), folder / "a.png" / "out.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here is always full")
def test_full_disk_raises(predictors: dict[str, Predictor], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    posts, open_file = posts_file(folder), Path.open

    def open_full(path: Path, mode: str = "r", **options: Any) -> Any:
        return open_file(Path("/dev/full") if mode == "a" else path, mode, **options)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(UserError, match=r"out\.jsonl\.partial: cannot be written \(No space left"):
        predict_file(predictors["ner"], posts, folder / "out.jsonl")


def make_samples(predictor: Predictor, folder: Path, count: int) -> list[Sample]:
    """Return samples of mixed lengths, some of equal length."""
    extra = {"head": "Ruby", "tail": "Vex"} if predictor.processor.task.name == "re" else {}
    words = [3 * n % 7 for n in range(count)]
    posts = [{"text": f"{'so ' * n}Ruby Vex", "image": ("a.png", "b.png")[n % 2], **extra} for n in words]
    return [predictor.read(post, folder) for post in posts]


@pytest.mark.parametrize("task", FORMATS)
def test_batched_predictions_equal_single_ones(task: str, predictors: dict[str, Predictor], folder: Path) -> None:
    predictor = predictors[task]
    samples = make_samples(predictor, folder, 10)  # four batches of three
    for together, sample in zip(predictor.predict(samples), samples, strict=True):
        [alone] = predictor.predict([sample])
        assert alone.answer == together.answer
        assert len(together.answer) == len(sample.words) or task == "re"
        assert alone.probabilities == pytest.approx(together.probabilities, abs=1e-5)
    assert predictor.predict([]) == []


def test_images_are_loaded_per_batch_and_texts_encoded_once(
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


def test_at_most_one_window_of_a_file_is_read_ahead(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    taken = itertools.count()
    lines = (json.dumps({"text": "so", "id": next(taken)}).encode() for _ in range(200))
    records = predictors["ner"].records(lines, tmp_path)
    assert next(records)["id"] == 0
    assert next(taken) == WINDOW * predictors["ner"].batch_size
    assert len(list(records)) == 199


@pytest.mark.skipif(not product_is_exact(), reason="this CPU has no exact product of int8 matrices")
@pytest.mark.parametrize("task", FORMATS)
def test_int8_predictions_are_close_to_float32(
    task: str, predictors: dict[str, Predictor], runs: Path, folder: Path
) -> None:
    ours, theirs = Predictor(runs / f"run-{task}", int8=True), predictors[task]
    assert any(isinstance(module, Int8Linear) for module in ours.model.text_encoder.modules())
    samples = make_samples(theirs, folder, 10)
    pairs = list(zip(ours.predict(samples), theirs.predict(samples), strict=True))
    assert sum(one.answer == other.answer for one, other in pairs) >= 8
    for one, other in pairs:
        assert one.probabilities == pytest.approx(other.probabilities, abs=0.05)


def test_one_post_and_several_posts_give_the_same_records(predictors: dict[str, Predictor], folder: Path) -> None:
    ner, relations = predictors["ner"], predictors["re"]
    texts = ["look , Ruby Vex\tagain", "  Azure  Mor ", "nothing here"]
    records = ner.predict_posts([{"text": text} for text in texts])
    for record, text in zip(records, texts, strict=True):
        alone = ner(text)["entities"]
        assert [entity["characters"] for entity in record["entities"]] == [entity["characters"] for entity in alone]
        chances = [entity["probability"] for entity in record["entities"]]
        assert chances == pytest.approx([entity["probability"] for entity in alone], abs=1e-5)
    pair = {"head": "Ruby Vex", "tail": "Azure Mor", "image": str(folder / "a.png")}
    record = relations("Ruby Vex and Azure Mor", **pair)
    assert 0 < record["probability"] <= 1
    assert record["relation"] in relations.processor.task.labels


def test_entities_have_character_offsets_and_a_probability(runs: Path) -> None:
    predictor = Predictor(runs / "run-ner")
    torch.manual_seed(0)
    torch.nn.init.normal_(predictor.model.head.linear.weight)  # so that the model predicts some entities
    rng = random.Random(0)
    found = 0
    for _ in range(30):
        words = rng.choices(["look", "Ruby", "Vex", "Azure", "Mor", ",", "singer", "island"], k=6)
        text = "".join(f"{rng.choice([' ', '  ', chr(9)])}{word}" for word in words)
        for entity in predictor(text)["entities"]:
            start, end = entity["characters"]
            assert text[start:end].split() == entity["text"].split() == words[entity["start"] : entity["end"]]
            assert 0 < entity["probability"] <= 1
            found += 1
    assert found


def test_from_pretrained_accepts_a_run_or_a_model_folder(runs: Path, predictors: dict[str, Predictor]) -> None:
    text = "look , Ruby Vex again"
    for name in (runs / "run-ner", str(runs / "run-ner" / "model")):
        assert Predictor.from_pretrained(name, batch_size=2)(text) == predictors["ner"](text)
    with pytest.raises(
        UserError, match=r"expected the directory of a finished run, a model folder, .* this folder is neither"
    ):
        Predictor.from_pretrained(runs)


def test_invalid_post_error_names_its_number(predictors: dict[str, Predictor]) -> None:
    with pytest.raises(UserError, match=r"^post 2: expected a text"):
        predictors["ner"].predict_posts([{"text": "a"}, {"txt": "b"}])
    with pytest.raises(UserError, match=r"^the post: unknown key 'head'"):
        predictors["ner"]("a", head="a")


def test_text_only_model_raises_on_images_and_names_image_texts(
    predictors: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictors["ner"].processor, "image_size", None)
    post = {"text": "a post", "image": "post.jpg"}
    with pytest.raises(UserError, match="reads only text; leave out image and crops"):
        predictors["ner"].read(post, Path())
    monkeypatch.setattr(predictors["ner"].processor, "texts", ["caption"])
    with pytest.raises(UserError, match="reads only text; give image_texts instead of image and crops"):
        predictors["ner"].read(post, Path())


def test_byte_order_mark_is_ignored(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    line = b'{"text": "what a day with Ruby Vexmor"}'
    [plain] = predictors["ner"].records([line], tmp_path)
    [marked] = predictors["ner"].records([b"\xef\xbb\xbf" + line], tmp_path)
    assert "error" not in plain
    assert marked == plain


def test_repeated_key_gives_an_error_record(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    [record] = predictors["ner"].records([b'{"text": "Ann", "text": "Bob"}'], tmp_path)
    assert record["error"].startswith("an object has the key 'text' twice")
