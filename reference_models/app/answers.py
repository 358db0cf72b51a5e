"""Predictions for the page: one post with and without its image, or a file of posts."""

import json
import tempfile
from collections import Counter
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
from reference_models.unique_keys import unique_keys

GIVEN, WITHOUT = "given", "none"  # choices besides the names of the detectors
NO_DETECTORS = ("annotations",)  # these read boxes that come with a data set; a post has none


@dataclass(frozen=True)
class Answer:
    """The model's answer to a post.

    Attributes:
        sample: The sample read from the post.
        prediction: The prediction from the whole post.
        alone: The prediction from the same words without image, crops and image texts; None if the post has none.
        boxes: The position of each crop in the image, in the order of the crops; None where it is unknown.
        attention: Attention of the words to the images; None if the system has none.
        notes: Remarks for the reader.
    """

    sample: Sample
    prediction: Prediction
    alone: Prediction | None
    boxes: Sequence[Bounds | None]
    attention: CropAttention | None
    notes: Sequence[str]


class Answers:
    """Predicts posts with a model, and finds crops with a detector.

    Args:
        predictor: The predictor of the model.
        grounding: Settings of the detectors.
        folder: Folder for crops and output files.
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
    def texts(self) -> list[str]:
        """Kinds of texts about the image that the model reads, such as "caption"."""
        return self.predictor.processor.texts

    @property
    def detectors(self) -> list[str]:
        """Names of the available detectors, the one in the settings first."""
        names = [name for name in list_detectors() if name not in NO_DETECTORS]
        return sorted(names, key=lambda name: name != self.grounding.detector)

    def answer(self, post: Mapping[str, Any], crops: str = GIVEN, boxes: Mapping[str, Bounds] | None = None) -> Answer:
        """Predict one post.

        Args:
            post: A post as in `Predictor.read`.
            crops: Source of the crops: the post ("given"), no crops ("none"), or the name of a detector.
            boxes: Positions of the post's crops in its image, by crop path.

        Returns:
            The predictions from the whole post and from its words alone, crop positions, attention and notes.

        Raises:
            UserError: If the post is invalid or the detector cannot be loaded.
        """
        text = {key: value for key, value in post.items() if key not in ("image", "crops")}
        shown = dict(post) if crops == GIVEN else text | {"image": post["image"]} if "image" in post else text
        sample = self.predictor.read(shown, Path())
        places: Sequence[Bounds | None] = [(boxes or {}).get(str(crop)) for crop in sample.crops]
        if crops not in (GIVEN, WITHOUT) and sample.image is not None:
            sample, places = self._ground(sample, crops)
        samples = [sample]
        if sample.image is not None or sample.crops or sample.image_texts:
            samples.append(replace(sample, image=None, crops=(), image_texts=()))
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
        """Predict a file of posts and write one record per line to a new file.

        Args:
            files: One ".jsonl" file of posts, and the images that its posts name. Only the file name of an image is
                used, so a post cannot read other files of this machine.
            crops: As in `answer`; a detector is used for posts without crops.

        Returns:
            The new file, and the counts `posts` (all posts) and `errors` (posts with an error).

        Raises:
            UserError: If there is not exactly one file of posts, if it is empty, or if two files have the same name.
        """
        posts = [file for file in files if file.suffix == ".jsonl"]
        if len(posts) != 1:
            names = ", ".join(file.name for file in files) or "nothing"
            raise UserError(
                f"expected one .jsonl file of posts, together with the images that its posts name; got {names}"
            )
        if twice := [name for name, number in Counter(file.name for file in files).items() if number > 1]:
            raise UserError(
                "expected files of different names, because posts name their images without folders; got several "
                f"files named {', '.join(twice)}; rename them, also in {posts[0].name}"
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
            raise UserError(f"{posts[0].name} is empty; expected one post per line, each a JSON object")
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
                    f"{error}. This page downloads nothing: choose another detector, or restart the page with "
                    f"--grounding.detector {detector} --grounding.weights FOLDER"
                ) from error
        return self._grounders[detector]

    def _notes(self, sample: Sample) -> Iterator[str]:
        processor = self.predictor.processor
        if cut := processor.encode(sample)["words_cut"]:
            yield f"The last {cut} words are beyond the limit of {processor.max_length} sub-words and were ignored."
        if sample.image is not None and not sample.crops and self.predictor.sees_crops_alone:
            yield "This model reads only crops, and there are none, so it did not see the image. Choose a detector."
        if self.texts and not sample.image_texts:
            yield f"This model also reads texts about the image ({', '.join(self.texts)}), and there are none."


def by_name(line: bytes) -> bytes:
    """Reduce the image paths of a post to file names; an invalid line stays as it is, and `records` reports it."""
    try:
        post = json.loads(line, object_pairs_hook=unique_keys)
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
    """Remove the temporary folder from the file names in a record's error message."""
    if "error" in record:
        return record | {"error": record["error"].replace(f"{folder}/", "")}
    return record


def _name(path: str) -> str:
    name = Path(path.replace("\\", "/")).name
    return "_" if name in ("", "..") else name
