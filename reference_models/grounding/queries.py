"""Queries for detectors: images with their phrases, grouped by the keys of the crop dictionary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reference_models.config.grounding import GroundingConfig
from reference_models.data.samples import Region, Sample
from reference_models.grounding.detectors import Detector
from reference_models.grounding.manifest import Key
from reference_models.grounding.phrases import entity_phrases, load_pipeline, noun_phrases


def image_queries(
    samples: Sequence[Sample], phrases: Sequence[Sequence[str]], key_type: type[str] | type[int]
) -> list[ImageQuery]:
    """Return one query per key, in the order of the samples.

    Keys are sample positions in the label file (MNRE, `int`) or image names (Twitter, `str`). An image with several
    sentences is processed once, with the phrases of all of them.
    """
    groups: dict[tuple[Key, Path], list[tuple[Sample, Sequence[str]]]] = {}
    for index, (sample, wanted) in enumerate(zip(samples, phrases, strict=True)):
        if sample.image is not None:
            key = index if key_type is int else sample.image.name
            groups.setdefault((key, sample.image), []).append((sample, wanted))
    queries = []
    for (key, image), members in groups.items():
        sample_of = {phrase: sample.id for sample, wanted in reversed(members) for phrase in wanted}
        order = dict.fromkeys(phrase for _, wanted in members for phrase in wanted)
        ids = tuple(sample.id for sample, _ in members)
        regions = dict.fromkeys(region for sample, _ in members for region in sample.regions)
        queries.append(ImageQuery(key, image, ids, {phrase: sample_of[phrase] for phrase in order}, tuple(regions)))
    return queries


def choose_phrases(
    pairs: bool, config: GroundingConfig, detector: Detector
) -> tuple[str, Callable[[Sequence[Sample]], list[tuple[str, ...]]]]:
    """Choose how phrases are found.

    Args:
        pairs: Whether samples are relations; the two entities are then the phrases.
        config: Grounding settings with the name of the pipeline that finds noun phrases otherwise.
        detector: Detector; if it takes no phrases, none are searched.

    Returns:
        The name and version of the method, and a function that returns the phrases of each sample.

    Raises:
        UserError: If a pipeline is needed and cannot be loaded.
    """
    if not detector.takes_phrases:
        return "none", lambda samples: [()] * len(samples)
    if pairs:
        return "entities", lambda samples: [entity_phrases(sample) for sample in samples]
    pipeline = load_pipeline(config.phrases)
    name = "{lang}_{name} {version}".format(**pipeline.meta)
    return name, lambda samples: noun_phrases(samples, pipeline)


@dataclass(frozen=True)
class ImageQuery:
    """An image and the phrases to search for.

    Attributes:
        key: Key in the crop dictionary.
        image: Path of the image.
        samples: Ids of the samples with this image.
        phrases: Phrases, each with the id of the first sample that contains it.
        regions: Annotated regions of the image.
    """

    key: Key
    image: Path
    samples: tuple[str, ...]
    phrases: dict[str, str]
    regions: tuple[Region, ...] = ()
