"""Modality gap and attention of a trained model, compared with its own loss and slow oracles."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from attnmixup import SampleAttention, SemanticKLLoss
from reference_models.analysis.modality_gap import (
    batch_attention,
    gap_scores,
    mean_attention,
    measure_gap,
    project,
    semantic_sides,
)
from reference_models.settings import read_settings
from reference_models.systems.base import System
from reference_models.tasks.dataset import EncodedSplit
from reference_models.training.folder import CONFIG
from reference_models.training.run import load_whole_model, read_split

Trained = tuple[System, EncodedSplit]


@pytest.fixture(params=["ner", "re"])
def trained(request: pytest.FixtureRequest, runs: dict[str, Path]) -> Trained:
    run = runs[request.param]
    model, processor = load_whole_model(run)
    samples, _ = read_split(read_settings(run / CONFIG, []), "test")
    return model, EncodedSplit(samples, processor)


def test_divergence_matches_the_semantic_loss(trained: Trained) -> None:
    model, split = trained
    gap = measure_gap(*semantic_sides(model, split, 7), model.semantic)
    batch = split.processor.collate([split[i] for i in range(len(split))])
    assert model.vision is not None
    assert model.semantic is not None
    with torch.no_grad():
        encoded = model.encode(batch)
        image = model.vision(batch["pixel_values"][:, 0])["pooled"]
        loss = model.semantic(encoded.h, image, mask=encoded.mask, sample_mask=batch["image_mask"][:, 0])
    assert gap.own == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("task", ["ner", "re"])
def test_training_logs_the_gap_of_each_epoch(task: str, runs: dict[str, Path]) -> None:
    model, processor = load_whole_model(runs[task])
    samples, _ = read_split(read_settings(runs[task] / CONFIG, []), "valid")
    metrics = json.loads((runs[task] / "metrics.json").read_text())["valid"]
    for name, value in gap_scores(model, EncodedSplit(samples[:64], processor), 7).items():
        assert metrics[name] == pytest.approx(value, rel=1e-3)
    history = json.loads((runs[task] / "history.json").read_text())
    assert sum("eval_gap_own" in entry for entry in history) == sum("eval_f1" in entry for entry in history)


def test_gap_scores_do_not_change_the_random_state(trained: Trained) -> None:
    model, split = trained
    before = torch.get_rng_state()
    assert gap_scores(model, split, 7)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_gap_without_images_or_semantic_loss(trained: Trained) -> None:
    model, split = trained
    blind = [replace(sample, image=None, crops=()) for sample in split.samples]
    assert gap_scores(model, EncodedSplit(blind, split.processor), 7) == {}
    model.semantic = None
    assert gap_scores(model, split, 7) == {}


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_semantic_sides_for_other_loss_options(pool: str, trained: Trained) -> None:
    model, split = trained
    widths = model.semantic.text_dim, model.semantic.image_dim
    model.semantic = SemanticKLLoss(*widths, project="image", pool=pool, temperature=3, direction="symmetric")
    text, image = semantic_sides(model, split, 16)
    assert text.shape == image.shape == (len(split), widths[0])
    batch = split.processor.collate([split[i] for i in range(len(split))])
    assert model.vision is not None
    with torch.no_grad():
        encoded = model.encode(batch)
        loss = model.semantic(encoded.h, model.vision(batch["pixel_values"][:, 0])["pooled"], mask=encoded.mask)
    assert measure_gap(text, image, model.semantic).own == pytest.approx(loss.item(), rel=1e-4)


def test_gap_matches_direct_computation() -> None:
    torch.manual_seed(0)
    text, image = torch.randn(2, 6, 5).log_softmax(-1)
    gap = measure_gap(text, image, SemanticKLLoss(5, 5))
    others = torch.stack([image[(i + 3) % 6] for i in range(6)])
    assert gap.own == pytest.approx(F.kl_div(image, text, log_target=True, reduction="batchmean").item(), rel=1e-5)
    assert gap.other == pytest.approx(F.kl_div(others, text, log_target=True, reduction="batchmean").item(), rel=1e-5)
    mean_text, mean_image = text.exp().mean(0), image.exp().mean(0)
    assert gap.means == pytest.approx((mean_text * (mean_text / mean_image).log()).sum().item(), rel=1e-4)
    assert gap.distance == pytest.approx(torch.dist(text.mean(0), image.mean(0)).item(), rel=1e-5)
    entropies = [torch.distributions.Categorical(logits=row).entropy() for row in image]
    assert gap.features[1] == pytest.approx(torch.stack(entropies).mean().exp().item(), rel=1e-5)


def test_uniform_distributions_use_all_features() -> None:
    flat = torch.zeros(4, 8).log_softmax(-1)
    gap = measure_gap(flat, flat, SemanticKLLoss(8, 8))
    assert gap.features == pytest.approx((8, 8))
    assert (gap.own, gap.distance, gap.spread) == (0, 0, (0, 0))


def test_projection_matches_eigenvectors_of_the_covariance() -> None:
    torch.manual_seed(0)
    text, image = torch.randn(20, 6) * torch.arange(1, 7), torch.randn(20, 6) * torch.arange(1, 7) + 4
    placed_text, placed_image, shares = project(text, image)
    values, vectors = torch.linalg.eigh(torch.cat([text, image]).T.cov())
    placed = torch.cat([placed_text, placed_image])
    centred = torch.cat([text, image]) - torch.cat([text, image]).mean(0)
    for axis, column in enumerate((-1, -2)):
        expected = centred @ vectors[:, column]
        assert min((placed[:, axis] - s * expected).abs().max() for s in (1, -1)) < 1e-3
        assert shares[axis] == pytest.approx((values[column] / values.sum()).item(), rel=1e-4)


def test_batch_attention_rows_sum_to_1(trained: Trained) -> None:
    model, split = trained
    weights, stats = batch_attention(model, split)
    assert weights.shape == (len(split), len(split))
    assert 0 < stats["attention/entropy"] <= 1.001
    assert torch.allclose(weights.sum(1), torch.ones(len(split)), atol=1e-5)


@pytest.mark.parametrize("score", ["additive", "shared", "dot"])
@pytest.mark.parametrize("sequence", ["pooled", "position", "sample"])
def test_mean_attention_averages_heads_and_real_words(score: str, sequence: str) -> None:
    torch.manual_seed(0)
    attention = SampleAttention(8, heads=2, score=score, sequence=sequence)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]]).bool()
    _, weights = attention(torch.randn(3, 3, 8), mask=mask, need_attention=True)
    mean = mean_attention(weights, mask)
    assert torch.allclose(mean.sum(1), torch.ones(3))
    for i in range(3):
        by_word = weights.expand(3, *weights.shape[-3:])
        words = [by_word[word, :, min(i, weights.shape[-2] - 1)].mean(0) for word in range(3) if mask[i, word]]
        assert torch.allclose(mean[i], torch.stack(words).mean(0))


def test_shared_attention_expands_to_equal_rows() -> None:
    assert mean_attention(torch.tensor([[[0.25, 0.75]], [[0.75, 0.25]]]), None).tolist() == [[0.5, 0.5], [0.5, 0.5]]
