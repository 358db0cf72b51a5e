"""Two real processes compute what one does on the concatenated batch."""

import copy
import pickle
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds, sizes
from torch import nn

from attnmixup import AttnMixup, distributed
from attnmixup.batch import Batch

RANKS = 2
CASES = {
    "vectors": {},
    "sequences": {},
    "tokens": {"sequence": "position"},
    "release": {"preset": "release"},
    "all rows": {"final": "weight"},
    "other class": {"partner": "other_class"},
    "no transformed rows": {"transformed_ratio": 0.0},
    "derangement": {"partner": "derangement"},
    "recommended": {"preset": "recommended"},
    "tags": {"preset": "recommended"},
    "nearest": {"partner": "nearest"},
    "an empty rank": {},
    "strength 0": {},
}
# Samples of each rank: odd, even and of one.
SPLITS = {"sequences": (3, 2), "all rows": (4, 1), "an empty rank": (5, 0)}


class Model(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.encoder, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.mixer = AttnMixup(6, heads=2, **{"dropout": 0.0} | options)

    def forward(self, inputs, targets, mask, group, generator):
        embeddings = torch.tanh(self.encoder(inputs))
        mixed = self.mixer(embeddings, targets, mask=mask, group=group, generator=generator)
        return mixed, mixed.loss(F.cross_entropy, self.head(mixed.embeddings))


def model_of(case, **options):
    torch.manual_seed(0)
    model = Model(**CASES[case], **options).double()
    if case == "strength 0":
        model.mixer.set_strength(0.0)
    return model


def batch_of(case):
    generator = torch.Generator().manual_seed(1)
    group = torch.tensor([0, 0, 1, 1, 0])
    if case not in ("sequences", "tokens", "tags"):
        return torch.randn(5, 4, generator=generator).double(), torch.arange(5) % 3, None, group
    inputs, targets = torch.randn(5, 4, 4, generator=generator).double(), torch.randint(3, (5, 4), generator=generator)
    return inputs, targets, torch.arange(4) < torch.tensor([4, 1, 3, 2, 1])[:, None], group


def part_of(case, rank):
    """The samples of one rank, no longer than its own longest."""
    inputs, targets, mask, group = batch_of(case)
    first = SPLITS.get(case, (3, 2))[0]
    rows = slice(0, first) if rank == 0 else slice(first, 5)
    if mask is None:
        return inputs[rows], targets[rows], None, group[rows]
    longest = int(mask[rows].sum(1).max())
    return inputs[rows, :longest], targets[rows, :longest], mask[rows, :longest], group[rows]


def train(model, batch):
    mixed, loss = model(*batch, torch.Generator().manual_seed(2))
    loss.backward()
    rows, labels = mixed.embeddings.detach(), [mixed.targets_a, mixed.targets_b]
    if mixed.mask is not None:
        # What stands in the padding depends on how long the longest is.
        rows = rows.masked_fill(~mixed.mask.unsqueeze(-1), 0)
        labels = [label.masked_fill(~mask, 0) for label, mask in zip(labels, (mixed.mask_a, mixed.mask_b), strict=True)]
    return {
        "loss": loss.detach(),
        "gradients": [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in model.parameters()
        ],
        "rows": rows,
        "labels": torch.stack(labels, dim=1),
        "lam": mixed.lam,
        "origin": mixed.origin,
        "num_originals": mixed.num_originals,
        "num_synthetic": mixed.num_synthetic,
    }


def different(rank, **of_rank_1):
    """Call a mixer with something else on rank 1, and return the message."""
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


DISAGREEMENTS = {
    "mode": ({"training": False}, "evaluation mode on rank 1, training mode on rank 0. Call model.train() on all"),
    "plan": ({"plan": AttnMixup(6).draw(6)}, "a plan on rank 1, no plan on rank 0"),
    "group": ({"group": torch.zeros(3, dtype=torch.long)}, "group of torch.int64 and shape (B,) on rank 1, no group"),
    "dtype": ({"dtype": torch.float64}, "embeddings of torch.float64 and shape (B, 6) on rank 1"),
    "strength": ({"strength": 0.5}, "strength 0.5 on rank 1, strength 1 on rank 0"),
}


def work(rank, folder):
    torch.set_num_threads(1)
    limit = timedelta(seconds=20)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS, timeout=limit)
    results = {name: different(rank, **arguments) for name, (arguments, _) in DISAGREEMENTS.items()}
    for case in CASES:
        model = nn.parallel.DistributedDataParallel(model_of(case, global_batch=True))
        results[case] = train(model, part_of(case, rank))
    torch.manual_seed(rank)
    mixed = AttnMixup(6, global_batch=True)(torch.randn(3, 6))
    results["own seeds"] = {"lam": mixed.lam, "index_a": mixed.index_a, "index_b": mixed.index_b}
    numbers = torch.arange(3) + 3 * rank
    results["taken"] = [taken.tolist() for taken in mixed.take(numbers)]

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
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def joined(by_rank, case, name):
    """Rows of all ranks in the order of one process: originals of every rank first."""
    count = [ranked[case]["num_originals"] for ranked in by_rank]
    parts = [ranked[case][name][:n] for ranked, n in zip(by_rank, count, strict=True)]
    parts += [ranked[case][name][n:] for ranked, n in zip(by_rank, count, strict=True)]
    return torch.cat(parts)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one_process(by_rank, case):
    one = train(model_of(case), batch_of(case))
    ranked = [results[case] for results in by_rank]
    torch.testing.assert_close(sum(rank["loss"] for rank in ranked) / RANKS, one["loss"], atol=1e-6, rtol=0)
    for rank in ranked:
        for gradient, expected in zip(rank["gradients"], one["gradients"], strict=True):
            torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=0)
    assert sum(rank["num_synthetic"] for rank in ranked) == one["num_synthetic"]
    for name in ("lam", "origin"):
        torch.testing.assert_close(joined(by_rank, case, name), one[name])
    for name in ("rows", "labels"):
        torch.testing.assert_close(joined(by_rank, case, name), one[name], atol=1e-6, rtol=0)


