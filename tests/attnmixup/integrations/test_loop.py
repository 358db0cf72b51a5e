"""The plain training loop: training, statistics, and prediction without mixing."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnmixup import AttnMixup, SemanticKLLoss
from attnmixup.integrations.loop import MixedModel, train_epoch


def model_of(**options: Any) -> MixedModel:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
    return MixedModel(encoder, nn.Linear(8, 2), AttnMixup(8, heads=2), **options)


def batches(count: int = 4) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        inputs = torch.randn(16, 4, generator=generator)
        yield {"inputs": inputs, "targets": (inputs[:, 0] > 0).long()}


def test_training_reduces_the_loss_and_predicts_held_out_data() -> None:
    model = model_of()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    losses = [train_epoch(model, batches(), optimizer)["loss"] for _ in range(15)]
    assert losses[-1] < 0.6 * losses[0]
    held_out = next(batches(1))
    output = model.eval()(**held_out)
    assert (output.logits.argmax(1) == held_out["targets"]).float().mean() > 0.9


def test_train_epoch_returns_statistics() -> None:
    model = model_of()
    stats = train_epoch(model, batches(1), torch.optim.SGD(model.parameters(), lr=0.0))
    assert stats["rows/original"] == 16
    output = model(**next(batches(1)))
    assert output.logits.shape == (16, 2)
    assert output.mixed.num_synthetic == 6
    assert train_epoch(model, [], torch.optim.SGD(model.parameters(), lr=0.0)) == {"loss": 0.0}


def test_the_semantic_loss_is_added_in_training_only() -> None:
    semantic = SemanticKLLoss(8, 5)
    model, batch = model_of(semantic=semantic, semantic_weight=2.0), next(batches(1))
    image = torch.randn(16, 5)
    model.semantic = None
    torch.manual_seed(0)
    plain = model(**batch).loss
    with pytest.raises(ValueError, match=r"^Got image without a semantic loss: "):
        model(**batch, image=image)
    model.semantic = semantic
    with pytest.raises(ValueError, match=r"^The semantic loss needs image in training, got None: "):
        model(**batch)
    torch.manual_seed(0)
    both = model(**batch, image=image).loss
    expected = plain + 2 * semantic(model.encoder(batch["inputs"]), image)
    torch.testing.assert_close(both, expected)
    model.eval()
    torch.testing.assert_close(model(**batch, image=image).loss, model(**batch).loss)


def test_prediction_needs_no_targets() -> None:
    model = model_of()
    assert model.eval()(torch.randn(3, 4)).loss is None
    with pytest.raises(ValueError, match="needs targets"):
        train_epoch(model, [{"inputs": torch.randn(3, 4)}], torch.optim.SGD(model.parameters()))


def test_parameters_missing_from_the_optimizer_are_named() -> None:
    model = model_of()
    with pytest.warns(UserWarning, match=r"not in the optimizer.*mixer\.attention"):
        train_epoch(model, batches(1), torch.optim.SGD(model.head.parameters(), lr=0.1))


def test_batch_norm_statistics_come_from_originals_only() -> None:
    model, plain = model_of(), nn.BatchNorm1d(8)
    model.head = nn.Sequential(nn.BatchNorm1d(8), model.head)
    batch = next(batches(1))
    model(**batch)
    plain(model.encoder(batch["inputs"]))
    torch.testing.assert_close(model.head[0].running_mean, plain.running_mean)


def test_semantic_loss_ignores_samples_without_an_image() -> None:
    model, batch = model_of(semantic=SemanticKLLoss(8, 5)), next(batches(1))
    image, has_image = torch.full((16, 5), float("nan")), torch.arange(16) < 9
    image[:9] = torch.randn(9, 5)
    assert model(**batch, image=image, sample_mask=has_image).loss.isfinite()
