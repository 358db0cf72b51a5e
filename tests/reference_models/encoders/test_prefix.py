"""Both readings of Eq. 3-4 compared with plain loops, and what a prefix depends on."""

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from reference_models.encoders.prefix import Prefix, PrefixStates, VisualPrefix
from reference_models.encoders.stages import pool_stages

WIDTHS, SIDES = (3, 4, 5, 6), (8, 5, 3, 1)
LAYERS, HEADS, WIDTH = 3, 2, 8


def make(reading: str = "paper", fusion: str = "prefix", seed: int = 0, **options: Any) -> VisualPrefix:
    torch.manual_seed(seed)
    scrambled = reading == "release"
    sizes = {"layers": LAYERS, "heads": HEADS, "width": WIDTH}
    made = VisualPrefix(WIDTHS, **sizes, reading=reading, fusion=fusion, scramble_heads=scrambled, **options)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def make_cells(count: int) -> Tensor:
    return torch.cat(pool_stages(make_stages(count)), dim=-1)


def make_stages(count: int, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, c, s, s, generator=generator) for c, s in zip(WIDTHS, SIDES, strict=True))


seen_masks = (
    st.integers(1, 3)
    .flatmap(lambda size: st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=size, max_size=size))
    .map(torch.tensor)
)


def pool(stage: Tensor, y: int, x: int) -> list[float]:
    """Return the mean of a quarter of a map (channels, side, side); if the side is odd, halves share the middle."""
    side = stage.shape[1]
    rows = range(y * side // 2, -(-(y + 1) * side // 2))
    columns = range(x * side // 2, -(-(x + 1) * side // 2))
    return [sum(float(m[i][j]) for i in rows for j in columns) / (len(rows) * len(columns)) for m in stage.tolist()]


def apply(linear: nn.Linear, vector: list[float]) -> list[float]:
    pairs = zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
    return [sum(w * x for w, x in zip(row, vector, strict=True)) + bias for row, bias in pairs]


def concatenate(vectors: Iterable[list[float]]) -> list[float]:
    return list(itertools.chain.from_iterable(vectors))


def softmax(scores: list[float]) -> list[float]:
    powers = torch.tensor(scores).exp()
    return (powers / powers.sum()).tolist()


def mean(vectors: list[list[float]]) -> list[float]:
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def mix(gate: list[float], vectors: list[list[float]]) -> list[float]:
    return [sum(g * x for g, x in zip(gate, column, strict=True)) for column in zip(*vectors, strict=True)]


def slow_tokens(made: VisualPrefix, image: list[Tensor], layer: int) -> list[list[float]]:
    """Return the four tokens of one image for one layer; `image` holds its feature map of each stage."""
    cells = [[pool(stage, y, x) for stage in image] for y in range(2) for x in range(2)]
    if not made.scramble_heads:
        gate = softmax(made.mixer.gates[layer].tolist())
        maps = made.mixer.projections
        return [mix(gate, [apply(m, level) for m, level in zip(maps, cell, strict=True)]) for cell in cells]
    into, _, out_of = made.mixer.perceptron.children()
    shares = []
    for cell in cells:
        hidden = torch.tensor(apply(into, concatenate(cell))).tanh().tolist()
        output = apply(out_of, hidden)
        features = len(output) // 4
        shares.append([output[i * features : (i + 1) * features] for i in range(4)])
    scores = apply(made.mixer.gates, concatenate(mean(of_cell) for of_cell in shares))[4 * layer : 4 * layer + 4]
    gate = softmax([score if score > 0 else 0.01 * score for score in scores])
    return [mix(gate, of_cell) for of_cell in shares]


@given(seen=seen_masks, reading=st.sampled_from(["paper", "release"]), fusion=st.sampled_from(["prefix", "concat"]))
def test_prefix_agrees_with_plain_loops(seen: Tensor, reading: str, fusion: str) -> None:
    if reading == "release":  # the release reads all images of a sample or none
        seen = seen.any(dim=1, keepdim=True).expand_as(seen)
    made = make(reading, fusion)
    stages = make_stages(int(seen.sum()))
    with torch.no_grad():
        prefix = made(torch.cat(pool_stages(stages), dim=-1), seen)
    assert prefix.mask.shape == (len(seen), 16)
    numbers = (seen.flatten().cumsum(0) - 1).view_as(seen)
    for sample in range(len(seen)):
        for layer in range(LAYERS):
            rows = []
            for slot in range(4):
                is_seen = bool(seen[sample, slot])
                place = 4 * slot
                assert prefix.mask[sample, place : place + 4].tolist() == [is_seen] * 4
                image = [stage[numbers[sample, slot]] for stage in stages] if is_seen else None
                absent = [[0.0] * (2 * WIDTH if fusion == "prefix" else WIDTH)] * 4
                rows += slow_tokens(made, image, layer) if is_seen else absent
            check_layer(made, prefix, layer, sample, rows)


def check_layer(
    made: VisualPrefix, prefix: Prefix | PrefixStates, layer: int, sample: int, rows: list[list[float]]
) -> None:
    close = {"atol": 1e-5, "rtol": 1e-4}
    if isinstance(prefix, PrefixStates):
        torch.testing.assert_close(prefix.states[layer, sample], torch.tensor(rows), **close)
        return
    for got, start in ((prefix.keys, 0), (prefix.values, WIDTH)):
        halves = [row[start : start + WIDTH] for row in rows]
        flat = concatenate(halves)
        expected = torch.zeros(HEADS, len(rows), WIDTH // HEADS)
        for head in range(HEADS):
            for token in range(len(rows)):
                for feature in range(WIDTH // HEADS):
                    if not made.scramble_heads:
                        value = halves[token][head * (WIDTH // HEADS) + feature]
                    else:  # the release reads the values as if tokens and heads were swapped
                        value = flat[(head * len(rows) + token) * (WIDTH // HEADS) + feature]
                    expected[head, token, feature] = value
        torch.testing.assert_close(got[layer, sample], expected, **close)


def test_only_the_release_scrambles_heads() -> None:
    """In the paper's reading, the keys of a head are the same features of every token."""
    seen = torch.ones(1, 4, dtype=torch.bool)
    for reading, transposed in (("paper", True), ("release", False)):
        made = make(reading)
        prefix = made(make_cells(4), seen)
        assert isinstance(prefix, Prefix)
        by_token = prefix.keys.transpose(2, 3).flatten(3)
        tokens = made.mixer(make_cells(4).split(WIDTHS, dim=-1))[..., :WIDTH].flatten(1, 2)
        assert torch.allclose(by_token[:, 0], tokens) == transposed


def test_paper_starts_with_equal_gates() -> None:
    made = VisualPrefix(WIDTHS, layers=LAYERS, heads=HEADS, width=WIDTH)
    torch.testing.assert_close(made.mixer.gates.softmax(dim=-1), torch.full((LAYERS, 4), 0.25))


@pytest.mark.parametrize("reading", ["paper", "release"])
def test_every_parameter_of_a_prefix_receives_a_gradient(reading: str) -> None:
    made = make(reading)
    prefix = made(make_cells(6), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0]]).bool())
    (prefix.keys * torch.randn_like(prefix.keys) + prefix.values.square()).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def changed_tokens(made: VisualPrefix) -> list[bool]:
    """Return which of the four tokens of an image change their keys if the first cell of all stages changes."""
    cells, seen = make_cells(1), torch.ones(1, 1, dtype=torch.bool)
    other = cells.clone()
    other[:, 0] += 1
    before, after = (made(part, seen).keys for part in (cells, other))
    changed: list[bool] = (before != after).any(dim=(0, 1, 2, 4)).tolist()
    return changed


def test_each_token_is_one_cell_unless_scrambled() -> None:
    assert changed_tokens(make("paper")) == [True, False, False, False]
    assert changed_tokens(make("paper", scramble_cells=True)) == [True] * 4


@pytest.mark.parametrize("reading", ["paper", "release"])
def test_batch_without_any_image_has_an_empty_prefix(reading: str) -> None:
    prefix = make(reading)(make_cells(0), torch.zeros(2, 4, dtype=torch.bool))
    assert not prefix.mask.any()
    assert prefix.keys.abs().sum() == prefix.values.abs().sum() == 0


@pytest.mark.parametrize("reading", ["paper", "release"])
def test_prefix_in_bfloat16(reading: str) -> None:
    made = make(reading).bfloat16()
    prefix = made(make_cells(4).bfloat16(), torch.ones(1, 4, dtype=torch.bool))
    assert prefix.keys.dtype == torch.bfloat16
    assert prefix.keys.isfinite().all()
