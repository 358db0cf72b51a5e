"""`i2srm data tags`: writes object tags of the images of a data set, and merges existing image texts."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor
from torchvision.models import get_model_weights
from tqdm import tqdm

from reference_models.config import RunConfig
from reference_models.config.grounding import GroundingConfig
from reference_models.data.formats import SPLITS, get_format
from reference_models.data.image_texts import ImageTexts, image_texts_path, read_image_texts, write_image_texts
from reference_models.data.images import decode_image, load_image
from reference_models.encoders.vision import VisionBackbone
from reference_models.encoders.weights import fill_backbone
from reference_models.errors import UserError
from reference_models.grounding.detectors import Detector, accelerator, load_detector
from reference_models.grounding.split_run import NARROW

BATCH = 32
SEPARATOR = ", "  # between the tags of an image


class Tagger(Protocol):
    """Interface of taggers, which assign tags to images."""

    def load(self, path: Path) -> Any:
        """Load an image for `tag`; raises UserError if it cannot be read."""

    def tag(self, images: Sequence[Any]) -> list[list[str]]:
        """Return the tags of each image, most confident first."""


@dataclass(frozen=True)
class TagSummary:
    """Counts of one split.

    Attributes:
        path: Path of the file with the image texts.
        images: Number of images in the split.
        tagged: Number of images with tags.
        unreadable: Number of images that could not be read; they get no new tags.
        texts: Number of images with a text from the `given` files.
    """

    path: Path
    images: int
    tagged: int
    unreadable: int
    texts: int

    def text(self) -> str:
        """Return the counts as one line."""
        return (
            f"{self.path}: {self.images} images, {self.tagged} with tags, {self.texts} with given texts, "
            f"{self.unreadable} unreadable"
        )


def write_tags(
    config: RunConfig,
    *,
    source: Literal["classes", "detector", "none"] = "classes",
    count: int = 5,
    least: float = 0.0,
    given: Sequence[Path] = (),
    progress: bool = True,
) -> list[TagSummary]:
    """Write the image texts of all splits. Texts that the files already contain are kept.

    Args:
        config: Settings of the data set, the image backbone and the detector.
        source: Source of the tags: the most probable "classes" of an ImageNet backbone, or the objects found by a
            "detector" with classes; "none" does not change the tags.
        count: Maximum number of tags per image.
        least: Minimum probability of a class, from 0 to 1.
        given: JSON Lines files with existing image texts, see `read_image_texts`.
        progress: Whether to show a progress bar.

    Returns:
        A summary of each split.

    Raises:
        UserError: If there are no images, the settings or weights are invalid, or a given text belongs to an image that
            is in no split. In these cases nothing is written.
    """
    kind, root = get_format(config.data.format), Path(config.data.root)
    if count < 1:
        raise UserError(f"expected 1 tag per image or more (--count), got {count}")
    if not 0 <= least <= 1:
        raise UserError(f"expected a minimum probability from 0 to 1 (--least), got {least}")
    images: dict[str, dict[str, Path]] = {}
    for split in SPLITS:
        folder = kind.layout(root, split).images
        paths = dict.fromkeys(sample.image for sample in kind.read(root, split, max_crops=0) if sample.image)
        images[split] = {path.relative_to(folder).as_posix(): path for path in paths}
    if not any(images.values()):
        raise UserError(f"{root}: expected samples with images to tag, but no sample has one")
    texts = {path: read_image_texts(path) for path in given}
    for path, own in texts.items():
        if unknown := own.keys() - set().union(*images.values()):
            raise UserError(
                f"{path}: expected images of {root}, but {len(unknown)} of its images are in no split, such as "
                f"{min(unknown)!r}; name images by their paths below the image folder of a split"
            )
    tagger: Tagger | None = None
    if source == "classes":
        tagger = ClassTagger(config, count=count, least=least)
    elif source == "detector":
        tagger = DetectorTagger(config.grounding, count=count)
    summaries = []
    for split in SPLITS:
        path = image_texts_path(root, split)
        old = read_image_texts(path) if path.is_file() else {}
        tags: dict[str, list[str]] = {}
        if tagger is not None:
            tags = tag_images(tagger, images[split], f"tags of {split}", progress=progress)
        new: ImageTexts = {name: {"tags": SEPARATOR.join(own)} for name, own in tags.items()}
        described = {name for own in texts.values() for name in own} & images[split].keys()
        merged = {}
        for name in dict.fromkeys([*images[split], *old]):
            parts = (one.get(name, {}) for one in (old, new, *texts.values()))
            if joined := {kind: text for part in parts for kind, text in part.items()}:
                merged[name] = joined
        write_image_texts(path, merged)
        tagged = sum(bool(own.get("tags")) for own in merged.values())
        unreadable = 0 if tagger is None else len(images[split]) - len(tags)
        summaries.append(TagSummary(path, len(images[split]), tagged, unreadable, len(described)))
    return summaries


def tag_images(
    tagger: Tagger, images: Mapping[str, Path], title: str, *, progress: bool = True
) -> dict[str, list[str]]:
    """Tag images batch by batch. Unreadable images are skipped.

    Args:
        tagger: Tagger to use.
        images: Paths of the images by name.
        title: Title of the progress bar.
        progress: Whether to show the progress bar.

    Returns:
        The tags of each readable image by name.
    """
    tags: dict[str, list[str]] = {}
    names = list(images)
    with tqdm(total=len(names), desc=title, disable=not progress) as bar:
        for start in range(0, len(names), BATCH):
            loaded = {}
            for name in names[start : start + BATCH]:
                with suppress(UserError):
                    loaded[name] = tagger.load(images[name])
                bar.update()
            if loaded:
                tags |= dict(zip(loaded, tagger.tag(list(loaded.values())), strict=True))
    return tags


class ClassTagger:
    """Tags images with the most probable of the 1000 ImageNet classes of a backbone.

    Args:
        config: Settings with the backbone, its weights and the image size.
        count: Maximum number of tags per image.
        least: Minimum probability of a class.

    Raises:
        UserError: If the backbone has no classes, or its weights are random or cannot be read.
    """

    def __init__(self, config: RunConfig, *, count: int, least: float) -> None:
        model, self.data, self.count, self.least = config.model, config.data, count, least
        if model.vision == "tiny":
            raise UserError("model.vision=tiny has no classes to use as tags; choose resnet50, or --source detector")
        if model.vision_weights == "none":
            raise UserError(
                "model.vision_weights=none gives random weights, whose classes are no tags; set it to imagenet or to a "
                "local file of weights, or use --source detector"
            )
        self.backbone = VisionBackbone(model.vision, frozen=True, views=("logits",))
        fill_backbone(self.backbone, model.vision_weights)
        self.backbone.eval().to(accelerator())
        self.names: list[str] = get_model_weights(model.vision)["IMAGENET1K_V1"].meta["categories"]

    def load(self, path: Path) -> Tensor:
        """See `Tagger`: the pixels of the image."""
        return load_image(path, self.data.image_size, self.data.resize)

    @torch.inference_mode()
    def tag(self, images: Sequence[Tensor]) -> list[list[str]]:
        """See `Tagger`: the names of the most probable classes."""
        logits = self.backbone(torch.stack(list(images)).to(accelerator()))["logits"]
        likely = logits.softmax(dim=-1).topk(min(self.count, len(self.names)))
        rows = zip(likely.values.tolist(), likely.indices.tolist(), strict=True)
        return [[self.names[n] for p, n in zip(*row, strict=True) if p >= self.least] for row in rows]


class DetectorTagger:
    """Tags images with the classes of the objects that a detector finds, each class once.

    Args:
        config: Grounding settings with the detector and the minimum score of a box.
        count: Maximum number of tags per image.
        detector: Detector to use instead of the one in `config`.

    Raises:
        UserError: If the detector searches for phrases; these come from the sentence and add no information to it.
    """

    def __init__(self, config: GroundingConfig, *, count: int, detector: Detector | None = None) -> None:
        self.detector, self.count = detector or load_detector(config), count
        if self.detector.takes_phrases:
            raise UserError(
                f"the detector {self.detector.name} only searches for given phrases and has no classes; set "
                "grounding.detector to one with classes, such as torchvision"
            )

    def load(self, path: Path) -> Image.Image:
        """See `Tagger`: the decoded image."""
        image = decode_image(path)
        if max(image.size) > NARROW * min(image.size):
            raise UserError(f"{path}: {image.width} x {image.height} pixels are too narrow for a detector")
        return image

    def tag(self, images: Sequence[Image.Image]) -> list[list[str]]:
        """See `Tagger`: the classes, ordered by the score of their best box."""
        found = self.detector.detect(images, [[]] * len(images))
        best = (sorted((box for box in boxes if box.label), key=lambda box: -box.score) for boxes in found)
        return [list(dict.fromkeys(box.label for box in boxes if box.label))[: self.count] for boxes in best]
