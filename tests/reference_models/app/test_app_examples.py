"""Example posts from the test split: the content of their samples, and boxes where the data set has them."""

from dataclasses import replace
from pathlib import Path

import pytest

from reference_models.app.examples import is_post, known_boxes, read_examples
from reference_models.data.samples import Sample
from reference_models.errors import UserError
from reference_models.grounding.crops import make_crops
from reference_models.settings import read_settings
from reference_models.systems.ita import ITAConfig
from reference_models.tasks import NamedEntities, Relations
from reference_models.tasks.processor import Processor
from reference_models.training.folder import CONFIG
from reference_models.training.run import MODEL, read_samples

NER, RE = NamedEntities(["O", "B-PER", "I-PER"]), Relations(["None"])


@pytest.mark.parametrize("name", ["ner", "re", "text-only"])
def test_examples_are_posts_of_the_test_split(name: str, runs: dict[str, Path]) -> None:
    config, task = read_settings(runs[name] / CONFIG), Processor.from_pretrained(runs[name] / MODEL).task
    samples = {" ".join(sample.words): sample for sample in read_samples(config, "test")}
    examples = read_examples(config, task, 5)
    assert len(examples) == 5
    for example in examples:
        sample = samples[example.post["text"]]
        assert example.title.startswith(example.post["text"])
        assert set(task.post_keys) <= set(example.post)
        assert all(example.post[key] in example.title for key in task.post_keys)
        if name == "text-only":
            assert "image" not in example.post
        else:
            assert example.post["image"] == str(sample.image)
            assert example.post["crops"] == [str(crop) for crop in sample.crops] != []
            assert set(example.boxes) == set(example.post["crops"])


def test_examples_have_the_texts_about_images_that_the_system_reads(
    runs: dict[str, Path], run_with_texts: Path
) -> None:
    config = read_settings(run_with_texts / CONFIG)
    texts = {" ".join(sample.words): dict(sample.image_texts) for sample in read_samples(config, "test")}
    examples = read_examples(config, NER, 5)
    assert all(example.post["image_texts"] == texts[example.post["text"]] != {} for example in examples)
    assert isinstance(config.model, ITAConfig)
    config.model.texts = ["caption"]  # the data have tags alone
    assert not any("image_texts" in example.post for example in read_examples(config, NER, 5))


def test_is_post_rejects_samples_that_a_post_cannot_express() -> None:
    assert is_post(NER, Sample("x:1", ("a", "b")))
    assert not is_post(NER, Sample("x:1", ("a b", "c")))
    assert is_post(RE, Sample("x:1", ("a", "b"), head=(0, 1), tail=(1, 2)))
    assert not is_post(RE, Sample("x:1", ("a", "a", "b"), head=(1, 2), tail=(2, 3)))  # a post names the first "a"


def test_known_boxes_are_found_in_a_symlinked_data_folder(runs: dict[str, Path], tmp_path: Path) -> None:
    config = read_settings(runs["ner"] / CONFIG)
    data = Path(config.data.root)
    drawn = known_boxes(config)
    assert {Path(path).parent for path in drawn} == {path.parent for path in data.parent.rglob("test_*_crop_*.png")}
    (tmp_path / "posts").symlink_to(data)
    for folder in data.parent.glob("posts_*"):
        (tmp_path / folder.name).symlink_to(folder)
    copy = replace(config.data, root=str(tmp_path / "posts"))
    assert set(known_boxes(replace(config, data=copy)).values()) == set(drawn.values())


def test_missing_data_raises(runs: dict[str, Path], tmp_path: Path) -> None:
    config = read_settings(runs["ner"] / CONFIG, ["--data.root", str(tmp_path / "gone")])
    with pytest.raises(UserError, match="gone"):
        read_examples(config, NER, 5)


def test_manifest_boxes_take_precedence_over_synthetic_boxes(tmp_path: Path) -> None:
    from reference_models.data.synthetic import generate

    generate(tmp_path / "posts", "ner", 0, {"train": 2, "valid": 2, "test": 2})
    config = read_settings("synthetic-ner", ["--data.root", str(tmp_path / "posts"), "--grounding.overwrite", "true"])
    make_crops(config.data, config.grounding)
    boxes = known_boxes(config)
    assert len(boxes) == 6
    assert all(Path(crop).is_file() for crop in boxes)
    assert set(boxes.values()) == {(16, 16, 80, 80), (0, 0, 64, 64), (32, 0, 96, 64)}
