"""The heads (Eq. 17-19): a CRF or a softmax over words, and a softmax over relations."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchcrf import CRF


class TaggingHead(nn.Module):
    """Dropout, linear layer and CRF over compact, right-padded word sequences.

    pytorch-crf wants a boolean mask without holes, float32 scores and finite padding; this is the one place that knows.
    """

    def __init__(self, width: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, labels)
        self.crf = CRF(labels, batch_first=True)

    def forward(self, rows: Tensor) -> Tensor:
        """Scores (N, words, labels) of `rows` (N, words, C)."""
        scores: Tensor = self.linear(self.dropout(rows))
        return scores.float()

    def loss(self, scores: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Negative log-likelihood of each row divided by its number of words (Eq. 17), (N,)."""
        scores = scores.masked_fill(~mask[..., None], 0.0)
        with torch.autocast(scores.device.type, enabled=False):
            return -self.crf(scores, tags, mask=mask, reduction="none") / mask.sum(dim=1)

    @torch.no_grad()
    def decode(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Best tags (N, words), -100 behind the last word."""
        scores = scores.masked_fill(~mask[..., None], 0.0)
        length = mask.shape[1]
        best = [row + [-100] * (length - len(row)) for row in self.crf.decode(scores, mask=mask)]
        return torch.tensor(best, device=scores.device)


class SoftmaxTaggingHead(nn.Module):
    """Dropout and linear layer over word sequences; each word's tag by itself, as in the paper's plain BERT."""

    def __init__(self, width: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, labels)

    def forward(self, rows: Tensor) -> Tensor:
        """Scores (N, words, labels) of `rows` (N, words, C)."""
        scores: Tensor = self.linear(self.dropout(rows))
        return scores.float()

    def loss(self, scores: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Mean cross-entropy over the words of each row, (N,)."""
        by_word = F.cross_entropy(scores.transpose(1, 2), tags, reduction="none")
        return by_word.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1)

    def decode(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Likeliest tags (N, words), -100 behind the last word."""
        return scores.argmax(dim=-1).masked_fill(~mask, -100)


class RelationHead(nn.Module):
    """Dropout and linear layer over pair vectors; cross-entropy over the relations (Eq. 18-19)."""

    def __init__(self, width: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, labels)

    def forward(self, rows: Tensor) -> Tensor:
        """Scores (N, labels) of `rows` (N, 2C)."""
        scores: Tensor = self.linear(self.dropout(rows))
        return scores

    def loss(self, scores: Tensor, relations: Tensor, mask: None = None) -> Tensor:
        """Cross-entropy of each row (Eq. 19), (N,)."""
        return F.cross_entropy(scores.float(), relations, reduction="none")

    def decode(self, scores: Tensor, mask: None = None) -> Tensor:
        """Likeliest relations (N,)."""
        return scores.argmax(dim=-1)
