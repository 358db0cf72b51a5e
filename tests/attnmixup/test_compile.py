"""torch.compile with one graph per step and few graphs for all sizes, and torch.export."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from attnmixup import AttnMixup, MixedBatch, MixupPlan, SampleAttention, sample_attention, tiled
from attnmixup.criteria import Criterion
from attnmixup.options import PRESETS, Preset
from tests.attnmixup.models import KINDS, Model, batch_of
from tests.attnmixup.strategies import DIM, traced


@traced
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"preset": "release"}, {"partner": "balanced"}, {"preset": "recommended"}, {"partner": "nearest"}]
)
def test_training_step_compiles_to_one_graph(kind: str, options: dict[str, Any]) -> None:
    if kind == "sequences" and options.get("partner") == "balanced":
        pytest.skip("tags are no classes")
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
def test_compiled_step_gives_the_same_results() -> None:
    torch.manual_seed(0)
    mixer = AttnMixup(DIM, heads=2, dropout=0.0)
    embeddings, targets, _ = batch_of("vectors")
    plan = mixer.draw(len(embeddings))

    def step(embeddings: Tensor, targets: Tensor, plan: MixupPlan) -> tuple[MixedBatch, Tensor]:
        mixed = mixer(embeddings, targets, plan=plan, need_attention=True)
        return mixed, mixed.loss(F.cross_entropy, mixed.embeddings)

    for backend in ("aot_eager", "inductor"):
        mixed, loss = torch.compile(step, fullgraph=True, backend=backend)(embeddings, targets, plan)
        expected, expected_loss = step(embeddings, targets, plan)
        assert isinstance(mixed, MixedBatch)
        torch.testing.assert_close(loss, expected_loss)
        for name, value in vars(expected).items():
            torch.testing.assert_close(getattr(mixed, name), value)


def count_graphs(
    preset: Preset, kind: str, sizes: Iterable[int], *, dynamic: bool | None = None, marked: bool = False
) -> int:
    """Count the graphs that are compiled for these batch sizes and, for sequences, six lengths."""
    graphs: list[GraphModule] = []

    def backend(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch.manual_seed(0)
    torch._dynamo.reset()
    compiled = torch.compile(Model(preset=preset), fullgraph=True, dynamic=dynamic, backend=backend)
    for size in sizes:
        length = 2 + size % 6
        shape = (size, length) if kind == "sequences" else (size,)
        embeddings, targets = torch.randn(*shape, DIM), torch.randint(3, shape)
        image, mask = torch.randn(size, 4), torch.ones(shape, dtype=torch.bool) if kind == "sequences" else None
        if marked:
            for tensor in (embeddings, targets, image) if mask is None else (embeddings, targets, image, mask):
                torch._dynamo.mark_dynamic(tensor, 0 if tensor is image else list(range(len(shape))))
        assert compiled(embeddings, targets, image, mask).isfinite()
    return len(graphs)


@traced
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", KINDS)
def test_few_graphs_cover_all_sizes(kind: str, preset: Preset) -> None:
    assert count_graphs(preset, kind, range(2, 13)) <= 4


@traced
@pytest.mark.parametrize("preset", ["paper", "release", "recommended"])
@pytest.mark.parametrize("mode", [{"dynamic": True}, {"marked": True}], ids=["dynamic", "marked"])
def test_few_graphs_cover_sizes_known_to_vary(mode: dict[str, bool], preset: Preset) -> None:
    # With fewer than five samples some parts have one row, for which torch.compile specialises.
    assert count_graphs(preset, "sequences", range(5, 16), **mode) <= 2


@traced
def test_strength_schedule_compiles_one_graph_with_and_one_without_mixing() -> None:
    graphs: list[GraphModule] = []

    def backend(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    model = Model(dropout=0.0)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
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
def test_tiles_are_not_unrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "CPU_TILE", 30)
    nodes: list[int] = []

    def backend(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        nodes.append(len(graph.graph.nodes))
        return graph.forward

    for size in (5, 40):
        attention = SampleAttention(DIM, heads=2, dropout=0.0)
        compiled = torch.compile(attention, fullgraph=True, dynamic=False, backend=backend)
        compiled(torch.randn(size, DIM))
    assert nodes[0] == nodes[1]


@traced
def test_blocks_and_tiles_compile_to_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_attention, "BLOCK_ELEMENTS", 20)
    monkeypatch.setattr(tiled, "CPU_TILE", 30)
    attention = SampleAttention(DIM, heads=2, dropout=0.0)
    embeddings = torch.randn(5, DIM)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(embeddings)[0], attention(embeddings)[0])
    compiled(embeddings)[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in attention.parameters())


@pytest.mark.parametrize(
    "criterion", [F.cross_entropy, partial(F.cross_entropy, label_smoothing=0.1), nn.CrossEntropyLoss(torch.ones(3))]
)
def test_loss_compiles_to_one_graph(criterion: Criterion) -> None:
    mixed: MixedBatch = AttnMixup(DIM).eval()(torch.randn(4, DIM), torch.arange(4) % 3)
    outputs = torch.randn(4, 3)
    compiled = torch.compile(mixed.loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(criterion, outputs), mixed.loss(criterion, outputs))


@traced
def test_compiled_draws_differ_from_step_to_step() -> None:
    mixer = torch.compile(AttnMixup(DIM), fullgraph=True, backend="aot_eager")
    embeddings = torch.randn(6, DIM)
    assert not torch.equal(mixer(embeddings).lam, mixer(embeddings).lam)


def test_export_in_evaluation() -> None:
    model = AttnMixup(DIM).eval()
    embeddings = torch.randn(3, DIM)
    program = torch.export.export(model, (embeddings, torch.arange(3)))
    mixed = program.module()(embeddings, torch.arange(3))
    assert isinstance(mixed, MixedBatch)
    assert torch.equal(mixed.embeddings, embeddings)
    whole = Model().eval()
    program = torch.export.export(whole, batch_of("sequences"))
    torch.testing.assert_close(program.module()(*batch_of("sequences")), whole(*batch_of("sequences")))


def test_export_for_any_batch_size() -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixer, self.head = AttnMixup(DIM), nn.Linear(DIM, 3)

        def forward(self, embeddings: Tensor) -> Tensor:
            logits: Tensor = self.head(self.mixer(embeddings).embeddings)
            return logits

    model = Classifier().eval()
    dynamic = {"embeddings": {0: torch.export.Dim("batch", min=2)}}
    program = torch.export.export(model, (torch.randn(3, DIM),), dynamic_shapes=dynamic)
    embeddings = torch.randn(7, DIM)
    torch.testing.assert_close(program.module()(embeddings), model(embeddings))
