"""Headers, shares and gathering, in one process."""

import pytest
import torch
import torch.distributed as dist
from global_batch import CASES, batch_of, model_of, train
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds, sizes

from attnmixup import AttnMixup, distributed
from attnmixup.batch import Batch


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
