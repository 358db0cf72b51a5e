"""Dtypes, autocast, compilation and export."""

import copy

import pytest
import torch
import torch.nn.functional as F
from strategies import DIM, traced
from torch import nn
from torch.utils.checkpoint import checkpoint

from attnmixup import AttnMixup, MixedBatch, SampleAttention, SemanticKLLoss, functional, sample_attention, tiled

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
@pytest.mark.parametrize(
    "options", [{}, {"preset": "release"}, {"preset": "recommended"}, {"score": "shared", "sequence": "position"}]
)
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
@pytest.mark.parametrize("options", [{}, {"preset": "release"}, {"preset": "recommended"}])
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


def test_autocast_changes_no_score():
    query, key, vector = torch.randn(2, 4, 64), torch.randn(2, 4, 64), torch.randn(2, 64)
    scores = functional.dot_scores(query, key), functional.additive_scores(query, key, vector)
    cosine = functional.cosine_scores(query, key, vector[:, 0])
    pairwise = functional.pairwise_semantic_kl(query[0], key[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(functional.cosine_scores(query, key, vector[:, 0]), cosine)
        assert torch.equal(functional.pairwise_semantic_kl(query[0], key[0]), pairwise)
        assert torch.equal(functional.dot_scores(query, key), scores[0])
        assert torch.equal(functional.additive_scores(query, key, vector), scores[1])


@traced
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"preset": "release"}, {"partner": "balanced"}, {"preset": "recommended"}, {"partner": "nearest"}]
)
def test_one_graph(kind, options):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Model(**options)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    embeddings, *rest = batch_of(kind)
    loss = compiled(embeddings, *rest)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is not None for parameter in model.parameters())


@traced
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


