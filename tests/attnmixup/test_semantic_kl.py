"""The semantic loss compared with its oracle for every option."""

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from attnmixup import SemanticKLLoss
from tests.attnmixup import oracles
from tests.attnmixup.strategies import lengths, masks, seeds, sizes, tensors

TEXT, IMAGE = 4, 5


def loss_of(seed: int = 0, image_dim: int = IMAGE, **options: Any) -> SemanticKLLoss:
    torch.manual_seed(seed)
    return SemanticKLLoss(TEXT, image_dim, **options).double()


def oracle(loss: SemanticKLLoss, text: oracles.Vector, image: oracles.Vector) -> float:
    """Compute the loss of one sample, with the projections that the loss has."""
    if loss.text_projection is not None:
        text = oracles.linear(text, loss.text_projection)
    if loss.image_projection is not None:
        image = oracles.linear(image, loss.image_projection)
    if loss.standardize:
        text, image = oracles.standardized(text), oracles.standardized(image)
    return oracles.semantic_kl(text, image, loss.temperature, loss.direction)


def close(tensor: Tensor, expected: oracles.Nested) -> None:
    torch.testing.assert_close(tensor, torch.tensor(expected, dtype=tensor.dtype), atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("project", ["text", "image", "both", "none"])
@given(
    size=sizes,
    seed=seeds,
    temperature=st.floats(0.2, 5),
    direction=st.sampled_from(["text_to_image", "image_to_text", "symmetric"]),
    standardize=st.booleans(),
)
def test_every_projection_and_direction_matches_oracle(
    project: str, size: int, seed: int, temperature: float, direction: str, standardize: bool
) -> None:
    image_dim = TEXT if project == "none" else IMAGE
    loss = loss_of(
        seed,
        image_dim,
        project=project,
        shared_dim=3 if project == "both" else None,
        temperature=temperature,
        direction=direction,
        standardize=standardize,
        reduction="none",
    )
    text, image = tensors(seed, size, TEXT), tensors(seed + 1, size, image_dim)
    close(loss(text, image), [oracle(loss, *row) for row in zip(text.tolist(), image.tolist(), strict=True)])


@pytest.mark.parametrize("pool", ["mean", "first", "token"])
@given(size=sizes, length=lengths, seed=seeds, data=st.data())
def test_every_pooling_matches_oracle(pool: str, size: int, length: int, seed: int, data: st.DataObject) -> None:
    loss = loss_of(seed, pool=pool, reduction="none")
    text, image = tensors(seed, size, length, TEXT), tensors(seed + 1, size, IMAGE)
    mask = data.draw(masks(size, length))
    expected = []
    for tokens, real, visual in zip(text.tolist(), mask.tolist(), image.tolist(), strict=True):
        count = sum(real)
        if not count:
            expected.append(0.0)
        elif pool == "token":
            expected.append(sum(oracle(loss, token, visual) for token in tokens[:count]) / count)
        else:
            pooled = tokens[real.index(True)] if pool == "first" else oracles.masked_mean(tokens, real)
            expected.append(oracle(loss, pooled, visual))
    close(loss(text, image, mask=mask), expected)
    everything = torch.ones(size, length, dtype=torch.bool)
    torch.testing.assert_close(loss(text, image), loss(text, image, mask=everything))


@given(
    size=sizes,
    seed=seeds,
    direction=st.sampled_from(["text_to_image", "image_to_text", "symmetric"]),
    standardize=st.booleans(),
    data=st.data(),
)
def test_contrast_matches_oracle(size: int, seed: int, direction: str, standardize: bool, data: st.DataObject) -> None:
    options = {"direction": direction, "standardize": standardize, "reduction": "none", "temperature": 0.5}
    loss, plain = loss_of(seed, contrast=0.7, **options), loss_of(seed, **options)
    text, image = tensors(seed, size, TEXT), tensors(seed + 1, size, IMAGE)
    shown = data.draw(st.lists(st.integers(0, size - 1), min_size=size, max_size=size))  # some share an image
    image = image[shown]
    has_image = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    divergences = [[oracle(loss, a, b) for b in image.tolist()] for a in text.tolist()]
    close(loss.divergences(text, image), divergences)
    for log_probabilities in loss.distributions(text, image):
        torch.testing.assert_close(log_probabilities.exp().sum(-1), torch.ones(size).double())
    expected = []
    for i, row in enumerate(divergences):
        others = [j for j in range(size) if has_image[j] and shown[j] != shown[i]]
        shares = oracles.softmax([-row[i], *(-row[j] for j in others)])
        expected.append(row[i] - 0.7 * math.log(shares[0]) if has_image[i] else 0.0)
    close(loss(text, image, sample_mask=has_image), expected)
    if size > 1:
        assert (plain(text, image) <= loss(text, image)).all()


def test_constant_distributions_minimise_divergence_but_not_contrast() -> None:
    text, image = torch.zeros(4, TEXT), tensors(0, 4, IMAGE).float()
    loss = SemanticKLLoss(TEXT, IMAGE, project="image", contrast=1.0)
    nn.init.zeros_(loss.image_projection.weight)
    nn.init.zeros_(loss.image_projection.bias)
    torch.testing.assert_close(loss(text, image), torch.tensor(4.0).log())


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_divergences_use_the_pooling_of_the_loss(pool: str) -> None:
    loss = loss_of(pool=pool, reduction="none")
    text, image, mask = (
        tensors(0, 3, 2, TEXT),
        tensors(1, 3, IMAGE),
        torch.tensor([[True, True], [True, False], [False, True]]),
    )
    assert not loss.divergences(text, image, mask=mask).requires_grad
    torch.testing.assert_close(loss.divergences(text, image, mask=mask).diagonal(), loss(text, image, mask=mask))


@given(size=sizes, seed=seeds, data=st.data())
def test_reductions(size: int, seed: int, data: st.DataObject) -> None:
    text, image = tensors(seed, size, TEXT), tensors(seed + 1, size, IMAGE)
    rows = loss_of(seed, reduction="none")(text, image)
    torch.testing.assert_close(loss_of(seed, reduction="sum")(text, image), rows.sum())
    torch.testing.assert_close(loss_of(seed)(text, image), rows.sum() / size)
    has_image = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    torch.testing.assert_close(loss_of(seed, reduction="none")(text, image, sample_mask=has_image), rows * has_image)
    torch.testing.assert_close(
        loss_of(seed, reduction="sum")(text, image, sample_mask=has_image), rows[has_image].sum()
    )
    expected = rows[has_image].mean() if has_image.any() else torch.tensor(0.0).double()
    torch.testing.assert_close(loss_of(seed)(text, image, sample_mask=has_image), expected)
    torch.testing.assert_close(loss_of(seed)(text, image, mask=has_image), expected)


def test_the_text_is_the_prior() -> None:
    loss = SemanticKLLoss(2, 2, project="none")
    text, image = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.25, 0.75]]))
    close(loss(text.double(), image.double()), 0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_loss_of_equal_text_and_image_is_zero() -> None:
    text = torch.randn(3, 4)
    assert SemanticKLLoss(4, 4, project="none")(text, text) == 0


@pytest.mark.parametrize("detach", [False, True])
def test_gradient_to_the_prior(detach: bool) -> None:
    loss = loss_of(detach_prior=detach)
    text, image = tensors(0, 3, TEXT).requires_grad_(), tensors(1, 3, IMAGE).requires_grad_()
    loss(text, image).backward()
    assert (text.grad is None) == detach
    for trained in (image, *loss.parameters()):
        assert trained.grad.abs().sum() > 0


@pytest.mark.parametrize("detach", [False, True])
def test_gradient_to_the_image(detach: bool) -> None:
    loss = loss_of(project="image", detach_image=detach)
    text, image = tensors(0, 3, TEXT).requires_grad_(), tensors(1, 3, IMAGE).requires_grad_()
    value = loss(text, image)
    value.backward()
    assert value == loss_of(project="image")(text, image)
    assert (image.grad is None) == detach
    for trained in (text, *loss.parameters()):
        assert trained.grad.abs().sum() > 0


@pytest.mark.parametrize("project", ["text", "image", "both"])
def test_every_parameter_receives_a_gradient(project: str) -> None:
    loss = loss_of(project=project, shared_dim=3 if project == "both" else None)
    loss(tensors(0, 3, 2, TEXT), tensors(1, 3, IMAGE)).backward()
    assert len(list(loss.parameters())) == (4 if project == "both" else 2)
    assert all(parameter.grad.abs().sum() > 0 for parameter in loss.parameters())


def test_gradients_match_finite_differences() -> None:
    loss = loss_of(pool="token")
    text, image = tensors(0, 2, 3, TEXT).requires_grad_(), tensors(1, 2, IMAGE).requires_grad_()
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, mask=mask), (text, image))
    loss = loss_of(standardize=True, contrast=0.5)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, mask=mask), (text, image))


