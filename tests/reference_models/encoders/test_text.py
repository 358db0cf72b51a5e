"""The text encoder compared with a hand-written one in every family, and the encoders that it rejects."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BartConfig,
    BertConfig,
    DebertaV2Config,
    DynamicCache,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    T5Config,
)
from transformers.modeling_outputs import BaseModelOutput

from reference_models.encoders.attention import NAMES
from reference_models.encoders.prefix import Prefix, PrefixStates
from reference_models.encoders.text import TextEncoder, checkpoint_activations, probe
from reference_models.errors import UserError
from tests.reference_models import slow_encoder
from tests.reference_models.tiny_models import FAMILIES, make_tokens, text_config

ATTENDED = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]]).bool()
FUSIONS = ("prefix", "concat")
each_family = pytest.mark.parametrize("family", FAMILIES)
each_fusion = pytest.mark.parametrize("fusion", FUSIONS)


def make_encoder(family: str, **options: Any) -> TextEncoder:
    torch.manual_seed(0)
    encoder = TextEncoder(text_config(family), **options).eval()
    for parameter in encoder.parameters():  # also biases and norms, which are initialised to 0 and 1
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder


def make_prefix(encoder: TextEncoder, fusion: str = "prefix", attended: Tensor = ATTENDED) -> Prefix | PrefixStates:
    generator = torch.Generator().manual_seed(1)
    shape = (encoder.layers, *attended.shape, encoder.width)
    if fusion == "concat":
        return PrefixStates(torch.randn(shape, generator=generator), attended)
    keys, values = torch.randn(2, *shape, generator=generator).unflatten(-1, (encoder.heads, -1)).transpose(3, 4)
    return Prefix(keys, values, attended)


def slow(encoder: TextEncoder, ids: Tensor, mask: Tensor, prefix: Prefix | PrefixStates | None = None) -> Tensor:
    def rows(tensor: Tensor, sample: int) -> list[tuple[Tensor, ...]]:
        if isinstance(prefix, Prefix):
            tensor = tensor.transpose(2, 3).flatten(3)
        return [layer[sample][prefix.mask[sample]].unbind(0) for layer in tensor]

    def of_sample(sample: int) -> Mapping[str, slow_encoder.VisualTokens]:
        if isinstance(prefix, PrefixStates):
            return {"states": rows(prefix.states, sample)}
        return {"keys": rows(prefix.keys, sample), "values": rows(prefix.values, sample)}

    with torch.no_grad():
        return slow_encoder.encode(encoder.body, ids, mask, None if prefix is None else of_sample)


def real_rows(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden * mask[..., None]


@each_family
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("fusion", [None, *FUSIONS])
def test_encoder_agrees_with_the_slow_encoder(family: str, attention: str, fusion: str | None) -> None:
    encoder = make_encoder(family, attention=attention, fusion=fusion or "prefix")
    prefix = None if fusion is None else make_prefix(encoder, fusion)
    ids, mask = make_tokens()
    with torch.no_grad():
        hidden = encoder(ids, mask, prefix)
    assert hidden.isfinite().all()
    torch.testing.assert_close(real_rows(hidden, mask), slow(encoder, ids, mask, prefix), atol=2e-5, rtol=1e-5)


class ReadOnlyCache(DynamicCache):
    """A second implementation: a cache that returns prefix and text, reports length 0 and stores nothing."""

    def __init__(self, prefix: Prefix) -> None:
        super().__init__()
        self.prefix = prefix

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.prefix.keys[layer_idx], self.prefix.values[layer_idx]
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        return 0


@pytest.mark.parametrize("family", FAMILIES[:4])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_encoder_agrees_with_a_read_only_cache(family: str, attention: str) -> None:
    encoder = make_encoder(family, attention=attention)
    other = copy.deepcopy(encoder.body)
    other.set_attn_implementation("eager")
    prefix = make_prefix(encoder)
    ids, mask = make_tokens()
    both = torch.cat([prefix.mask, mask.bool()], dim=1)
    additive = torch.zeros(both.shape).masked_fill(~both, torch.finfo(torch.float32).min)[:, None, None, :]
    with torch.no_grad():
        hidden = encoder(ids, mask, prefix)
        embedded = other.embeddings(input_ids=ids)
        if family == "electra":
            embedded = other.embeddings_project(embedded)
        expected = other.encoder(embedded, additive, past_key_values=ReadOnlyCache(prefix)).last_hidden_state
    torch.testing.assert_close(real_rows(hidden, mask), real_rows(expected, mask), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES[:4])
def test_concat_equals_a_prefix_of_projected_states(family: str) -> None:
    """A visual state acts only through its key and value, because the next layer replaces it."""
    encoder = make_encoder(family, fusion="concat")
    states = make_prefix(encoder, "concat")
    parts = [layer.attention.self for layer in encoder.body.encoder.layer]
    keys, values = (
        torch.stack([getattr(part, name)(x) for part, x in zip(parts, states.states, strict=True)])
        .unflatten(-1, (encoder.heads, -1))
        .transpose(2, 3)
        for name in ("key", "value")
    )
    ids, mask = make_tokens()
    with torch.no_grad():
        hidden = encoder(ids, mask, states)
        expected = encoder(ids, mask, Prefix(keys, values, states.mask))
    torch.testing.assert_close(real_rows(hidden, mask), real_rows(expected, mask), atol=1e-5, rtol=1e-5)


@each_family
@each_fusion
def test_only_unmasked_prefix_states_change_the_output(family: str, fusion: str) -> None:
    encoder = make_encoder(family, fusion=fusion)
    prefix = make_prefix(encoder, fusion)
    ids, mask = make_tokens()
    field = "states" if fusion == "concat" else "values"
    hidden = ~prefix.mask if fusion == "concat" else ~prefix.mask[:, None, :].expand(-1, encoder.heads, -1)
    tensor = getattr(prefix, field)
    absent = copy.copy(prefix)
    object.__setattr__(absent, field, tensor + 5.0 * hidden[..., None])
    seen = copy.copy(prefix)
    object.__setattr__(seen, field, tensor + 5.0 * ~hidden[..., None])
    with torch.no_grad():
        base = encoder(ids, mask, prefix)
        assert torch.equal(encoder(ids, mask, absent), base)
        moved = (encoder(ids, mask, seen) - base).abs().amax(dim=(1, 2))
        bare = encoder(ids, mask)
    assert (moved[:2] > 1e-3).all()
    assert moved[2] == 0
    torch.testing.assert_close(base[2, :3], bare[2, :3], atol=1e-5, rtol=1e-5)


@each_family
@each_fusion
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gradient_checkpointing_gives_the_same_gradients(family: str, fusion: str, attention: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        encoder = make_encoder(family, fusion=fusion, attention=attention).eval()
        for module in encoder.modules():  # without dropout, because checkpointing acts only in training mode
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if "attention_dropout" in vars(module):
                vars(module)["attention_dropout"] = 0.0
        if checkpointing:
            checkpoint_activations(encoder.body)
        encoder.train()
        prefix = make_prefix(encoder, fusion)
        leaf = (prefix.states if fusion == "concat" else prefix.keys).requires_grad_()
        ids, mask = make_tokens()
        real_rows(encoder(ids, mask, prefix), mask).square().sum().backward()
        gradients.append([leaf.grad, *(p.grad for p in encoder.parameters() if p.grad is not None)])
    assert gradients[0][0].abs().sum() > 0
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)


@each_family
@each_fusion
def test_encoder_compiles_without_graph_breaks(family: str, fusion: str) -> None:
    encoder = make_encoder(family, fusion=fusion)
    prefix = make_prefix(encoder, fusion)
    ids, mask = make_tokens()
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(
            real_rows(compiled(ids, mask, prefix), mask), real_rows(encoder(ids, mask, prefix), mask)
        )
    torch.compiler.reset()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_dropout_acts_only_in_training(attention: str) -> None:
    encoder = make_encoder("bert", attention=attention)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in encoder.body.encoder.layer:
        layer.attention.self.dropout.p = 0.5
    ids, mask = make_tokens()
    prefix = make_prefix(encoder)
    with torch.no_grad():
        assert torch.equal(encoder(ids, mask, prefix), encoder(ids, mask, prefix))
        encoder.train()
        assert not torch.allclose(encoder(ids, mask, prefix), encoder(ids, mask, prefix), atol=1e-2)


def test_eager_attention_returns_attention_weights() -> None:
    encoder = make_encoder("bert", attention="eager")
    ids, mask = make_tokens()
    with torch.no_grad():
        output = encoder.body(input_ids=ids, attention_mask=mask, prefix=make_prefix(encoder), output_attentions=True)
    weights = torch.stack(output.attentions)
    assert weights.shape == (3, 3, 4, 9, 4 + 9)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 3, 4, 9))
    assert (weights[:, 2, ..., :4] == 0).all()
    assert (weights[:, 0, ..., :4] > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_encoder_can_be_made_in_reduced_precision(dtype: torch.dtype) -> None:
    encoder = TextEncoder(text_config("bert").__class__(**(text_config("bert").to_dict() | {"dtype": dtype})))
    assert encoder.body.dtype == dtype


SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}


@pytest.mark.parametrize(
    "config",
    [
        DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"]),
        LlamaConfig(**SMALL, num_key_value_heads=2),
        LlamaConfig(**SMALL, num_key_value_heads=1),
        GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1),
        T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=20, num_layers=2, num_heads=2),
        BartConfig(
            vocab_size=50, d_model=16, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=20, decoder_ffn_dim=20
        ),
        BertConfig(**SMALL, is_decoder=True),
    ],
    ids=lambda config: config.model_type,
)
@each_fusion
def test_encoder_that_would_ignore_its_prefix_raises(config: PreTrainedConfig, fusion: str) -> None:
    with pytest.raises(UserError, match="cannot use a visual prefix"):
        TextEncoder(config, fusion=fusion)


@pytest.mark.parametrize(
    ("fault", "message"),
    [("ignored", "does not change with the prefix"), ("unmasked", "a fully masked prefix changes its output")],
)
def test_probe_detects_silent_faults(fault: str, message: str) -> None:
    encoder = make_encoder("bert")
    forward: Callable[..., BaseModelOutput] = encoder.body.forward

    def broken(*, prefix: Prefix | None = None, **kwargs: Any) -> BaseModelOutput:
        if prefix is not None and fault == "unmasked":
            kwargs["prefix"] = Prefix(prefix.keys, prefix.values, torch.ones_like(prefix.mask))
        return forward(**kwargs)

    encoder.body.forward = broken
    with pytest.raises(UserError, match=message):
        probe(encoder, NAMES["sdpa"], "prefix")


def test_text_only_accepts_any_encoder() -> None:
    encoder = TextEncoder(DebertaV2Config(**SMALL), fusion=None).eval()
    ids, mask = make_tokens()
    assert encoder(ids, mask).shape == (3, 9, 16)


def test_probe_does_not_change_the_encoder() -> None:
    state = torch.get_rng_state()
    encoder = TextEncoder(text_config("bert"))
    torch.set_rng_state(state)
    other = TextEncoder(text_config("bert"))
    assert all(module.training for module in encoder.modules())
    torch.testing.assert_close(encoder.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert encoder.body.config._attn_implementation == "visual_prefix_sdpa"
