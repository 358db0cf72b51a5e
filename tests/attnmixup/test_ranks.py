"""Real processes match one process on the concatenated batch: two ranks, or a group of two of three ranks."""

import copy
import pickle
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from attnmixup import AttnMixup, distributed
from tests.attnmixup.global_batch import CASES, batch_of, model_of, part_of, train
from tests.attnmixup.processes import run_on_ranks

RANKS = 2


def error_of_disagreement(rank: int, **of_rank_1: Any) -> str:
    """Call a mixer with different arguments on rank 1 and return the error message."""
    training, strength = of_rank_1.pop("training", True), of_rank_1.pop("strength", 1.0)
    dtype = of_rank_1.pop("dtype", torch.float32)
    mixer, embeddings = AttnMixup(6, global_batch=True), torch.randn(3, 6)
    if rank == 1:
        mixer.train(training).set_strength(strength)
        embeddings = embeddings.to(dtype)
    try:
        mixer(embeddings, **(of_rank_1 if rank == 1 else {}))
    except ValueError as error:
        return str(error)
    return "no error"


DISAGREEMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "mode": ({"training": False}, "evaluation mode on rank 1, training mode on rank 0. Call model.train() on all"),
    "plan": ({"plan": AttnMixup(6).draw(6)}, "a plan on rank 1, no plan on rank 0"),
    "group": ({"group": torch.zeros(3, dtype=torch.long)}, "group of torch.int64 and shape (B,) on rank 1, no group"),
    "dtype": ({"dtype": torch.float64}, "embeddings of torch.float64 and shape (B, 6) on rank 1"),
    "strength": ({"strength": 0.5}, "strength 0.5 on rank 1, strength 1 on rank 0"),
}


def work(rank: int) -> dict[str, Any]:
    results: dict[str, Any] = {
        name: error_of_disagreement(rank, **arguments) for name, (arguments, _) in DISAGREEMENTS.items()
    }
    for case in CASES:
        model = nn.parallel.DistributedDataParallel(model_of(case, global_batch=True))
        results[case] = train(model, part_of(case, rank))
    torch.manual_seed(rank)
    mixed = AttnMixup(6, global_batch=True)(torch.randn(3, 6))
    results["own seeds"] = {"lam": mixed.lam, "index_a": mixed.index_a, "index_b": mixed.index_b}
    numbers = torch.arange(3) + 3 * rank
    results["taken"] = [taken.tolist() for taken in mixed.take(numbers)]

    rows = torch.ones(2, 3, requires_grad=rank == 0)
    (gathered,), _ = distributed.gather_rows(rows)
    ((rank + 1) * gathered).sum().backward()
    results["a gradient of one rank"] = rows.grad

    mixer = AttnMixup(6)
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(6, 6), mixer))
    for strength in (0.0, 0.0, 1.0):
        mixer.set_strength(strength)
        model(torch.randn(4, 6)).embeddings.sum().backward()
    results["with gradients"] = all(parameter.grad is not None for parameter in model.parameters())

    bad_plan = AttnMixup(6).draw(4)
    try:
        AttnMixup(6, global_batch=True)(torch.randn(3, 6), plan=bad_plan)
    except ValueError as error:
        results["a bad plan"] = str(error)
    evaluated = AttnMixup(6, global_batch=True).eval()
    if rank == 0:
        with torch.no_grad():
            evaluated(torch.randn(3, 6))
    dist.barrier()

    single = [dist.new_group([member]) for member in range(RANKS)][rank]
    alone = AttnMixup(6, global_batch=True, process_group=single)
    results["own group"] = len(copy.deepcopy(alone)(torch.randn(3, 6)).lam)
    try:
        pickle.dumps(alone)
    except TypeError as error:
        results["pickled"] = str(error)
    try:
        if rank == 0:
            short = dist.new_group([0, 1], timeout=timedelta(seconds=2))
            AttnMixup(6, global_batch=True, process_group=short)(torch.randn(3, 6))
        else:
            dist.new_group([0, 1], timeout=timedelta(seconds=2))
    except RuntimeError as error:
        results["an extra step"] = str(error)
    return results


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_on_ranks(work, tmp_path_factory.mktemp("ranks"), RANKS)


