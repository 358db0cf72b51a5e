"""Prediction of entities or relations in posts, that is, sentences with images."""

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
from reference_models.unique_keys import RepeatedKeyError, unique_keys

logger = logging.getLogger(__name__)
Ground = Callable[[Sample, str], Sample]
CARD = "README.md"
KEYS = ("id", "text", "image", "crops", "image_texts")
WINDOW = 16  # number of batches of a file that are sorted by length together


class Predictor:
    """A trained model that makes predictions for posts.

    Args:
        model: Run directory of a finished run, folder of a model, or the name of a model on the Hugging Face hub.
        batch_size: Number of posts in a mini-batch.
        ground: Finds the crops of a post's image, see `grounding.posts.PostGrounder`.
        int8: Run the text encoder in int8, see `encoders.int8`.
        fast_float32: Use faster float32 matrix products, see `training.products`.
        onnx: Folder of ONNX graphs written by `export_onnx`. The model then runs in ONNX Runtime, and `int8` and
            `fast_float32` must be False.

    Attributes:
        sees_crops_alone: Whether the model reads only the crops of an image, so that an image without crops is ignored.

    Raises:
        UserError: If the model does not exist, or an option is not supported on this machine or with the other options.

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
            raise UserError("int8 and fast_float32 apply to PyTorch, but onnx uses ONNX Runtime; leave them out")
        self.folder = find_model(model)
        self.model, self.processor = load_model(self.folder, int8=int8)
        self._scorer: Scorer = self.model
        if onnx is not None:
            from reference_models.onnx_system import OnnxSystem

            self._scorer = OnnxSystem(self.model.cpu(), Path(onnx), self._made_from())
        self.onnx = onnx is not None
        self.batch_size, self.ground, self.int8 = batch_size, ground, int8
        self.fast_float32 = fast_float32
        with self._products():  # raises now if this machine does not support it
            pass
        self.sees_crops_alone = self.model.settings.inputs.crops_alone
        self._warned = False

    @property
    def system(self) -> str:
        """Name of the system of the model."""
        return self.model.config.model_type.removeprefix("attnmixup-")

    @classmethod
    def from_pretrained(cls, model: Path | str, **options: Any) -> "Predictor":
        """Load the predictor of a model; see the class for the arguments."""
        return cls(model, **options)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the model, its processor and its model card, README.md, to a folder that `from_pretrained` can load.

        Args:
            folder: A new or empty folder.

        Raises:
            UserError: If the folder is not empty or cannot be written, or if the model has no card and does not come
                from a finished run.
        """
        target, run = Path(folder), self.folder.parent
        if target.exists() and any(target.iterdir()):
            raise UserError(f"{target} is not empty; choose a new folder for the model")
        own = self.folder / CARD
        if own.is_file():
            card = own.read_text(encoding="utf-8")
        else:
            card = model_card(find_run(run), self.system, self.processor, self.model.settings.inputs)
        with writable(target):
            shutil.copytree(self.folder, target, dirs_exist_ok=True)
            (target / CARD).write_text(card, encoding="utf-8")

    def push_to_hub(self, name: str, *, private: bool = False) -> str:
        """Upload the files of `save_pretrained` to the Hugging Face hub.

        Args:
            name: Name of the repository, such as "user/model"; it is created if it does not exist.
            private: Whether a new repository is private.

        Returns:
            URL of the repository.

        Raises:
            UserError: See `save_pretrained`.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            address = create_repo(name, private=private, exist_ok=True)
            upload_folder(repo_id=name, folder_path=folder)
        return str(address)

    def export_onnx(self, folder: Path | str) -> list[Path]:
        """Export the model to ONNX graphs for the argument `onnx`; see `onnx_system.export_system`.

        Args:
            folder: Folder for the graphs.

        Returns:
            Paths of the written files.
        """
        from reference_models.onnx_system import export_system

        return export_system(self.model.cpu(), self.processor, Path(folder), self._made_from())

    def _made_from(self) -> str:
        return fingerprint(self.folder / name for name in ("config.json", "model.safetensors", FILE))

    def __call__(self, text: str, **post: Any) -> dict[str, Any]:
        """Predict one post.

        Args:
            text: The sentence, with words separated by white space.
            **post: `image`, `crops`, `head` and `tail`, see `read`.

        Returns:
            A record as in `Task.to_json`, with `words_cut` if the length limit cuts words off.
        """
        [record] = self.predict_posts([{"text": text, **post}])
        return record

    def predict_posts(self, posts: Sequence[Mapping[str, Any]], folder: Path | str = "") -> list[dict[str, Any]]:
        """Predict posts in mini-batches.

        Args:
            posts: Posts as in `read`.
            folder: Base folder of relative paths.

        Returns:
            One record per post, in the order of the posts.

        Raises:
            UserError: If a post is invalid. The message gives its number, counted from 1.
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
        """Return everything that predictions depend on: model files, numerical options, and how crops are found."""
        products = {"int8": self.int8, "fast_float32": self.fast_float32, "onnx": self.onnx}
        return {"model": self._made_from(), **products, "ground": getattr(self.ground, "version", None)}

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Predict samples; returns the predictions in the order of the samples."""
        return self._predict(samples, [self.processor.encode(sample) for sample in samples])

    def read(self, post: Mapping[str, Any], folder: Path, name: str = "the post") -> Sample:
        """Convert a post to a sample.

        Args:
            post: A dict with `text`, the sentence with words separated by spaces; `image` and `crops`, paths; for
                relations `head` and `tail`, the two entities exactly as in the text. For models that read them,
                `image_texts` holds texts about the image by kind, such as {"caption": "two dogs"}. If an image has no
                crops, `ground` finds them. Without `ground` the sample has no crops, as in training, and a model that
                reads only crops does not see the image.
            folder: Base folder of relative paths.
            name: Id of the post.

        Returns:
            The sample, with the given crops or those that `ground` found; its id is `name`.

        Raises:
            UserError: If a key or value is invalid, an entity is not in the text, or an image cannot be read.
        """
        task = self.processor.task
        _check_keys(post, task)
        if self.processor.image_size is None and ("image" in post or "crops" in post):
            instead = "give image_texts instead of" if self.processor.texts else "leave out"
            raise UserError(f"this model reads only text; {instead} image and crops")
        if not self.processor.texts and "image_texts" in post:
            raise UserError("this model does not read texts about images; leave out image_texts")
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
                "%s: this model reads only the crops of an image, and there are none; give crops, or let i2srm predict "
                "find them with --ground",
                name,
            )
        if len(crops) > self.processor.max_crops:
            raise UserError(f"expected at most {self.processor.max_crops} crops, got {len(crops)}")
        return check_images([sample], "error", progress=False)[0][0]

    def records(self, posts: Iterable[bytes], folder: Path, *, first: int = 1) -> Iterator[dict[str, Any]]:
        """Predict lines of JSON.

        An invalid line gives a record with an `error`. If the length limit cuts words off, the record has `words_cut`,
        the number of these words. Lines are read and records are yielded `WINDOW` batches at a time.

        Args:
            posts: Lines, each a JSON object as in `read`. An `id` is copied to the record.
            folder: Base folder of relative paths.
            first: Number of the first line.

        Yields:
            One record per line, in the order of the lines.
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
        """Make the records of samples, given their original texts and encoded items."""
        predictions = zip(texts, samples, items, self._predict(samples, items), strict=True)
        return [
            self.processor.task.to_json(sample, prediction, text)
            | ({"words_cut": item["words_cut"]} if item["words_cut"] else {})
            for text, sample, item, prediction in predictions
        ]

    def _products(self) -> AbstractContextManager[None]:
        return float32_products(fast=self.fast_float32, device=self.model.device)

    def _predict(self, samples: Sequence[Sample], items: Sequence[dict[str, Any]]) -> list[Prediction]:
        """Predict samples, given their encoded items; images are loaded batch by batch."""

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
        text = line.decode("utf-8-sig")
        post = json.loads(text, object_pairs_hook=unique_keys)
    except RepeatedKeyError as error:
        raise UserError(f"{error}: {shown}; merge the two values, or remove one") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected a JSON object in UTF-8, got {shown} ({error})") from error
    if not isinstance(post, dict):
        raise UserError(f"expected a JSON object, got {shown}")
    return post


def _check_keys(post: Mapping[str, Any], task: Task) -> None:
    if "text" not in post:
        raise UserError(f"expected a text, got only the keys {sorted(post)}")
    allowed = {*KEYS, *task.post_keys}
    if odd := sorted(set(post) - allowed):
        raise UserError(
            f"unknown key {odd[0]!r}; a post for a model of {task.title} can have {', '.join(sorted(allowed))}"
        )
    if missing := [key for key in task.post_keys if key not in post]:
        raise UserError(f"a model of {task.title} needs {' and '.join(task.post_keys)}, but {missing[0]} is missing")
    for key in {"text", "image", *task.post_keys} & set(post):
        # Python represents bytes of a path that are not UTF-8 as lone surrogates, so a path may contain them.
        if not isinstance(post[key], str) or not (key == "image" or _is_unicode(post[key])):
            raise UserError(f"{key} must be a string of Unicode characters, got {post[key]!r}")
    crops = post.get("crops", [])
    if not isinstance(crops, list) or not all(isinstance(crop, str) for crop in crops):
        raise UserError(f"crops must be a list of paths, got {crops!r}")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)  # a lone surrogate, from "\\ud83d"
