"""Data settings: where the samples are and how they become tensors."""

from dataclasses import dataclass
from typing import Literal

from reference_models.config.checks import check_at_least

Policy = Literal["error", "blank", "drop"]  # for images that cannot be read
LongSamples = Literal["error", "drop"]
Resize = Literal["squash", "centre-crop", "window"]


@dataclass
class DataConfig:
    """Where the samples are and how they become tensors.

    Args:
        format: File layout below `root`: "twitter" (named entities) or "mnre" (relations), the common layouts of these
            data sets; "conll" (named entities, no images); "jsonl" or "parquet" (your own data, both tasks);
            "flickr30k_entities"; or the name of a registered format.
        root: Folder of the data set.
        task: "ner" (named entities), "re" (relations), or the name of a registered task. Default: the task of the data.
        no_relation: Label for "no relation", which is excluded from the scores; null if every pair has a relation.
        bad_images: What to do if an image or crop is missing or broken: stop with an "error", continue without it
            ("blank"), or remove the sample from training ("drop"; in scored splits the image is blanked instead).
            "blank" and "drop" count and list the affected images.
        long_samples: What to do if an entity of a relation is beyond `max_length`: stop with an "error", or "drop" the
            sample from training (the samples are counted; in scored splits they count as missed).
        label_scheme: What is tagged for named entities: words ("bio"), or all sub-words as in older baselines ("x13",
            with extra tags for the later sub-words of a word, both ends of the sentence, and padding).
        max_length: Maximum length of a sentence in sub-words.
        image_size: Side length of the images in pixels; 224, or 32 for the `tiny` backbone.
        resize: How images become squares: "squash"; "centre-crop" as in most published code (short side to 256, then
            the central 224; other sizes in proportion); or "window" as in other published code (a random square of the
            unscaled image, drawn once, possibly mirrored).
        max_crops: Maximum number of object crops per sample.
        feature_cache: Folder that caches image features, so that a frozen backbone computes each image only once for
            all epochs and runs. Features are computed in float32, also under mixed precision. Requires
            `model.freeze_image_backbone`. Without a cache, images are decoded for every mini-batch.
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