def check_ranks(ranked: list[dict[str, Any]], case: str) -> None:
    """Assert that the results of the ranks equal those of one process on the concatenated batch."""
    one = train(model_of(case), batch_of(case))
    for name in ("loss", "loss of the same targets", "loss of soft targets"):
        torch.testing.assert_close(sum(rank[name] for rank in ranked) / len(ranked), one[name], atol=1e-6, rtol=0)
    for rank in ranked:
        for gradient, expected in zip(rank["gradients"], one["gradients"], strict=True):
            torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=0)
    assert sum(rank["num_synthetic"] for rank in ranked) == one["num_synthetic"]
    for name in ("lam", "origin", "rows", "labels"):
        # One process puts the originals of all ranks first.
        originals = [rank[name][: rank["num_originals"]] for rank in ranked]
        others = [rank[name][rank["num_originals"] :] for rank in ranked]
        torch.testing.assert_close(torch.cat(originals + others), one[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_match_one_process(by_rank: list[dict[str, Any]], case: str) -> None:
    check_ranks([results[case] for results in by_rank], case)


def test_each_rank_keeps_twice_as_many_rows_as_its_samples(by_rank: list[dict[str, Any]]) -> None:
    assert [len(ranked["vectors"]["rows"]) for ranked in by_rank] == [6, 4]
    assert [ranked["vectors"]["num_originals"] for ranked in by_rank] == [3, 2]


def test_ranks_with_different_seeds_share_one_plan(by_rank: list[dict[str, Any]]) -> None:
    shares = [ranked["own seeds"] for ranked in by_rank]
    everywhere = torch.cat([share["index_a"][3:] for share in shares])
    assert len(everywhere) == 6
    # The transformed rows of one plan are distinct, and so are the first samples of its pairs.
    assert len(set(everywhere[:4].tolist())) == 4
    assert len(set(everywhere[4:].tolist())) == 2


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_every_rank_raises_the_same_error(by_rank: list[dict[str, Any]], name: str) -> None:
    messages = [ranked[name] for ranked in by_rank]
    assert DISAGREEMENTS[name][1] in messages[0]
    assert messages[0] == messages[1]


def test_rank_without_requires_grad_sends_gradients_to_others(by_rank: list[dict[str, Any]]) -> None:
    assert by_rank[0]["a gradient of one rank"].tolist() == [[3.0] * 3] * 2
    assert by_rank[1]["a gradient of one rank"] is None


def test_plan_of_wrong_size_raises_on_every_rank(by_rank: list[dict[str, Any]]) -> None:
    assert all("The plan is for 4 samples, but the batch has 6" in ranked["a bad plan"] for ranked in by_rank)


def test_extra_step_on_one_rank_raises(by_rank: list[dict[str, Any]]) -> None:
    assert "Not every rank reached the mixer" in by_rank[0]["an extra step"]
    assert "an extra step" not in by_rank[1]


def test_take_gathers_from_all_ranks(by_rank: list[dict[str, Any]]) -> None:
    for ranked in by_rank:
        # The tensor holds the indices of the samples in the global batch, so `take` returns index_a and index_b.
        assert ranked["taken"] == [ranked["own seeds"]["index_a"].tolist(), ranked["own seeds"]["index_b"].tolist()]
    assert {index for ranked in by_rank for index in ranked["taken"][0]} == set(range(6))


def test_strength_0_gives_every_parameter_a_gradient_under_ddp(by_rank: list[dict[str, Any]]) -> None:
    assert all(ranked["with gradients"] for ranked in by_rank)


def test_global_batch_can_be_limited_to_a_process_group(by_rank: list[dict[str, Any]]) -> None:
    assert [ranked["own group"] for ranked in by_rank] == [6, 6]
    assert all("save model.state_dict() instead" in ranked["pickled"] for ranked in by_rank)


MEMBERS = (1, 2)
OF_A_GROUP = ("vectors", "sequences", "an empty rank")


def work_in_a_group(rank: int) -> dict[str, Any]:
    group = dist.new_group(MEMBERS)
    results: dict[str, Any] = {}
    if rank in MEMBERS:
        place = MEMBERS.index(rank)
        for case in OF_A_GROUP:
            whole = model_of(case, global_batch=True, process_group=group)
            model = nn.parallel.DistributedDataParallel(whole, process_group=group)
            results[case] = train(model, part_of(case, place))
        torch.manual_seed(rank)
        mixed = AttnMixup(6, global_batch=True, process_group=group)(torch.randn(3, 6))
        results["index_a"] = mixed.index_a.tolist()
        results["taken"] = mixed.take(torch.arange(3) + 3 * place)[0].tolist()
    else:
        results["vectors"] = train(model_of("vectors"), batch_of("vectors"))
        try:
            AttnMixup(6, global_batch=True, process_group=group)(torch.randn(3, 6))
        except ValueError as error:
            results["error"] = str(error)
    return results


@pytest.fixture(scope="module")
def by_rank_of_three(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_on_ranks(work_in_a_group, tmp_path_factory.mktemp("three"), 3)


@pytest.mark.parametrize("case", OF_A_GROUP)
def test_group_of_two_ranks_matches_one_process(by_rank_of_three: list[dict[str, Any]], case: str) -> None:
    check_ranks([by_rank_of_three[rank][case] for rank in MEMBERS], case)


def test_group_members_share_one_plan_and_take_from_each_other(by_rank_of_three: list[dict[str, Any]]) -> None:
    taken = [by_rank_of_three[rank]["taken"] for rank in MEMBERS]
    assert taken == [by_rank_of_three[rank]["index_a"] for rank in MEMBERS]
    assert {index for ranked in taken for index in ranked} == set(range(6))


def test_rank_outside_the_group_trains_alone_and_cannot_call_its_mixer(by_rank_of_three: list[dict[str, Any]]) -> None:
    outside = by_rank_of_three[0]
    torch.testing.assert_close(outside["vectors"], train(model_of("vectors"), batch_of("vectors")))
    message = "This rank is not in the process_group of the mixer: only ranks of the group can call it."
    assert outside["error"] == message
