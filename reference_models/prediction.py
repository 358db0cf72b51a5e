"""Prediction for one post: from a sentence and pictures to entities or a relation, in plain words."""

from collections.abc import Sequence
from pathlib import Path

import torch

from reference_models.data.images import check_images
from reference_models.data.processor import Processor
from reference_models.data.samples import Sample
from reference_models.errors import UserError
from reference_models.models.i2srm import I2SRM
from reference_models.training.metrics import spans


def make_sample(
    text: str,
    *,
    image: Path | None = None,
    crops: Sequence[Path] = (),
    head: str | None = None,
    tail: str | None = None,
) -> Sample:
    """A sample from a sentence whose words are divided by spaces.

    Args:
        text: the sentence.
        image: the whole picture. The prefix of the text encoder is made of crops, so without crops the picture itself
            stands for its only crop.
        crops: pictures of its objects.
        head, tail: for a relation, the two entities as they stand in the sentence.

    Raises:
        UserError: no words, an entity that is not in the sentence, or a picture that cannot be read.
    """
    words = tuple(text.split())
    head_span = None if head is None else _find("head", head, words, taken=None)
    tail_span = None if tail is None else _find("tail", tail, words, taken=head_span)
    shown = tuple(crops) or ((image,) if image else ())
    sample = Sample("the post", words, image, shown, head=head_span, tail=tail_span)
    return check_images([sample], "error", progress=False)[0][0]


@torch.inference_mode()
def predict(model: I2SRM, processor: Processor, sample: Sample) -> tuple[list[str] | str, dict[str, float]]:
    """Tags of a sample's words; or its likeliest relation, with the probabilities of all relations."""
    item = processor.encode(sample)
    if processor.image_size is not None:
        item["pixels"] = processor.pixels(sample)
    output = model(**{name: value.to(model.device) for name, value in processor.collate([item]).items()})
    said = processor.names(sample, output.predictions[0].tolist())
    if processor.task == "ner":
        return said, {}
    return said, dict(zip(processor.labels, output.scores[0].softmax(dim=-1).tolist(), strict=True))


def describe(sample: Sample, said: Sequence[str] | str) -> str:
    """A prediction in plain words: "Ada Vex is a person (PER); ..." or "Ada Vex -- /per/per/peer --> Kol Brin"."""
    if isinstance(said, str):
        head, tail = (" ".join(sample.words[slice(*span)]) for span in (sample.head, sample.tail))
        return f"{head} --[{said}]--> {tail}"
    found = [f"{' '.join(sample.words[start:end])} [{kind}]" for start, end, kind in sorted(spans(said))]
    return ", ".join(found) or "no entity"


def _find(name: str, entity: str, words: Sequence[str], taken: tuple[int, int] | None) -> tuple[int, int]:
    """The first place of an entity in the sentence that is not the other entity's."""
    wanted = entity.split()
    for start in range(len(words) - len(wanted) + 1):
        span = (start, start + len(wanted))
        if wanted and list(words[slice(*span)]) == wanted and span != taken:
            return span
    raise UserError(f"the {name} entity {entity!r} does not stand in the sentence {' '.join(words)!r}, word by word")
