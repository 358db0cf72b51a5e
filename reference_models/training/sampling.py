"""The order in which an epoch shows the training samples."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

SEED_STEP = 1_000_003  # an odd number above the epochs of any run


class EpochSampler(Sampler[int]):
    """Shuffles by the seed and the number of the epoch alone, so that a resumed epoch goes on in the same order.

    Args:
        size: number of samples.
        seed: of the run.
        epoch: tells the number of the epoch that begins.
        shuffle: False keeps the order of the samples.
        lengths: length of each sample, to fill batches with samples of about one length; None for any order.
        batch_size: samples of one step, over all processes.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        epoch: Callable[[], int],
        *,
        shuffle: bool = True,
        lengths: Sequence[int] | None = None,
        batch_size: int = 1,
    ) -> None:
        self.size, self.seed, self.epoch = size, seed, epoch
        self.shuffle, self.lengths, self.batch_size = shuffle, lengths, batch_size

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        if not self.shuffle:
            return iter(range(self.size))
        # A sum of both would give epoch 1 of a seed the order of epoch 0 of the next seed.
        generator = torch.Generator().manual_seed((SEED_STEP * self.seed + self.epoch()) % 2**32)
        if self.lengths is not None:
            return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
        return map(int, torch.randperm(self.size, generator=generator).numpy())
