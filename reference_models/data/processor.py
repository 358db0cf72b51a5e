"""From samples to batches: sub-words, pixels and labels, and back from ids to words.

Padding is to the longest of a batch; words behind the length limit get no representation and count as missed.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from reference_models.data.images import Resize, load_image
from reference_models.data.samples import TAGS, Sample
from reference_models.errors import UserError

MARKERS = ("[HEAD]", "[/HEAD]", "[TAIL]", "[/TAIL]")
FILE = "processor.json"
KEYS = ("task", "labels", "max_length", "image_size", "max_crops", "resize", "label_scheme")
# The tags of older baselines: all sub-words are tagged, and the later ones of a word are X.
X13 = ("[PAD]", *TAGS, "X", "[CLS]", "[SEP]")


class TooLongError(UserError):
    """An entity of a relation sample lies behind the length limit."""


class Processor:
    """Encodes samples for a model and decodes its predictions; saved beside the model.

    Args:
        tokenizer: a fast tokenizer; for relations the entity markers are added to it.
        task: "ner" or "re".
        labels: tags or relations in the order of their ids.
        max_length: limit in sub-words, special tokens included.
        image_size: side of the square that pictures are resized to, pixels; None for a model that reads text alone.
        max_crops: crops of one sample at most.
        resize: how pictures become squares, see `load_image`.
        label_scheme: "bio" tags words, "x13" all sub-words, by the labels `X13`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        task: Literal["ner", "re"],
        labels: Sequence[str],
        *,
        max_length: int = 80,
        image_size: int | None = 224,
        max_crops: int = 3,
        resize: Resize = "squash",
        label_scheme: Literal["bio", "x13"] = "bio",
    ) -> None:
        self.tokenizer, self.task, self.labels = tokenizer, task, list(labels)
        self.max_length, self.image_size, self.max_crops = max_length, image_size, max_crops
        self.resize, self.label_scheme = resize, label_scheme
        self._ids = {label: number for number, label in enumerate(self.labels)}
        if task == "re":
            tokenizer.add_special_tokens({"additional_special_tokens": list(MARKERS)})

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the tokenizer and `processor.json` into `folder`."""
        self.tokenizer.save_pretrained(folder)
        settings = {key: getattr(self, key) for key in KEYS}
        (Path(folder) / FILE).write_text(json.dumps(settings, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "Processor":
        """Read what `save_pretrained` wrote."""
        settings = json.loads((Path(folder) / FILE).read_text())
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        return cls(tokenizer, settings.pop("task"), settings.pop("labels"), **settings)

    def encode(self, sample: Sample) -> dict[str, Any]:
        """The text and labels of a sample as ids, and `words_cut`: how many of its last words the limit cuts off.

        Raises:
            TooLongError: an entity of a relation sample lies behind the length limit.
            UserError: a relation sample without entities, or an unknown relation.
        """
        return self._encode_words(sample) if self.task == "ner" else self._encode_pair(sample)

    def pictures(self, sample: Sample) -> list[Path | None]:
        """The 1 + max_crops slots of a sample: its picture and its crops, None where there is none."""
        paths = [sample.image, *sample.crops[: self.max_crops]]
        return paths + [None] * (1 + self.max_crops - len(paths))

    def pixels(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """The picture and crops of a sample, uint8 (1 + max_crops, 3, size, size), and where there is one."""
        values = torch.zeros(1 + self.max_crops, 3, self.image_size, self.image_size, dtype=torch.uint8)
        present = torch.zeros(1 + self.max_crops, dtype=torch.bool)
        for slot, path in enumerate(self.pictures(sample)):
            if path is not None:
                values[slot] = load_image(path, self.image_size, self.resize)
                present[slot] = True
        return values, present

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """One batch: `input_ids`, `attention_mask` (B, L), what the task adds, pictures, and `labels` if known."""
        pad = self.tokenizer.pad_token_id
        batch = {
            "input_ids": _pad([item["input_ids"] for item in items], pad),
            "attention_mask": _pad([[1] * len(item["input_ids"]) for item in items], 0),
        }
        length = batch["input_ids"].shape[1]
        if self.task == "ner":
            batch["word_starts"] = _pad([item["word_starts"] for item in items], 0)
            batch["word_mask"] = _pad([[1] * len(item["word_starts"]) for item in items], 0).bool()
        else:
            positions = torch.arange(length)
            for name in ("head", "tail"):
                start, end = torch.tensor([item[name] for item in items]).T[..., None]
                batch[f"{name}_mask"] = (positions >= start) & (positions < end)
        if "pixels" in items[0]:
            pixels, present = zip(*(item["pixels"] for item in items), strict=True)
            batch |= {"pixel_values": torch.stack(pixels), "image_mask": torch.stack(present)}
        for name in items[0].get("features", ()):
            batch[name] = torch.stack([item["features"][name] for item in items])
        if "labels" in items[0]:
            labels = [item["labels"] for item in items]
            batch["labels"] = _pad(labels, 0) if self.task == "ner" else torch.tensor(labels)
        return batch

    def names(self, sample: Sample, prediction: Sequence[int] | int) -> list[str] | str:
        """Predicted ids as one tag for every word of the sample ("O" behind the length limit), or as the relation."""
        if isinstance(prediction, int):
            return self.labels[prediction]
        tags = [self.labels[i] for i in prediction if i >= 0]
        if self.label_scheme == "x13":
            starts = _word_starts(self._subwords(sample.words)[1])
            tags = [tags[start] if tags[start] in TAGS else "O" for start in starts]
        return tags + ["O"] * (len(sample.words) - len(tags))

    def _subwords(self, words: Sequence[str]) -> tuple[list[int], list[int | None]]:
        """Ids, and for each the number of its word; a word without any sub-word becomes the unknown token."""
        encoded = self.tokenizer(list(words), is_split_into_words=True, truncation=True, max_length=self.max_length)
        ids, numbers = encoded["input_ids"], encoded.word_ids()
        seen = {number for number in numbers if number is not None}
        reached = len(words) if len(ids) < self.max_length else max(seen) + 1
        if len(seen) < reached:
            known = [word if i in seen or i >= reached else self.tokenizer.unk_token for i, word in enumerate(words)]
            return self._subwords(known)
        return ids, numbers

    def _encode_words(self, sample: Sample) -> dict[str, Any]:
        ids, numbers = self._subwords(sample.words)
        starts = _word_starts(numbers)
        item: dict[str, Any] = {"input_ids": ids, "word_starts": starts, "words_cut": len(sample.words) - len(starts)}
        if self.label_scheme == "x13":
            item["word_starts"] = list(range(len(ids)))
        if sample.tags is None:
            return item
        tags: Sequence[str] = sample.tags[: len(starts)]
        if self.label_scheme == "x13":
            ends = [
                "X" if number is not None else "[SEP]" if place else "[CLS]" for place, number in enumerate(numbers)
            ]
            at_start = dict(zip(starts, tags, strict=True))
            tags = [at_start.get(place, tag) for place, tag in enumerate(ends)]
        item["labels"] = [self._ids[tag] for tag in tags]
        return item

    def _encode_pair(self, sample: Sample) -> dict[str, Any]:
        if sample.head is None or sample.tail is None:
            raise UserError(f"{sample.id}: expected the spans of a head and a tail entity")
        cuts = [(sample.head[0], 1, "[HEAD]"), (sample.head[1], 0, "[/HEAD]")]
        cuts += [(sample.tail[0], 1, "[TAIL]"), (sample.tail[1], 0, "[/TAIL]")]
        marked = [(word, "word") for word in sample.words]
        for place, _, marker in sorted(cuts, reverse=True):
            marked.insert(place, (marker, marker))
        ids, numbers = self._subwords([word for word, _ in marked])
        kinds = [kind for _, kind in marked]
        last = max(number for number in numbers if number is not None)
        item: dict[str, Any] = {"input_ids": ids, "words_cut": kinds[last + 1 :].count("word")}
        for name, opening, closing in (("head", *MARKERS[:2]), ("tail", *MARKERS[2:])):
            if kinds.index(closing) not in numbers:
                raise TooLongError(
                    f"{sample.id}: the {name} entity at words {list(getattr(sample, name))} lies behind the limit of "
                    f"{self.max_length} sub-words; raise data.max_length, or leave such samples "
                    "out by data.long_samples=drop"
                )
            item[name] = (numbers.index(kinds.index(opening)) + 1, numbers.index(kinds.index(closing)))
        if sample.relation is not None:
            if sample.relation not in self._ids:
                raise UserError(f"{sample.id}: unknown relation {sample.relation!r}")
            item["labels"] = self._ids[sample.relation]
        return item


def _word_starts(numbers: Sequence[int | None]) -> list[int]:
    """The place of each word's first sub-word, given the number of each sub-word's word."""
    return [numbers.index(word) for word in range(max(number for number in numbers if number is not None) + 1)]


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)  # a tensor would take six times as long
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(padded)
