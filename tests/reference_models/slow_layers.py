"""Slow reference layers on lists of floats, for the tests of the systems."""

import math

from torch import nn

from reference_models.encoders.cross import CrossBlock


def dot(first: list[float], second: list[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


def add(first: list[float], second: list[float]) -> list[float]:
    return [a + b for a, b in zip(first, second, strict=True)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def mix(weights: list[float], rows: list[list[float]]) -> list[float]:
    """Return the weighted sum of rows."""
    return [dot(weights, column) for column in zip(*rows, strict=True)]


def linear(layer: nn.Linear, row: list[float]) -> list[float]:
    biases = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [dot(line, row) + bias for line, bias in zip(layer.weight.tolist(), biases, strict=True)]


def norm(layer: nn.LayerNorm, row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row) + layer.eps)
    scaled = zip(row, layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [weight * (x - mean) / deviation + bias for x, weight, bias in scaled]


def cross_block(block: CrossBlock, queries: list[list[float]], context: list[list[float]]) -> list[list[float]]:
    """Return Block(X, Y) of one sample without padding in the context."""
    keys, values = [linear(block.key, y) for y in context], [linear(block.value, y) for y in context]
    size = len(queries[0]) // block.heads
    rows = []
    for x in queries:
        query, attended = linear(block.query, x), []
        for head in range(block.heads):
            part = slice(head * size, (head + 1) * size)
            weights = softmax([dot(query[part], key[part]) / math.sqrt(size) for key in keys])
            attended += mix(weights, [value[part] for value in values])
        hidden = norm(block.attention_norm, add(x, linear(block.output, attended)))
        inner = [0.5 * u * (1 + math.erf(u / math.sqrt(2))) for u in linear(block.widen, hidden)]
        rows.append(norm(block.norm, add(hidden, linear(block.narrow, inner))))
    return rows


def lstm(layer: nn.LSTM, rows: list[list[float]], *, backward: bool = False) -> list[list[float]]:
    """Return the states of one direction: c = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c)."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = [getattr(layer, f"{name}_l0{'_reverse' if backward else ''}").tolist() for name in names]
    size, states = layer.hidden_size, []
    hidden = cell = [0.0] * size
    for row in reversed(rows) if backward else rows:
        sums = [dot(w, row) + dot(u, hidden) + a + b for w, u, a, b in zip(*weights, strict=True)]
        inputs, forgets, news, outputs = (sums[k * size : (k + 1) * size] for k in range(4))
        gates = zip(forgets, cell, inputs, news, strict=True)
        cell = [sigmoid(f) * c + sigmoid(i) * math.tanh(g) for f, c, i, g in gates]
        hidden = [sigmoid(o) * math.tanh(c) for o, c in zip(outputs, cell, strict=True)]
        states.append(hidden)
    return states[::-1] if backward else states
