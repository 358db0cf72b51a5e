"""Dtypes, autocast, devices, initialisation and activation checkpointing."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnmixup import AttnMixup, MixedBatch, SampleAttention, SemanticKLLoss, functional
from attnmixup.options import Preset
from tests.attnmixup.models import KINDS, Model, batch_of
from tests.attnmixup.strategies import DIM, traced

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"preset": "release"}, {"preset": "recommended"}, {"score": "shared", "sequence": "position"}]
)
def test_training_step_works_in_every_dtype(kind: str, dtype: torch.dtype, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Model(**options).to(dtype)
    embeddings, *rest = batch_of(kind, dtype)
    loss = model(embeddings, *rest)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() and p.grad.dtype == dtype for p in (embeddings, *model.parameters()))
    mixed = model.mixer(embeddings, rest[0])
    assert mixed.embeddings.dtype == dtype
    assert mixed.lam.dtype == mixed.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_close_to_float32(kind: str) -> None:
    torch.manual_seed(0)
    model = Model(dropout=0.0, transformed_ratio=1.0)
    embeddings, *rest = batch_of(kind)
    expected = model(embeddings, *rest)
    half = model.to(torch.bfloat16)(embeddings.bfloat16(), rest[0], rest[1].bfloat16(), *rest[2:])
    torch.testing.assert_close(half.float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"preset": "release"}, {"preset": "recommended"}])
def test_training_step_works_under_autocast(kind: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Model(dropout=0.0, **options)
    embeddings, *rest = batch_of(kind)
    for weights in (embeddings, embeddings.bfloat16()):
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model.mixer(weights, rest[0])
            loss = model(weights, *rest)
        loss.backward()
        assert mixed.embeddings.dtype == weights.dtype
        assert loss.dtype == torch.float32
        assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in model.parameters())


def test_scores_are_computed_in_float32_under_autocast() -> None:
    attention = SampleAttention(DIM, heads=2)
    with torch.autocast("cpu", torch.bfloat16):
        _, weights = attention(torch.randn(4, DIM), need_attention=True)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4))


def test_autocast_does_not_change_scores() -> None:
    query, key, vector = torch.randn(2, 4, 64), torch.randn(2, 4, 64), torch.randn(2, 64)
    dot = query @ key.mT / 8
    additive = (torch.tanh(query.unsqueeze(2) + key.unsqueeze(1)) * vector[:, None, None]).sum(-1)
    cosine = functional.cosine_scores(query, key, vector[:, 0])
    pairwise = functional.pairwise_semantic_kl(query[0], key[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(functional.dot_scores(query, key), dot)
        assert torch.equal(functional.additive_scores(query, key, vector), additive)
        assert torch.equal(functional.cosine_scores(query, key, vector[:, 0]), cosine)
        assert torch.equal(functional.pairwise_semantic_kl(query[0], key[0]), pairwise)


@traced
@pytest.mark.parametrize("partner", ["uniform", "derangement", "other_class", "balanced", "nearest"])
@pytest.mark.parametrize("preset", ["paper", "release", "recommended"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_step_reads_no_tensor_values(partner: str, preset: Preset, kind: str) -> None:
    """Tensors on the meta device have no values: reading one, or copying it to the host, raises an error."""
    if kind == "sequences" and partner in ("other_class", "balanced"):
        pytest.skip("tags are no classes")
    model = Model(partner=partner, preset=preset).to("meta")
    embeddings, targets, *rest = (tensor.detach().to("meta") for tensor in batch_of(kind))
    model(embeddings, targets, *rest).backward()
    mixed = model.mixer(embeddings, targets, need_attention=True)
    assert all(value.is_meta for value in vars(mixed).values() if isinstance(value, torch.Tensor))


def test_modules_can_be_copied() -> None:
    mixer = AttnMixup(DIM)
    mixer.set_strength(0.25)
    assert copy.deepcopy(mixer).strength == 0.25


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixing_works_with_any_default_dtype(dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    try:
        mixed = AttnMixup(DIM)(torch.randn(4, DIM), torch.arange(4) % 3)
        loss = mixed.loss(F.cross_entropy, mixed.embeddings)
    finally:
        torch.set_default_dtype(torch.float32)
    assert mixed.lam.dtype == mixed.weight.dtype == torch.float32
    assert loss.isfinite()


MODULES: dict[str, Callable[..., nn.Module]] = {
    "paper": lambda **where: AttnMixup(DIM, **where),
    "release": lambda **where: AttnMixup(DIM, preset="release", **where),
    "shared": lambda **where: AttnMixup(DIM, score="shared", **where),
    "recommended": lambda **where: AttnMixup(DIM, preset="recommended", **where),
    "semantic": lambda **where: SemanticKLLoss(DIM, 4, project="both", shared_dim=3, **where),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_created_with_given_device_and_dtype(name: str) -> None:
    module = MODULES[name](device="meta", dtype=torch.bfloat16)
    assert all(parameter.is_meta and parameter.dtype == torch.bfloat16 for parameter in module.parameters())


@pytest.mark.parametrize("name", MODULES)
def test_reset_parameters_initialises_modules_from_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        module = MODULES[name]()
    module.to_empty(device="cpu")
    for parameter in (*module.parameters(), *module.buffers()):
        parameter.data.fill_(1e38)
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    assert all(parameter.abs().max() <= 1.5 for parameter in (*module.parameters(), *module.buffers()))
    if isinstance(module, AttnMixup):
        assert module.strength == 1.0
        assert module(torch.randn(4, DIM), torch.arange(4)).embeddings.isfinite().all()


def test_strength_is_set_after_to_empty_and_rejects_bad_values() -> None:
    with torch.device("meta"):
        mixer = AttnMixup(DIM)
    mixer.to_empty(device="cpu")
    assert mixer.strength == 1.0
    for bad in (float("nan"), float("inf"), 1.5, -0.1):
        with pytest.raises(ValueError, match="strength must be between 0 and 1"):
            mixer.set_strength(bad)
        with pytest.raises(ValueError, match="strength must be between 0 and 1"):
            mixer.load_state_dict(mixer.state_dict() | {"_extra_state": torch.tensor(bad)})


def test_transformers_model_with_mixer_loads_checkpoint_without_mixer(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    import transformers

    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )

    class WithMixer(transformers.BertPreTrainedModel):
        def __init__(self, config: transformers.BertConfig) -> None:
            super().__init__(config)
            self.bert = transformers.BertModel(config)
            self.mixer = AttnMixup(8, heads=2)
            self.shared = AttnMixup(8, heads=2, score="shared")
            self.release = AttnMixup(8, preset="release")
            self.recommended = AttnMixup(8, preset="recommended")
            self.semantic = SemanticKLLoss(8, 4)
            self.post_init()  # type: ignore[no-untyped-call]

    transformers.BertModel(config).save_pretrained(tmp_path / "plain")
    model = WithMixer.from_pretrained(tmp_path / "plain")
    model.mixer.set_strength(0.25)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.abs().max() <= 1, name
    assert model.shared.strength == model.release.strength == 1.0
    model.save_pretrained(tmp_path / "whole")
    assert WithMixer.from_pretrained(tmp_path / "whole").mixer.strength == 0.25


def test_checkpointing_restores_global_rng_state_and_rejects_generator() -> None:
    mixer, embeddings = AttnMixup(DIM, dropout=0.5), torch.randn(6, DIM, requires_grad=True)
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)

        def step(rows: Tensor) -> Tensor:
            mixed: MixedBatch = mixer(rows)
            return mixed.embeddings.square().sum()

        total = checkpoint(step, embeddings, use_reentrant=False) if checkpointed else step(embeddings)
        gradients.append(torch.autograd.grad(total, embeddings)[0])
    torch.testing.assert_close(gradients[0], gradients[1])
    generator = torch.Generator().manual_seed(0)
    total = checkpoint(lambda rows: mixer(rows, generator=generator).embeddings.sum(), embeddings, use_reentrant=False)
    with pytest.raises(RuntimeError, match="activation checkpointing"):
        total.backward()
