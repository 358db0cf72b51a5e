"""A split as a PyTorch dataset: sentences are encoded once, images are loaded on access."""

import logging
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from reference_models.config import LongSamples
from reference_models.data.features import FeatureCache
from reference_models.data.samples import Sample, spooled
from reference_models.data.spool import Spool
from reference_models.tasks.processor import Processor
from reference_models.tasks.subwords import TooLongError

logger = logging.getLogger(__name__)


class EncodedSplit(Dataset[dict[str, Any]]):
    """The samples of a split as items for `Processor.collate`, encoded into a temporary file.

    Args:
        samples: Samples of one split. The object is kept, so a list stays in memory.
        processor: Encodes each sample once, in the constructor.
        long_samples: "error", or "drop" to remove (and log) relation samples with an entity beyond the length limit.
        features: Cache from which image features are read. None loads the images.

    Attributes:
        whole: All given samples; scores are computed over all of them.
        samples: The kept samples, in order.
        dropped: Ids of the dropped samples, which count as missed in the scores.
        cut: Number of kept samples that the length limit truncates, and total number of words that it removes.
        lengths: Number of sub-words of each kept sample.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        processor: Processor,
        long_samples: LongSamples = "error",
        features: FeatureCache | None = None,
    ) -> None:
        self.processor, self.features = processor, features
        self.dropped: list[str] = []
        self.cut = {"samples": 0, "words": 0}
        self.lengths = array("I")
        self._items = Spool(self._encode(samples, long_samples))
        self.whole = self.samples = samples
        if dropped := set(self.dropped):
            self.samples = spooled(sample for sample in samples if sample.id not in dropped)
            logger.warning("dropped %d samples that are too long: %s", len(self.dropped), ", ".join(self.dropped))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self._items[index]
        if self.features is not None:
            paths = self.processor.image_paths(self.samples[index])
            item["features"] = self.features.read(paths)
            item["features"]["image_mask"] = torch.tensor([path is not None for path in paths])
        elif self.processor.image_size is not None:
            item["pixels"] = self.processor.pixels(self.samples[index])
        return item

    def _encode(self, samples: Sequence[Sample], long_samples: LongSamples) -> Iterator[dict[str, Any]]:
        for sample in samples:
            try:
                item = self.processor.encode(sample)
            except TooLongError:
                if long_samples == "error":
                    raise
                self.dropped.append(sample.id)
            else:
                self.lengths.append(len(item["input_ids"]))
                if count := item["words_cut"]:
                    self.cut = {"samples": self.cut["samples"] + 1, "words": self.cut["words"] + count}
                yield item
