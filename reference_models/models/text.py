"""The text encoder: a Hugging Face encoder whose layers attend to a visual prefix."""

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from reference_models.errors import UserError
from reference_models.models.prefix import ATTENTION, Prefix

REFUSED = "the text encoder {name!r} cannot take a visual prefix: {reason}. Choose a BERT- or RoBERTa-like encoder"


class TextEncoder(nn.Module):
    """Any encoder of transformers whose attention is chosen by `AttentionInterface`; weights are random.

    Raises:
        UserError: the encoder ignores its prefix, or is changed by one that is wholly masked (probed at construction).
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        try:
            self.body: PreTrainedModel = AutoModel.from_config(config, attn_implementation=ATTENTION)
        except (TypeError, ValueError) as error:
            raise UserError(REFUSED.format(name=config.model_type, reason=str(error).split("\n")[0])) from error
        if hasattr(self.body, "pooler"):
            self.body.pooler = None  # never used, and a parameter without gradient is a trap
        self.layers: int = config.num_hidden_layers
        self.heads: int = config.num_attention_heads
        self.width: int = config.hidden_size
        if self.body.device.type != "meta":  # a model that is being loaded was probed when it was made
            probe(self)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, prefix: Prefix | None = None) -> Tensor:
        """Last hidden states (B, L, C) of `input_ids` (B, L), under `attention_mask` (B, L), 1 = token."""
        output = self.body(input_ids=input_ids, attention_mask=attention_mask, prefix=prefix)
        hidden: Tensor = output.last_hidden_state
        return hidden


@torch.no_grad()
def probe(encoder: TextEncoder) -> None:
    """Check that a prefix moves the output and that a wholly masked one does not; see `TextEncoder`."""
    name = encoder.body.config.model_type
    training = encoder.training
    encoder.eval()
    ids = torch.full((1, 3), encoder.body.config.vocab_size - 1)
    mask = torch.ones_like(ids)
    generator = torch.Generator().manual_seed(0)
    shape = (encoder.layers, 1, encoder.heads, 4, encoder.width // encoder.heads)
    keys, values = torch.randn(2, *shape, generator=generator)
    attended = torch.ones(1, 4, dtype=torch.bool)
    bare = encoder(ids, mask)
    if torch.allclose(encoder(ids, mask, Prefix(keys, values, attended)), bare, atol=1e-4):
        raise UserError(REFUSED.format(name=name, reason="its output does not change with the prefix"))
    if not torch.allclose(encoder(ids, mask, Prefix(keys, values, ~attended)), bare, atol=1e-4):
        raise UserError(REFUSED.format(name=name, reason="a wholly masked prefix changes its output"))
    encoder.train(training)
