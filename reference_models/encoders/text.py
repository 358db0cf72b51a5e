"""Text encoder: a Hugging Face encoder whose layers can attend to a visual prefix."""

from functools import partial

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from reference_models.encoders.attention import NAMES, Implementation
from reference_models.encoders.concat import add_concat, find_layers
from reference_models.encoders.prefix import Fusion, Prefix, PrefixStates
from reference_models.errors import UserError

OFFSET_POSITIONS = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "data2vec-text",
    "roberta-prelayernorm",
    "xmod",
)
REFUSED = "the text encoder {name!r} cannot use a visual prefix: {reason}. Choose a BERT- or RoBERTa-like encoder"


class TextEncoder(nn.Module):
    """A randomly initialised transformers encoder, whose attention is set through `AttentionInterface`.

    Args:
        config: Configuration of the encoder.
        attention: "sdpa" (fused kernels) or "eager" (step by step).
        fusion: "prefix" adds keys and values to each layer, "concat" adds hidden states. None is for text only: any
            encoder works, with the attention that transformers chooses.

    Raises:
        UserError: If the encoder ignores its prefix, changes its output for a fully masked prefix, or its attention
            needs more than queries, keys, values and a mask. All of this is tested at construction.
    """

    def __init__(
        self, config: PreTrainedConfig, *, attention: Implementation = "sdpa", fusion: Fusion | None = "prefix"
    ) -> None:
        super().__init__()
        chosen = None if fusion is None else NAMES[attention]
        try:
            self.body: PreTrainedModel = AutoModel.from_config(config, attn_implementation=chosen)
            if fusion == "concat":
                add_concat(find_layers(self.body, config.num_hidden_layers))
            self.layers: int = config.num_hidden_layers
            self.heads: int = config.num_attention_heads
            self.width: int = config.hidden_size
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(REFUSED.format(name=config.model_type, reason=str(error).split("\n")[0])) from error
        if hasattr(self.body, "pooler"):
            self.body.pooler = None  # never used, so its parameters would never get a gradient
        # A model on the meta device is being loaded; it was probed when it was built.
        if fusion is not None and self.body.device.type != "meta":
            probe(self, NAMES[attention], fusion)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        prefix: Prefix | PrefixStates | None = None,
        *,
        shift: int = 0,
    ) -> Tensor:
        """Encode a batch of texts.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L), 1 = token; padding is on the right.
            prefix: Visual tokens that the layers attend to in addition to the text.
            shift: Number of positions by which the text is shifted.

        Returns:
            Last hidden states (B, L, C).
        """
        visual = {"prefix_states" if isinstance(prefix, PrefixStates) else "prefix": prefix}
        positions = {}
        if shift:
            positions["position_ids"] = shifted_positions(self.body.config, attention_mask, shift)
        output = self.body(input_ids=input_ids, attention_mask=attention_mask, **visual, **positions)
        hidden: Tensor = output.last_hidden_state
        return hidden


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Switch on activation checkpointing: the layers recompute their activations in the backward pass."""
    # The older name is deprecated in versions that have the newer one.
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})


@torch.no_grad()
def probe(encoder: TextEncoder, attention: str, fusion: Fusion) -> None:
    """Check that the encoder uses its prefix, and that our attention is otherwise equivalent; see `TextEncoder`."""
    body, training = encoder.body, encoder.training
    encoder.eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(body.config.vocab_size, (1, 6), generator=generator, device="cpu").to(body.device)
    states = torch.randn(encoder.layers, 1, 4, encoder.width, generator=generator, device="cpu").to(body.device) * 10
    heads = states.unflatten(-1, (encoder.heads, -1)).transpose(2, 3)
    attended = torch.ones(1, 4, dtype=torch.bool, device=body.device)
    # Without padding, some encoders drop the mask and rely on a flag that our attention does not read.
    full = torch.ones_like(ids)
    padded = full * (torch.arange(6, device=body.device) < 4)

    def run(mask: Tensor, attended: Tensor | None = None) -> Tensor:
        prefix: Prefix | PrefixStates | None = None
        if attended is not None:
            prefix = PrefixStates(states, attended) if fusion == "concat" else Prefix(heads, heads, attended)
        hidden: Tensor = encoder(ids, mask, prefix)
        return hidden[:, :4].float()

    try:
        bare, seen, masked, unpadded = run(padded), run(padded, attended), run(padded, ~attended), run(full)
        body.set_attn_implementation("eager")
        own, own_unpadded = run(padded), run(full)
        body.set_attn_implementation(attention)
    except Exception as error:  # an unsuitable encoder can fail with almost any exception
        reason = f"it fails with a prefix ({str(error).split(chr(10))[0]})"
        raise UserError(REFUSED.format(name=body.config.model_type, reason=reason)) from error
    encoder.train(training)
    tolerance = 1e-4 if body.dtype == torch.float32 else 5e-2
    near = partial(torch.allclose, rtol=0, atol=tolerance)
    reasons = {
        "its output does not change with the prefix": near(seen, bare),
        "a fully masked prefix changes its output": not near(masked, bare),
        "its attention is not plain softmax attention": not (near(own, bare) and near(own_unpadded, unpadded)),
    }
    for reason, refused in reasons.items():
        if refused:
            raise UserError(REFUSED.format(name=body.config.model_type, reason=reason))


def shifted_positions(config: PreTrainedConfig, mask: Tensor, shift: int) -> Tensor:
    """Return the position ids (B, L) that the encoder itself would use for a mask (B, L), shifted by `shift`.

    Raises:
        UserError: If the encoder has too few positions.
    """
    readable, needed = readable_length(config), shift + mask.shape[1]
    if readable is not None and needed > readable:
        raise UserError(
            f"model.shift_positions shifts a text of {mask.shape[1]} sub-words by {shift} positions, but the text "
            f"encoder has {readable}; set data.max_length to {readable - shift} or less"
        )
    places = torch.arange(shift, needed, device=mask.device)
    if config.model_type not in OFFSET_POSITIONS:
        return places.expand_as(mask)
    first: int = config.pad_token_id + 1
    return torch.where(mask > 0, places + first, config.pad_token_id)


def readable_length(config: PreTrainedConfig) -> int | None:
    """Return the maximum number of sub-words of an encoder; None if it has no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions <= 0:
        return None
    # RoBERTa-like encoders start their positions after the id of the padding token.
    offset = config.pad_token_id + 1 if config.model_type in OFFSET_POSITIONS else 0
    return int(positions) - offset
