"""`i2srm data tags`: writes what is seen in the images of a data set as words, and takes texts that others made."""

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
    """What gives images their tags."""

    def load(self, path: Path) -> Any:
        """An image as `tag` takes it; raises a UserError where it cannot be read."""

    def tag(self, images: Sequence[Any]) -> list[list[str]]:
        """The tags of each image, the surest first."""


@dataclass(frozen=True)
class TagSummary:
    """What was done for a split.

    Attributes:
        path: of the file with the texts.
        images: how many the split has.
        tagged: how many of them have a tag.
        unreadable: how many could not be read, and so have none.
        texts: how many have a text that others made.
    """

    path: Path
    images: int
    tagged: int
    unreadable: int
    texts: int

    def text(self) -> str:
        """One line."""
        return (
            f"{self.path}: {self.images} images, {self.tagged} with tags, {self.texts} with given texts, "
            f"{self.unreadable} that cannot be read"
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
    """Write the texts about the images of all splits, beside what the files hold already.

    Args:
        config: which data set, image backbone and detector.
        source: of the tags: the likeliest "classes" of an ImageNet backbone, or the objects of a "detector" that knows
            classes; "none" leaves the tags as they are.
        count: tags of an image at most.
        least: probability that a class must have.
        given: JSON Lines files of texts that others made, see `read_image_texts`.
        progress: show a progress bar.

    Raises:
        UserError: no image, wrong settings or weights, or a text about an image that no split has; then nothing was
            written.
    """
    kind, root = get_format(config.data.format), Path(config.data.root)
    if count < 1:
        raise UserError(f"expected 1 tag of an image or more, got {count}")
    images: dict[str, dict[str, Path]] = {}
    for split in SPLITS:
        folder = kind.layout(root, split).images
        paths = dict.fromkeys(sample.image for sample in kind.read(root, split, max_crops=0) if sample.image)
        images[split] = {path.relative_to(folder).as_posix(): path for path in paths}
    if not any(images.values()):
        raise UserError(f"{root}: expected images to tag, and no sample has one")
    texts = {path: read_image_texts(path) for path in given}
    for path, own in texts.items():
        if unknown := own.keys() - set().union(*images.values()):
            raise UserError(f"{path}: {len(unknown)} of its images are in no split of {root}, such as {min(unknown)!r}")
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
        told = {name for own in texts.values() for name in own} & images[split].keys()
        merged = {}
        for name in dict.fromkeys([*images[split], *old]):
            parts = (one.get(name, {}) for one in (old, new, *texts.values()))
            if joined := {kind: text for part in parts for kind, text in part.items()}:
                merged[name] = joined
        write_image_texts(path, merged)
        tagged = sum(bool(own.get("tags")) for own in merged.values())
        unreadable = 0 if tagger is None else len(images[split]) - len(tags)
        summaries.append(TagSummary(path, len(images[split]), tagged, unreadable, len(told)))
    return summaries


def tag_images(
    tagger: Tagger, images: Mapping[str, Path], title: str, *, progress: bool = True
) -> dict[str, list[str]]:
    """The tags of images, batch by batch; one that cannot be read is left out.

    Args:
        tagger: gives them.
        images: paths by name.
        title: of the progress bar.
        progress: whether to show it.
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
    """The likeliest of the thousand ImageNet classes of a backbone.

    Args:
        config: with the backbone, its weights, and the size of the images.
        count: tags of an image at most.
        least: probability that a class must have.

    Raises:
        UserError: a backbone without classes, or weights that cannot be read.
    """

    def __init__(self, config: RunConfig, *, count: int, least: float) -> None:
        model, self.data, self.count, self.least = config.model, config.data, count, least
        if model.vision == "tiny":
            raise UserError("model.vision=tiny has no classes to make tags of; choose resnet50, or --source detector")
        self.backbone = VisionBackbone(model.vision, frozen=True, views=("logits",))
        if model.vision_weights != "none":
            fill_backbone(self.backbone, model.vision_weights)
        self.backbone.eval().to(accelerator())
        self.names: list[str] = get_model_weights(model.vision)["IMAGENET1K_V1"].meta["categories"]

    def load(self, path: Path) -> Tensor:
        """See `Tagger`: its pixels."""
        return load_image(path, self.data.image_size, self.data.resize)

    @torch.inference_mode()
    def tag(self, images: Sequence[Tensor]) -> list[list[str]]:
        """See `Tagger`: the names of its likeliest classes."""
        logits = self.backbone(torch.stack(list(images)).to(accelerator()))["logits"]
        likely = logits.softmax(dim=-1).topk(self.count)
        rows = zip(likely.values.tolist(), likely.indices.tolist(), strict=True)
        return [[self.names[n] for p, n in zip(*row, strict=True) if p >= self.least] for row in rows]


class DetectorTagger:
    """The classes of the objects that a detector finds, each class once.

    Args:
        config: which detector, and the least score of a box.
        count: tags of an image at most.
        detector: instead of the one that `config` names.

    Raises:
        UserError: a detector that looks for phrases, which say nothing of an image that its sentence does not.
    """

    def __init__(self, config: GroundingConfig, *, count: int, detector: Detector | None = None) -> None:
        self.detector, self.count = detector or load_detector(config), count
        if self.detector.takes_phrases:
            raise UserError(
                f"the detector {self.detector.name} finds what it is asked for and names nothing; set "
                "grounding.detector to one that knows classes, such as torchvision"
            )

    def load(self, path: Path) -> Image.Image:
        """See `Tagger`: the image itself."""
        image = decode_image(path)
        if max(image.size) > NARROW * min(image.size):
            raise UserError(f"{path}: {image.width} x {image.height} pixels are too narrow for a detector")
        return image

    def tag(self, images: Sequence[Image.Image]) -> list[list[str]]:
        """See `Tagger`: the classes by the score of their best box."""
        found = self.detector.detect(images, [[]] * len(images))
        best = (sorted((box for box in boxes if box.label), key=lambda box: -box.score) for boxes in found)
        return [list(dict.fromkeys(box.label for box in boxes if box.label))[: self.count] for boxes in best]
