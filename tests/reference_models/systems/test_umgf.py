"""UMGF: a graph layer compared with plain loops, the order of nodes, and absent nodes."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from reference_models.systems.bert import BERT
from reference_models.systems.umgf import HEADS, UMGF, FeedForward, GatedMessages, GraphLayer, SelfAttention
from tests.reference_models.slow_layers import add, dot, linear, mix, norm, sigmoid, softmax
from tests.reference_models.tiny_models import make_batch, make_model


def make(task: str = "ner", **options: Any) -> UMGF:
    system: UMGF = make_model(UMGF, task=task, **{"graph_width": 16, **options}).eval()
    return system


def encode(system: UMGF, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return system.encode({name: value for name, value in batch.items() if name != "labels"}).h


def slow_attention(layer: SelfAttention, nodes: list[list[float]]) -> list[list[float]]:
    size = layer.query.out_features // HEADS
    rows = []
    for node in nodes:
        query, seen = linear(layer.query, node), []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            weights = softmax([dot(query[part], linear(layer.key, other)[part]) / math.sqrt(size) for other in nodes])
            values = nodes if isinstance(layer.value, torch.nn.Identity) else [linear(layer.value, o) for o in nodes]
            seen += mix(weights, [value[part] for value in values])
        given = seen if isinstance(layer.output, torch.nn.Identity) else linear(layer.output, seen)
        rows.append(norm(layer.norm, add(node, given)))
    return rows


def slow_messages(layer: GatedMessages, nodes: list[list[float]], senders: list[list[float]]) -> list[list[float]]:
    """The published form: one matrix over both nodes, concatenated."""
    joined = torch.cat([layer.own.weight, layer.other.weight], dim=1).tolist()
    rows = []
    for node in nodes:
        total = [0.0] * len(node)
        for sender in senders:
            gates = [
                sigmoid(dot(line, node + sender) + b) for line, b in zip(joined, layer.own.bias.tolist(), strict=True)
            ]
            total = [t + g * s for t, g, s in zip(total, gates, sender, strict=True)]
        rows.append(norm(layer.norm, add(node, total)))
    return rows


def slow_forward(layer: FeedForward, nodes: list[list[float]]) -> list[list[float]]:
    return [
        norm(layer.norm, add(x, linear(layer.widen, [max(u, 0.0) for u in linear(layer.narrow, x)]))) for x in nodes
    ]


def slow_layer(
    layer: GraphLayer, words: list[list[float]], images: list[list[float]]
) -> tuple[list[list[float]], list[list[float]]]:
    words, images = slow_attention(layer.text_attention, words), slow_attention(layer.image_attention, images)
    updated = slow_forward(layer.text_forward, slow_messages(layer.to_text, words, images))
    if layer.to_image is None:
        return updated, images
    return updated, slow_forward(layer.image_forward, slow_messages(layer.to_image, images, words))


def test_graph_layer_agrees_with_plain_loops() -> None:
    torch.manual_seed(0)
    layer = GraphLayer(16, 0.5, last=False).eval()
    words, images = torch.randn(1, 5, 16), torch.randn(1, 4, 16)
    real, seen = torch.arange(5)[None] < 3, torch.tensor([[True, False, True, True]])
    with torch.no_grad():
        found = layer(words, images, real, seen)
    expected = slow_layer(layer, words[real].tolist(), images[seen].tolist())
    torch.testing.assert_close(found[0][real], torch.tensor(expected[0]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1][seen], torch.tensor(expected[1]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("task", ["ner", "re"])
@pytest.mark.parametrize("sample", [0, 1, 2])
def test_h_agrees_with_plain_loops(sample: int, task: str) -> None:
    """Sample 1 has no node, sample 2 only a crop."""
    system, batch = make(task), make_batch(task)
    real = batch["attention_mask"][sample].bool()
    with torch.no_grad():
        states = system.text_encoder(batch["input_ids"], batch["attention_mask"])[sample][real].tolist()
        features = system.image_features(batch)
    first, _, _, second, _, _ = system.image_map
    images = []
    for pooled in features.padded("pooled")[sample][features.seen["pooled"][sample]].tolist():
        inner = [max(u, 0.0) for u in linear(first, pooled)]
        images.append([max(u, 0.0) for u in linear(second, inner)])
    words = [linear(system.text_map, state) for state in states]
    for layer in system.layers:
        words, images = slow_layer(layer, words, images)
    joined = [state + word for state, word in zip(states, words, strict=True)]
    h = encode(system, batch)[sample]
    if task == "ner":
        mask = batch["word_mask"][sample]
        expected, h = [joined[start] for start in batch["word_starts"][sample][mask]], h[mask]
    else:
        expected = joined[0] + joined[3]  # the opening markers stand before the entities
    torch.testing.assert_close(h, torch.tensor(expected), atol=1e-4, rtol=1e-4)


def with_nodes(batch: dict[str, Tensor], pooled: Tensor, mask: Tensor) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name != "pixel_values"} | {
        "image_pooled": pooled,
        "image_mask": mask,
    }


def test_order_of_nodes_and_absent_nodes_do_not_matter() -> None:
    system, batch = make(), make_batch("ner")
    pooled, mask = torch.randn(4, 4, 64), batch["image_mask"]
    before = encode(system, with_nodes(batch, pooled, mask))
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        encode(system, with_nodes(batch, pooled[:, order], mask[:, order])), before, atol=1e-5, rtol=0
    )
    corrupted = pooled.masked_fill(~mask[..., None], torch.nan)
    assert torch.equal(encode(system, with_nodes(batch, corrupted, mask)), before)
    more = torch.cat([pooled, torch.full((4, 1, 64), torch.nan)], dim=1)
    longer = torch.cat([mask, torch.zeros(4, 1, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(encode(system, with_nodes(batch, more, longer)), before, atol=1e-6, rtol=0)


def test_without_image_nodes_there_are_no_messages() -> None:
    system, batch = make(), make_batch("ner", present=[[0] * 4] * 4)
    bare = encode(system, batch)
    with torch.no_grad():
        for layer in system.layers:
            layer.to_text.own.bias.fill_(-1e4)  # all gates are closed
    torch.testing.assert_close(encode(system, make_batch("ner")), bare, atol=1e-6, rtol=0)


def test_without_the_graph_states_the_head_is_that_of_bert_crf() -> None:
    system, bert, batch = make(), make_model(BERT, task="ner").eval(), make_batch("ner")
    width = system.text_encoder.width
    bert.text_encoder.load_state_dict(system.text_encoder.state_dict())
    with torch.no_grad():
        system.head.linear.weight[:, width:] = 0
        bert.head.linear.weight.copy_(system.head.linear.weight[:, :width])
        bert.head.linear.bias.copy_(system.head.linear.bias)
        torch.testing.assert_close(system(**batch).scores, bert(**batch).scores, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("nodes", "moves"), [("whole+crops", True), ("crops", False)])
def test_whole_image_is_a_node_only_if_selected(nodes: str, moves: bool) -> None:
    """With the semantic loss, training reads the whole image, but it is not a node of "crops"."""
    system = make(nodes=nodes, semantic_weight=0.5, graph_dropout=0.0)
    batch = make_batch("ner", present=[[1] * 4] * 4)
    other = batch["pixel_values"].clone()
    other[:, 0] = 255 - other[:, 0]
    system.training = True
    one, two = (system.encode(batch | {"pixel_values": pixels}) for pixels in (batch["pixel_values"], other))
    assert torch.equal(one.h, two.h) != moves
    assert not torch.equal(one.image, two.image)


def test_last_layer_does_not_update_images() -> None:
    system = make(graph_layers=3)
    assert [layer.to_image is None for layer in system.layers] == [False, False, True]


def test_tied_init_copies_the_first_layer() -> None:
    """In the published code all layers copy the first one and keys copy queries; by default nothing is copied."""
    for tied in (True, False):
        first, middle, last = make(graph_layers=3, tied_init=tied).layers
        assert torch.equal(first.text_attention.query.weight, first.text_attention.key.weight) == tied
        assert torch.equal(first.image_attention.query.weight, middle.image_attention.key.weight) == tied
        for name, value in last.state_dict().items():
            if value.ndim == 2:
                assert torch.equal(first.state_dict()[name], value) == tied
                assert torch.equal(middle.state_dict()[name], value) == tied
        assert first.text_attention.query.weight is not middle.text_attention.query.weight


def test_pe_mlp_adds_positions_before_the_mlp() -> None:
    system, batch, given = make(text_init="pe_mlp"), make_batch("ner"), []
    system.layers[0].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    h = encode(system, batch)
    with torch.no_grad():
        states = system.text_encoder(batch["input_ids"], batch["attention_mask"])
    size, (first, _, _, second, _, _) = states.shape[-1], system.text_map.children()
    assert first.bias.abs().sum() == second.bias.abs().sum() == 0
    for place, state in enumerate(states[0].tolist()):
        code = [
            math.sin(place / 10000 ** (i / size)) if i % 2 == 0 else math.cos(place / 10000 ** ((i - 1) / size))
            for i in range(size)
        ]
        inner = [max(u, 0.0) for u in linear(first, add(state, code))]
        expected = [max(u, 0.0) for u in linear(second, inner)]
        torch.testing.assert_close(given[0][0, place], torch.tensor(expected), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(h[0, 0, :size], states[0, batch["word_starts"][0, 0]])  # positions are only in the nodes
