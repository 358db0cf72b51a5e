"""Order of the training samples in each epoch."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

SEED_STEP = 1_000_003  # an odd number, larger than the number of epochs of any run


class EpochSampler(Sampler[int]):
    """Sampler whose order depends only on the seed and the epoch, so that a resumed epoch keeps its order.

    Args:
        size: Number of samples.
        seed: Seed of the run.
        epoch: Returns the number of the current epoch.
        shuffle: False keeps the order of the samples.
        lengths: Length of each sample, to group samples of similar length; None for no grouping.
        batch_size: Samples per step, over all processes.
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
        # With seed + epoch, epoch 1 of a seed would have the same order as epoch 0 of the next seed.
        generator = torch.Generator().manual_seed((SEED_STEP * self.seed + self.epoch()) % 2**32)
        if self.lengths is not None:
            return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
        return map(int, torch.randperm(self.size, generator=generator).numpy())
