"""Probabilities of tags under a linear-chain CRF, by the forward-backward algorithm."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def forward_backward(
    scores: Tensor, mask: Tensor, start: Tensor, end: Tensor, transitions: Tensor
) -> tuple[Tensor, Tensor]:
    """The two recursions of a linear-chain CRF, in log space.

    Args:
        scores: (B, words, tags), emission scores of each word, finite also where there is none.
        mask: (B, words), True = real word, without holes and with a real word first.
        start: (tags,), score of a path that begins with a tag.
        end: (tags,), score of a path that ends with it.
        transitions: (tags, tags), score of a step from one tag (row) to the next (column).

    Returns:
        Both (B, words, tags): the log sum over all paths up to a word that has a tag, its score included; and over all
        paths from there to the end, its score not included. Behind the last word the first one stays as it is there.
    """
    words = scores.shape[1]
    before, behind = [start + scores[:, 0]], [end.expand_as(scores[:, 0])]
    for word in range(1, words):
        step = torch.logsumexp(before[-1][:, :, None] + transitions, dim=1) + scores[:, word]
        before.append(torch.where(mask[:, word, None], step, before[-1]))
    for word in range(words - 2, -1, -1):
        ahead = scores[:, word + 1] + behind[-1]
        step = torch.logsumexp(transitions + ahead[:, None, :], dim=2)
        # Behind the last word there is nothing but the end.
        behind.append(torch.where(mask[:, word + 1, None], step, end))
    return torch.stack(before, dim=1), torch.stack(behind[::-1], dim=1)


class TagLattice:
    """All paths of tags through a batch of sentences, with the probability that a CRF gives them.

    Computed in float64, because a sentence's normaliser sums over very many paths.

    Args:
        scores, mask, start, end, transitions: see `forward_backward`; the scores of padding may be anything.

    Attributes:
        before, behind: what `forward_backward` returns.
        total: (B,), log sum over all paths.
    """

    @torch.no_grad()
    def __init__(self, scores: Tensor, mask: Tensor, start: Tensor, end: Tensor, transitions: Tensor) -> None:
        self.lengths = mask.sum(dim=1).tolist()
        self.scores = scores.detach().double().masked_fill(~mask[..., None], 0.0).cpu()
        start, self.end, self.transitions = (part.detach().double().cpu() for part in (start, end, transitions))
        self.before, self.behind = forward_backward(self.scores, mask.cpu(), start, self.end, self.transitions)
        self.total = torch.logsumexp(self.before[:, -1] + self.end, dim=1)

    def probability(self, row: int, start: int, path: Sequence[int], *, not_next: int) -> float:
        """The probability that tags stand at neighbouring words, and that another one does not follow them.

        Args:
            row: of the batch.
            start: the first of the words.
            path: the tags, one or more.
            not_next: the tag that does not follow.

        Returns:
            0 to 1.
        """
        score = self.before[row, start, path[0]]
        for word, (tag, following) in enumerate(pairwise(path), start=start + 1):
            score = score + self.transitions[tag, following] + self.scores[row, word, following]
        word = start + len(path)
        if word == self.lengths[row]:
            score = score + self.end[path[-1]]
        else:
            steps = self.transitions[path[-1]] + self.scores[row, word] + self.behind[row, word]
            others = torch.arange(len(steps)) != not_next
            score = score + torch.logsumexp(steps[others], dim=0)
        return float((score - self.total[row]).exp())
