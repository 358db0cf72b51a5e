"""Four real processes with sharded parameters (FSDP2) train the same as one process."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from tests.attnmixup.global_batch import Model, Samples, batch_of, model_of
from tests.attnmixup.processes import run_on_ranks

fsdp = pytest.importorskip("torch.distributed.fsdp")
if not hasattr(fsdp, "fully_shard"):
    pytest.skip("this PyTorch has no fully_shard", allow_module_level=True)

RANKS, STEPS = 4, 3
CASES = ("vectors", "recommended", "release")
ROWS = [slice(0, 2), slice(2, 3), slice(3, 4), slice(4, 5)]
# For each case: the loss of each step, the state dict of the whole model, and the number of weights of the rank.
Results = dict[str, tuple[Tensor, dict[str, Any], int]]
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def losses_of_training(model: nn.Module, batch: Samples) -> Tensor:
    """Train with momentum SGD and return the loss of each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        _, _, loss = model(*batch, torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def sharded(case: str) -> Model:
    """Create a model on the meta device and shard it; each rank loads its part of the weights."""
    weights = model_of(case).state_dict()
    with torch.device("meta"):
        model = model_of(case, global_batch=True)
    mesh = init_device_mesh("cpu", (RANKS,))
    for module in (model.mixer, model):
        fsdp.fully_shard(module, mesh=mesh)
    model.to_empty(device="cpu")
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))
    return model


def work(rank: int) -> Results:
    results: Results = {}
    for case in CASES:
        inputs, targets, _, group = batch_of(case)
        own = ROWS[rank]
        model = sharded(case)
        losses = losses_of_training(model, (inputs[own], targets[own], None, group[own]))
        parts = [parameter.to_local().numel() for parameter in model.parameters() if isinstance(parameter, DTensor)]
        results[case] = losses, get_model_state_dict(model, options=WHOLE), sum(parts)
    return results


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    return run_on_ranks(work, tmp_path_factory.mktemp("ranks"), RANKS, seconds=60)


@pytest.mark.parametrize("case", CASES)
def test_sharded_training_matches_one_process(case: str, by_rank: list[Results]) -> None:
    model = model_of(case)
    losses = losses_of_training(model, batch_of(case))
    mean = torch.stack([ranked[case][0] for ranked in by_rank]).mean(0)
    torch.testing.assert_close(mean, losses, atol=1e-6, rtol=0)
    trained = by_rank[0][case][1]  # only rank 0 gets the full state dict
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(trained[name], parameter.detach(), atol=1e-6, rtol=0)
    assert sum(ranked[case][2] for ranked in by_rank) == sum(p.numel() for p in model.parameters())
    assert max(ranked[case][2] for ranked in by_rank) < 0.6 * sum(p.numel() for p in model.parameters())
