"""A split ready for a model: every text encoded once, pictures loaded when asked for."""

import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

from reference_models.data.features import FeatureCache
from reference_models.data.processor import Processor, TooLongError
from reference_models.data.samples import Sample

logger = logging.getLogger(__name__)


class EncodedSplit(Dataset[dict[str, Any]]):
    """The samples of a split as the items that `Processor.collate` takes.

    Args:
        samples: of one split.
        processor: encodes them, once, here.
        long_samples: "error", or "drop" to leave out relations with an entity behind the length limit, which is logged.
        features: where those of the pictures are read; None loads the pictures themselves.

    Attributes:
        samples: those that are kept, in order.
        dropped: ids of those left out.
        lengths: sub-words of each sample.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        processor: Processor,
        long_samples: Literal["error", "drop"] = "error",
        features: FeatureCache | None = None,
    ) -> None:
        self.processor, self.features = processor, features
        self.samples: list[Sample] = []
        self.dropped: list[str] = []
        self._items: list[dict[str, Any]] = []
        for sample in samples:
            try:
                self._items.append(processor.encode(sample))
            except TooLongError:
                if long_samples == "error":
                    raise
                self.dropped.append(sample.id)
            else:
                self.samples.append(sample)
        if self.dropped:
            logger.warning("%d samples too long, dropped: %s", len(self.dropped), ", ".join(self.dropped))
        self.lengths = [len(item["input_ids"]) for item in self._items]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = dict(self._items[index])
        if self.features is not None:
            paths = self.processor.pictures(self.samples[index])
            item["features"] = (*self.features.read(paths), torch.tensor([path is not None for path in paths]))
        elif self.processor.image_size is not None:
            item["pixels"] = self.processor.pixels(self.samples[index])
        return item
