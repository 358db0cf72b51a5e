"""MEGA: fusion compared with plain loops, the alignment, and the faults of the published code."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from reference_models.systems.base import Encoded
from reference_models.systems.mega import MEGA, by_object, inner_words, similarity
from tests.reference_models.slow_layers import add, dot, linear, mix, sigmoid, softmax
from tests.reference_models.tiny_models import make_batch, make_model


def make(task: str = "re", **options: Any) -> MEGA:
    system: MEGA = make_model(MEGA, task=task, **options).eval()
    return system


@torch.no_grad()
def encode(system: MEGA, batch: dict[str, Tensor]) -> Encoded:
    return system.encode({name: value for name, value in batch.items() if name != "labels"})


def length(row: list[float]) -> float:
    return math.sqrt(dot(row, row))


def slow_objects(system: MEGA, objects: list[list[float]], words: list[list[float]]) -> list[list[float]]:
    """Return G for each object."""
    size = math.sqrt(len(words[0]))
    values = [linear(system.value, word) for word in words]
    keys = [linear(system.key, word) for word in words]
    looks = []
    for one in objects:
        query = linear(system.query, one)
        weights = softmax([dot(query, key) / size for key in keys])
        looks.append([sigmoid(u) for u in mix(weights, values)])
    return looks


def slow_weights(objects: list[list[float]], words: list[list[float]], inner: list[bool]) -> list[list[float]]:
    """Return the weight of each word for each object, divided by the number of inner words."""
    rows: list[list[float]] = []
    for one in objects:
        rows.append([])
        for word, counts in zip(words, inner, strict=True):
            apart = [a / length(one) - b / length(word) for a, b in zip(one, word, strict=True)]
            rows[-1].append(math.exp(-length(apart)) / sum(inner) if counts else 0.0)
    return rows


@pytest.mark.parametrize("task", ["re", "ner"])
@pytest.mark.parametrize("nodes", ["pooled", "grid", "both"])
def test_fusion_agrees_with_plain_loops(task: str, nodes: str) -> None:
    system, batch = make(task, nodes=nodes), make_batch(task)
    found = encode(system, batch).h
    inner = inner_words(batch).tolist()
    with torch.no_grad():
        states = system.text_encoder(batch["input_ids"], batch["attention_mask"]).tolist()
        features = system.image_features(batch)
    for sample in range(4):
        count = int(batch["attention_mask"][sample].sum())
        own, objects = states[sample][:count], []
        if nodes != "grid":
            objects += features.padded("pooled")[sample][features.seen["pooled"][sample]].tolist()
        if nodes != "pooled":
            objects += features.padded("grid")[sample][features.seen["grid"][sample]].flatten(0, 1).tolist()
        words = [linear(system.word_map, state) for state in own]
        objects = [linear(system.object_map, one) for one in objects]
        looks, weights = slow_objects(system, objects, words), slow_weights(objects, words, inner[sample][:count])

        def fused(entity: list[float], aligned: list[list[float]], looks: list[list[float]]) -> list[float]:
            total = [0.0] * len(entity)
            for look, own in zip(looks, aligned, strict=True):
                total = add(total, linear(system.join, look + own))
            return linear(system.output, entity + total)

        if task == "re":
            heads = [states[sample][0], states[sample][3]]  # before the words 1 and 4
            expected = [fused(heads[0] + heads[1], [mix(row, words) for row in weights], looks)]
            actual = found[sample : sample + 1]
        else:
            places = batch["word_starts"][sample][batch["word_mask"][sample]].tolist()
            aligned = [[[row[place] * x for x in words[place]] for row in weights] for place in places]
            expected = [fused(words[place], each, looks) for place, each in zip(places, aligned, strict=True)]
            actual = found[sample][batch["word_mask"][sample]]
        torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_object_aligned_with_one_word_selects_that_word() -> None:
    """The published code has a fault: it reads the weights in another order."""
    words = torch.randn(2, 5, 7)
    stored = torch.zeros(2, 5, 3)
    for one, word in ((0, 4), (1, 2), (2, 0)):
        stored[:, word, one] = 1
    aligned = by_object(stored, scramble=False) @ words
    assert torch.equal(aligned, words[:, [4, 2, 0]])
    assert not torch.equal(by_object(stored, scramble=True) @ words, aligned)
    assert by_object(stored, scramble=True).shape == (*aligned.shape[:2], 5)


def test_scrambled_weights_change_h() -> None:
    system, batch = make(), make_batch("re")
    scrambled = make(scramble_alignment=True)
    scrambled.load_state_dict(system.state_dict())
    assert (encode(scrambled, batch).h - encode(system, batch).h).abs().amax(dim=1)[0] > 1e-5


def test_similarity_is_one_for_the_same_direction() -> None:
    rows = torch.randn(1, 4, 6)
    found = similarity(rows, 3 * rows)
    torch.testing.assert_close(found.diagonal(dim1=1, dim2=2), torch.ones(1, 4), atol=1e-3, rtol=0)
    assert (found <= 1).all()
    assert similarity(rows, -rows)[0, 0, 0].item() == pytest.approx(math.exp(-2), rel=1e-4)


@pytest.mark.parametrize("task", ["re", "ner"])
def test_order_of_objects_does_not_matter(task: str) -> None:
    system, batch = make(task), make_batch(task)
    order = torch.tensor([2, 0, 3, 1])
    other = batch | {name: batch[name][:, order] for name in ("pixel_values", "image_mask")}
    torch.testing.assert_close(encode(system, other).h, encode(system, batch).h, atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", ["re", "ner"])
def test_absent_object_counts_only_with_the_published_option(task: str) -> None:
    system, batch = make(task), make_batch(task)
    expected = encode(system, batch).h
    counting = make(task, count_absent=True)
    counting.load_state_dict(system.state_dict())
    found = encode(counting, batch).h
    moved = (found - expected).abs().flatten(1).amax(dim=1) > 1e-5
    assert moved.tolist() == [False, True, True, True]


@pytest.mark.parametrize("task", ["re", "ner"])
def test_features_of_an_absent_object_have_no_effect_and_no_gradient(task: str) -> None:
    system, batch = make(task), make_batch(task)
    mask, pooled = batch["image_mask"], torch.randn(4, 4, 64, requires_grad=True)
    del batch["pixel_values"]
    h = system.encode(batch | {"image_pooled": pooled}).h
    h.sum().backward()
    assert pooled.grad is not None
    assert not pooled.grad[~mask].any()
    assert (pooled.grad[mask].abs().sum(dim=1) > 0).all()
    spoilt = pooled.detach().masked_fill(~mask[..., None], torch.nan)
    assert torch.equal(encode(system, batch | {"image_pooled": spoilt}).h, h)


def test_objects_attend_to_padding_only_with_the_published_option() -> None:
    system, batch = make(), make_batch("re")
    published = make(mask_padding=False)
    published.load_state_dict(system.state_dict())
    longer = {name: batch[name] for name in batch if name.startswith(("image", "pixel"))}
    longer |= {
        name: torch.nn.functional.pad(batch[name], (0, 4))
        for name in ("input_ids", "attention_mask", "head_mask", "tail_mask")
    }
    torch.testing.assert_close(encode(system, longer).h, encode(system, batch).h, atol=1e-5, rtol=1e-5)
    assert (encode(published, longer).h - encode(published, batch).h).abs().max() > 1e-5


@pytest.mark.parametrize("align", ["similarity", "none"])
def test_image_changes_scores_with_either_alignment(align: str) -> None:
    system, batch = make(align=align), make_batch("re")
    other = batch | {"pixel_values": 255 - batch["pixel_values"]}
    with torch.no_grad():
        moved = (system(**batch).scores - system(**other).scores).abs().amax(dim=1)
    assert (moved > 1e-6).tolist() == [True, False, True, True]


def test_half_of_the_map_is_unused_without_the_second_alignment() -> None:
    system = make(align="none").train()
    system(**make_batch("re")).loss.backward()
    width = 2 * system.text_encoder.width
    gradient = system.join.weight.grad
    assert gradient is not None
    assert gradient[:, :width].abs().sum() > 0
    assert not gradient[:, width:].any()


def test_sum_alignment_is_the_mean_times_the_number_of_words() -> None:
    batch = make_batch("re")
    means, sums = make(), make(align_norm="sum")
    sums.load_state_dict(means.state_dict())
    words = means.word_map(means.text_encoder(batch["input_ids"], batch["attention_mask"]))
    objects = torch.randn(4, 2, words.shape[2])
    parts = (words, objects, inner_words(batch), torch.ones(4, 2, dtype=torch.bool))
    counts = inner_words(batch).sum(dim=1)
    torch.testing.assert_close(means._alignment(*parts) * counts[:, None, None], sums._alignment(*parts))


def test_global_context_adds_the_same_vector_to_every_word() -> None:
    batch = make_batch("ner")
    system = make("ner", ner_context="global")
    with torch.no_grad():
        width = 2 * system.text_encoder.width
        system.output.weight[:, :width] = 0
        h = encode(system, batch).h
    torch.testing.assert_close(h[0, 1:], h[0, :1].expand(4, -1), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        own = make("ner")
        own.load_state_dict(system.state_dict())
        assert (encode(own, batch).h[0, 1:] - encode(own, batch).h[0, :1]).abs().max() > 1e-5


def test_special_tokens_and_markers_are_not_inner_words() -> None:
    batch = {
        "attention_mask": torch.tensor([[1] * 9 + [0], [1] * 8 + [0, 0]]),
        "head_mask": torch.tensor([[0, 0, 1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]]).bool(),
        "tail_mask": torch.tensor([[0, 0, 0, 0, 0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]]).bool(),
    }
    assert inner_words(batch).int().tolist() == [[0, 0, 1, 1, 0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 1, 0, 0, 0, 0]]
