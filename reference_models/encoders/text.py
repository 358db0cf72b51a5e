"""The text encoder: a Hugging Face encoder whose layers attend to a visual prefix."""

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
REFUSED = "the text encoder {name!r} cannot take a visual prefix: {reason}. Choose a BERT- or RoBERTa-like encoder"


class TextEncoder(nn.Module):
    """An encoder of transformers, randomly initialised, whose attention is chosen by `AttentionInterface`.

    Args:
        config: of the encoder.
        attention: "sdpa" (fused kernels) or "eager" (step by step).
        fusion: "prefix" adds keys and values to each layer, "concat" hidden states; None for text alone, where any
            encoder goes, with the attention that transformers chooses for it.

    Raises:
        UserError: the encoder ignores its prefix, is changed by one that is wholly masked, or has an attention that
            needs more than queries, keys, values and a mask (all probed at construction).
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
            self.body.pooler = None  # never used, and a parameter without gradient is a trap
        # A model that is being loaded was probed when it was made.
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
        """Last hidden states (B, L, C).

        Args:
            input_ids: (B, L).
            attention_mask: (B, L), 1 = token; padding is on the right.
            prefix: what the layers attend to beside the text.
            shift: how many positions later than without it the text begins.
        """
        visual = {"prefix_states" if isinstance(prefix, PrefixStates) else "prefix": prefix}
        positions = {}
        if shift:
            positions["position_ids"] = shifted_positions(self.body.config, attention_mask, shift)
        output = self.body(input_ids=input_ids, attention_mask=attention_mask, **visual, **positions)
        hidden: Tensor = output.last_hidden_state
        return hidden


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Let the layers of a model compute their activations again in the backward pass, instead of keeping them."""
    # The older name is deprecated where there is the newer one.
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})


@torch.no_grad()
def probe(encoder: TextEncoder, attention: str, fusion: Fusion) -> None:
    """Check that a prefix moves the output, and that nothing else about our attention does; see `TextEncoder`."""
    body, training = encoder.body, encoder.training
    encoder.eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(body.config.vocab_size, (1, 6), generator=generator, device="cpu").to(body.device)
    states = torch.randn(encoder.layers, 1, 4, encoder.width, generator=generator, device="cpu").to(body.device) * 10
    heads = states.unflatten(-1, (encoder.heads, -1)).transpose(2, 3)
    attended = torch.ones(1, 4, dtype=torch.bool, device=body.device)
    # Without padding some encoders leave the mask out and rely on a flag, which our attention does not read.
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
    except Exception as error:  # an encoder that is not made for this can fail with almost any exception
        reason = f"it fails with one ({str(error).split(chr(10))[0]})"
        raise UserError(REFUSED.format(name=body.config.model_type, reason=reason)) from error
    encoder.train(training)
    tolerance = 1e-4 if body.dtype == torch.float32 else 5e-2
    near = partial(torch.allclose, rtol=0, atol=tolerance)
    reasons = {
        "its output does not change with the prefix": near(seen, bare),
        "a wholly masked prefix changes its output": not near(masked, bare),
        "its attention is of another kind": not (near(own, bare) and near(own_unpadded, unpadded)),
    }
    for reason, refused in reasons.items():
        if refused:
            raise UserError(REFUSED.format(name=body.config.model_type, reason=reason))


def shifted_positions(config: PreTrainedConfig, mask: Tensor, shift: int) -> Tensor:
    """Position ids (B, L) under a mask (B, L), as an encoder counts them itself, but so many later.

    Raises:
        UserError: the encoder has no such position.
    """
    readable, needed = readable_length(config), shift + mask.shape[1]
    if readable is not None and needed > readable:
        raise UserError(
            f"model.shift_positions lets the text of {mask.shape[1]} sub-words begin {shift} positions later, and the "
            f"text encoder has {readable}; set data.max_length to {readable - shift} or less"
        )
    places = torch.arange(shift, needed, device=mask.device)
    if config.model_type not in OFFSET_POSITIONS:
        return places.expand_as(mask)
    first: int = config.pad_token_id + 1
    return torch.where(mask > 0, places + first, config.pad_token_id)


def readable_length(config: PreTrainedConfig) -> int | None:
    """How many sub-words an encoder can read at once; None where its positions have no end."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions <= 0:
        return None
    # RoBERTa and its relatives count their positions from behind the padding token's.
    offset = config.pad_token_id + 1 if config.model_type in OFFSET_POSITIONS else 0
    return int(positions) - offset
