"""What the page asks the model: a post with its image and without, and a file of posts."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from shutil import copyfile
from typing import Any

from reference_models.analysis.crop_attention import CropAttention, crop_attention
from reference_models.app.examples import Bounds
from reference_models.config.grounding import GroundingConfig
from reference_models.data.samples import Sample
from reference_models.errors import UserError
from reference_models.grounding.detectors import list_detectors
from reference_models.grounding.posts import PostGrounder
from reference_models.prediction import Predictor
from reference_models.tasks.task import Prediction

GIVEN, WITHOUT = "given", "none"  # beside the names of detectors
NO_DETECTORS = ("annotations",)  # take what came with the data, which a post has not


@dataclass(frozen=True)
class Answer:
    """What the model says about a post.

    Attributes:
        sample: the post as it was read.
        prediction: with all that was given.
        alone: of the same words without image and crops; None where there was none.
        boxes: where the crops lie in the image, as far as that is known, in the order of the crops.
        attention: of the words to the images, in a system that has it.
        notes: what a reader should know about it.
    """

    sample: Sample
    prediction: Prediction
    alone: Prediction | None
    boxes: Sequence[Bounds | None]
    attention: CropAttention | None
    notes: Sequence[str]


class Answers:
    """Asks a model, with a detector for images that come without crops.

    Args:
        predictor: of the model.
        grounding: settings of the detectors.
        folder: for crops and for files that are made.
    """

    def __init__(self, predictor: Predictor, grounding: GroundingConfig, folder: Path) -> None:
        self.predictor, self.grounding, self.folder = predictor, grounding, folder
        self.task = predictor.processor.task
        self._grounders: dict[str, PostGrounder] = {}
        self._numbers = count()

    @property
    def sees_images(self) -> bool:
        """Whether the model reads images."""
        return self.predictor.processor.image_size is not None

    @property
    def detectors(self) -> list[str]:
        """The names of the detectors that can be chosen, the one of the settings first."""
        names = [name for name in list_detectors() if name not in NO_DETECTORS]
        return sorted(names, key=lambda name: name != self.grounding.detector)

    def answer(self, post: Mapping[str, Any], crops: str = GIVEN, boxes: Mapping[str, Bounds] | None = None) -> Answer:
        """The answer to one post.

        Args:
            post: as `Predictor.read` takes it.
            crops: which to take: those of the post ("given"), none, or those that the detector of this name finds.
            boxes: where the crops of the post lie, by their paths.

        Raises:
            UserError: something is wrong with the post, or the detector cannot be loaded.
        """
        text = {key: value for key, value in post.items() if key not in ("image", "crops")}
        shown = dict(post) if crops == GIVEN else text | {"image": post["image"]} if "image" in post else text
        sample = self.predictor.read(shown, Path())
        places: Sequence[Bounds | None] = [(boxes or {}).get(str(crop)) for crop in sample.crops]
        if crops not in (GIVEN, WITHOUT) and sample.image is not None:
            sample, places = self._ground(sample, crops)
        samples = [sample]
        if sample.image is not None or sample.crops:
            samples.append(replace(sample, image=None, crops=()))
        predictions = self.predictor.predict(samples)
        return Answer(
            sample,
            predictions[0],
            predictions[1] if len(predictions) > 1 else None,
            places,
            crop_attention(self.predictor.model, self.predictor.processor, sample) if self.sees_images else None,
            list(self._notes(sample)),
        )

    def answer_file(self, files: Sequence[Path], crops: str = GIVEN) -> tuple[Path, dict[str, int]]:
        """The answers to a file of posts, in a new file with one record a line.

        Args:
            files: one ".jsonl" of posts, and the images that its posts name. Images are found by their names alone, so
                that a post reaches no other file of this machine.
            crops: as for `answer`; a detector is for posts that come without crops.

        Returns:
            The file, and how many `posts` there are and how many of them gave an `error`.

        Raises:
            UserError: there is not one file of posts, or it is empty.
        """
        posts = [file for file in files if file.suffix == ".jsonl"]
        if len(posts) != 1:
            names = ", ".join(file.name for file in files) or "nothing"
            raise UserError(
                f"expected one file of posts that ends in .jsonl, and the images that it names; got {names}"
            )
        ground = None
        if self.sees_images and crops not in (GIVEN, WITHOUT):
            ground = self._grounder(crops)
        output = Path(tempfile.mkdtemp(dir=self.folder), "predictions.jsonl")
        counts = {"posts": 0, "errors": 0}
        with tempfile.TemporaryDirectory(dir=self.folder) as name, output.open("w", encoding="utf-8") as written:
            folder = Path(name)
            for file in files:
                copyfile(file, folder / file.name)
            with posts[0].open("rb") as lines, self._grounding(ground):
                for record in self.predictor.records(map(by_name, lines), folder):
                    counts["posts"] += 1
                    counts["errors"] += "error" in record
                    written.write(json.dumps(without_folder(record, name)) + "\n")
        if not counts["posts"]:
            raise UserError(f"{posts[0].name} is empty; expected a post a line, as a JSON object")
        return output, counts

    @contextmanager
    def _grounding(self, ground: PostGrounder | None) -> Iterator[None]:
        self.predictor.ground = ground
        try:
            yield
        finally:
            self.predictor.ground = None

    def _ground(self, sample: Sample, detector: str) -> tuple[Sample, list[Bounds]]:
        sample, boxes = self._grounder(detector).locate(sample, f"post_{next(self._numbers)}")
        return sample, [tuple(map(int, box.bounds())) for box in boxes]

    def _grounder(self, detector: str) -> PostGrounder:
        if detector not in self._grounders:
            own = detector == self.grounding.detector
            weights = self.grounding.weights if own else GroundingConfig.weights
            config = replace(self.grounding, detector=detector, weights=weights)
            try:
                self._grounders[detector] = PostGrounder(self.task.pairs, config, self.folder / "crops")
            except UserError as error:
                raise UserError(
                    f"{error}. This page downloads nothing: choose another detector, or start it again with "
                    f"--grounding.detector {detector} --grounding.weights FOLDER"
                ) from error
        return self._grounders[detector]

    def _notes(self, sample: Sample) -> Iterator[str]:
        processor = self.predictor.processor
        if cut := processor.encode(sample)["words_cut"]:
            yield f"The last {cut} words lie behind the limit of {processor.max_length} sub-words and were not read."
        if sample.image is not None and not sample.crops and self.predictor.sees_crops_alone:
            yield "This model sees crops alone, and there are none: it did not see the image. Choose a detector."


def by_name(line: bytes) -> bytes:
    """A line of posts with the names of its images alone; a line that is no post is left for `records` to refuse."""
    try:
        post = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(post, dict):
        return line
    if isinstance(post.get("image"), str):
        post["image"] = _name(post["image"])
    if isinstance(post.get("crops"), list):
        post["crops"] = [_name(crop) if isinstance(crop, str) else crop for crop in post["crops"]]
    return json.dumps(post).encode()


def without_folder(record: dict[str, Any], folder: str) -> dict[str, Any]:
    """A record whose error names a file as the user knows it, not by the folder that it was copied to."""
    if "error" in record:
        return record | {"error": record["error"].replace(f"{folder}/", "")}
    return record


def _name(path: str) -> str:
    name = Path(path.replace("\\", "/")).name
    return "_" if name in ("", "..") else name
