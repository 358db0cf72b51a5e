"""Cells of the evidence benchmark: pools, paired training, diagnostics."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnmixup import AttnMixup
from benchmarks.evidence.arms import NormOnly, make_mixer
from benchmarks.evidence.config import Training
from benchmarks.evidence.diagnostics import diagnose
from benchmarks.evidence.encoder import Sentence, SentenceBatch, pooling
from benchmarks.evidence.pool import FeaturePool, pool_of_numbers, pool_of_texts
from benchmarks.evidence.readers import Kind, Numbers, Row, Texts
from benchmarks.evidence.training import Head, ScoredPart, draw_batches, train_cell, training_counts
from reference_models.data.samples import Split
from reference_models.errors import UserError

TRAINING = Training(hidden=8, batch_size=8, steps=30, learning_rates=(0.03,), choice_seeds=2, seeds=2, evaluations=3)
ARMS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "LN(H)": {"control": "layer_norm"},
    "mixup": {"sample_ratio": 1.0, "transformed_ratio": 0.0},
    "paper": {},
    "release": {"preset": "release", "feed_forward": 16},
}


def blobs() -> FeaturePool:
    """Three well-separated classes."""
    classes = np.arange(90) % 3
    features = np.random.default_rng(0).normal(size=(90, 5)) + 4 * np.eye(3, 5)[classes]
    return pool_of_numbers(Numbers(features, classes))


def tagged() -> FeaturePool:
    """Sentences whose word features encode the tags."""
    draw = np.random.default_rng(0)
    tags = ("O", "B-PER", "I-PER")
    sizes: dict[Split, int] = {"train": 40, "valid": 15, "test": 15}
    rows: dict[Split, list[Row]] = {}
    features: dict[Split, Tensor] = {}
    for split, size in sizes.items():
        numbers = [draw.integers(0, 3, draw.integers(1, 6)) for _ in range(size)]
        rows[split] = [Row(tuple("w" * len(n)), tuple(tags[i] for i in n)) for n in numbers]
        features[split] = torch.eye(3)[np.concatenate(numbers)].half()
    return pool_of_texts(Texts("entities", rows, tags), features)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("make", [blobs, tagged])
def test_every_arm_learns_easy_data_and_is_scored(arm: str, make: Callable[[], FeaturePool]) -> None:
    cell = train_cell(make(), {}, TRAINING, ARMS[arm], 0.03, 0)
    assert cell["test"]["micro"] > 80  # chance is about a third
    assert cell["valid"] <= cell["valid_best"] <= 100
    assert [step for step, _ in cell["curve"]] == [10, 20, 30]
    assert 0 < cell["epochs_to_99"] <= cell["epochs"]
    attends = arm in ("paper", "release")
    assert ("entropy" in cell["diagnostics"]) is attends
    assert ("norm_h" in cell["diagnostics"]) is (attends or arm == "LN(H)")


def test_cell_is_reproducible_and_depends_on_the_seed() -> None:
    first, again, other = (train_cell(blobs(), {"rows": 20}, TRAINING, {}, 0.001, seed) for seed in (0, 0, 1))
    assert first["curve"] == again["curve"]
    assert first["test"] == again["test"]
    assert first["test"] != other["test"]


def test_arms_of_a_seed_share_initial_weights_and_batches() -> None:
    heads = {name: Head(blobs(), 8, options, seed=4) for name, options in ARMS.items()}
    for head in heads.values():
        for part in ("body", "classifier"):
            mine, plain = (getattr(h, part).state_dict() for h in (head, heads["plain"]))
            assert all(torch.equal(mine[name], plain[name]) for name in plain)
    batches = draw_batches(torch.arange(50, 60), 4, 5, seed=0)
    assert torch.equal(batches, draw_batches(torch.arange(50, 60), 4, 5, seed=0))
    assert batches.shape == (5, 4)
    assert sorted(batches.flatten()[:10].tolist()) == list(range(50, 60))
    assert draw_batches(torch.arange(3), 4, 2, seed=0).shape == (2, 3)


def test_padded_and_flattened_words_agree() -> None:
    pool = tagged()
    rows = torch.tensor([3, 0, 17])
    features, tags, mask = pool.padded(rows)
    places = pool.places(rows)
    assert torch.equal(features[mask], pool.features[places])
    assert torch.equal(tags[mask], pool.labels[places])
    assert mask.sum(1).tolist() == ScoredPart.of(pool, rows).lengths
    opened = sum(pool.names[tag] == "B-PER" for tag in pool.labels[places])
    assert training_counts(pool, rows).tolist() == [opened]


def test_public_splits_are_kept_and_tables_are_split_by_seed() -> None:
    train, valid, test = tagged().split(0)
    assert (len(train), len(valid), len(test)) == (40, 15, 15)
    parts = blobs().split(0)
    assert [len(part) for part in parts] == [54, 18, 18]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(90))
    assert not torch.equal(parts[0], blobs().split(1)[0])


def test_features_of_sentences_spans_and_words() -> None:
    vectors = torch.tensor([[9.0], [1], [2], [3], [9]])
    words = [None, 0, 0, 2, None]

    def pooled(row: Row, kind: Kind) -> list[float]:
        values: list[float] = (pooling(words, row, kind) @ vectors).flatten().tolist()
        return values

    assert pooled(Row("a b c", "x"), "sentences") == pytest.approx([24 / 5])
    spans = ((0, 1), (2, 3), (1, 2))
    assert pooled(Row(("a", "b", "c"), "x", spans), "relations") == pytest.approx([24 / 5, 1.5, 3, 0])
    assert pooled(Row(("a", "b", "c"), ("O",) * 3), "entities") == [1, 0, 3]


def test_padding_of_sentences() -> None:
    short, long = Sentence(torch.tensor([5]), torch.ones(1, 1)), Sentence(torch.tensor([7, 8]), torch.full((2, 2), 2.0))
    batch = SentenceBatch.of([short, long])
    assert batch.ids.tolist() == [[5, 0], [7, 8]]
    assert batch.mask.tolist() == [[True, False], [True, True]]
    assert batch.pooling.tolist() == [[[1, 0], [0, 0]], [[2, 2], [2, 2]]]


def test_control_arm_is_layer_norm_of_the_same_rows() -> None:
    mixer = make_mixer({"control": "layer_norm"}, 8)
    assert mixer is not None
    assert isinstance(mixer.attention, NormOnly)
    h = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([4, 1])
    result, weights = mixer.attention(h, rows=rows)
    torch.testing.assert_close(result, nn.functional.layer_norm(h[rows], (8,)))
    assert weights is None
    mixed = mixer(h, torch.arange(6))
    assert len(mixed.embeddings) == 12
    tokens, mask = torch.randn(3, 4, 8), torch.arange(4) < torch.tensor([[4], [1], [2]])
    result, _ = mixer.attention(tokens, mask=mask)
    assert torch.equal(result[~mask], tokens[~mask])


def test_arms_are_options_of_attnmixup() -> None:
    assert make_mixer(None, 8) is None
    assert isinstance(make_mixer({"partner": "balanced"}, 8), AttnMixup)
    with pytest.raises(UserError, match=r"expected options of AttnMixup, got .'partners': 1"):
        make_mixer({"partners": 1}, 8)
    with pytest.raises(UserError, match="expected control to be one of layer_norm, got 'x'"):
        make_mixer({"control": "x"}, 8)


def test_diagnostics_change_nothing_and_are_empty_without_attention() -> None:
    batch = (torch.randn(6, 5), torch.arange(6) % 3, None)
    assert diagnose(Head(blobs(), 8, ARMS["mixup"], 0), [batch]) == diagnose(Head(blobs(), 8, None, 0), [batch]) == {}
    head = Head(blobs(), 8, {"score": "shared"}, 0)
    before = {name: value.clone() for name, value in head.state_dict().items() if torch.is_tensor(value)}
    found = diagnose(head, [batch])
    assert found["common"] == pytest.approx(1)  # one context for all samples
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items() if name in before)
    assert not head.mixer.attention.project_output._forward_hooks
