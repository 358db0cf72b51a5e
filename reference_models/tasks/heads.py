"""Output heads (Eq. 17-19): a CRF or a softmax over the tags of words, and a softmax over relations."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchcrf import CRF

from reference_models.tasks.lattice import TagLattice, forward_backward


class Head(nn.Module):
    """Base class of heads: maps `h` (..., C) to float32 logits (..., labels), and the logits to a loss and to labels.

    Attributes:
        learning_rate: Default peak learning rate.
        loss: Function of logits, labels and mask that returns the loss of each row, (N,).
        decode: Function of logits and mask that returns label ids.
    """

    learning_rate: float = 1e-3
    loss: Callable[..., Tensor]
    decode: Callable[..., Tensor]


class LinearHead(Head):
    """Dropout and a linear layer, the base of all task heads."""

    def __init__(self, width: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, labels)

    def forward(self, rows: Tensor) -> Tensor:
        """Compute the logits (..., labels) of `rows` (..., C), in float32."""
        scores: Tensor = self.linear(self.dropout(rows))
        return scores.float()


class TaggingHead(LinearHead):
    """A CRF over compact, right-padded word sequences.

    pytorch-crf needs a boolean mask without holes, float32 logits and finite values at padding. This class ensures it.
    """

    learning_rate = 5e-2  # with the learning rate of the encoder, the transitions barely change

    def __init__(self, width: int, labels: int, dropout: float) -> None:
        super().__init__(width, labels, dropout)
        self.crf = CRF(labels, batch_first=True)

    def loss(self, scores: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Compute the negative log-likelihood of each row divided by its number of words (Eq. 17), (N,)."""
        scores = scores.masked_fill(~mask[..., None], 0.0)
        with torch.autocast(scores.device.type, enabled=False):
            likelihood: Tensor = self.crf(scores, tags, mask=mask, reduction="none")
            return -likelihood / mask.sum(dim=1)

    @torch.no_grad()
    def decode(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the best tag sequences (N, words), with -100 at padding."""
        scores = scores.masked_fill(~mask[..., None], 0.0)
        length = mask.shape[1]
        best = [row + [-100] * (length - len(row)) for row in self.crf.decode(scores, mask=mask)]
        return torch.tensor(best, device=scores.device)

    def log_marginals(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Compute the log-probability of each tag at each word, (N, words, tags); undefined at padding."""
        scores, crf = scores.masked_fill(~mask[..., None], 0.0), self.crf
        with torch.autocast(scores.device.type, enabled=False):
            both = forward_backward(scores, mask, crf.start_transitions, crf.end_transitions, crf.transitions)
            return (both[0] + both[1]).log_softmax(dim=-1)

    def lattice(self, scores: Tensor, mask: Tensor) -> TagLattice:
        """Return the lattice that gives the probabilities of tag paths, see `TagLattice`."""
        crf = self.crf
        return TagLattice(scores, mask, crf.start_transitions, crf.end_transitions, crf.transitions)


class SoftmaxTaggingHead(LinearHead):
    """An independent softmax for each word, as in the BERT baseline of the paper."""

    def loss(self, scores: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Compute the mean cross-entropy over the words of each row, (N,)."""
        by_word = F.cross_entropy(scores.transpose(1, 2), tags, reduction="none")
        return by_word.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1)

    def decode(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the most probable tags (N, words), with -100 at padding."""
        return scores.argmax(dim=-1).masked_fill(~mask, -100)

    def log_marginals(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Compute the log-probability of each tag at each word, (N, words, tags)."""
        return scores.log_softmax(dim=-1)

    def lattice(self, scores: Tensor, mask: Tensor) -> TagLattice:
        """Return the lattice of independent tags, with zero transitions; see `TagLattice`."""
        size = scores.shape[-1]
        free = scores.new_zeros(size)
        return TagLattice(scores, mask, free, free, scores.new_zeros(size, size))


class RelationHead(LinearHead):
    """A softmax over relations, computed from pair vectors (Eq. 18-19)."""

    def loss(self, scores: Tensor, relations: Tensor, mask: None = None) -> Tensor:
        """Compute the cross-entropy of each row (Eq. 19), (N,)."""
        return F.cross_entropy(scores, relations, reduction="none")

    def decode(self, scores: Tensor, mask: None = None) -> Tensor:
        """Return the most probable relations, (N,)."""
        return scores.argmax(dim=-1)
