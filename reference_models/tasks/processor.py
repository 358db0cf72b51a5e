"""From samples to batches: sub-words, pixels and labels, and back from ids to words.

Padding is to the longest of a batch; words behind the length limit get no representation and count as missed.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from reference_models.config import Resize
from reference_models.data.images import load_image
from reference_models.data.samples import Sample
from reference_models.tasks.padding import pad
from reference_models.tasks.subwords import Subwords
from reference_models.tasks.task import Answer, Item, Task, get_task

FILE = "processor.json"
KEYS = ("max_length", "image_size", "max_crops", "resize", "characters", "rare_words", "texts", "text_length")
WORD_LENGTH = 30  # characters; of longer words the first and the last half are read


class Processor:
    """Encodes samples for a model and decodes its predictions; saved beside the model.

    Args:
        tokenizer: a fast tokenizer; the special tokens of the task are added to it.
        task: with its labels.
        max_length: limit in sub-words, special tokens included.
        image_size: side of the square that images are resized to, pixels; None for a model that reads text alone.
        max_crops: crops of one sample at most.
        resize: how images become squares, see `load_image`.
        characters: that are known, for a model that reads words by their characters too; None for others.
        rare_words: how many words of a tokenizer of whole words occur once in the training text, see `learn_words`.
        texts: kinds of texts about the image that follow the sentence, in this order, for a model that reads them.
        text_length: limit of these in sub-words, beside `max_length`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        task: Task,
        *,
        max_length: int = 80,
        image_size: int | None = 224,
        max_crops: int = 3,
        resize: Resize = "squash",
        characters: str | None = None,
        rare_words: int = 0,
        texts: Sequence[str] = (),
        text_length: int = 0,
    ) -> None:
        self.tokenizer, self.task, self.subwords = tokenizer, task, Subwords(tokenizer, max_length)
        self.max_length, self.image_size, self.max_crops, self.resize = max_length, image_size, max_crops, resize
        self.characters, self.rare_words = characters, rare_words
        self.texts, self.text_length = list(texts), text_length
        if task.special_tokens:
            tokenizer.add_special_tokens({"additional_special_tokens": list(task.special_tokens)})

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the tokenizer and `processor.json` into `folder`."""
        self.tokenizer.save_pretrained(folder)
        task = {"name": self.task.name, **self.task.settings()}
        settings = {"task": task, **{key: getattr(self, key) for key in KEYS}}
        (Path(folder) / FILE).write_text(json.dumps(settings, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "Processor":
        """Read what `save_pretrained` wrote."""
        settings = json.loads((Path(folder) / FILE).read_text())
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        task = settings.pop("task")
        return cls(tokenizer, get_task(task.pop("name"))(**task), **settings)

    def encode(self, sample: Sample) -> Item:
        """The text and labels of a sample as ids; see `Task.encode` for what it returns and raises."""
        item = self.task.encode(sample, self.subwords)
        if self.characters is not None:
            read = sample.words[: len(sample.words) - item["words_cut"]]
            item["characters"] = [_character_ids(word, self.characters) for word in read]
        if self.texts:
            item["image_text_ids"] = self._image_text_ids(sample)
        return item

    def _image_text_ids(self, sample: Sample) -> list[int]:
        """The texts about the image as sub-words with an end; nothing where there is no text."""
        own = dict(sample.image_texts)
        text = " ".join(own[kind] for kind in self.texts if own.get(kind))
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: self.text_length - 1]
        return [*ids, self.tokenizer.sep_token_id] if ids else []

    def decode(self, sample: Sample, ids: Any) -> Answer:
        """What a row of predicted ids says of a sample; see `Task.decode`."""
        return self.task.decode(sample, ids, self.subwords)

    def image_paths(self, sample: Sample) -> list[Path | None]:
        """The 1 + max_crops slots of a sample: its image and its crops, None where there is none."""
        paths = [sample.image, *sample.crops[: self.max_crops]]
        return paths + [None] * (1 + self.max_crops - len(paths))

    def pixels(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """The image and crops of a sample, uint8 (1 + max_crops, 3, size, size), and where there is one.

        Raises:
            ValueError: the processor is for a model that reads text alone.
        """
        if self.image_size is None:
            raise ValueError("expected a processor with an image_size, this one is for text alone")
        values = torch.zeros(1 + self.max_crops, 3, self.image_size, self.image_size, dtype=torch.uint8)
        present = torch.zeros(1 + self.max_crops, dtype=torch.bool)
        for slot, path in enumerate(self.image_paths(sample)):
            if path is not None:
                values[slot] = load_image(path, self.image_size, self.resize)
                present[slot] = True
        return values, present

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """One batch: `input_ids`, `attention_mask` (B, L), what the task adds, images, and `labels` if known.

        Where texts about the image are read, `joined_ids` and `joined_mask` (B, L') hold the sentences with them.
        """
        input_ids = pad([item["input_ids"] for item in items], self.tokenizer.pad_token_id)
        batch = {
            "input_ids": input_ids,
            "attention_mask": pad([[1] * len(item["input_ids"]) for item in items], 0),
            **self.task.collate(items, input_ids.shape[1]),
        }
        if self.characters is not None:
            width = max(map(len, (item["characters"] for item in items)))
            rows = [item["characters"] + [[]] * (width - len(item["characters"])) for item in items]
            flat = pad([word for row in rows for word in row], 0)
            batch["characters"] = flat.view(len(items), width, -1)
        if self.texts:
            joined = [item["input_ids"] + item["image_text_ids"] for item in items]
            batch["joined_ids"] = pad(joined, self.tokenizer.pad_token_id)
            batch["joined_mask"] = pad([[1] * len(ids) for ids in joined], 0)
        if "pixels" in items[0]:
            pixels, present = zip(*(item["pixels"] for item in items), strict=True)
            batch |= {"pixel_values": torch.stack(pixels), "image_mask": torch.stack(present)}
        for name in items[0].get("features", ()):
            batch[name] = torch.stack([item["features"][name] for item in items])
        return batch


def _character_ids(word: str, known: str) -> list[int]:
    """The ids of a word's characters: 0 pads and 1 is one that is not known."""
    if len(word) > WORD_LENGTH:
        word = word[: WORD_LENGTH // 2] + word[-WORD_LENGTH // 2 :]
    return [known.find(character) + 2 if character in known else 1 for character in word]
