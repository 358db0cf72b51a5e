"""PCNN: segments by hand, the encoder compared with loops over words, and the removal of markers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from reference_models.systems.pcnn import PCNN, pool_segments, without_markers
from tests.reference_models.slow_layers import dot
from tests.reference_models.tiny_models import make_batch, make_model


def make(**options: Any) -> PCNN:
    system: PCNN = make_model(PCNN, task="re", **options).eval()
    return system


def sentence(
    words: list[int], head: tuple[int, int], tail: tuple[int, int], length: int | None = None
) -> dict[str, Tensor]:
    """Return a batch of one sentence with markers (2 to 5) around two spans of words, like the processor."""
    entities = sorted([(*head, 2, 3), (*tail, 4, 5)], key=lambda entity: entity[0] - entity[1])  # outer one first
    ids = []
    for place in range(len(words) + 1):
        ids += [closing for _, end, _, closing in reversed(entities) if end == place]
        ids += [opening for start, _, opening, _ in entities if start == place]
        ids += words[place : place + 1]
    length = length or len(ids)
    batch = {"input_ids": torch.tensor([ids + [0] * (length - len(ids))])}
    batch["attention_mask"] = (torch.arange(length) < len(ids)).long()[None]
    for name, opening in (("head", 2), ("tail", 4)):
        inside = torch.zeros(1, length, dtype=torch.bool)
        inside[0, ids.index(opening) + 1 : ids.index(opening + 1)] = True
        batch[f"{name}_mask"] = inside
    return batch | {"image_mask": torch.zeros(1, 4, dtype=torch.bool)}


SENTENCES = [
    ([10, 11, 12, 13, 14, 15], (1, 2), (4, 5)),
    ([10, 11, 12, 13, 14, 15], (4, 5), (1, 2)),  # head after tail
    ([10, 11, 12, 13], (0, 1), (1, 2)),  # adjacent, and the first word
    ([10, 11, 12, 13], (0, 2), (3, 4)),  # the last word: empty third segment
    ([10, 11, 12, 13, 14], (0, 4), (1, 2)),  # one inside the other
    ([10, 11, 12], (1, 2), (1, 2)),  # the same words
]


def segments_of(
    words: list[int], head: tuple[int, int], tail: tuple[int, int], boundary: str = "start"
) -> list[list[int]]:
    left, right = sorted((head[0], tail[0]) if boundary == "start" else (head[1] - 1, tail[1] - 1))
    return [[t for t in range(len(words)) if (t > left) + (t > right) == number] for number in range(3)]


@pytest.mark.parametrize("case", SENTENCES)
def test_removing_markers_keeps_words_and_spans(case: tuple[list[int], tuple[int, int], tuple[int, int]]) -> None:
    words, head, tail = case
    batch = sentence(*case, length=len(words) + 7)
    entities = {name: batch[f"{name}_mask"] for name in ("head", "tail")}
    ids, mask, spans = without_markers(batch["input_ids"], batch["attention_mask"].bool(), entities)
    assert ids[0][mask[0]].tolist() == words
    assert mask[0].tolist() == [True] * len(words) + [False] * 7
    for name, (start, end) in (("head", head), ("tail", tail)):
        assert {side: place.item() for side, place in spans[name].items()} == {"start": start, "end": end - 1}


@pytest.mark.parametrize(("nonlinearity", "boundary"), [("tanh", "start"), ("relu", "start"), ("tanh", "end")])
@pytest.mark.parametrize("case", SENTENCES)
def test_h_agrees_with_loops_over_words(
    case: tuple[list[int], tuple[int, int], tuple[int, int]], nonlinearity: str, boundary: str
) -> None:
    system, (words, head, tail) = make(nonlinearity=nonlinearity, boundary=boundary), case
    rows = []
    for t, word in enumerate(words):
        places = (system.positions[name].weight[t - span[0] + 129] for name, span in (("head", head), ("tail", tail)))
        rows.append(torch.cat([system.words.weight[word], *places]).tolist())
    around = [[0.0] * len(rows[0]), *rows, [0.0] * len(rows[0])]
    kernel, bias = system.convolution.weight.transpose(1, 2).tolist(), system.convolution.bias.tolist()
    found = [
        [sum(dot(kernel[f][k], around[t + k]) for k in range(3)) + bias[f] for f in range(len(bias))]
        for t in range(len(words))
    ]
    expected = []
    for segment in segments_of(*case, boundary):
        largest = [max(found[t][f] for t in segment) if segment else 0.0 for f in range(len(bias))]
        expected += [math.tanh(x) if nonlinearity == "tanh" else max(x, 0.0) for x in largest]
    for length in (None, len(words) + 9):  # more padding changes nothing
        h = system.encode(sentence(*case, length=length)).h[0]
        torch.testing.assert_close(h, torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_swapped_entities_swap_distances_and_keep_segments() -> None:
    system = make()
    one, other = (system.encode(sentence([10, 11, 12, 13], *spans)).h for spans in (((0, 1), (2, 3)), ((2, 3), (0, 1))))
    assert not torch.allclose(one, other)
    assert segments_of([10, 11, 12, 13], (0, 1), (2, 3)) == segments_of([10, 11, 12, 13], (2, 3), (0, 1))


def test_empty_segment_is_zero_without_gradient() -> None:
    rows = torch.randn(1, 4, 3, requires_grad=True)
    pooled = pool_segments(rows, torch.ones(1, 4, dtype=torch.bool), torch.tensor([0]), torch.tensor([3]))
    assert pooled[0, 6:].tolist() == [0, 0, 0]
    pooled.sum().backward()
    assert rows.grad.isfinite().all()
    assert rows.grad.sum() == 6


def test_padding_embedding_stays_zero_without_gradient() -> None:
    system = make().train()
    system(**make_batch()).loss.backward()
    assert system.words.weight.grad[0].abs().sum() == system.words.weight[0].abs().sum() == 0


@pytest.mark.parametrize(("double", "dropped"), [(False, 0.5), (True, 0.75)])
def test_double_dropout_keeps_a_quarter_of_the_features(double: bool, dropped: float) -> None:
    """The input of the output layer in training; the published code applies dropout to `h` twice."""
    system, inputs = make(double_dropout=double, filters=2000).train(), []
    system.head.linear.register_forward_hook(lambda _, given, __: inputs.append(given[0]))
    with torch.no_grad():
        for position in system.positions.values():  # so that only dropout makes features 0
            position.weight[0] = 0.1
        batch = make_batch()
        system(**batch | {"attention_mask": torch.ones_like(batch["attention_mask"])})
    assert (inputs[0] == 0).float().mean().item() == pytest.approx(dropped, abs=0.02)
