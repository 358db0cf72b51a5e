"""AdapCoAtt-BERT-CRF: fusion compared with loops over words and cells, gates, and the published scores."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from reference_models.systems.adapcoatt import AdapCoAtt, PairScores
from reference_models.systems.base import Encoded
from tests.reference_models.slow_layers import add, dot, linear, mix, sigmoid, softmax
from tests.reference_models.tiny_models import make_batch, make_model


def make(**options: Any) -> AdapCoAtt:
    system: AdapCoAtt = make_model(AdapCoAtt, task="ner", **options).eval()
    return system


def encode(system: AdapCoAtt, batch: dict[str, Tensor]) -> Encoded:
    with torch.no_grad():
        return system.encode({name: value for name, value in batch.items() if name != "labels"})


def words_of(system: AdapCoAtt, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    with torch.no_grad():
        hidden = system.text_encoder(batch["input_ids"], batch["attention_mask"])
        return system.task.gather(hidden, batch, system.config)


def tanh(row: list[float]) -> list[float]:
    return [math.tanh(x) for x in row]


def slow_scores(attention: PairScores, query: list[float], keys: list[list[float]]) -> list[float]:
    asked = linear(attention.query, query)
    if attention.query_score is None:
        return [linear(attention.score, tanh(add(asked, linear(attention.key, key))))[0] for key in keys]
    joined = attention.score.weight.tolist()[0] + attention.query_score.weight.tolist()[0]
    return [dot(joined, tanh(linear(attention.key, key) + asked)) for key in keys]


@pytest.mark.parametrize("fusion", ["paper", "code"])
@pytest.mark.parametrize("coattn", ["add", "concat"])
@pytest.mark.parametrize("sample", [0, 1, 3])
def test_fusion_agrees_with_loops_over_words_and_cells(sample: int, coattn: str, fusion: str) -> None:
    system, batch = make(coattn=coattn, attention_width=7, fusion=fusion), make_batch("ner")
    with torch.no_grad():  # initial weights are so small that tanh is almost linear
        for name, parameter in system.named_parameters():
            if not name.startswith(("text_encoder", "vision")):
                parameter.mul_(20)
    states, mask = words_of(system, batch)
    words = states[sample][mask[sample]].tolist()
    grid = system.image_features(batch).padded("grid")[sample, 0].tolist()
    cells = [tanh(linear(system.visual_map, cell)) for cell in grid]
    expected = []
    for word in words:
        seen = mix(softmax(slow_scores(system.visual_attention, word, cells)), cells)
        answered = mix(softmax(slow_scores(system.textual_attention, seen, words)), words)
        visual, textual = tanh(linear(system.visual_mix, seen)), tanh(linear(system.textual_mix, answered))
        if fusion == "paper":
            share = sigmoid(linear(system.fusion_gate, visual + textual)[0])
            mixed = [share * a + (1 - share) * c for a, c in zip(visual, textual, strict=True)]
            passed = sigmoid(linear(system.filter_gate, word + mixed)[0])
            own = [passed * u for u in tanh(linear(system.filtered, mixed))]
        else:
            share = sigmoid(linear(system.fusion_gate, add(visual, textual))[0])
            mixed = linear(system.mixed_map, [share * a for a in visual] + [(1 - share) * c for c in textual])
            passed = sigmoid(linear(system.filter_gate, mixed)[0])
            own, word = [passed * u for u in mixed], linear(system.word_map, word)
        expected.append(word + (own if batch["image_mask"][sample, 0] else [0.0] * len(own)))
    found = encode(system, batch).h[sample][mask[sample]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("coattn", "alike"), [("add", False), ("concat", True)])
def test_joined_scores_give_every_word_the_same_attention(coattn: str, alike: bool) -> None:
    system, batch = make(coattn=coattn), make_batch("ner", present=[[1, 0, 0, 0]] * 4)
    with torch.no_grad():
        for attention in (system.visual_attention, system.textual_attention):
            for parameter in attention.parameters():
                parameter.mul_(50)
        words, _ = words_of(system, batch)
        others = torch.randn(4, 6, system.text_encoder.width)
        for attention, queries, keys in (
            (system.visual_attention, words, others),
            (system.textual_attention, others, words),
        ):
            weights = attention(queries, keys).softmax(dim=-1)
            assert torch.allclose(weights, weights[:, :1].expand_as(weights), atol=1e-5) == alike
    system.train()(**batch).loss.backward()
    for attention in (system.visual_attention, system.textual_attention):
        assert (attention.query.weight.grad.abs().max() < 1e-6) == alike


def test_no_word_attends_to_padding() -> None:
    system, batch, kept = make(), make_batch("ner"), []
    system.textual_attention.register_forward_pre_hook(lambda _, given: kept.append(given[1]))
    system.textual_mix.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    system.encode(batch)
    (words, answered), mask = kept, batch["word_mask"]
    (gradient,) = torch.autograd.grad(answered[mask].sum(), words)
    assert (gradient[mask].abs().sum(dim=1) > 0).all()
    assert not gradient[~mask].any()


@pytest.mark.parametrize(("fusion", "alike"), [("paper", False), ("code", True)])
def test_published_fusion_adds_the_same_vector_to_every_word(fusion: str, alike: bool) -> None:
    """All words then have the same attention, and the published filter gate does not read the word."""
    system, batch = make(coattn="concat", fusion=fusion), make_batch("ner", present=[[1, 0, 0, 0]] * 4)
    width = system.text_encoder.width
    added = encode(system, batch).h[0, :, width:]
    assert added.abs().max() > 1e-4
    assert torch.allclose(added, added[:1].expand_as(added), atol=1e-6) == alike


def test_dropout_acts_on_the_words_alone() -> None:
    system, batch, read = make().train(), make_batch("ner"), []
    for module in (system.head, system.head.linear):
        module.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    system(**batch)
    h, features = read
    assert torch.equal(features, h)
    assert (h[0, :, : system.text_encoder.width] == 0).any()


def test_sample_without_an_image_equals_bert_crf() -> None:
    system, batch = make(), make_batch("ner")
    features = system.image_features(batch)
    grid = features.padded("grid").masked_fill(~batch["image_mask"][:, :1, None, None], torch.nan)
    read = {name: value for name, value in batch.items() if name != "pixel_values"} | {"image_grid": grid}
    h, (words, _) = encode(system, read).h, words_of(system, batch)
    width = system.text_encoder.width
    assert torch.equal(h[..., :width], words)
    assert h[1, :, width:].abs().max() == 0
    with torch.no_grad():
        expected = words[1] @ system.head.linear.weight[:, :width].T + system.head.linear.bias
        torch.testing.assert_close(system.head(h)[1], expected, atol=1e-6, rtol=1e-6)


def test_order_of_cells_and_words_does_not_matter() -> None:
    system, batch = make(), make_batch("ner", present=[[1, 0, 0, 0]] * 4)
    features = system.image_features(batch).padded("grid")
    grid = torch.cat([features, torch.randn(4, 1, 5, features.shape[-1])], dim=2)
    read = {name: value for name, value in batch.items() if name != "pixel_values"}
    before = encode(system, read | {"image_grid": grid}).h
    after = encode(system, read | {"image_grid": grid[:, :, torch.randperm(grid.shape[2])]}).h
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = encode(system, read | {"image_grid": grid, "word_starts": batch["word_starts"][:, order]}).h
    torch.testing.assert_close(moved[0], before[0, order], atol=1e-5, rtol=1e-5)


def set_fusion_gate(system: AdapCoAtt, score: float) -> None:
    system.fusion_gate = torch.nn.Linear(2 * system.text_encoder.width, 1)
    torch.nn.init.zeros_(system.fusion_gate.weight)
    torch.nn.init.constant_(system.fusion_gate.bias, score)


@pytest.mark.parametrize(("share", "moves"), [(1e4, False), (-1e4, True)])
def test_fusion_gate_selects_visual_or_textual_attention(share: float, moves: bool) -> None:
    system, batch = make(), make_batch("ner", present=[[1, 0, 0, 0]] * 4)
    set_fusion_gate(system, share)
    before = encode(system, batch).h
    with torch.no_grad():
        system.textual_mix.bias.add_(1)
    assert torch.equal(encode(system, batch).h, before) != moves


@pytest.mark.parametrize(("share", "moves"), [(1e4, True), (-1e4, False)])
def test_behind_a_shut_gate_the_image_acts_through_the_textual_attention_alone(share: float, moves: bool) -> None:
    system, batch = make(), make_batch("ner", present=[[1, 0, 0, 0]] * 4)
    other = batch | {"pixel_values": 255 - batch["pixel_values"]}
    set_fusion_gate(system, share)
    assert not torch.equal(encode(system, batch).h, encode(system, other).h)
    with torch.no_grad():
        system.textual_attention.query.weight.zero_()
    assert torch.equal(encode(system, batch).h, encode(system, other).h) != moves
