"""Cross-attention transformer layer: queries from one sequence, keys and values from another."""

from functools import partial

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import PreTrainedConfig


class CrossBlock(nn.Module):
    """BERT layer Block(X, Y): X attends to Y, followed by a feed-forward layer; both with a residual and a LayerNorm.

    S = softmax(X Wq (Y Wk)^T / sqrt(d)),  U = LN(X + S Y Wv Wo),  Block = LN(U + gelu(U W1) W2)

    Args:
        config: Configuration of a text encoder; sets widths, heads, dropout rates and the standard deviation of the
            initial weights.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.heads: int = config.num_attention_heads
        self.attention_dropout: float = getattr(config, "attention_probs_dropout_prob", 0.1)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.widen, self.narrow = nn.Linear(width, inner), nn.Linear(inner, width)
        epsilon = getattr(config, "layer_norm_eps", 1e-12)
        self.attention_norm, self.norm = nn.LayerNorm(width, epsilon), nn.LayerNorm(width, epsilon)
        self.dropout = nn.Dropout(getattr(config, "hidden_dropout_prob", 0.1))
        self.apply(partial(draw_like_bert, deviation=getattr(config, "initializer_range", 0.02)))

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Compute Block(X, Y).

        Args:
            queries: X, (B, L, C).
            context: Y, (B, K, C).
            mask: (B, K), True for rows of Y that may be attended to. The output of a sample with only False is
                meaningless.

        Returns:
            Hidden states (B, L, C).
        """
        mask = mask | ~mask.any(dim=1, keepdim=True)  # a softmax over an empty set is undefined
        query, key, value = (
            rearrange(layer(rows), "b l (h d) -> b h l d", h=self.heads)
            for layer, rows in ((self.query, queries), (self.key, context), (self.value, context))
        )
        rate = self.attention_dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, mask[:, None, None], dropout_p=rate)
        attended = self.output(rearrange(attended, "b h l d -> b l (h d)"))
        hidden = self.attention_norm(queries + self.dropout(attended))
        output: Tensor = self.norm(hidden + self.dropout(self.narrow(F.gelu(self.widen(hidden)))))
        return output


def draw_like_bert(module: nn.Module, deviation: float = 0.02) -> None:
    """Initialise a linear layer with weights from N(0, deviation^2) and zero biases; for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=deviation)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
