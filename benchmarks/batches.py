"""Mini-batches of random sentences with real sentence lengths, each with an image and three crops."""

from typing import Literal

import torch
from torch import Generator, Tensor

from reference_models.tasks import get_task

Task = Literal["ner", "re"]
IMAGES = 4  # per sample: the whole image and three crops
LABELS: dict[Task, int] = {"ner": 9, "re": 23}
LIMIT = 80  # sub-words to which the release pads every sentence
BIN = 4
# Number of sentences with 0-3, 4-7, ... sub-words of BERT's vocabulary, including markers and special tokens, in the
# training splits of Twitter-2015 and 2017 together (ner) and of MNRE (re). No sentence reaches the limit of 80.
HISTOGRAM: dict[Task, tuple[int, ...]] = {
    "ner": (0, 5, 203, 608, 884, 818, 649, 709, 523, 535, 597, 566, 557, 429, 204, 68, 11, 7),
    "re": (0, 0, 2, 27, 307, 1271, 2404, 2876, 2532, 1690, 806, 255, 46, 31),
}


def length_groups(task: Task, batch_size: int, groups: int) -> list[Tensor]:
    """Return the lengths ``(batch_size,)`` of batches of similar length, evenly spread from short to long sentences."""
    counts = torch.tensor(HISTOGRAM[task])
    bins = torch.arange(len(counts)).repeat_interleave(counts)
    lengths = bins * BIN + torch.arange(len(bins)) % BIN
    batches = lengths.sort().values[: len(lengths) // batch_size * batch_size].view(-1, batch_size)
    places = (torch.arange(groups) + 0.5) / groups * len(batches)
    return list(batches[places.long()])


def shuffled(groups: list[Tensor]) -> list[Tensor]:
    """Return the same sentences in batches of mixed length."""
    lengths = torch.cat(groups)
    order = torch.randperm(len(lengths), generator=Generator().manual_seed(0))
    return list(lengths[order].split(len(groups[0])))


def text_batch(task: Task, lengths: Tensor, generator: Generator, *, vocabulary: int, padded: int) -> dict[str, Tensor]:
    """Return text and labels in the format of `Processor.collate`, for sentences of random sub-words.

    Args:
        task: For ``"ner"``, a sentence of n sub-words has (n - 2) / 2 words to tag, as in the real data. For ``"re"``,
            it has two entities of 3 sub-words.
        lengths: Number of sub-words of each sentence, shape ``(B,)``, at least 8.
        generator: Random generator of the sub-words and labels.
        vocabulary: Number of sub-words to choose from.
        padded: Number of sub-words (and words) to which all sentences are padded.
    """
    size = len(lengths)
    positions = torch.arange(padded)
    text = positions < lengths[:, None]
    drawn = (size, max(padded, LIMIT))  # the text must not depend on the padding
    ids = torch.randint(3, vocabulary, drawn, generator=generator)
    batch = {"input_ids": ids[:, :padded].where(text, 1), "attention_mask": text.long()}
    if get_task(task).pairs:
        labels = torch.randint(LABELS[task], (size,), generator=generator)
        masks = {name: (positions >= at) & (positions < at + 3) for name, at in (("head_mask", 1), ("tail_mask", 4))}
        return batch | {name: mask.expand(size, -1) for name, mask in masks.items()} | {"labels": labels}
    words = (lengths - 2) // 2
    numbers = torch.arange(LIMIT if padded == LIMIT else int(words.max()))
    mask = numbers < words[:, None]
    tags = torch.randint(LABELS[task], drawn, generator=generator)[:, : len(numbers)]
    return batch | {"word_starts": (1 + 2 * numbers).where(mask, 0), "labels": tags.where(mask, 0), "word_mask": mask}


def image_batch(size: int, generator: Generator, *, side: int) -> dict[str, Tensor]:
    """Return noise images ``(size, IMAGES, 3, side, side)`` and a mask that marks all of them as present."""
    pixels = torch.randint(256, (size, IMAGES, 3, side, side), generator=generator, dtype=torch.uint8)
    return {"pixel_values": pixels, "image_mask": torch.ones(size, IMAGES, dtype=torch.bool)}
