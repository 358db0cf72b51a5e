"""Options: rounding of batch shares, and options that use no row of H*."""

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given

from attnmixup import AttnMixup
from attnmixup.final_set import used_rows
from attnmixup.options import MixupOptions
from attnmixup.sampling import draw_plan
from tests.attnmixup import oracles
from tests.attnmixup.strategies import DIM, ratios, sizes


def options_of(**given: Any) -> MixupOptions:
    return AttnMixup(DIM, **given).options


@given(ratio=ratios, size=sizes)
def test_shares_are_rounded_half_up(ratio: float, size: int) -> None:
    options = options_of(sample_ratio=ratio, transformed_ratio=ratio)
    assert options.num_original(size) == options.num_transformed(size) == oracles.rounded_share(ratio, size)
    assert options.num_mixed(size) == oracles.rounded_share(
        1 - options.transformed_share[0] / options.transformed_share[1], size
    )


@pytest.mark.parametrize("final", ["sample", "slice", "weight"])
@pytest.mark.parametrize("sampling", ["random", "slice"])
def test_never_transforms_agrees_with_drawn_plans(sampling: str, final: str) -> None:
    for size, first, second in product((1, 4, 7), (0.0, 0.2, 0.5, 1.0), (0.0, 0.2, 1.0)):
        options = options_of(sampling=sampling, final=final, sample_ratio=first, transformed_ratio=second)
        generator = torch.Generator().manual_seed(0)
        try:
            plans = [draw_plan(options, size, generator=generator) for _ in range(20)]
        except ValueError:
            continue
        if options.never_transforms(size):
            assert all(len(used_rows(plan)) == 0 for plan in plans)
        elif first < 1 or second:
            assert any(len(used_rows(plan)) for plan in plans)
