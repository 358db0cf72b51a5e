"""Prediction for posts: from sentences and pictures to entities or relations."""

import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reference_models.data.images import check_images
from reference_models.data.samples import Sample, fingerprint
from reference_models.errors import UserError
from reference_models.tasks.processor import FILE
from reference_models.tasks.task import Prediction, Task
from reference_models.training.evaluation import map_by_length, predict_batch
from reference_models.training.run import MODEL, find_run, load_model

logger = logging.getLogger(__name__)
Ground = Callable[[Sample, str], Sample]
KEYS = ("id", "text", "image", "crops")
WINDOW = 16  # batches of a file's posts that are sorted by length together


class Predictor:
    """The model of a finished run, ready for posts.

    Args:
        run: folder of the run.
        batch_size: posts that are computed at once.
        ground: makes the crops of a post's picture, see `grounding.posts.PostGrounder`.
        int8: compute the text encoder in int8, see `encoders.int8`.

    Raises:
        UserError: the folder holds no finished run, or its model cannot be computed in int8 here.
    """

    def __init__(self, run: Path, *, batch_size: int = 32, ground: Ground | None = None, int8: bool = False) -> None:
        self.model, self.processor = load_model(find_run(run), int8=int8)
        self.run, self.batch_size, self.ground, self.int8 = run, batch_size, ground, int8
        # A model of crops alone learnt that an image without crops tells nothing.
        self._warns = set(self.model.settings.inputs.images.values()) == {"crops"}

    def facts(self) -> dict[str, Any]:
        """What its predictions depend on: the model's files, int8, and how crops are made."""
        files = (self.run / MODEL / name for name in ("config.json", "model.safetensors", FILE))
        return {"model": fingerprint(files), "int8": self.int8, "ground": getattr(self.ground, "version", None)}

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Predictions for any number of samples, in their order."""
        return self._predict(samples, [self.processor.encode(sample) for sample in samples])

    def read(self, post: Mapping[str, Any], folder: Path, name: str = "the post") -> Sample:
        """The sample of a post.

        Args:
            post: `text`, words divided by spaces; `image` and `crops`, paths; for relations `head` and `tail`, the two
                entities as they stand in the text. An image without crops is given to `ground`; without `ground` the
                sample has no crops, as in training, and a model of crops alone does not see the image.
            folder: where relative paths begin.
            name: of the post, its id.

        Raises:
            UserError: a key or value that does not belong there, an entity that is not in the text, or a picture that
                cannot be read.
        """
        task = self.processor.task
        _check_keys(post, task)
        if self.processor.image_size is None and ("image" in post or "crops" in post):
            raise UserError("this model reads text alone; leave image and crops out")
        words = tuple(post["text"].split())
        given = task.read_post(post, words)
        image = folder / post["image"] if "image" in post else None
        crops = tuple(folder / crop for crop in post.get("crops", ()))
        sample = Sample(name, words, image, crops, **given)
        if image and not crops and self.ground:
            sample = self.ground(sample, name.replace(" ", "_"))
        elif image and not crops and self._warns:
            self._warns = False
            logger.warning("%s: this model sees crops alone, and the image has none; give crops, or --ground", name)
        if len(crops) > self.processor.max_crops:
            raise UserError(f"expected at most {self.processor.max_crops} crops, got {len(crops)}")
        return check_images([sample], "error", progress=False)[0][0]

    def records(self, posts: Iterable[bytes], folder: Path, *, first: int = 1) -> Iterator[dict[str, Any]]:
        """One record for each line of JSON, in order; a line that is no post gives a record with its `error`.

        A record has `words_cut`, the number of last words that lie behind the length limit, if there are any.

        Lines are read and records given `WINDOW` batches at a time.

        Args:
            posts: lines, each with an object as `read` takes it; an `id` goes along to the record.
            folder: where relative paths begin.
            first: number of the first line.
        """
        numbered = enumerate(posts, start=first)
        while window := list(itertools.islice(numbered, WINDOW * self.batch_size)):
            records, samples, items = [], [], []
            for number, line in window:
                record: dict[str, Any] = {"line": number}
                try:
                    post = _parse(line)
                    record |= {key: post[key] for key in ("id",) if key in post}
                    sample = self.read(post, folder, f"line {number}")
                    items.append(self.processor.encode(sample))
                except UserError as error:
                    record["error"] = str(error)
                else:
                    samples.append(sample)
                records.append(record)
            predictions = zip(samples, self._predict(samples, items), strict=True)
            cut = (item["words_cut"] for item in items)
            for record in records:
                if "error" not in record:
                    record |= self.processor.task.to_json(*next(predictions))
                    if count := next(cut):
                        record["words_cut"] = count
                yield record

    def _predict(self, samples: Sequence[Sample], items: Sequence[dict[str, Any]]) -> list[Prediction]:
        """Predictions for samples and what they are encoded to; pictures are loaded a batch at a time."""

        def predict(numbers: Sequence[int]) -> list[Prediction]:
            batch = [dict(items[number]) for number in numbers]
            if self.processor.image_size is not None:
                for number, item in zip(numbers, batch, strict=True):
                    item["pixels"] = self.processor.pixels(samples[number])
            output = predict_batch(self.model, self.processor, batch)
            rows = zip(numbers, output.predictions, strict=True)
            answers = [self.processor.decode(samples[number], row.tolist()) for number, row in rows]
            chances = self.processor.task.probabilities(output.scores)
            return list(map(Prediction, answers, chances))

        return map_by_length([len(item["input_ids"]) for item in items], self.batch_size, predict)


def _parse(line: bytes) -> dict[str, Any]:
    shown = repr(line.strip()[:60])[1:]
    try:
        text = line.decode()
        post = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected a JSON object in UTF-8, got {shown} ({error})") from error
    if not isinstance(post, dict):
        raise UserError(f"expected a JSON object, got {shown}")
    return post


def _check_keys(post: Mapping[str, Any], task: Task) -> None:
    if "text" not in post:
        raise UserError(f"expected a text, got only {sorted(post)}")
    allowed = {*KEYS, *task.post_keys}
    if odd := sorted(set(post) - allowed):
        raise UserError(
            f"unknown key {odd[0]!r}; a post for a model of {task.title} has some of {', '.join(sorted(allowed))}"
        )
    if missing := [key for key in task.post_keys if key not in post]:
        raise UserError(f"a model of {task.title} needs {' and '.join(task.post_keys)}, and {missing[0]} is missing")
    for key in {"text", "image", *task.post_keys} & set(post):
        # A path may have bytes that are no UTF-8, which Python holds as half characters.
        if not isinstance(post[key], str) or not (key == "image" or _is_unicode(post[key])):
            raise UserError(f"{key} must be a string of Unicode characters, got {post[key]!r}")
    crops = post.get("crops", [])
    if not isinstance(crops, list) or not all(isinstance(crop, str) for crop in crops):
        raise UserError(f"crops must be a list of paths, got {crops!r}")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)  # half a surrogate pair, from "\\ud83d"
