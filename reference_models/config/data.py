"""The settings of the data: where the samples are, and how they become tensors."""

from dataclasses import dataclass
from typing import Literal

from reference_models.config.checks import check_at_least

Policy = Literal["error", "blank", "drop"]  # about an image that cannot be read
LongSamples = Literal["error", "drop"]
Resize = Literal["squash", "centre-crop", "window"]


@dataclass
class DataConfig:
    """Where the samples are and how they become tensors.

    Args:
        format: how the files below `root` are laid out: "twitter" (named entities) or "mnre" (relations), as the field
            shares them; "conll" (named entities, without images); "jsonl" (one's own data, of either task);
            "flickr30k_entities"; or the name of a registered format.
        root: folder of the data set.
        task: "ner" (named entities), "re" (relations), or the name of a registered task; without it, that of the data.
        no_relation: the relation that stands for none and has no part in the scores; null where each pair has one.
        bad_images: what to do about an image or crop that is missing or broken: stop with an "error", go on without it
            ("blank"), or leave the sample out of the training ("drop"; where scores are computed, it is blanked); the
            last two count and name what they touched.
        long_samples: what to do about a relation whose entity lies behind the length limit: "error", or "drop"
            it from the training (counted; where scores are computed, it counts as missed).
        label_scheme: what is tagged for named entities: words ("bio"), or all sub-words as in older baselines ("x13":
            further tags for later sub-words of a word, both ends of a sentence, and padding).
        max_length: limit of a sentence in sub-words.
        image_size: side of the images in pixels; 224, and 32 for the `tiny` backbone.
        resize: how images become squares: "squash", "centre-crop" as in the field's code (short side to 256, the middle
            224; other sizes in proportion), or "window" as in other published code (a random square of the unscaled
            image, drawn once, perhaps mirrored).
        max_crops: object crops of a sample at most.
        feature_cache: folder where the features of images are kept, so that each image meets a frozen image
            backbone once for all epochs and runs; they are computed in float32 also under mixed precision. It needs
            `model.freeze_image_backbone`; without it, images are decoded for every batch.
    """

    format: str = "mnre"
    root: str = "data"
    task: str | None = None
    no_relation: str | None = "None"
    bad_images: Policy = "error"
    long_samples: LongSamples = "error"
    label_scheme: Literal["bio", "x13"] = "bio"
    max_length: int = 80
    image_size: int = 224
    resize: Resize = "squash"
    max_crops: int = 3
    feature_cache: str | None = None

    def __post_init__(self) -> None:
        check_at_least(self, "data", max_length=8, image_size=32, max_crops=1)
