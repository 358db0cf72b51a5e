"""Hand-written encoders of the BERT families and ModernBERT, token by token in Python loops, with a visual prefix.

They follow the papers and use only the weights of transformers. A prefix is given as `keys` and `values`, or as
`states`. Each is a list over layers of lists of visual tokens that are attended to. `shift` shifts the positions.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

VisualTokens = Sequence[Sequence[Tensor]]  # layers of visual tokens


def encode(
    body: PreTrainedModel, ids: Tensor, mask: Tensor, prefix: Callable[[int], Mapping[str, VisualTokens]] | None = None
) -> Tensor:
    """Return the hidden states, zero for padding; `prefix(sample)` returns keyword arguments of `encode_sentence`."""
    rows = []
    for sample, sentence in enumerate(ids.tolist()):
        real = [token for token, is_real in zip(sentence, mask[sample].tolist(), strict=True) if is_real]
        encoded = encode_sentence(body, real, **({} if prefix is None else prefix(sample)))
        rows.append(F.pad(torch.stack(encoded), (0, 0, 0, ids.shape[1] - len(real))))
    return torch.stack(rows)


def encode_sentence(
    body: PreTrainedModel,
    ids: list[int],
    *,
    keys: VisualTokens | None = None,
    values: VisualTokens | None = None,
    states: VisualTokens | None = None,
    shift: int = 0,
) -> list[Tensor]:
    modern = body.config.model_type == "modernbert"
    tokens = embed_modern(body, ids) if modern else embed(body, ids, shift)
    for number, layer in enumerate(body.layers if modern else body.encoder.layer):
        count = 0 if states is None else len(states[number])
        tokens = [*(states[number] if count else []), *tokens]
        more = ([], []) if keys is None else (keys[number], values[number])
        tokens = (modern_layer if modern else bert_layer)(body.config, layer, number, tokens, count, *more)[count:]
    return [body.final_norm(token) for token in tokens] if modern else tokens


def embed(body: PreTrainedModel, ids: list[int], shift: int) -> list[Tensor]:
    tables = body.embeddings
    first = shift + (tables.padding_idx + 1 if "roberta" in body.config.model_type else 0)
    tokens = []
    for place, token in enumerate(ids):
        total = tables.word_embeddings.weight[token] + tables.token_type_embeddings.weight[0]
        tokens.append(tables.LayerNorm(total + tables.position_embeddings.weight[first + place]))
    if body.config.model_type == "electra":
        tokens = [body.embeddings_project(token) for token in tokens]
    return tokens


def embed_modern(body: PreTrainedModel, ids: list[int]) -> list[Tensor]:
    return [body.embeddings.norm(body.embeddings.tok_embeddings.weight[token]) for token in ids]


def attend(query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], heads: int) -> Tensor:
    """Attend with one query to all keys, head by head."""
    width = len(query) // heads
    outputs = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = [sum(query[part] * key[part]) / math.sqrt(width) for key in keys]
        largest = max(scores)
        powers = [torch.exp(score - largest) for score in scores]
        outputs.append(sum(power / sum(powers) * value[part] for power, value in zip(powers, values, strict=True)))
    return torch.cat(outputs)


def bert_layer(
    config: PreTrainedConfig,
    layer: nn.Module,
    number: int,
    tokens: Sequence[Tensor],
    count: int,
    more_keys: Sequence[Tensor],
    more_values: Sequence[Tensor],
) -> list[Tensor]:
    part = layer.attention.self
    keys = [*more_keys, *(part.key(token) for token in tokens)]
    values = [*more_values, *(part.value(token) for token in tokens)]
    result = []
    for token in tokens:
        context = attend(part.query(token), keys, values, config.num_attention_heads)
        middle = layer.attention.output.LayerNorm(layer.attention.output.dense(context) + token)
        inner = F.gelu(layer.intermediate.dense(middle))
        result.append(layer.output.LayerNorm(layer.output.dense(inner) + middle))
    return result


def modern_layer(
    config: PreTrainedConfig,
    layer: nn.Module,
    number: int,
    tokens: Sequence[Tensor],
    count: int,
    more_keys: Sequence[Tensor],
    more_values: Sequence[Tensor],
) -> list[Tensor]:
    """Apply a layer. Visual states (the first `count` tokens) and further keys are not rotated and always visible."""
    heads = config.num_attention_heads
    kind = config.layer_types[number]
    window = config.local_attention // 2 if kind == "sliding_attention" else len(tokens)
    queries, keys, values = [], [], []
    for place, token in enumerate(tokens):
        query, key, value = layer.attn.Wqkv(layer.attn_norm(token)).chunk(3)
        if place >= count:
            theta = config.rope_parameters[kind]["rope_theta"]
            query, key = (rotate(vector, place - count, theta, heads) for vector in (query, key))
        queries.append(query)
        keys.append(key)
        values.append(value)
    result = []
    for place, token in enumerate(tokens):
        near = [i for i in range(len(tokens)) if i < count or place < count or abs(i - place) <= window]
        context = attend(
            queries[place], [*more_keys, *(keys[i] for i in near)], [*more_values, *(values[i] for i in near)], heads
        )
        token = token + layer.attn.Wo(context)
        inner, gate = layer.mlp.Wi(layer.mlp_norm(token)).chunk(2)
        result.append(token + layer.mlp.Wo(F.gelu(inner) * gate))
    return result


def rotate(vector: Tensor, place: int, theta: float, heads: int) -> Tensor:
    width = len(vector) // heads
    rotated = []
    for head in range(heads):
        part = vector[head * width : (head + 1) * width]
        half = width // 2
        angles = [place / theta ** (2 * i / width) for i in range(half)]
        first = [part[i] * math.cos(angles[i]) - part[i + half] * math.sin(angles[i]) for i in range(half)]
        second = [part[i + half] * math.cos(angles[i]) + part[i] * math.sin(angles[i]) for i in range(half)]
        rotated.append(torch.stack([*first, *second]))
    return torch.cat(rotated)
