"""Dtypes, autocast, compilation and export."""

import copy

import pytest
import torch
import torch.nn.functional as F
from strategies import DIM
from torch import nn

from attnmixup import AttnMixup, MixedBatch, SampleAttention, SemanticKLLoss, sample_attention, tiled

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
KINDS = ("vectors", "sequences")


class Model(nn.Module):
    """Both modules, for vectors or sequences."""

    def __init__(self, **options):
        super().__init__()
        self.mixer = AttnMixup(DIM, heads=2, **options)
        self.semantic = SemanticKLLoss(DIM, 4)
        self.head = nn.Linear(DIM, 3)

    def forward(self, embeddings, targets, image, mask=None):
        mixed = self.mixer(embeddings, targets, mask=mask)
        loss = mixed.loss(F.cross_entropy, self.head(mixed.embeddings))
        return loss + 0.5 * self.semantic(embeddings, image, mask=mask)


def batch_of(kind, dtype=torch.float32, size=5, length=4):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(size, 4, generator=generator).to(dtype)
    if kind == "vectors":
        embeddings = torch.randn(size, DIM, generator=generator).to(dtype)
        return embeddings.requires_grad_(), torch.arange(size) % 3, image
    embeddings = torch.randn(size, length, DIM, generator=generator).to(dtype).requires_grad_()
    mask = torch.arange(length) < torch.tensor([4, 1, 3, 2, 4])[:size, None]
    return embeddings, torch.randint(3, (size, length), generator=generator), image, mask


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"preset": "release"}, {"score": "shared", "sequence": "position"}])
def test_every_dtype(kind, dtype, options):
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
def test_half_precision_is_close_to_single(kind):
    torch.manual_seed(0)
    model = Model(dropout=0.0, transformed_ratio=1.0)
    embeddings, *rest = batch_of(kind)
    expected = model(embeddings, *rest)
    half = model.to(torch.bfloat16)(embeddings.bfloat16(), rest[0], rest[1].bfloat16(), *rest[2:])
    torch.testing.assert_close(half.float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"preset": "release"}])
def test_autocast(kind, options):
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


def test_scores_are_computed_in_float32_under_autocast():
    attention = SampleAttention(DIM, heads=2)
    with torch.autocast("cpu", torch.bfloat16):
        _, weights = attention(torch.randn(4, DIM), need_attention=True)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"preset": "release"}, {"partner": "balanced"}])
def test_one_graph(kind, options):
    if kind == "sequences" and "partner" in options:
        pytest.skip("tags are no classes")
    torch.manual_seed(0)
    model = Model(**options)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    embeddings, *rest = batch_of(kind)
    loss = compiled(embeddings, *rest)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_one_graph_computes_the_same():
    torch.manual_seed(0)
    mixer = AttnMixup(DIM, heads=2, dropout=0.0)
    embeddings, targets, _ = batch_of("vectors")
    plan = mixer.draw(len(embeddings))

    def step(embeddings, targets, plan):
        mixed = mixer(embeddings, targets, plan=plan, need_attention=True)
        return mixed, mixed.loss(F.cross_entropy, mixed.embeddings)

    for backend in ("aot_eager", "inductor"):
        mixed, loss = torch.compile(step, fullgraph=True, backend=backend)(embeddings, targets, plan)
        expected, expected_loss = step(embeddings, targets, plan)
        assert isinstance(mixed, MixedBatch)
        torch.testing.assert_close(loss, expected_loss)
        for name, value in vars(expected).items():
            torch.testing.assert_close(getattr(mixed, name), value)


def test_one_graph_in_blocks(monkeypatch):
    monkeypatch.setattr(sample_attention, "BLOCK_ELEMENTS", 20)
    monkeypatch.setattr(tiled, "CPU_TILE", 30)
    attention = SampleAttention(DIM, heads=2, dropout=0.0)
    embeddings = torch.randn(5, DIM)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(embeddings)[0], attention(embeddings)[0])
    compiled(embeddings)[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in attention.parameters())


def test_compiled_draws_differ_from_step_to_step():
    mixer = torch.compile(AttnMixup(DIM), fullgraph=True, backend="aot_eager")
    embeddings = torch.randn(6, DIM)
    assert not torch.equal(mixer(embeddings).lam, mixer(embeddings).lam)


def test_export_in_evaluation():
    model = AttnMixup(DIM).eval()
    embeddings = torch.randn(3, DIM)
    program = torch.export.export(model, (embeddings, torch.arange(3)))
    mixed = program.module()(embeddings, torch.arange(3))
    assert isinstance(mixed, MixedBatch)
    assert torch.equal(mixed.embeddings, embeddings)
    whole = Model().eval()
    program = torch.export.export(whole, batch_of("sequences"))
    torch.testing.assert_close(program.module()(*batch_of("sequences")), whole(*batch_of("sequences")))


def test_export_for_any_batch_size():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer, self.head = AttnMixup(DIM), nn.Linear(DIM, 3)

        def forward(self, embeddings):
            return self.head(self.mixer(embeddings).embeddings)

    model = Classifier().eval()
    dynamic = {"embeddings": {0: torch.export.Dim("batch", min=2)}}
    program = torch.export.export(model, (torch.randn(3, DIM),), dynamic_shapes=dynamic)
    embeddings = torch.randn(7, DIM)
    torch.testing.assert_close(program.module()(embeddings), model(embeddings))


@pytest.mark.parametrize("partner", ["uniform", "other_class", "balanced"])
@pytest.mark.parametrize("preset", ["paper", "release"])
def test_no_step_looks_at_a_value(partner, preset):
    """On the meta device there are no values to look at, or to copy to the host."""
    model = Model(partner=partner, preset=preset).to("meta")
    embeddings, targets, image = (tensor.detach().to("meta") for tensor in batch_of("vectors"))
    model(embeddings, targets, image).backward()
    mixed = model.mixer(embeddings, targets, need_attention=True)
    assert all(value.is_meta for value in vars(mixed).values() if isinstance(value, torch.Tensor))


def test_modules_can_be_copied():
    mixer = AttnMixup(DIM)
    mixer.set_strength(0.25)
    assert copy.deepcopy(mixer).state_dict()["strength"] == 0.25
