"""Synthetic data sets: reproducible from a seed, readable like the real files, and with a correct text-only ceiling."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reference_models.data import synthetic
from reference_models.data.bio import spans
from reference_models.data.drawing import HUES, SHAPE_NAMES, SIZE, draw
from reference_models.data.formats.mnre import Mnre, read_relations
from reference_models.data.formats.twitter import Twitter
from reference_models.data.image_texts import image_texts_path, read_image_texts
from reference_models.data.synthetic import Post, crop_boxes, generate, kinds, text_only_ceiling
from reference_models.errors import UserError

SIZES = {"train": 30, "valid": 8, "test": 8}
READERS = {"ner": Twitter().read, "re": Mnre().read}
COMPOSERS = {"ner": synthetic._ner_post, "re": synthetic._re_post}
tasks = pytest.mark.parametrize("task", ["ner", "re"])


def file_contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@tasks
def test_same_seed_same_bytes(task: str, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(tmp_path / name / "set", task, seed, SIZES)
    first, second, other = (file_contents(tmp_path / name) for name in "abc")
    assert first == second
    assert first != other


@tasks
def test_samples_match_the_ground_truth_files(task: str, tmp_path: Path) -> None:
    generate(tmp_path / "set", task, 0, SIZES)
    for split, size in SIZES.items():
        samples = list(READERS[task](tmp_path / "set", split))
        truth = [json.loads(line) for line in (tmp_path / "set" / f"truth_{split}.jsonl").read_text().splitlines()]
        assert [sample.id for sample in samples] == [row["id"] for row in truth] == list(kinds(tmp_path / "set", split))
        assert len(samples) == size
        for sample, row in zip(samples, truth, strict=True):
            assert len(sample.crops) <= len(row["objects"])
            assert Image.open(sample.image).size == (SIZE, SIZE)
            if task == "ner":
                assert [kind for _, _, kind in sorted(spans(sample.tags))] == row["types"]
            else:
                assert sample.relation == synthetic.PAIRS.get(tuple(row["types"]), "None")
    if task == "re":
        assert list(read_relations(tmp_path / "set")) == ["None", *synthetic.RELATIONS]


def test_image_tags_are_mostly_correct(tmp_path: Path) -> None:
    generate(tmp_path / "set", "ner", 0, {"train": 400, "valid": 1, "test": 1})
    rows = [json.loads(line) for line in (tmp_path / "set" / "truth_train.jsonl").read_text().splitlines()]
    texts = read_image_texts(image_texts_path(tmp_path / "set", "train"))
    stated, shown, right = 0, 0, 0
    for number, row in enumerate(rows):
        own = texts[f"train_{number}.jpg"]["tags"]
        tags = own.split(", ") if own else []
        known = {f"{one['colour']} {SHAPE_NAMES[one['type']]}" for one in row["objects"]}
        assert {tag.split()[0] for tag in tags} <= {one["colour"] for one in row["objects"]}
        stated, shown, right = stated + len(tags), shown + len(known), right + len(known & set(tags))
    assert 0.96 < stated / shown < 0.995
    assert 0.96 < right / stated < 0.999


def test_crops_match_the_object_boxes(tmp_path: Path) -> None:
    generate(tmp_path / "set", "re", 0, SIZES)
    for sample, line in zip(
        Mnre().read(tmp_path / "set", "train"),
        (tmp_path / "set" / "truth_train.jsonl").read_text().splitlines(),
        strict=True,
    ):
        image = Image.open(sample.image)
        boxes = {thing["crop"]: thing["box"] for thing in json.loads(line)["objects"] if thing["crop"]}
        assert set(boxes) == {crop.name for crop in sample.crops}
        for crop in sample.crops:
            left, top, right, bottom = boxes[crop.name]
            shown, cut = np.asarray(Image.open(crop), int), np.asarray(image, int)[top:bottom, left:right]
            assert shown.shape == cut.shape
            assert np.abs(shown - cut).mean() < 25  # the image is a JPEG, its crops were cut before compression
        assert image.mode == "RGB"
    assert crop_boxes(tmp_path / "set", "train").keys() == {
        crop.name for crop in (tmp_path / "set").rglob("train*.png")
    }


@tasks
def test_names_identify_objects_by_colour(task: str) -> None:
    rng = random.Random(3)
    colour_of = {word: colour for colour, words in synthetic.COLOUR_WORDS.items() for word in words}
    for _ in range(300):
        post = COMPOSERS[task](rng)
        shown = {colour: type_ for type_, colour in post.objects}
        assert len(shown) == len(post.objects) <= 3
        named = [shown.get(colour_of[post.words[start]]) for start, _ in post.spans]
        if post.kind != "single" and not any(title in post.words for title in synthetic.TITLES.values()):
            assert named == list(post.types)
        assert all(type_ in (None, true) for type_, true in zip(named, post.types, strict=True))
        assert any(named)


@tasks
def test_posteriors_match_frequencies_over_many_posts(task: str) -> None:
    rng = random.Random(5)
    expected: dict[str, Counter[str]] = {}
    seen: dict[str, Counter[str]] = {}
    for _ in range(20_000):
        post = COMPOSERS[task](rng)
        answers = post.types if task == "ner" else (post.relation,)
        for posterior, answer in zip(post.posterior, answers, strict=True):
            key = json.dumps(posterior)
            expected.setdefault(key, Counter()).update(posterior)
            seen.setdefault(key, Counter())[answer] += 1
    for key, counts in expected.items():
        total = seen[key].total()
        for label, count in counts.items():
            p = count / total
            assert abs(seen[key][label] - count) <= 5 * (total * p * (1 - p)) ** 0.5 + 1e-6, (key, label)


def test_share_of_none_relations_matches_mnre() -> None:
    rng = random.Random(0)
    share = sum(synthetic._re_post(rng).relation == "None" for _ in range(5000)) / 5000
    assert abs(share - 0.63) < 0.03


@given(st.lists(st.lists(st.floats(0.01, 0.3), max_size=3), min_size=1, max_size=5))
def test_text_only_ceiling_matches_the_best_decision_rule(chances: list[list[float]]) -> None:
    posteriors = [{f"label{i}": p for i, p in enumerate(row)} for row in chances]
    post = Post((), (), (), None, (), "several", tuple(posteriors))
    true = sum(sum(row) for row in chances)
    best = 0.0
    for answers in itertools.product(*[[None, *row] for row in posteriors]):
        answered = [posterior[label] for posterior, label in zip(posteriors, answers, strict=True) if label]
        if answered:
            best = max(best, 2 * sum(answered) / (len(answered) + true))
    assert text_only_ceiling([post]) == pytest.approx(best)


def test_nonempty_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        generate(tmp_path, "ner", 0, SIZES)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_objects_are_drawn_in_their_colour_inside_their_box() -> None:
    image, figures = draw([("PER", "red"), ("LOC", "blue"), ("ORG", "green"), ("MISC", "yellow")], random.Random(1))
    assert [(figure.type, figure.colour) for figure in figures][:2] == [("PER", "red"), ("LOC", "blue")]
    for figure in figures:
        pixels = np.asarray(image.crop(figure.box).convert("HSV")).reshape(-1, 3).tolist()
        strong = [hue / 255 for hue, saturation, _ in pixels if saturation > 150]
        near = [h for h in strong if min(abs(h - HUES[figure.colour]), 1 - abs(h - HUES[figure.colour])) < 0.06]
        assert len(near) > 0.2 * len(pixels)
