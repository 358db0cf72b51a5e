"""Prediction for posts: from sentences and images to entities or relations."""

import itertools
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from huggingface_hub import create_repo, upload_folder

from reference_models.data.image_texts import check_texts
from reference_models.data.images import check_images
from reference_models.data.samples import Sample, fingerprint
from reference_models.errors import UserError
from reference_models.files import writable
from reference_models.model_card import model_card
from reference_models.systems.inference import Scorer, predict_samples
from reference_models.tasks.processor import FILE
from reference_models.tasks.task import Prediction, Task
from reference_models.training.products import float32_products
from reference_models.training.run import find_model, find_run, load_model

logger = logging.getLogger(__name__)
Ground = Callable[[Sample, str], Sample]
CARD = "README.md"
KEYS = ("id", "text", "image", "crops", "image_texts")
WINDOW = 16  # batches of a file's posts that are sorted by length together


class Predictor:
    """A trained model, ready for posts.

    Args:
        model: folder of a finished run, folder of a model, or the name of a model on the Hugging Face hub.
        batch_size: posts that are computed at once.
        ground: makes the crops of a post's image, see `grounding.posts.PostGrounder`.
        int8: compute the text encoder in int8, see `encoders.int8`.
        fast_float32: faster products of float32 matrices, see `training.products`.
        onnx: folder of the model's graphs, which `export_onnx` wrote, to be computed by ONNX Runtime; then neither of
            the two before it has a meaning.

    Attributes:
        sees_crops_alone: whether an image without crops tells the model nothing.

    Raises:
        UserError: there is no such model, or it cannot be computed in that way here.

    Example:
        >>> predictor = Predictor.from_pretrained("runs/twitter2017")  # doctest: +SKIP
        >>> predictor("Ann Lee lives in Rome", image="post.jpg")["entities"][0]  # doctest: +SKIP
        {'text': 'Ann Lee', 'type': 'PER', 'start': 0, 'end': 2, 'characters': [0, 7], 'probability': 0.98}
    """

    def __init__(
        self,
        model: Path | str,
        *,
        batch_size: int = 32,
        ground: Ground | None = None,
        int8: bool = False,
        fast_float32: bool = False,
        onnx: Path | str | None = None,
    ) -> None:
        if onnx is not None and (int8 or fast_float32):
            raise UserError("int8 and fast_float32 are for PyTorch, and onnx computes by ONNX Runtime; leave them out")
        self.folder = find_model(model)
        self.model, self.processor = load_model(self.folder, int8=int8)
        self._scorer: Scorer = self.model
        if onnx is not None:
            from reference_models.onnx_system import OnnxSystem

            self._scorer = OnnxSystem(self.model.cpu(), Path(onnx), self._made_from())
        self.onnx = onnx is not None
        self.batch_size, self.ground, self.int8 = batch_size, ground, int8
        self.fast_float32 = fast_float32
        with self._products():  # a machine that cannot do it is told now
            pass
        # A model of crops alone learnt that an image without crops tells nothing.
        self.sees_crops_alone = self.model.settings.inputs.crops_alone
        self._warned = False

    @property
    def system(self) -> str:
        """Name of the model's system."""
        return self.model.config.model_type.removeprefix("attnmixup-")

    @classmethod
    def from_pretrained(cls, model: Path | str, **options: Any) -> "Predictor":
        """The predictor of a model; see the class for the arguments."""
        return cls(model, **options)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the model, its processor and its card, README.md, into a folder that `from_pretrained` reads.

        Args:
            folder: a new or empty one.

        Raises:
            UserError: the folder holds files, cannot be written, or the model is not that of a finished run and has no
                card.
        """
        target, run = Path(folder), self.folder.parent
        if target.exists() and any(target.iterdir()):
            raise UserError(f"{target} is not empty; name a new folder for the model")
        own = self.folder / CARD
        if own.is_file():
            card = own.read_text(encoding="utf-8")
        else:
            card = model_card(find_run(run), self.system, self.processor)
        with writable(target):
            shutil.copytree(self.folder, target, dirs_exist_ok=True)
            (target / CARD).write_text(card, encoding="utf-8")

    def push_to_hub(self, name: str, *, private: bool = False) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub.

        Args:
            name: of the model there, as in "user/model"; it is made if there is none.
            private: whether a new one is for its owner alone.

        Returns:
            Its address.

        Raises:
            UserError: see `save_pretrained`.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            address = create_repo(name, private=private, exist_ok=True)
            upload_folder(repo_id=name, folder_path=folder)
        return str(address)

    def export_onnx(self, folder: Path | str) -> list[Path]:
        """Write the model as ONNX graphs, which the argument `onnx` takes; see `onnx_system.export_system`.

        Args:
            folder: for the graphs.

        Returns:
            The files.
        """
        from reference_models.onnx_system import export_system

        return export_system(self.model.cpu(), self.processor, Path(folder), self._made_from())

    def _made_from(self) -> str:
        return fingerprint(self.folder / name for name in ("config.json", "model.safetensors", FILE))

    def __call__(self, text: str, **post: Any) -> dict[str, Any]:
        """The record of one post.

        Args:
            text: its words, divided by white space.
            **post: `image`, `crops`, `head` and `tail`, see `read`.

        Returns:
            As `Task.to_json`, with `words_cut` where the length limit cuts words off.
        """
        [record] = self.predict_posts([{"text": text, **post}])
        return record

    def predict_posts(self, posts: Sequence[Mapping[str, Any]], folder: Path | str = "") -> list[dict[str, Any]]:
        """The records of posts, in their order, computed in batches.

        Args:
            posts: as `read` takes them.
            folder: where relative paths begin.

        Raises:
            UserError: something is wrong with a post, which the message names by its number from 1.
        """
        names = [f"post {number}" for number in range(1, len(posts) + 1)] if len(posts) > 1 else ["the post"]
        samples = []
        for post, name in zip(posts, names, strict=True):
            try:
                samples.append(self.read(post, Path(folder), name))
            except UserError as error:
                raise UserError(f"{name}: {error}") from error
        items = [self.processor.encode(sample) for sample in samples]
        return self._records([post["text"] for post in posts], samples, items)

    def facts(self) -> dict[str, Any]:
        """What its predictions depend on: the model's files, how products are computed, and how crops are made."""
        products = {"int8": self.int8, "fast_float32": self.fast_float32, "onnx": self.onnx}
        return {"model": self._made_from(), **products, "ground": getattr(self.ground, "version", None)}

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Predictions for any number of samples, in their order."""
        return self._predict(samples, [self.processor.encode(sample) for sample in samples])

    def read(self, post: Mapping[str, Any], folder: Path, name: str = "the post") -> Sample:
        """The sample of a post.

        Args:
            post: `text`, words divided by spaces; `image` and `crops`, paths; for relations `head` and `tail`, the two
                entities as they stand in the text. An image without crops is given to `ground`; without `ground` the
                sample has no crops, as in training, and a model of crops alone does not see the image. For a model that
                reads them `image_texts`, texts about the image by kind, such as {"caption": "two dogs"}.
            folder: where relative paths begin.
            name: of the post, its id.

        Raises:
            UserError: a key or value that does not belong there, an entity that is not in the text, or an image that
                cannot be read.
        """
        task = self.processor.task
        _check_keys(post, task)
        if self.processor.image_size is None and ("image" in post or "crops" in post):
            instead = "give image_texts instead of" if self.processor.texts else "leave out"
            raise UserError(f"this model reads text alone; {instead} image and crops")
        if not self.processor.texts and "image_texts" in post:
            raise UserError("this model reads no texts about images; leave image_texts out")
        texts = tuple(check_texts(post.get("image_texts", {}), name).items())
        words = tuple(post["text"].split())
        given = task.read_post(post, words)
        image = folder / post["image"] if "image" in post else None
        crops = tuple(folder / crop for crop in post.get("crops", ()))
        sample = Sample(name, words, image, crops, image_texts=texts, **given)
        if image and not crops and self.ground:
            sample = self.ground(sample, name.replace(" ", "_"))
        elif image and not crops and self.sees_crops_alone and not self._warned:
            self._warned = True
            logger.warning(
                "%s: this model sees an image by its crops alone, and there are none; give crops, or have them found "
                "(--ground of i2srm predict)",
                name,
            )
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
            records, texts, samples, items = [], [], [], []
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
                    texts.append(post["text"])
                    samples.append(sample)
                records.append(record)
            made = iter(self._records(texts, samples, items))
            for record in records:
                yield record if "error" in record else record | next(made)

    def _records(
        self, texts: Sequence[str], samples: Sequence[Sample], items: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The records of samples that were read from texts, and what they are encoded to."""
        predictions = zip(texts, samples, items, self._predict(samples, items), strict=True)
        return [
            self.processor.task.to_json(sample, prediction, text)
            | ({"words_cut": item["words_cut"]} if item["words_cut"] else {})
            for text, sample, item, prediction in predictions
        ]

    def _products(self) -> AbstractContextManager[None]:
        return float32_products(fast=self.fast_float32, device=self.model.device)

    def _predict(self, samples: Sequence[Sample], items: Sequence[dict[str, Any]]) -> list[Prediction]:
        """Predictions for samples and what they are encoded to; images are loaded a batch at a time."""

        def item(number: int) -> dict[str, Any]:
            if self.processor.image_size is None:
                return items[number]
            return {**items[number], "pixels": self.processor.pixels(samples[number])}

        lengths = [len(one["input_ids"]) for one in items]
        with self._products():
            return predict_samples(self._scorer, self.processor, samples, lengths, item, batch_size=self.batch_size)


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
