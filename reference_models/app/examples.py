"""Example posts from the test split of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reference_models.config import RunConfig
from reference_models.data.formats import get_format
from reference_models.data.samples import Sample
from reference_models.data.synthetic import crop_boxes
from reference_models.errors import UserError
from reference_models.grounding.manifest import read_manifest
from reference_models.tasks import Task
from reference_models.training.run import read_samples

Bounds = tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """An example post.

    Attributes:
        title: Title in the list of examples.
        post: A post as in `Predictor.read`: `text`, `image`, `crops`, `image_texts` and the keys of the task.
            Paths are strings.
        boxes: Position of each crop in the image, by crop path: left, top, right, bottom in pixels.
    """

    title: str
    post: dict[str, Any]
    boxes: dict[str, Bounds] = field(default_factory=dict)


def read_examples(config: RunConfig, task: Task, count: int) -> list[Example]:
    """Read evenly spaced posts of the test split; if any have crops, only those are taken.

    Args:
        config: Settings of the run.
        task: Task of the model.
        count: Maximum number of examples.

    Returns:
        At most `count` examples, in the order of the split.

    Raises:
        UserError: If the data set cannot be read.
    """
    samples = read_samples(config, "test")
    fitting = [number for number, sample in enumerate(samples) if is_post(task, sample)]
    telling = [number for number in fitting if samples[number].crops] or fitting
    step = max(1, len(telling) // count)
    boxes = known_boxes(config)
    examples = []
    for sample in (samples[number] for number in telling[::step][:count]):
        post: dict[str, Any] = {"text": " ".join(sample.words), **task.to_post(sample)}
        if sample.image is not None:
            post |= {"image": str(sample.image), "crops": [str(crop) for crop in sample.crops]}
        if texts := {kind: text for kind, text in sample.image_texts if kind in config.model.inputs.texts}:
            post["image_texts"] = texts
        marks = {str(crop): boxes[str(crop)] for crop in sample.crops if str(crop) in boxes}
        examples.append(Example(title_of(post, task), post, marks))
    return examples


def title_of(post: Mapping[str, Any], task: Task) -> str:
    """Return the title of a post in the list of examples."""
    asked = ", ".join(f"{key} {post[key]}" for key in task.post_keys)
    return f"{post['text']} ({asked})" if asked else post["text"]


def is_post(task: Task, sample: Sample) -> bool:
    """Return whether a post can represent a sample: no spaces inside words, and entities that their words identify."""
    if tuple(" ".join(sample.words).split()) != sample.words:
        return False
    try:
        found = task.read_post(task.to_post(sample), sample.words)
    except UserError:
        return False
    return all(getattr(sample, name) == value for name, value in found.items())


def known_boxes(config: RunConfig) -> dict[str, Bounds]:
    """Return the known positions of the test split's crops in their images, by crop path."""
    root = Path(config.data.root)
    place = get_format(config.data.format).layout(root, "test")
    rows = read_manifest(root / "crops_test.jsonl")
    found = {row.crop: tuple(row.box) for row in rows if row.crop is not None and row.box is not None}
    if not found and (root / "truth_test.jsonl").is_file():
        found = dict(crop_boxes(root, "test"))
    return {str(place.crops / name): box for name, box in found.items()}


def titles(examples: Sequence[Example]) -> list[tuple[str, int]]:
    """Return the title and number of each example, as choices of a dropdown."""
    return [(example.title, number) for number, example in enumerate(examples)]
