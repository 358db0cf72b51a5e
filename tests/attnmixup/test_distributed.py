"""Headers, shares and gathering, in one process."""

import copy
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from attnmixup import AttnMixup, attn_mixup, distributed
from attnmixup.batch import Batch
from attnmixup.sampling import MixupPlan
from tests.attnmixup.global_batch import CASES, batch_of, model_of, train
from tests.attnmixup.strategies import seeds, sizes


@given(size=sizes, seed=seeds, data=st.data())
def test_shares_of_all_ranks_add_up_to_the_plan(size: int, seed: int, data: st.DataObject) -> None:
    splits = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any))
    plan = AttnMixup(6).draw(sum(splits), generator=torch.Generator().manual_seed(seed))
    ranks = distributed.GroupReference()
    shares = [distributed.share_of(plan, splits, ranks, rank=rank) for rank in range(len(splits))]
    for name in ("transformed", "first", "second", "lam"):
        assert torch.equal(torch.cat([getattr(share.plan, name) for share in shares]), getattr(plan, name))
    rows = torch.cat([share.rows(sum(splits), torch.device("cpu")) for share in shares])
    assert sorted(rows.tolist()) == list(range(2 * sum(splits)))


@given(size=st.integers(0, 9), strength=st.floats(0, 1), training=st.booleans(), seed=seeds)
def test_header_encoding_round_trips(size: int, strength: float, training: bool, seed: int) -> None:
    batch = Batch(torch.randn(size, 6), torch.arange(size), None, None, None)
    plan = AttnMixup(6).draw(size, generator=torch.Generator().manual_seed(seed)) if size else None
    header = distributed.Header.of(batch, training=training, plan=plan, strength=strength)
    assert distributed.Header.decode(header.encode()) == header
    assert header.size == size


def header_of(batch: Batch | None = None, **changed: Any) -> distributed.Header:
    batch = batch or Batch(torch.zeros(2, 6), torch.zeros(2, 3), None, None, None)
    return distributed.Header.of(batch, **{"training": True, "plan": None, "strength": 1.0} | changed)


def tokens_of(dim: int = 6, mask: bool = True, targets: tuple[int, ...] = (2, 4)) -> Batch:
    token_mask = torch.ones(2, 4, dtype=torch.bool) if mask else None
    return Batch(torch.zeros(2, 4, dim), torch.zeros(targets), token_mask, None, None)


