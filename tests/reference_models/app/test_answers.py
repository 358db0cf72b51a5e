"""Answers of the app: the same predictions as the predictor, and no access to other files on the machine."""

import json
from pathlib import Path

import pytest
from PIL import Image

from reference_models.app.answers import GIVEN, WITHOUT, Answers, by_name
from reference_models.app.examples import read_examples
from reference_models.config.grounding import GroundingConfig
from reference_models.errors import UserError
from reference_models.prediction import Predictor
from reference_models.settings import read_settings
from reference_models.training.folder import CONFIG


@pytest.fixture(scope="module")
def answers(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answers]:
    centre = GroundingConfig(detector="centre", size=16)
    return {name: Answers(Predictor(run), centre, tmp_path_factory.mktemp(name)) for name, run in runs.items()}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (60, 60), (200, 30, 30)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("name", ["ner", "re"])
def test_answer_to_an_example_matches_the_predictor(
    name: str, answers: dict[str, Answers], runs: dict[str, Path]
) -> None:
    service = answers[name]
    example = read_examples(read_settings(runs[name] / CONFIG), service.task, 3)[1]
    answer = service.answer(example.post, GIVEN, example.boxes)
    text = {key: value for key, value in example.post.items() if key not in ("image", "crops")}
    [full], [bare] = (
        service.predictor.predict([service.predictor.read(post, Path())]) for post in (example.post, text)
    )
    assert answer.prediction.answer == full.answer
    assert answer.prediction.probabilities == pytest.approx(full.probabilities, abs=1e-5)
    assert answer.alone.probabilities == pytest.approx(bare.probabilities, abs=1e-5)
    assert name == "ner" or answer.alone.probabilities != answer.prediction.probabilities
    assert answer.boxes == [example.boxes[crop] for crop in example.post["crops"]]
    assert len(answer.attention.images) == len(answer.boxes)
    assert answer.notes == []


def test_crops_follow_the_chosen_option(answers: dict[str, Answers], image: Path) -> None:
    service = answers["ner"]
    post = {"text": "look , Ruby Vex", "image": str(image), "crops": [str(image)]}
    found = service.answer(post, "centre")
    assert found.boxes == [(10, 10, 50, 50), (0, 0, 40, 40), (20, 0, 60, 40)]
    assert [Image.open(crop).size for crop in found.sample.crops] == [(16, 16)] * 3
    left_out = service.answer(post, WITHOUT)
    assert (left_out.sample.crops, left_out.boxes, left_out.attention) == ((), [], None)
    assert left_out.prediction.probabilities == pytest.approx(left_out.alone.probabilities)
    assert ["it did not see the image" in note for note in left_out.notes] == [True]
    assert service.answer(post).boxes == [None]
    again = service.answer(post, "centre")
    assert not set(again.sample.crops) & set(found.sample.crops)
    assert service.answer({"text": "a b"}, "centre").alone is None


def test_truncated_words_are_noted(answers: dict[str, Answers]) -> None:
    [note] = answers["text-only"].answer({"text": "a " * 100}).notes
    assert "The last 22 words are beyond the limit of 80 sub-words" in note


def test_image_for_a_text_only_model_raises(answers: dict[str, Answers], image: Path) -> None:
    assert [service.sees_images for service in answers.values()] == [True, True, False]
    with pytest.raises(UserError, match="reads only text; leave out image and crops"):
        answers["text-only"].answer({"text": "a", "image": str(image)})


def test_texts_about_the_image_are_read_or_missed(run_with_texts: Path, tmp_path: Path) -> None:
    asked = Answers(Predictor(run_with_texts), GroundingConfig(), tmp_path)
    assert (asked.sees_images, asked.texts) == (False, ["tags", "caption"])
    example = read_examples(read_settings(run_with_texts / CONFIG), asked.task, 3)[1]
    answer = asked.answer(example.post)
    text = {"text": example.post["text"]}
    [full], [bare] = (asked.predictor.predict([asked.predictor.read(post, Path())]) for post in (example.post, text))
    assert answer.prediction.probabilities == pytest.approx(full.probabilities, abs=1e-5)
    assert answer.alone.probabilities == pytest.approx(bare.probabilities, abs=1e-5)
    assert answer.alone.probabilities != answer.prediction.probabilities
    assert answer.notes == []
    without = asked.answer(text)
    assert without.alone is None
    assert without.notes == ["This model also reads texts about the image (tags, caption), and there are none."]