def graphs_of(options, kind, *, dynamic=None, marked=False):
    """Graphs that eleven batch sizes and six lengths are compiled to."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.manual_seed(0)
    torch._dynamo.reset()
    compiled = torch.compile(Model(**options), fullgraph=True, dynamic=dynamic, backend=backend)
    # Fewer than five samples make parts of one row, which torch.compile treats apart.
    for size in range(5, 16) if marked else range(2, 13):
        length = 2 + size % 6
        shape = (size, length) if kind == "sequences" else (size,)
        embeddings, targets = torch.randn(*shape, DIM), torch.randint(3, shape)
        image, mask = torch.randn(size, 4), torch.ones(shape, dtype=torch.bool) if kind == "sequences" else None
        if marked:
            for tensor in (embeddings, targets, image):
                torch._dynamo.mark_dynamic(tensor, 0)
        assert compiled(embeddings, targets, image, mask).isfinite()
    return len(graphs)


@traced
@pytest.mark.parametrize("preset", ["paper", "release", "recommended"])
@pytest.mark.parametrize("kind", KINDS)
def test_few_graphs_serve_all_sizes(kind, preset):
    assert graphs_of({"preset": preset}, kind) <= 4


@traced
def test_few_graphs_serve_sizes_that_are_known_to_vary():
    assert graphs_of({}, "sequences", dynamic=True) <= 4
    assert graphs_of({}, "vectors", marked=True) <= 2


@traced
def test_a_schedule_of_the_strength_compiles_once_and_once_without_mixing():
    graphs = []
    model = Model(dropout=0.0)
    compiled = torch.compile(model, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    losses = []
    for step in range(12):
        model.mixer.set_strength(step / 11)
        torch.manual_seed(0)
        losses.append(float(compiled(*batch_of("vectors"))))
        torch.manual_seed(0)
        assert losses[-1] == pytest.approx(float(model(*batch_of("vectors"))), rel=1e-5)
    assert len(graphs) == 2
    assert len(set(losses)) == 12


@traced
def test_tiles_are_not_unrolled(monkeypatch):
    monkeypatch.setattr(tiled, "CPU_TILE", 30)
    nodes = []
    for size in (5, 40):
        compiled = torch.compile(
            SampleAttention(DIM, heads=2, dropout=0.0),
            fullgraph=True,
            dynamic=False,
            backend=lambda graph, _: nodes.append(len(graph.graph.nodes)) or graph.forward,
        )
        compiled(torch.randn(size, DIM))
    assert nodes[0] == nodes[1]


@traced
def test_one_graph_in_blocks(monkeypatch):
    monkeypatch.setattr(sample_attention, "BLOCK_ELEMENTS", 20)
    monkeypatch.setattr(tiled, "CPU_TILE", 30)
    attention = SampleAttention(DIM, heads=2, dropout=0.0)
    embeddings = torch.randn(5, DIM)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(embeddings)[0], attention(embeddings)[0])
    compiled(embeddings)[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in attention.parameters())


@traced
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


@traced
@pytest.mark.parametrize("partner", ["uniform", "other_class", "balanced", "nearest"])
@pytest.mark.parametrize("preset", ["paper", "release", "recommended"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_step_looks_at_a_value(partner, preset, kind):
    """On the meta device there are no values to look at, or to copy to the host."""
    model = Model(partner=partner, preset=preset).to("meta")
    embeddings, targets, *rest = (tensor.detach().to("meta") for tensor in batch_of(kind))
    model(embeddings, targets, *rest).backward()
    mixed = model.mixer(embeddings, targets, need_attention=True)
    assert all(value.is_meta for value in vars(mixed).values() if isinstance(value, torch.Tensor))


def test_modules_can_be_copied():
    mixer = AttnMixup(DIM)
    mixer.set_strength(0.25)
    assert copy.deepcopy(mixer).strength == 0.25


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_any_default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        mixed = AttnMixup(DIM)(torch.randn(4, DIM), torch.arange(4) % 3)
        loss = mixed.loss(F.cross_entropy, mixed.embeddings)
    finally:
        torch.set_default_dtype(torch.float32)
    assert mixed.lam.dtype == mixed.weight.dtype == torch.float32
    assert loss.isfinite()


MODULES = {
    "paper": lambda **where: AttnMixup(DIM, **where),
    "release": lambda **where: AttnMixup(DIM, preset="release", **where),
    "shared": lambda **where: AttnMixup(DIM, score="shared", **where),
    "recommended": lambda **where: AttnMixup(DIM, preset="recommended", **where),
    "semantic": lambda **where: SemanticKLLoss(DIM, 4, project="both", shared_dim=3, **where),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_made_where_they_are_asked_for(name):
    module = MODULES[name](device="meta", dtype=torch.bfloat16)
    assert all(parameter.is_meta and parameter.dtype == torch.bfloat16 for parameter in module.parameters())


@pytest.mark.parametrize("name", MODULES)
def test_modules_from_the_meta_device_are_initialised_by_reset_parameters(name):
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
        assert module(torch.randn(4, DIM)).embeddings.isfinite().all()


def test_the_strength_is_never_left_uninitialised():
    with torch.device("meta"):
        mixer = AttnMixup(DIM)
    mixer.to_empty(device="cpu")
    assert mixer.strength == 1.0
    for bad in (float("nan"), float("inf"), 1.5, -0.1):
        with pytest.raises(ValueError, match="strength must be between 0 and 1"):
            mixer.set_strength(bad)
        with pytest.raises(ValueError, match="strength must be between 0 and 1"):
            mixer.load_state_dict(mixer.state_dict() | {"_extra_state": torch.tensor(bad)})


def test_a_model_of_transformers_with_a_mixer_loads_a_checkpoint_without_one(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )

    class WithMixer(transformers.BertPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.bert = transformers.BertModel(config)
            self.mixer = AttnMixup(8, heads=2)
            self.shared = AttnMixup(8, heads=2, score="shared")
            self.release = AttnMixup(8, preset="release")
            self.recommended = AttnMixup(8, preset="recommended")
            self.semantic = SemanticKLLoss(8, 4)
            self.post_init()

    transformers.BertModel(config).save_pretrained(tmp_path / "plain")
    model = WithMixer.from_pretrained(tmp_path / "plain")
    model.mixer.set_strength(0.25)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.abs().max() <= 1, name
    assert model.shared.strength == model.release.strength == 1.0
    model.save_pretrained(tmp_path / "whole")
    assert WithMixer.from_pretrained(tmp_path / "whole").mixer.strength == 0.25


@pytest.mark.parametrize("elements", [10**6, 10])
def test_torch_func_and_second_derivatives_work_at_every_size(monkeypatch, elements):
    monkeypatch.setattr(tiled, "CPU_TILE", elements)
    query, key, vector = (torch.randn(*shape).double() for shape in ((2, 3, 2), (2, 4, 2), (2, 2)))

    def total(query, key, vector):
        return functional.additive_scores(query, key, vector).sin().sum()

    leaves = [tensor.clone().requires_grad_() for tensor in (query, key, vector)]
    assert torch.autograd.gradgradcheck(total, leaves)
    gradients = torch.func.grad(total, (0, 1, 2))(query, key, vector)
    for gradient, expected in zip(gradients, torch.autograd.grad(total(*leaves), leaves), strict=True):
        torch.testing.assert_close(gradient, expected)
    tangents = torch.randn_like(query), torch.randn_like(key), torch.randn_like(vector)
    _, change = torch.func.jvp(total, (query, key, vector), tangents)
    expected = sum((tangent * gradient).sum() for tangent, gradient in zip(tangents, gradients, strict=True))
    torch.testing.assert_close(change, expected)
    batch = torch.randn(5, *query.shape).double()
    scores = torch.func.vmap(functional.additive_scores, (0, None, None))(batch, key, vector)
    for row, of_row in zip(batch, scores, strict=True):
        torch.testing.assert_close(of_row, functional.additive_scores(row, key, vector))


def test_checkpointing_restores_the_global_random_state_and_refuses_a_generator():
    mixer, embeddings = AttnMixup(DIM, dropout=0.5), torch.randn(6, DIM, requires_grad=True)
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)

        def step(rows):
            return mixer(rows).embeddings.square().sum()

        total = checkpoint(step, embeddings, use_reentrant=False) if checkpointed else step(embeddings)
        gradients.append(torch.autograd.grad(total, embeddings)[0])
    torch.testing.assert_close(gradients[0], gradients[1])
    generator = torch.Generator().manual_seed(0)
    total = checkpoint(lambda rows: mixer(rows, generator=generator).embeddings.sum(), embeddings, use_reentrant=False)
    with pytest.raises(RuntimeError, match="activation checkpointing"):
        total.backward()