def test_every_rank_keeps_as_many_rows_as_it_can_train_on(by_rank):
    assert [len(ranked["vectors"]["rows"]) for ranked in by_rank] == [6, 4]
    assert [ranked["vectors"]["num_originals"] for ranked in by_rank] == [3, 2]


def test_ranks_with_seeds_of_their_own_share_one_plan(by_rank):
    shares = [ranked["own seeds"] for ranked in by_rank]
    everywhere = torch.cat([share["index_a"][3:] for share in shares])
    assert len(everywhere) == 6
    # Transformed rows of one plan are distinct, and so are the firsts of its pairs.
    assert len(set(everywhere[:4].tolist())) == 4
    assert len(set(everywhere[4:].tolist())) == 2


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_every_rank_raises_the_same_error(by_rank, name):
    messages = [ranked[name] for ranked in by_rank]
    assert DISAGREEMENTS[name][1] in messages[0]
    assert messages[0] == messages[1]


def test_a_bad_plan_is_an_error_on_every_rank(by_rank):
    assert all("The plan is for 4 samples, the batch has 6" in ranked["a bad plan"] for ranked in by_rank)


def test_an_extra_step_is_an_error(by_rank):
    assert "Not every rank reached the mixer" in by_rank[0]["an extra step"]
    assert "an extra step" not in by_rank[1]


def test_anything_is_taken_along_from_all_ranks(by_rank):
    for ranked in by_rank:
        # Numbers of samples are those of the global batch here, and so are their indices.
        assert ranked["taken"] == [ranked["own seeds"]["index_a"].tolist(), ranked["own seeds"]["index_b"].tolist()]
    assert {index for ranked in by_rank for index in ranked["taken"][0]} == set(range(6))


def test_strength_0_leaves_no_parameter_without_a_gradient_under_ddp(by_rank):
    assert all(ranked["with gradients"] for ranked in by_rank)


def test_the_global_batch_may_be_that_of_a_group(by_rank):
    assert [ranked["own group"] for ranked in by_rank] == [6, 6]
    assert all("save model.state_dict() instead" in ranked["pickled"] for ranked in by_rank)


@given(size=sizes, seed=seeds, data=st.data())
def test_shares_together_are_the_plan(size, seed, data):
    splits = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any))
    plan = AttnMixup(6).draw(sum(splits), generator=torch.Generator().manual_seed(seed))
    ranks = distributed.GroupReference()
    shares = [distributed.share_of(plan, splits, ranks, rank=rank) for rank in range(len(splits))]
    for name in ("transformed", "first", "second", "lam"):
        assert torch.equal(torch.cat([getattr(share.plan, name) for share in shares]), getattr(plan, name))
    rows = torch.cat([share.rows(sum(splits), torch.device("cpu")) for share in shares])
    assert sorted(rows.tolist()) == list(range(2 * sum(splits)))


@given(size=st.integers(0, 9), strength=st.floats(0, 1), training=st.booleans(), seed=seeds)
def test_headers_survive_their_encoding(size, strength, training, seed):
    batch = Batch(torch.randn(size, 6), torch.arange(size), None, None, None)
    plan = AttnMixup(6).draw(size, generator=torch.Generator().manual_seed(seed)) if size else None
    header = distributed.Header.of(batch, training=training, plan=plan, strength=strength)
    assert distributed.Header.decode(header.encode()) == header
    assert header.size == size


def test_empty_everywhere_and_a_rank_outside_are_errors():
    batch = Batch(torch.randn(0, 6), None, None, None, None)
    header = distributed.Header.of(batch, training=True, plan=None, strength=1.0)
    with pytest.raises(ValueError, match="the batch of every rank is empty"):
        distributed.check_agreement([header, header])
    with pytest.raises(ValueError, match="1 to 12 dimensions"):
        distributed.TensorHeader.of(torch.tensor(1.0))


@pytest.fixture
def alone(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("case", CASES)
def test_one_rank_is_one_process(case):
    results = [train(model_of(case, global_batch=everywhere), batch_of(case)) for everywhere in (False, True)]
    for name in ("rows", "labels", "lam", "loss", "num_synthetic", "gradients"):
        torch.testing.assert_close(results[0][name], results[1][name])


@pytest.mark.usefixtures("alone")
def test_rows_are_gathered_with_their_gradient():
    rows, lengths = torch.randn(3, 2, requires_grad=True), torch.tensor([1, 2, 3])
    (gathered, gathered_lengths), sizes = distributed.gather_rows(rows, lengths)
    assert torch.equal(gathered, rows)
    assert torch.equal(gathered_lengths, lengths)
    assert sizes == [3]
    (2 * gathered).sum().backward()
    assert torch.equal(rows.grad, torch.full((3, 2), 2.0))


@pytest.mark.usefixtures("alone")
def test_sequences_need_a_mask():
    with pytest.raises(ValueError, match=r"global_batch needs a mask for sequences \(B, L, C\)"):
        AttnMixup(6, global_batch=True)(torch.randn(2, 3, 6))


@pytest.mark.usefixtures("alone")
def test_evaluation_is_local():
    embeddings = torch.randn(2, 6)
    assert AttnMixup(6, global_batch=True).eval()(embeddings).embeddings is embeddings
