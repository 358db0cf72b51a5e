"""The input of the mixer: which samples and tokens count, and every error message in full."""

import re

import pytest
import torch
from torch import Tensor, nn

from attnmixup.batch import Batch

VECTORS, SEQUENCES = torch.zeros(3, 2), torch.zeros(3, 4, 2)
MASK = torch.tensor([[True, True, False, False], [False] * 4, [True] * 4])


def batch_of(
    embeddings: Tensor = SEQUENCES,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    target_mask: Tensor | None = None,
    group: Tensor | None = None,
) -> Batch:
    return Batch(embeddings, targets, mask, target_mask, group)


def test_sample_is_real_if_any_token_is_real() -> None:
    assert batch_of().valid.tolist() == [1.0] * 3
    assert batch_of(mask=MASK).valid.tolist() == [1.0, 0.0, 1.0]
    assert batch_of(VECTORS, mask=MASK.any(1)).valid.tolist() == [1.0, 0.0, 1.0]
    assert batch_of().valid.dtype == batch_of(mask=MASK).valid.dtype == torch.float32
    assert batch_of(VECTORS.to("meta")).valid.is_meta
    with torch.device("meta"):
        assert not batch_of(VECTORS).valid.is_meta


def test_padding_samples_get_their_own_pairing_group() -> None:
    assert batch_of(mask=MASK).pairing_group.tolist() == [1, 0, 1]
    groups = batch_of(mask=MASK, group=torch.tensor([5, 5, 6])).pairing_group
    assert groups.dtype == torch.long
    assert len(set(groups.tolist())) == 3
    assert len(set(batch_of(group=torch.tensor([5, 5, 6])).pairing_group.tolist())) == 2


def test_scored_mask_depends_on_the_shape_of_targets() -> None:
    tags, target_mask = torch.zeros(3, 4).long(), torch.ones(3, 5, dtype=torch.bool)
    assert batch_of(targets=tags, mask=MASK).scored_mask is MASK
    assert batch_of(targets=torch.zeros(3, 4, 2), mask=MASK).scored_mask is MASK
    assert batch_of(targets=torch.zeros(3, 5), mask=MASK, target_mask=target_mask).scored_mask is target_mask
    assert batch_of(targets=torch.zeros(3, 5), target_mask=target_mask).scored_mask is target_mask
    for targets in (None, torch.zeros(3), torch.zeros(3, 5), torch.zeros(3, 5, 2)):
        assert batch_of(targets=targets, mask=MASK).scored_mask is None
    assert batch_of(targets=tags).scored_mask is None
    assert batch_of(VECTORS, targets=tags, mask=MASK.any(1)).scored_mask is None
    assert batch_of(VECTORS, mask=MASK.any(1)).token_mask is None
    assert batch_of(mask=MASK).token_mask is MASK


def test_replace_embeddings_keeps_other_fields() -> None:
    fields = (torch.zeros(3, 4), MASK, MASK, torch.arange(3))
    changed = Batch(SEQUENCES, *fields).replace_embeddings(SEQUENCES + 1)
    assert changed.embeddings.sum() == SEQUENCES.numel()
    assert (changed.targets, changed.mask, changed.target_mask, changed.group) == fields


def test_token_value_warning_points_at_the_mixer_call() -> None:
    class Mixer(nn.Module):
        def forward(self) -> Tensor | None:
            return self.mix()

        def mix(self) -> Tensor | None:
            return batch_of(targets=torch.zeros(3, 4), mask=MASK).scored_mask

    message = (
        "Floating-point targets (3, 4) have the shape of the mask and are taken as one value per token. Pass "
        "target_mask to define which of them count: the mask itself, or all True for multi-label targets."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as record:
        assert Mixer()() is MASK
    assert record[0].filename == __file__
    assert record[0].lineno == test_token_value_warning_points_at_the_mixer_call.__code__.co_firstlineno + 13


WRONG = {
    "wrong number of targets": (
        {"targets": torch.zeros(4)},
        ValueError,
        "targets must have one row for each of 3 samples, got (4,).",
    ),
    "scalar target": (
        {"targets": torch.tensor(1)},
        ValueError,
        "targets must have one row for each of 3 samples, got ().",
    ),
    "target mask without targets": (
        {"target_mask": MASK},
        ValueError,
        "target_mask needs targets of shape (B, L, ...).",
    ),
    "target mask for targets (B,)": (
        {"targets": torch.zeros(3), "target_mask": MASK},
        ValueError,
        "target_mask needs targets of shape (B, L, ...).",
    ),
    "target mask of wrong shape": (
        {"targets": torch.zeros(3, 5, 2), "target_mask": MASK},
        ValueError,
        "target_mask must have shape (3, 5), got (3, 4).",
    ),
    "target mask of integers": (
        {"targets": torch.zeros(3, 4), "target_mask": MASK.long()},
        TypeError,
        "target_mask must be boolean (True means real), got torch.int64; use target_mask.bool().",
    ),
    "wrong number of groups": (
        {"group": torch.arange(2)},
        ValueError,
        "group must be integer and of shape (3,), got torch.int64 (2,).",
    ),
    "floating-point groups": (
        {"group": torch.zeros(3)},
        ValueError,
        "group must be integer and of shape (3,), got torch.float32 (3,).",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_name_expected_and_actual_value(name: str) -> None:
    fields, kind, message = WRONG[name]
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        batch_of(**fields)