DISAGREEMENTS = {
    "one of three": (
        [header_of(), header_of(training=False), header_of()],
        "Ranks disagree: evaluation mode on rank 1, training mode on the others. Call model.train() on all of them, or "
        "model.eval().",
    ),
    "three of six": (
        [header_of(strength=strength) for strength in (1.0, 0.5, 0.5, 0.5, 1.0, 1.0)],
        "Ranks disagree: strength 0.5 on ranks 1, 2 and 3, strength 1 on the others. Call set_strength() with one "
        "value on all of them.",
    ),
    "plan": (
        [header_of(plan=AttnMixup(6).draw(4)), header_of()],
        "Ranks disagree: no plan on rank 1, a plan on rank 0. Pass plan= on all of them (the plan of the first rank "
        "is used), or on none.",
    ),
    "targets": (
        [header_of(), header_of(Batch(torch.zeros(1, 6), torch.zeros(1, 2), None, None, None))],
        "Ranks disagree: targets of torch.float32 and shape (B, 2) on rank 1, targets of torch.float32 and shape (B, "
        "3) on rank 0. Only the numbers of samples and tokens may differ.",
    ),
    "embeddings": (
        [header_of(tokens_of()), header_of(tokens_of(5))],
        "Ranks disagree: embeddings of torch.float32 and shape (B, L, 5) on rank 1, embeddings of torch.float32 and "
        "shape (B, L, 6) on rank 0. Only the numbers of samples and tokens may differ.",
    ),
    "one target": (
        [header_of(Batch(torch.zeros(2, 6), targets, None, None, None)) for targets in (None, torch.zeros(2))],
        "Ranks disagree: targets of torch.float32 and shape (B,) on rank 1, no targets on rank 0. Only the numbers "
        "of samples and tokens may differ.",
    ),
    "no mask": (
        [header_of(tokens_of(mask=False))] * 2,
        "global_batch needs a mask for sequences (B, L, C), because ranks may differ in length.",
    ),
    "empty": (
        [header_of(Batch(torch.zeros(0, 6), None, None, None, None))] * 2,
        "The global batch has no samples: the batch of every rank is empty.",
    ),
}


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_disagreeing_ranks_raise(name: str) -> None:
    headers, message = DISAGREEMENTS[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        distributed.check_agreement(headers)


def test_no_grad_on_one_rank_raises() -> None:
    with torch.no_grad():
        without = header_of()
    with pytest.raises(ValueError, match=r"torch\.no_grad\(\) on rank 1, gradients on rank 0\. Run all of them"):
        distributed.check_agreement([header_of(), without])


def test_allowed_differences_between_ranks() -> None:
    longer = Batch(torch.zeros(3, 5, 6), torch.zeros(3, 5), torch.ones(3, 5, dtype=torch.bool), None, None)
    distributed.check_agreement([header_of(tokens_of()), header_of(longer)])
    other = Batch(torch.zeros(1, 3), None, None, None, None)
    distributed.check_agreement([header_of(training=False), header_of(other, training=False, strength=0.0)])


def test_scalar_tensor_cannot_be_gathered() -> None:
    with pytest.raises(ValueError, match=r"^Ranks can gather tensors of 1 to 12 dimensions, got \(\)\.$"):
        distributed.TensorHeader.of(torch.tensor(1.0))


def test_group_reference_to_all_ranks_can_be_copied_and_pickled() -> None:
    reference = distributed.GroupReference()
    assert copy.copy(reference) is copy.deepcopy(reference) is reference
    assert pickle.loads(pickle.dumps(reference)).group is None


@pytest.fixture
def single_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("single_rank")
@pytest.mark.parametrize("case", CASES)
def test_global_batch_of_one_rank_matches_local_batch(case: str) -> None:
    results = [train(model_of(case, global_batch=everywhere), batch_of(case)) for everywhere in (False, True)]
    for name in ("rows", "labels", "lam", "loss", "num_synthetic", "gradients"):
        torch.testing.assert_close(results[0][name], results[1][name])


@pytest.mark.usefixtures("single_rank")
def test_rows_are_gathered_with_their_gradient() -> None:
    rows, lengths = torch.randn(3, 2, requires_grad=True), torch.tensor([1, 2, 3])
    (gathered, gathered_lengths), sizes = distributed.gather_rows(rows, lengths)
    assert torch.equal(gathered, rows)
    assert torch.equal(gathered_lengths, lengths)
    assert sizes == [3]
    (2 * gathered).sum().backward()
    assert torch.equal(rows.grad, torch.full((3, 2), 2.0))


@pytest.mark.usefixtures("single_rank")
def test_second_derivatives_through_other_ranks_raise() -> None:
    embeddings = torch.randn(3, 6, requires_grad=True)
    mixed = AttnMixup(6, global_batch=True)(embeddings)
    [gradient] = torch.autograd.grad(mixed.embeddings.square().sum(), embeddings, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.usefixtures("single_rank")
def test_empty_rows_and_empty_plan_can_be_exchanged() -> None:
    rows = torch.zeros(0, 2, requires_grad=True)
    (gathered,), sizes = distributed.gather_rows(rows)
    assert gathered.shape == (0, 2)
    assert sizes == [0]
    gathered.sum().backward()
    assert rows.grad.shape == (0, 2)
    none = torch.arange(0)
    plan = distributed.broadcast_plan(MixupPlan(none, none, none, none.float(), 1), [header_of()], none.device, None)
    assert [len(part) for part in (plan.transformed, plan.first, plan.second, plan.lam)] == [0] * 4


@pytest.mark.usefixtures("single_rank")
def test_ranks_get_zero_gradients_at_strength_0_and_no_warning(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(attn_mixup, "PATIENCE", 1)
    mixer, rows = AttnMixup(6), torch.randn(3, 6, requires_grad=True)
    mixer.set_strength(0.0)
    mixer(rows).embeddings.sum().backward()
    assert all((parameter.grad == 0).all() for parameter in mixer.parameters())
    assert (rows.grad == 1).all()
    mixer.set_strength(1.0)
    for _ in range(4):
        mixer(rows)
    assert not recwarn.list


@pytest.mark.usefixtures("single_rank")
def test_sequences_need_a_mask() -> None:
    with pytest.raises(ValueError, match=r"global_batch needs a mask for sequences \(B, L, C\)"):
        AttnMixup(6, global_batch=True)(torch.randn(2, 3, 6))


@pytest.mark.usefixtures("single_rank")
def test_evaluation_is_local() -> None:
    embeddings = torch.randn(2, 6)
    assert AttnMixup(6, global_batch=True).eval()(embeddings).embeddings is embeddings
