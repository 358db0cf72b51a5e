"""A split ready for a model: every text encoded once, images loaded when asked for."""

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
    """The samples of a split as the items that `Processor.collate` takes, encoded into a temporary file.

    Args:
        samples: of one split; they are kept as they are, so in memory if they are a list.
        processor: encodes them, once, here.
        long_samples: "error", or "drop" to leave out relations with an entity behind the length limit, which is logged.
        features: where those of the images are read; None loads the images themselves.

    Attributes:
        whole: the samples as they were given; scores are of all of them.
        samples: those that are kept, in order.
        dropped: ids of those left out, which count as missed in scores.
        cut: how many of the kept samples the length limit cuts, and how many words it cuts off altogether.
        lengths: sub-words of each sample.
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
            logger.warning("%d samples too long, dropped: %s", len(self.dropped), ", ".join(self.dropped))

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
