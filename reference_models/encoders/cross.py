"""A transformer layer whose queries come from one sequence, and its keys and values from another."""

from functools import partial

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import PreTrainedConfig


class CrossBlock(nn.Module):
    """A BERT layer Block(X, Y): X attends to Y, then a feed-forward layer; residuals from X, each with a LayerNorm.

    S = softmax(X Wq (Y Wk)^T / sqrt(d)),  U = LN(X + S Y Wv Wo),  Block = LN(U + gelu(U W1) W2)

    Args:
        config: of a text encoder, which has the widths, heads, dropout rates and range of the initial weights.
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
        """Attend.

        Args:
            queries: X, (B, L, C).
            context: Y, (B, K, C).
            mask: (B, K), True for what may be attended to. The output of a sample without any of it means nothing.

        Returns:
            (B, L, C).
        """
        mask = mask | ~mask.any(dim=1, keepdim=True)  # a softmax over nothing is not defined
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
    """Draw the weights of a linear layer from N(0, deviation^2), with biases of 0; for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=deviation)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
