"""The heads (Eq. 17-19): a CRF or a softmax over words, and a softmax over relations."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchcrf import CRF

from reference_models.tasks.lattice import TagLattice, forward_backward


class Head(nn.Module):
    """What turns `h` (..., C) into scores (..., labels) in float32, and these into a loss and into labels.

    Attributes:
        learning_rate: peak rate of training where the settings name none.
        loss: from scores, labels and mask to the loss of each row, (N,).
        decode: from scores and mask to ids of labels.
    """

    learning_rate: float = 1e-3
    loss: Callable[..., Tensor]
    decode: Callable[..., Tensor]


class LinearHead(Head):
    """Dropout and linear layer, of which the heads of the tasks are made."""

    def __init__(self, width: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, labels)

    def forward(self, rows: Tensor) -> Tensor:
        """Scores (..., labels) of `rows` (..., C), in float32."""
        scores: Tensor = self.linear(self.dropout(rows))
        return scores.float()


class TaggingHead(LinearHead):
    """A CRF over compact, right-padded word sequences.

    pytorch-crf wants a boolean mask without holes, float32 scores and finite padding; this is the one place that knows.
    """

    learning_rate = 5e-2  # at the rate of an encoder, the transitions barely move

    def __init__(self, width: int, labels: int, dropout: float) -> None:
        super().__init__(width, labels, dropout)
        self.crf = CRF(labels, batch_first=True)

    def loss(self, scores: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Negative log-likelihood of each row divided by its number of words (Eq. 17), (N,)."""
        scores = scores.masked_fill(~mask[..., None], 0.0)
        with torch.autocast(scores.device.type, enabled=False):
            likelihood: Tensor = self.crf(scores, tags, mask=mask, reduction="none")
            return -likelihood / mask.sum(dim=1)

    @torch.no_grad()
    def decode(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Best tags (N, words), -100 behind the last word."""
        scores = scores.masked_fill(~mask[..., None], 0.0)
        length = mask.shape[1]
        best = [row + [-100] * (length - len(row)) for row in self.crf.decode(scores, mask=mask)]
        return torch.tensor(best, device=scores.device)

    def log_marginals(self, scores: Tensor, mask: Tensor) -> Tensor:
        """The log-probability of each tag at each word (N, words, tags); at padding it means nothing."""
        scores, crf = scores.masked_fill(~mask[..., None], 0.0), self.crf
        with torch.autocast(scores.device.type, enabled=False):
            both = forward_backward(scores, mask, crf.start_transitions, crf.end_transitions, crf.transitions)
            return (both[0] + both[1]).log_softmax(dim=-1)

    def lattice(self, scores: Tensor, mask: Tensor) -> TagLattice:
        """The probabilities of paths of tags, see `TagLattice`."""
        crf = self.crf
        return TagLattice(scores, mask, crf.start_transitions, crf.end_transitions, crf.transitions)


class SoftmaxTaggingHead(LinearHead):
    """Each word's tag by itself, as in the paper's plain BERT."""

    def loss(self, scores: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Mean cross-entropy over the words of each row, (N,)."""
        by_word = F.cross_entropy(scores.transpose(1, 2), tags, reduction="none")
        return by_word.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1)

    def decode(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Likeliest tags (N, words), -100 behind the last word."""
        return scores.argmax(dim=-1).masked_fill(~mask, -100)

    def log_marginals(self, scores: Tensor, mask: Tensor) -> Tensor:
        """The log-probability of each tag at each word (N, words, tags)."""
        return scores.log_softmax(dim=-1)

    def lattice(self, scores: Tensor, mask: Tensor) -> TagLattice:
        """The probabilities of paths of tags, which do not depend on each other; see `TagLattice`."""
        size = scores.shape[-1]
        free = scores.new_zeros(size)
        return TagLattice(scores, mask, free, free, scores.new_zeros(size, size))


class RelationHead(LinearHead):
    """A softmax over the relations of pair vectors (Eq. 18-19)."""

    def loss(self, scores: Tensor, relations: Tensor, mask: None = None) -> Tensor:
        """Cross-entropy of each row (Eq. 19), (N,)."""
        return F.cross_entropy(scores, relations, reduction="none")

    def decode(self, scores: Tensor, mask: None = None) -> Tensor:
        """Likeliest relations (N,)."""
        return scores.argmax(dim=-1)
