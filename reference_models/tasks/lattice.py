"""Tag probabilities under a linear-chain CRF, computed with the forward-backward algorithm."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def forward_backward(
    scores: Tensor, mask: Tensor, start: Tensor, end: Tensor, transitions: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the forward and backward recursions of a linear-chain CRF, in log space.

    Args:
        scores: Emission scores of each word, (B, words, tags); finite, also at padding.
        mask: True for a real word, (B, words); without holes, and the first word is real.
        start: Score of a path that starts with a tag, (tags,).
        end: Score of a path that ends with a tag, (tags,).
        transitions: Score of a step from one tag (row) to the next (column), (tags, tags).

    Returns:
        The forward and backward values, both (B, words, tags). Forward: the log-sum-exp over all paths that end at a
        word with a tag, including the emission score of that word. Backward: the log-sum-exp over all paths from there
        to the end, without that emission score. At padding, the forward values repeat those of the last word.
    """
    words = scores.shape[1]
    before, behind = [start + scores[:, 0]], [end.expand_as(scores[:, 0])]
    for word in range(1, words):
        step = torch.logsumexp(before[-1][:, :, None] + transitions, dim=1) + scores[:, word]
        before.append(torch.where(mask[:, word, None], step, before[-1]))
    for word in range(words - 2, -1, -1):
        ahead = scores[:, word + 1] + behind[-1]
        step = torch.logsumexp(transitions + ahead[:, None, :], dim=2)
        # At the last word and at padding, only the end score remains.
        behind.append(torch.where(mask[:, word + 1, None], step, end))
    return torch.stack(before, dim=1), torch.stack(behind[::-1], dim=1)


class TagLattice:
    """Probabilities of tag paths through a mini-batch of sentences under a CRF.

    Computed in float64, because the normaliser of a sentence sums over very many paths.

    Args:
        scores, mask, start, end, transitions: See `forward_backward`; the scores at padding are ignored.

    Attributes:
        before, behind: Forward and backward values from `forward_backward`.
        total: Log-sum-exp over all paths, (B,).
    """

    @torch.no_grad()
    def __init__(self, scores: Tensor, mask: Tensor, start: Tensor, end: Tensor, transitions: Tensor) -> None:
        self.lengths = mask.sum(dim=1).tolist()
        self.scores = scores.detach().double().masked_fill(~mask[..., None], 0.0).cpu()
        start, self.end, self.transitions = (part.detach().double().cpu() for part in (start, end, transitions))
        self.before, self.behind = forward_backward(self.scores, mask.cpu(), start, self.end, self.transitions)
        self.total = torch.logsumexp(self.before[:, -1] + self.end, dim=1)

    def probability(self, row: int, start: int, path: Sequence[int], *, not_next: int) -> float:
        """Compute the probability that consecutive words have the given tags and the next word does not have a tag.

        Args:
            row: Index of the sentence in the mini-batch.
            start: Index of the first word.
            path: Tags of the consecutive words, one or more.
            not_next: Tag that the next word does not have.

        Returns:
            A probability from 0 to 1.
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
