"""Conversion of samples to mini-batches (sub-words, pixels and labels), and of predicted ids to answers.

Sentences are padded to the longest of the mini-batch. Words beyond the length limit have no representation, so their
entities count as missed.
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
WORD_LENGTH = 30  # maximum number of characters read; of longer words, the first 15 and the last 15


class Processor:
    """Encodes samples for a model and decodes its predictions. It is saved with the model.

    Args:
        tokenizer: A fast tokenizer. The special tokens of the task are added to it in place.
        task: Task with its labels.
        max_length: Maximum number of sub-words, including special tokens.
        image_size: Side in pixels of the square to which images are resized. None for a text-only model.
        max_crops: Maximum number of crops per sample.
        resize: How images become squares, see `load_image`.
        characters: Known characters, for a model that also reads the characters of words; None otherwise.
        rare_words: Number of words in a whole-word vocabulary that occur once in the training text, see `learn_words`.
        texts: Kinds of image texts that are appended to the sentence, in this order, for a model that reads them.
        text_length: Maximum number of sub-words of the image texts, in addition to `max_length`.
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
        """Load a processor that `save_pretrained` wrote."""
        settings = json.loads((Path(folder) / FILE).read_text())
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        task = settings.pop("task")
        return cls(tokenizer, get_task(task.pop("name"))(**task), **settings)

    def encode(self, sample: Sample) -> Item:
        """Encode the text and labels of a sample as ids; see `Task.encode` for the return value and errors."""
        item = self.task.encode(sample, self.subwords)
        if self.characters is not None:
            read = sample.words[: len(sample.words) - item["words_cut"]]
            item["characters"] = [_character_ids(word, self.characters) for word in read]
        if self.texts:
            item["image_text_ids"] = self._image_text_ids(sample)
        return item

    def _image_text_ids(self, sample: Sample) -> list[int]:
        """Return the sub-words of the image texts and an end token; empty without texts."""
        own = dict(sample.image_texts)
        text = " ".join(own[kind] for kind in self.texts if own.get(kind))
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: self.text_length - 1]
        return [*ids, self.tokenizer.sep_token_id] if ids else []

    def decode(self, sample: Sample, ids: Any) -> Answer:
        """Convert a row of predicted ids to the answer for a sample; see `Task.decode`."""
        return self.task.decode(sample, ids, self.subwords)

    def image_paths(self, sample: Sample) -> list[Path | None]:
        """Return the paths of the image and the crops of a sample, 1 + max_crops entries; None for a missing one."""
        paths = [sample.image, *sample.crops[: self.max_crops]]
        return paths + [None] * (1 + self.max_crops - len(paths))

    def pixels(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Load the image and crops of a sample.

        Returns:
            The pixels, uint8 (1 + max_crops, 3, size, size), zeros for a missing image; and a mask (1 + max_crops,)
            that is True where there is an image.

        Raises:
            ValueError: If the processor is for a text-only model.
        """
        if self.image_size is None:
            raise ValueError("expected a processor with an image_size, this one is for a text-only model")
        values = torch.zeros(1 + self.max_crops, 3, self.image_size, self.image_size, dtype=torch.uint8)
        present = torch.zeros(1 + self.max_crops, dtype=torch.bool)
        for slot, path in enumerate(self.image_paths(sample)):
            if path is not None:
                values[slot] = load_image(path, self.image_size, self.resize)
                present[slot] = True
        return values, present

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Collate items to a mini-batch: `input_ids` and `attention_mask` (B, L), task tensors, images, known `labels`.

        If image texts are read, `joined_ids` and `joined_mask` (B, L') contain the sentences followed by these texts.
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
    """Return the ids of the characters of a word; 0 is padding and 1 is an unknown character."""
    if len(word) > WORD_LENGTH:
        word = word[: WORD_LENGTH // 2] + word[-WORD_LENGTH // 2 :]
    return [known.find(character) + 2 if character in known else 1 for character in word]
