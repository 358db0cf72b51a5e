"""Parameters missing from the optimizer, and BatchNorm statistics of the originals only."""

import copy
import re
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnmixup import AttnMixup
from attnmixup.batch_norm import statistics_of_originals
from attnmixup.training import missing_parameters, warn_of_missing_parameters


def test_missing_parameters_are_named() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "mixer": AttnMixup(4, heads=1)})
    model["encoder"].bias.requires_grad_(False)
    chosen = torch.optim.SGD(
        [{"params": [model["encoder"].weight]}, {"params": model["mixer"].attention.norm.parameters()}]
    )
    missing = missing_parameters(model, chosen)
    assert "mixer.attention.vector.weight" in missing
    assert not any(name.startswith(("encoder", "mixer.attention.norm")) for name in missing)
    assert len(missing) == 5
    message = f"5 trainable parameters are not in the optimizer and will not learn: {', '.join(missing)}."
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        warn_of_missing_parameters(model, chosen)
    six = nn.Sequential(*(nn.Linear(1, 1) for _ in range(3)))
    message = "6 trainable parameters are not in the optimizer and will not learn: 0.weight, 0.bias, 1.weight, 1.bias, "
    with pytest.warns(UserWarning, match=f"^{re.escape(message + '2.weight, ....')}$"):
        warn_of_missing_parameters(six, torch.optim.SGD(model["encoder"].parameters()))
    every = torch.optim.SGD(model.parameters())
    assert missing_parameters(model, every) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_missing_parameters(model, every)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_batch_norm_statistics_come_from_originals_only(momentum: float | None) -> None:
    mixed = AttnMixup(4, heads=1)(torch.randn(6, 4))
    head, alone, plain = (nn.Sequential(nn.BatchNorm1d(4, momentum=momentum), nn.Dropout(0.0)) for _ in range(3))
    with statistics_of_originals(head, mixed):
        outputs = head(mixed.embeddings)
    alone(mixed.originals(mixed.embeddings))
    torch.testing.assert_close(outputs, plain(mixed.embeddings))
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(head.state_dict()[name], value)
    assert not torch.allclose(plain[0].running_mean, alone[0].running_mean)
    assert head[0].track_running_stats
    head.eval()
    before = head[0].running_mean.clone()
    with statistics_of_originals(head, mixed):
        head(mixed.embeddings)
    assert torch.equal(head[0].running_mean, before)
    assert not head[0]._forward_pre_hooks


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_head_updates_its_statistics_once(reentrant: bool) -> None:
    embeddings = torch.randn(6, 4, requires_grad=True)
    mixed = AttnMixup(4, heads=1)(embeddings)
    plain = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    stored = copy.deepcopy(plain)
    for head in (plain, stored):
        with statistics_of_originals(head, mixed):
            if head is stored:
                outputs = checkpoint(head, mixed.embeddings, use_reentrant=reentrant)
            else:
                outputs = head(mixed.embeddings)
            outputs.pow(3).sum().backward(retain_graph=True)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(stored.state_dict()[name], value)
    for expected, parameter in zip(plain.parameters(), stored.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)


def test_batch_norm_is_restored_after_an_error() -> None:
    class Fails(nn.BatchNorm1d):
        def forward(self, inputs: Tensor) -> Tensor:
            if len(inputs) > 6:
                raise RuntimeError("fails")
            return super().forward(inputs)

    layer, mixed = Fails(4), AttnMixup(4, heads=1)(torch.randn(6, 4))
    with pytest.raises(RuntimeError, match="fails"), statistics_of_originals(layer, mixed):
        layer(mixed.embeddings)
    assert layer.track_running_stats