def test_projection_is_linear() -> None:
    assert isinstance(loss_of().text_projection, nn.Linear)
    assert loss_of(project="image").text_projection is None


def test_first_pooling_uses_the_first_real_token() -> None:
    text, image = tensors(0, 2, 3, TEXT), tensors(1, 2, IMAGE)
    mask = torch.tensor([[False, True, True], [True, True, False]])
    loss = loss_of(pool="first", reduction="none")
    expected = torch.cat([loss(text[:1, 1], image[:1]), loss(text[1:, 0], image[1:])])
    torch.testing.assert_close(loss(text, image, mask=mask), expected)


@pytest.mark.parametrize(("pool", "contrast"), [("mean", 0.0), ("mean", 1.0), ("first", 1.0), ("token", 0.0)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_masked_values_reach_neither_loss_nor_gradient(pool: str, contrast: float, bad: float) -> None:
    mask, has_image = torch.tensor([[True, False], [True, True], [True, True]]), torch.tensor([True, True, False])
    results = []
    for filled in (0.0, bad):
        loss = loss_of(pool=pool, project="both", shared_dim=3, contrast=contrast, standardize=True)
        text = tensors(0, 3, 2, TEXT).masked_fill(~mask.unsqueeze(-1), filled)
        text[2], image = filled, tensors(1, 3, IMAGE)
        image[2] = filled
        leaves = [text.requires_grad_(), image.requires_grad_(), *loss.parameters()]
        total = loss(text, image, mask=mask, sample_mask=has_image)
        results.append([total, *torch.autograd.grad(total, leaves)])
    for plain, masked in zip(*results, strict=True):
        assert masked.isfinite().all()
        torch.testing.assert_close(masked, plain)


WRONG = {
    "project must be one of 'text', 'image', 'both', 'none', got 'all'.": {"project": "all"},
    "pool must be one of 'mean', 'first', 'token', got 'max'.": {"pool": "max"},
    "direction must be one of 'text_to_image', 'image_to_text', 'symmetric', got 'both'.": {"direction": "both"},
    "reduction must be one of 'batchmean', 'sum', 'none', got 'mean'.": {"reduction": "mean"},
    "shared_dim and project=\"both\" go together, got shared_dim=None with project='both'.": {"project": "both"},
    "shared_dim and project=\"both\" go together, got shared_dim=3 with project='text'.": {"shared_dim": 3},
    'project="none" needs equal widths, got text_dim=4 and image_dim=5.': {"project": "none"},
    "contrast must be 0 or more and finite, got -1.0.": {"contrast": -1.0},
    "contrast must be 0 or more and finite, got inf.": {"contrast": math.inf},
    'contrast compares whole samples: use pool="mean" or "first".': {"contrast": 1.0, "pool": "token"},
    "temperature must be positive and finite, got 0.0.": {"temperature": 0.0},
    "temperature must be positive and finite, got nan.": {"temperature": float("nan")},
    "temperature must be positive and finite, got inf.": {"temperature": float("inf")},
    'detach_prior and detach_image leave nothing to train with project="none".': {
        "project": "none",
        "detach_prior": True,
        "detach_image": True,
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_invalid_options_raise(message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SemanticKLLoss(TEXT, IMAGE, **WRONG[message])


def test_inputs_are_checked() -> None:
    loss = SemanticKLLoss(TEXT, IMAGE)
    shapes = (((2, 3), (2, IMAGE)), ((2, TEXT), (2, 1)), ((TEXT,), (IMAGE,)), ((2, TEXT), (IMAGE,)))
    for of_text, of_image in shapes:
        message = f"Expected text (B, 4) or (B, L, 4) and image (B, 5), got {of_text} and {of_image}."
        for call in (loss, loss.stats, loss.divergences):
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                call(torch.zeros(of_text), torch.zeros(of_image))
    for call in (loss, loss.stats):
        with pytest.raises(ValueError, match=r"^Expected one image per text, got 3 images for 2 texts\.$"):
            call(torch.zeros(2, TEXT), torch.zeros(3, IMAGE))
    text, image, mask = torch.zeros(2, 3, TEXT), torch.zeros(2, IMAGE), torch.ones(2, 3) > 0
    with pytest.raises(ValueError, match=r"^mask must have shape \(2, 3\), got \(2, 4\)\.$"):
        loss(text, image, mask=torch.ones(2, 4, dtype=torch.bool))
    for call, options in ((loss, {}), (loss, {"mask": mask}), (loss.stats, {})):
        with pytest.raises(TypeError, match=r"^sample_mask must be boolean .*use sample_mask\.bool\(\)\.$"):
            call(text, image, sample_mask=torch.ones(2), **options)
    for name, sides in (("text", (text.double(), image)), ("image", (text, image.double()))):
        both = SemanticKLLoss(TEXT, IMAGE, project="both", shared_dim=3)
        with pytest.raises(TypeError, match=rf"^{name} has dtype torch\.float64, .*dtype=torch\.float64"):
            both(*sides)


@pytest.mark.parametrize("pool", ["mean", "first", "token"])
def test_loss_stays_on_device_of_text(pool: str) -> None:
    loss, mask = (
        SemanticKLLoss(TEXT, IMAGE, pool=pool, device="meta"),
        torch.ones(2, 3, dtype=torch.bool, device="meta"),
    )
    text, image = torch.zeros(2, 3, TEXT, device="meta"), torch.zeros(2, IMAGE, device="meta")
    assert loss(text, image, mask=mask, sample_mask=mask[:, 0]).is_meta
