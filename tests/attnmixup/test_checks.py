"""Argument checks: values accepted at the bounds, and every error message in full."""

import re
from collections.abc import Callable
from typing import Literal

import pytest
import torch

from attnmixup import checks

ROWS = torch.zeros(3, 2)
WRONG: dict[str, tuple[Callable[..., None], type[Exception], str]] = {
    "choice": (
        lambda: checks.check_choice("size", "x", Literal["s", "m"]),
        ValueError,
        "size must be one of 's', 'm', got 'x'.",
    ),
    "above 1": (lambda: checks.check_ratio("share", 1.5), ValueError, "share must be between 0 and 1, got 1.5."),
    "below 0": (lambda: checks.check_ratio("share", -0.5), ValueError, "share must be between 0 and 1, got -0.5."),
    "nan": (lambda: checks.check_ratio("share", float("nan")), ValueError, "share must be between 0 and 1, got nan."),
    **{
        f"embeddings {shape}": (
            lambda shape=shape: checks.check_embeddings(torch.zeros(shape), 2, None),
            ValueError,
            f"embeddings must have shape (B, 2) or (B, L, 2) with B >= 1 and L >= 1, got {shape}.",
        )
        for shape in [(2,), (3, 1), (3, 2, 1), (3, 1, 1, 2), (0, 2), (3, 0, 2)]
    },
    **{
        f"embeddings {shape}, {may_be_empty=}": (
            lambda shape=shape, may_be_empty=may_be_empty: checks.check_embeddings(
                torch.zeros(shape), 2, None, may_be_empty=may_be_empty
            ),
            ValueError,
            f"embeddings must have shape (B, 2) or (B, L, 2) with B >= 1 and L >= 1, got {shape}.",
        )
        for shape, may_be_empty in [((0, 2), False), ((0, 4, 2), False), ((3, 0, 2), True), ((0, 3), True)]
    },
    "list": (
        lambda: checks.check_embeddings([ROWS], 2, None),
        TypeError,
        "embeddings must be a tensor, padded to one length with a mask, got list.",
    ),
    "nested tensor": (
        lambda: checks.check_embeddings(torch.nested.nested_tensor([ROWS, ROWS], layout=torch.jagged), 2, None),
        TypeError,
        "embeddings must be a tensor, padded to one length with a mask, got a nested tensor.",
    ),
    "dtype": (
        lambda: checks.check_dtype("text", ROWS.half(), ROWS),
        TypeError,
        "text has dtype torch.float16, but the parameters of the module have torch.float32: create the module with "
        "dtype=torch.float16, or use torch.autocast.",
    ),
    "integer embeddings": (
        lambda: checks.check_embeddings(ROWS.long(), 2, None),
        TypeError,
        "embeddings must be floating point, got torch.int64.",
    ),
    "mask of wrong shape": (
        lambda: checks.check_embeddings(ROWS, 2, ROWS > 0),
        ValueError,
        "mask must have shape (3,), got (3, 2).",
    ),
    "mask of floats": (
        lambda: checks.check_mask("present", torch.ones(3), torch.Size([3])),
        TypeError,
        "present must be boolean (True means real), got torch.float32; use present.bool().",
    ),
    "failed value check": (lambda: checks.check_values(torch.tensor([True, False]), "No."), ValueError, "No."),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_name_expected_and_actual_value(name: str) -> None:
    call, kind, message = WRONG[name]
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        call()


def test_valid_arguments_are_accepted() -> None:
    checks.check_choice("size", "m", Literal["s", "m"])
    for ratio in (0, 1):
        checks.check_ratio("share", ratio)
    for shape in ((1, 2), (1, 1, 2)):
        for may_be_empty in (False, True):
            checks.check_embeddings(torch.zeros(shape), 2, torch.ones(shape[:-1]) > 0, may_be_empty=may_be_empty)
    for shape in ((0, 2), (0, 4, 2)):
        checks.check_embeddings(torch.zeros(shape), 2, None, may_be_empty=True)
    checks.check_dtype("text", ROWS, ROWS)
    with torch.autocast("cpu", torch.bfloat16):
        checks.check_dtype("text", ROWS.bfloat16(), ROWS)
    checks.check_values(torch.tensor([True, True]), "No.")
    checks.check_values(torch.zeros(2, dtype=torch.bool, device="meta"), "No.")


def test_accelerator_values_use_async_assert(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnAccelerator:
        device = torch.device("cuda")

        def all(self) -> str:
            return "all"

    told: list[tuple[object, ...]] = []
    monkeypatch.setattr(torch, "_assert_async", lambda *arguments: told.append(arguments))
    checks.check_values(OnAccelerator(), "No.")
    assert told == [("all", "No.")]


def test_values_are_not_checked_while_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    checks.check_values(torch.tensor([False]), "No.")
