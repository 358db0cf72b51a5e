"""SampleAttention: the samples of a batch attend to each other (Eq. 8-12)."""

from typing import Any, Literal

import torch
from einops import rearrange
from torch import Generator, Tensor, nn

from attnmixup import functional, sampling
from attnmixup.checks import check_choice, check_dtype, check_embeddings, refuse_recomputation

AttentionScore = Literal["additive", "shared", "dot", "cosine"]
Sequence = Literal["pooled", "position", "sample"]

# Initial s of the cosine scores: a sample in the receiver's direction weighs e^10 times as much as an orthogonal one.
COSINE_SCALE = 10.0
# Maximum number of weights in memory, 64 MiB in float32. Larger batches are processed in blocks of rows, each twice.
BLOCK_ELEMENTS = 2**24


class SampleAttention(nn.Module):
    """Multi-head attention across the batch with residual and LayerNorm, which computes H* (Eq. 8-12).

    Each head scores every pair of samples, ``r_ij``, and mixes all C features of the samples with the weights
    ``alpha_ij = softmax_j(r_ij)``. The heads are concatenated (kC), mapped back to C and added to the input. The
    softmax runs over the samples: with the bound C printed in Eq. 9 no information would pass between samples.

    The width of a score is ``dim // heads`` per head. For large batches, neither the ``B x B x dim`` pairs nor the
    ``heads x B x B`` weights are stored in full: they are computed in parts, and again in the backward pass.

    Args:
        dim: Width C of the embeddings.
        heads: Number of heads k.
        score: ``"additive"``: ``v^T tanh(W_q h_i + W_k h_j + b)``. ``"shared"``: ``v^T tanh(W h_j + b)``, the literal
            Eq. 8, with the same context for every sample, in O(B). ``"dot"``: scaled dot product of samples, with
            values projected to ``dim // heads`` per head as in a transformer. ``"cosine"``: ``s cos(W h_i, W h_j)`` of
            samples minus their mean, with a learned s per head that starts at 10. The values are also the samples minus
            their mean, and a sample does not attend to itself. With the other scores a trained model can give nearly
            the same scores, and so the same update, to all samples; ``"cosine"`` distinguishes them.
        sequence: Attention on ``(B, L, C)``. ``"pooled"``: scores from the mean of each sample's tokens, used at every
            position, among the samples that have a token there. ``"position"``: separate scores at each position.
            ``"sample"``: scores and values come from the means, so all tokens of a sample receive the same update, and
            nothing from tokens that happen to share their position.
        dropout: Dropout rate after the attention and in the feed-forward block.
        feed_forward: Hidden width of a feed-forward block with a second LayerNorm; 0 for none. With ``score="dot"``
            the module is ``nn.TransformerEncoderLayer`` across the batch, without dropout on the attention weights.
        gate: Multiply the update of each feature by a learned number that starts at 0, so that H* starts as LN(H),
            before a feed-forward block.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    All parameters belong to ``nn.Linear`` and ``nn.LayerNorm`` layers. Code that initialises these layers (``to_empty``
    with ``reset_parameters``, ``from_pretrained``) therefore initialises this module too.
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
            mask: Boolean, shape ``(B,)`` or ``(B, L)``, True for a real sample or token. Masked ones are not attended
                to and are returned unchanged.
            rows: Integer, shape ``(R,)``: transform only these samples, which attend to all samples; None for all.
            generator: Generator for the dropout, on the device of the embeddings.
            need_attention: Also return the weights.

        Returns:
            H*, in the dtype of ``embeddings``, shape ``(R, C)`` or ``(R, L, C)``, and the attention weights, None
            unless ``need_attention``. R is B without ``rows``. The weights have shape ``(heads, R, B)``, or
            ``(L, heads, R, B)`` for sequences unless ``sequence="sample"``; with ``score="shared"``, R is 1 there.
        """
        check_embeddings(embeddings, self.dim, mask)
        check_dtype("embeddings", embeddings, self.project_output.weight)
        refuse_recomputation(generator)
        if rows is None:
            rows = torch.arange(embeddings.shape[0], device=embeddings.device)
        by_token = embeddings.ndim == 3
        clean = embeddings if mask is None else embeddings.masked_fill(~mask.unsqueeze(-1), 0)
        # From here on samples are the second to last axis: (B, C) or (L, B, C).
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
            # Without a mask, pooled scores are the same at every position.
            weights = weights.expand(embeddings.shape[1], -1, -1, -1)
        return result, weights

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        if self.log_scale is not None:
            return functional.cosine_scores(query, key, COSINE_SCALE * self.log_scale.bias.exp())
        if self.vector is None:
            return functional.dot_scores(query, key)
        return functional.additive_scores(query, key, self.vector.weight)


class _ScoreVectors(nn.Linear):
    """Learned score vectors v of Eq. 8, shape ``(heads, width)``. A linear layer, so that it is initialised as one."""

    def reset_parameters(self) -> None:
        """Initialise as is usual for a layer before a tanh."""
        nn.init.xavier_uniform_(self.weight)


class _LayerNormBias(nn.LayerNorm):
    """Learned vector that starts at 0: the bias of a LayerNorm in type and name, so that it is initialised as one."""

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
