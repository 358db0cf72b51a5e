"""SampleAttention: the samples of a batch attend to each other (Eq. 8-12)."""

from typing import Literal

import torch
from einops import rearrange
from torch import Generator, Tensor, nn

from attnmixup import functional, sampling
from attnmixup.checks import check_choice, check_embeddings

AttentionScore = Literal["additive", "shared", "dot"]
Sequence = Literal["pooled", "position"]

# So many weights are held at once, 64 MiB in float32; larger batches go in blocks of rows, computed twice.
BLOCK_ELEMENTS = 2**24


class SampleAttention(nn.Module):
    """Multi-head attention across the batch, with residual and LayerNorm, giving H* (Eq. 8-12).

    Each head h scores every pair of samples, ``r_ij``, and mixes all C features of the samples by
    ``alpha_ij = softmax_j(r_ij)``; the heads are concatenated (kC), mapped back to C and added to the input. The
    softmax runs over the samples: the bound C printed in Eq. 9 would let nothing pass between them.

    The width of a score is ``dim // heads`` per head. Neither the ``B x B x dim`` pairs nor the ``heads x B x B``
    weights of a large batch are held at once: they are computed part by part, and again in the backward pass.

    Args:
        dim: Width C of the embeddings.
        heads: Number of heads k.
        score: ``"additive"``: ``v^T tanh(W_q h_i + W_k h_j + b)``. ``"shared"``: ``v^T tanh(W h_j + b)``, Eq. 8 letter
            by letter, the same context for every sample, in O(B). ``"dot"``: scaled dot product of samples, with values
            projected to ``dim // heads`` per head as in a transformer.
        sequence: How ``(B, L, C)`` is attended. ``"pooled"``: scores from the mean of each sample's tokens, used at
            every position, among the samples that have a token there. ``"position"``: scores of their own at each
            position.
        dropout: Rate after the attention, and in the feed-forward block.
        feed_forward: Hidden width of a feed-forward block with a second LayerNorm; 0 for none. With ``score="dot"``
            this is ``nn.TransformerEncoderLayer`` across the batch, without dropout on the weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        score: AttentionScore = "additive",
        sequence: Sequence = "pooled",
        dropout: float = 0.2,
        feed_forward: int = 0,
    ) -> None:
        super().__init__()
        check_choice("score", score, AttentionScore)
        check_choice("sequence", sequence, Sequence)
        if not 1 <= heads <= dim:
            raise ValueError(f"heads must be between 1 and dim = {dim}, got {heads}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}.")
        self.dim, self.heads, self.score, self.sequence = dim, heads, score, sequence
        inner, dot = heads * (dim // heads), score == "dot"
        self.query = _BiasQuery(inner) if score == "shared" else nn.Linear(dim, inner)
        self.key = nn.Linear(dim, inner, bias=dot)
        self.vector = None if dot else nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, dim // heads)))
        self.value = nn.Linear(dim, inner) if dot else nn.Identity()
        self.output = nn.Linear(inner if dot else heads * dim, dim, bias=dot)
        self.dropout = _Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        self.feed_forward = _FeedForward(dim, feed_forward, dropout) if feed_forward else None

    def forward(
        self,
        embeddings: Tensor,
        *,
        mask: Tensor | None = None,
        generator: Generator | None = None,
        need_attention: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Transform a batch.

        Args:
            embeddings: H, shape ``(B, C)`` or ``(B, L, C)``.
            mask: Boolean, shape ``(B,)`` or ``(B, L)``, True for a real sample or token. What is masked gives nothing
                and comes out as it went in.
            generator: Source of the dropout, on the device of the embeddings.
            need_attention: Also return the weights.

        Returns:
            H*, in the shape and dtype of ``embeddings``, and the weights ``(heads, B, B)``, or ``(L, heads, B, B)`` for
            sequences (``1`` for the first B with ``score="shared"``), or None if not asked for.
        """
        check_embeddings(embeddings, self.dim, mask)
        by_token = embeddings.ndim == 3
        # Samples are the last axis but one from here on: (B, C) or (L, B, C).
        rows = embeddings.transpose(0, 1) if by_token else embeddings
        giving = mask.T if mask is not None and by_token else mask
        asking = functional.masked_mean(embeddings, mask) if by_token and self.sequence == "pooled" else rows

        query = rearrange(self.query(asking), "... b (h w) -> ... h b w", h=self.heads)
        key = rearrange(self.key(asking), "... b (h w) -> ... h b w", h=self.heads)
        values = rearrange(self.value(rows), "... b (h c) -> ... h b c", h=1 if self.vector is not None else self.heads)
        weights_of_row = self.heads * rows.numel() // self.dim
        context = functional.sample_attention(
            self._scores, query, key, values, mask=giving, block_rows=max(1, BLOCK_ELEMENTS // weights_of_row)
        )
        update = self.output(rearrange(context, "... h b c -> ... b (h c)")).expand_as(rows)
        result = self.norm(rows + self.dropout(update, generator))
        if self.feed_forward is not None:
            result = self.feed_forward(result, generator)

        result = (result.transpose(0, 1) if by_token else result).to(embeddings.dtype)
        if mask is not None:
            result = torch.where(mask.unsqueeze(-1), result, embeddings)
        return result, functional.attention_weights(self._scores(query, key), giving) if need_attention else None

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        if self.vector is None:
            return functional.dot_scores(query, key)
        return functional.additive_scores(query, key, self.vector)


class _BiasQuery(nn.Module):
    """A single query for all samples, the bias of Eq. 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, width))

    def forward(self, asking: Tensor) -> Tensor:
        return self.bias.expand(*asking.shape[:-2], 1, -1)


class _FeedForward(nn.Module):
    """The second half of a transformer layer: two linear maps, residual and LayerNorm."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.contract = nn.Linear(hidden, dim)
        self.dropout = _Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, rows: Tensor, generator: Generator | None) -> Tensor:
        hidden = self.dropout(torch.relu(self.expand(rows)), generator)
        result: Tensor = self.norm(rows + self.dropout(self.contract(hidden), generator))
        return result


class _Dropout(nn.Module):
    """Dropout that draws from a generator, which ``nn.Dropout`` cannot."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, tensor: Tensor, generator: Generator | None) -> Tensor:
        if not self.training or self.rate == 0:
            return tensor
        return tensor * sampling.draw_dropout(tensor, self.rate, generator=generator)