def test_configured_detector_comes_first_and_needs_local_weights(runs: dict[str, Path], tmp_path: Path) -> None:
    service = Answers(Predictor(runs["ner"]), GroundingConfig(detector="owlv2", weights=str(tmp_path)), tmp_path)
    assert service.detectors == ["owlv2", "centre", "grounding-dino", "torchvision"]
    with pytest.raises(
        UserError, match=r"owlv2 .* downloads nothing: .* with --grounding.detector owlv2 --grounding.w"
    ):
        service.answer({"text": "a", "image": str(save_image(tmp_path))}, "owlv2")
    assert len(service.answer({"text": "a", "image": str(save_image(tmp_path))}, "centre").boxes) == 3


def save_image(folder: Path) -> Path:
    Image.new("RGB", (60, 60)).save(folder / "b.png")
    return folder / "b.png"


def test_file_of_posts_is_answered_line_by_line(answers: dict[str, Answers], image: Path, tmp_path: Path) -> None:
    service = answers["ner"]
    lines = [
        {"id": 7, "text": "look , Ruby Vex", "image": "images/a.png"},
        {"text": "look", "image": str(Path(__file__))},
        {"text": "look", "image": "..", "crops": [3]},
        {"text": "look", "crops": ["x\\a.png"]},
    ]
    posts = tmp_path / "posts.jsonl"
    posts.write_text("\n".join([*map(json.dumps, lines), "no post", "[1]"]) + "\n")
    output, counts = service.answer_file([posts, image], "centre")
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert counts == {"posts": 6, "errors": 4}
    assert [record["line"] for record in records] == [1, 2, 3, 4, 5, 6]
    expected = service.answer({"text": "look , Ruby Vex", "image": str(image)}, "centre")
    found = service.task.to_json(expected.sample, expected.prediction, "look , Ruby Vex")
    assert records[0]["id"] == 7
    assert [entity["type"] for entity in records[0]["entities"]] == [entity["type"] for entity in found["entities"]]
    assert records[1]["error"] == f"{Path(__file__).name}: the file does not exist"
    assert "crops must be a list of paths" in records[2]["error"]
    assert "entities" in records[3]
    assert service.predictor.ground is None


def test_image_paths_of_posts_are_reduced_to_file_names() -> None:
    for given, expected in (("/etc/passwd", "passwd"), ("a/b/c.png", "c.png"), ("..", "_"), ("x/..", "_"), ("", "_")):
        assert json.loads(by_name(json.dumps({"image": given, "crops": [given]}).encode())) == {
            "image": expected,
            "crops": [expected],
        }
    for line in (b"no json", b"[1]", b"\xff", b'{"image": "a.png", "image": "b.png"}'):
        assert by_name(line) == line


def test_invalid_uploads_raise(answers: dict[str, Answers], image: Path, tmp_path: Path) -> None:
    posts = tmp_path / "posts.jsonl"
    posts.write_text("")
    for files, message in (
        ([], "expected one .jsonl file of posts, together with the images that its posts name; got nothing"),
        ([image], r"got a\.png"),
        ([posts, posts], r"got posts\.jsonl, posts\.jsonl"),
        ([posts], r"posts\.jsonl is empty"),
        (
            [posts, tmp_path / "x" / "1.png", image, tmp_path / "y" / "1.png"],
            r"several files named 1\.png; rename them",
        ),
    ):
        with pytest.raises(UserError, match=message):
            answers["ner"].answer_file(files)
