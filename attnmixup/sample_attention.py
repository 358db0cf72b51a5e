"""SampleAttention: the samples of a batch attend to each other (Eq. 8-12)."""

from typing import Any, Literal

import torch
from einops import rearrange
from torch import Generator, Tensor, nn

from attnmixup import functional, sampling
from attnmixup.checks import check_choice, check_embeddings

AttentionScore = Literal["additive", "shared", "dot", "cosine"]
Sequence = Literal["pooled", "position", "sample"]

# s of the cosine scores at the start: a sample just like the receiver weighs e^10 times as much as an orthogonal one.
COSINE_SCALE = 10.0
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
            projected to ``dim // heads`` per head as in a transformer. ``"cosine"``: ``s cos(W h_i, W h_j)`` of samples
            less their mean, which give what they differ by from it, with a learned s per head that starts at 10; a
            sample does not attend to itself. Where the other scores of a trained model are nearly the same for all
            samples, and so is what these receive, this one tells samples apart.
        sequence: How ``(B, L, C)`` is attended. ``"pooled"``: scores from the mean of each sample's tokens, used at
            every position, among the samples that have a token there. ``"position"``: scores of their own at each
            position. ``"sample"``: scores and what is given are of the means, so that all tokens of a sample receive
            the same, and nothing of a token that happens to have their position.
        dropout: Rate after the attention, and in the feed-forward block.
        feed_forward: Hidden width of a feed-forward block with a second LayerNorm; 0 for none. With ``score="dot"``
            this is ``nn.TransformerEncoderLayer`` across the batch, without dropout on the weights.
        gate: Multiply the update of each feature by a learned number that starts at 0, so that H* starts as LN(H).
        device: Of the parameters.
        dtype: Of the parameters.

    All parameters belong to ``nn.Linear`` and ``nn.LayerNorm`` layers, so that whoever initialises these (``to_empty``
    with ``reset_parameters``, ``from_pretrained``) initialises this module.
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
        gate: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice("score", score, AttentionScore)
        check_choice("sequence", sequence, Sequence)
        if not 1 <= heads <= dim:
            raise ValueError(f"heads must be between 1 and dim = {dim}, got {heads}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}.")
        self.dim, self.heads, self.score, self.sequence = dim, heads, score, sequence
        inner, dot, cosine = heads * (dim // heads), score == "dot", score == "cosine"
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        # Not named "query" or "value", by which LoRA chooses the layers of an encoder.
        self.project_query = None if score == "shared" or cosine else nn.Linear(dim, inner, **factory)
        self.project_key = nn.Linear(dim, inner, bias=dot or score == "shared", **factory)
        self.vector = None if dot or cosine else _ScoreVectors(dim // heads, heads, bias=False, **factory)
        self.log_scale = _LayerNormBias(heads, **factory) if cosine else None
        self.project_value = nn.Linear(dim, inner, **factory) if dot else nn.Identity()
        self.project_output = nn.Linear(inner if dot else heads * dim, dim, bias=dot, **factory)
        self.gate = _LayerNormBias(dim, **factory) if gate else None
        self.dropout = _Dropout(dropout)
        self.norm = nn.LayerNorm(dim, **factory)
        self.feed_forward = _FeedForward(dim, feed_forward, dropout, factory) if feed_forward else None

    def forward(
        self,
        embeddings: Tensor,
        *,
        mask: Tensor | None = None,
        rows: Tensor | None = None,
        generator: Generator | None = None,
        need_attention: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Transform a batch.

        Args:
            embeddings: H, shape ``(B, C)`` or ``(B, L, C)``.
            mask: Boolean, shape ``(B,)`` or ``(B, L)``, True for a real sample or token. What is masked gives nothing
                and comes out as it went in.
            rows: Integer, shape ``(R,)``: transform these samples alone, from all samples; None for all.
            generator: Source of the dropout, on the device of the embeddings.
            need_attention: Also return the weights.

        Returns:
            H*, in the dtype of ``embeddings``, shape ``(R, C)`` or ``(R, L, C)``, and the weights ``(heads, R, B)``, or
            ``(L, heads, R, B)`` for sequences but with ``sequence="sample"`` (``1`` for R with ``score="shared"``), or
            None if not asked for. R is B without ``rows``.
        """
        check_embeddings(embeddings, self.dim, mask)
        if rows is None:
            rows = torch.arange(embeddings.shape[0], device=embeddings.device)
        by_token = embeddings.ndim == 3
        clean = embeddings if mask is None else embeddings.masked_fill(~mask.unsqueeze(-1), 0)
        # Samples are the last axis but one from here on: (B, C) or (L, B, C).
        tokens = clean.transpose(0, 1) if by_token else clean
        giving = scored = tokens
        present = scored_present = mask.T if mask is not None and by_token else mask
        if by_token and self.sequence != "position":
            scored, scored_present = functional.zero_padded_mean(clean, mask), None if mask is None else mask.any(1)
            if self.sequence == "sample":
                giving, present = scored, scored_present
        own = None
        if self.score == "cosine":
            own = rows
            giving, scored = functional.centred(giving, present), functional.centred(scored, scored_present)

        key = rearrange(self.project_key(scored), "... b (h w) -> ... h b w", h=self.heads)
        if self.score == "shared":
            query = torch.zeros_like(key[..., :1, :])
        elif self.project_query is None:
            query = key.index_select(-2, rows)
        else:
            asking = scored.index_select(-2, rows)
            query = rearrange(self.project_query(asking), "... b (h w) -> ... h b w", h=self.heads)
        shared_values = self.heads if self.score == "dot" else 1
        values = rearrange(self.project_value(giving), "... b (h c) -> ... h b c", h=shared_values)
        receiving = tokens.index_select(-2, rows)
        weights_of_row = self.heads * giving.numel() // self.dim
        context = functional.sample_attention(
            self._scores,
            query,
            key,
            values,
            mask=present,
            own=own,
            block_rows=max(1, BLOCK_ELEMENTS // weights_of_row),
        )
        update = self.project_output(rearrange(context, "... h b c -> ... b (h c)"))
        update = update.expand(*update.shape[:-2], rows.shape[0], -1)
        if self.gate is not None:
            update = update * self.gate.bias
        result = self.norm(receiving + self.dropout(update, generator))
        if self.feed_forward is not None:
            result = self.feed_forward(result, generator)

        result = (result.transpose(0, 1) if by_token else result).to(embeddings.dtype)
        if mask is not None:
            result = torch.where(mask[rows].unsqueeze(-1), result, embeddings[rows])
        if not need_attention:
            return result, None
        weights = functional.attention_weights(self._scores(query, key), present, own)
        if by_token and self.sequence != "sample":
            # Without a mask, pooled scores are those of every position.
            weights = weights.expand(embeddings.shape[1], -1, -1, -1)
        return result, weights

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        if self.log_scale is not None:
            return functional.cosine_scores(query, key, COSINE_SCALE * self.log_scale.bias.exp())
        if self.vector is None:
            return functional.dot_scores(query, key)
        return functional.additive_scores(query, key, self.vector.weight)


class _ScoreVectors(nn.Linear):
    """The vectors v of Eq. 8, shape ``(heads, width)``; a linear layer, so that it is initialised as one."""

    def reset_parameters(self) -> None:
        """Draw as is usual for a layer before a tanh."""
        nn.init.xavier_uniform_(self.weight)


class _LayerNormBias(nn.LayerNorm):
    """Learned numbers that start at 0: the bias of a layer norm, also by name, so that they are initialised as one."""

    def __init__(self, size: int, **factory: Any) -> None:
        super().__init__(size, **factory)
        self.register_parameter("weight", None)

    def reset_parameters(self) -> None:
        """Set to 0."""
        nn.init.zeros_(self.bias)


class _FeedForward(nn.Module):
    """The second half of a transformer layer: two linear maps, residual and LayerNorm."""

    def __init__(self, dim: int, hidden: int, dropout: float, factory: dict[str, Any]) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden, **factory)
        self.contract = nn.Linear(hidden, dim, **factory)
        self.dropout = _Dropout(dropout)
        self.norm = nn.LayerNorm(dim, **factory)

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
