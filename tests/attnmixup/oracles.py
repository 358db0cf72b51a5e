"""Slow, obvious reference implementations: plain Python loops over lists of floats, one line per line of the paper."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, TypeAlias

from torch import nn

from attnmixup import SampleAttention

Vector = list[float]
Matrix = list[Vector]
Nested: TypeAlias = "float | Sequence[Nested]"


def softmax(scores: Vector) -> Vector:
    largest = max(scores)
    powers = [math.exp(score - largest) for score in scores]
    return [power / sum(powers) for power in powers]


def linear(vector: Vector, layer: nn.Linear) -> Vector:
    weight = layer.weight.tolist()
    bias = [0.0] * len(weight) if layer.bias is None else layer.bias.tolist()
    return [sum(w * x for w, x in zip(row, vector, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def layer_norm(vector: Vector, layer: nn.LayerNorm) -> Vector:
    mean = sum(vector) / len(vector)
    variance = sum((x - mean) ** 2 for x in vector) / len(vector)
    scale, shift = layer.weight.tolist(), layer.bias.tolist()
    normal = [(x - mean) / math.sqrt(variance + layer.eps) for x in vector]
    return [n * g + b for n, g, b in zip(normal, scale, shift, strict=True)]


def kl(p: Vector, q: Vector) -> float:
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def semantic_kl(text: Vector, image: Vector, temperature: float = 1.0, direction: str = "text_to_image") -> float:
    """Eq. 7 for one sample."""
    p, q = softmax([x / temperature for x in text]), softmax([x / temperature for x in image])
    if direction == "text_to_image":
        return kl(p, q)
    if direction == "image_to_text":
        return kl(q, p)
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (kl(p, middle) + kl(q, middle)) / 2


def standardized(vector: Vector) -> Vector:
    mean = sum(vector) / len(vector)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in vector) / len(vector) + 1e-12)
    return [(x - mean) / deviation for x in vector]


def masked_mean(tokens: Matrix, mask: list[bool]) -> Vector:
    real = [token for token, is_real in zip(tokens, mask, strict=True) if is_real]
    if not real:
        return [0.0] * len(tokens[0])
    return [sum(column) / len(real) for column in zip(*real, strict=True)]


def norm(vector: Vector) -> float:
    return max(math.sqrt(sum(x * x for x in vector)), 1e-12)


def score_pair(attention: SampleAttention, head: int, asking: Vector, giving: Vector) -> float:
    """r_ij of Eq. 8 for one head."""
    width = attention.dim // attention.heads
    part = slice(head * width, (head + 1) * width)
    key = linear(giving, attention.project_key)[part]
    if attention.score == "cosine":
        query = linear(asking, attention.project_key)[part]
        cosine = sum(q * k for q, k in zip(query, key, strict=True)) / (norm(query) * norm(key))
        return 10 * math.exp(attention.log_scale.bias[head].item()) * cosine
    if attention.score == "dot":
        query = linear(asking, attention.project_query)[part]
        return sum(q * k for q, k in zip(query, key, strict=True)) / math.sqrt(width)
    query = linear(asking, attention.project_query)[part] if attention.score == "additive" else [0.0] * width
    vector: Vector = attention.vector.weight[head].tolist()
    return sum(v * math.tanh(q + k) for v, q, k in zip(vector, query, key, strict=True))


def centred(rows: Matrix, counted: list[bool]) -> Matrix:
    kept = [row for row, real in zip(rows, counted, strict=True) if real]
    mean = [sum(column) / len(kept) for column in zip(*kept, strict=True)] if kept else [0.0] * len(rows[0])
    return [[x - m for x, m in zip(row, mean, strict=True)] for row in rows]


def attend(
    attention: SampleAttention,
    scored: Matrix,
    rows: Matrix,
    present: list[bool],
    given: Matrix | None = None,
    giving: list[bool] | None = None,
) -> Matrix:
    """Eq. 8-12 for a list of vectors.

    ``scored`` are the vectors for the scores, ``given`` the vectors that are attended to (the rows, if None), and
    ``giving`` marks which of them exist (``present``, if None).
    """
    given, giving = given or rows, giving or present
    width = attention.dim // attention.heads
    everyone = [j for j, real in enumerate(giving) if real]
    if attention.score == "cosine":
        given = centred(given, giving)
    results = []
    for i, row in enumerate(rows):
        if not present[i]:
            results.append(row)
            continue
        others = everyone
        if attention.score == "cosine" and len(everyone) > 1:
            others = [j for j in everyone if j != i]
        concatenated = []
        for head in range(attention.heads):
            weights = softmax([score_pair(attention, head, scored[i], scored[j]) for j in others])
            values = [given[j] for j in others]
            if attention.score == "dot":
                values = [linear(value, attention.project_value)[head * width : (head + 1) * width] for value in values]
            for feature in zip(*values, strict=True):
                concatenated.append(sum(w * x for w, x in zip(weights, feature, strict=True)))
        update = linear(concatenated, attention.project_output)
        if attention.gate is not None:
            update = [u * g for u, g in zip(update, attention.gate.bias.tolist(), strict=True)]
        result = layer_norm([u + x for u, x in zip(update, row, strict=True)], attention.norm)
        block = attention.feed_forward
        if block is not None:
            hidden = [max(0.0, x) for x in linear(result, block.expand)]
            update = linear(hidden, block.contract)
            result = layer_norm([u + x for u, x in zip(update, result, strict=True)], block.norm)
        results.append(result)
    return results


def sample_attention(attention: SampleAttention, embeddings: list[Any], mask: list[Any] | None = None) -> list[Any]:
    """H* of a batch given as nested lists, ``(B, C)`` or ``(B, L, C)``, without dropout."""
    cosine = attention.score == "cosine"
    if not isinstance(embeddings[0][0], list):
        mask = mask or [True] * len(embeddings)
        return attend(attention, centred(embeddings, mask) if cosine else embeddings, embeddings, mask)
    length = len(embeddings[0])
    mask = mask or [[True] * length for _ in embeddings]
    pooled = means = [masked_mean(tokens, real) for tokens, real in zip(embeddings, mask, strict=True)]
    if cosine:
        pooled = centred(pooled, [any(real) for real in mask])
    result = [list(tokens) for tokens in embeddings]
    for position in range(length):
        rows = [tokens[position] for tokens in embeddings]
        present = [real[position] for real in mask]
        scored = pooled
        if attention.sequence == "position":
            scored = centred(rows, present) if cosine else rows
        by_sample = (means, [any(real) for real in mask]) if attention.sequence == "sample" else (None, None)
        for i, row in enumerate(attend(attention, scored, rows, present, *by_sample)):
            result[i][position] = row
    return result


def interpolate(first: Vector, second: Vector, lam: float) -> Vector:
    return [lam * a + (1 - lam) * b for a, b in zip(first, second, strict=True)]


def interpolate_tokens(
    first: Matrix, second: Matrix, lam: float, first_mask: list[bool], second_mask: list[bool]
) -> Matrix:
    tokens = []
    for a, b, real_a, real_b in zip(first, second, first_mask, second_mask, strict=True):
        if real_a and real_b:
            tokens.append(interpolate(a, b, lam))
        else:
            tokens.append(b if real_b else a)
    return tokens


def cross_entropy(logits: Vector, label: int) -> float:
    return -math.log(softmax(logits)[label])


def row_weights(
    valid: Vector,
    kinds: Sequence[str],
    strength: float,
    ratio: float | None = None,
    apart: bool = False,
    original: float = 1.0,
) -> Vector:
    """Share of each row in the loss; ``kinds``: one letter per row, o (original), t (transformed) or s (synthetic)."""
    weights = []
    for is_valid, kind in zip(valid, kinds, strict=True):
        weight = {"o": original, "t": strength, "s": strength}[kind]
        if ratio is not None:
            weight *= {"o": 1.0, "t": ratio, "s": 1 - ratio}[kind]
        weights.append(weight * is_valid)
    if not apart:
        return [w / sum(weights) if sum(weights) else 0.0 for w in weights]
    real = sum(w for w, kind in zip(weights, kinds, strict=True) if kind != "s")
    synthetic = sum(v for v, kind in zip(valid, kinds, strict=True) if kind == "s")
    sums = {"o": real, "t": real, "s": synthetic}
    return [w / sums[kind] if sums[kind] else 0.0 for w, kind in zip(weights, kinds, strict=True)]


def rounded_share(ratio: float, size: int) -> int:
    """Share of ``size`` in exact arithmetic, rounded half up."""
    return math.floor(Fraction(ratio).limit_denominator(10_000) * size + Fraction(1, 2))
