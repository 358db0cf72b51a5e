"""The gradient by rows is the one that PyTorch computes."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reference_models.training import embeddings
from reference_models.training.embeddings import write_used_rows


class Reader(nn.Module):
    """Reads words, and a small table beside them."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(12, 4, padding_idx=0)
        self.places = nn.Embedding(2, 4)
        self.score = nn.Linear(4, 1)

    def forward(self, words):
        places = torch.arange(words.shape[1]) % 2
        return self.score(self.words(words) + self.places(places)).square().mean()


@pytest.fixture(autouse=True)
def _small_tables_are_large(monkeypatch):
    monkeypatch.setattr(embeddings, "LEAST_WEIGHTS", 12 * 4)


def both(seed):
    torch.manual_seed(seed)
    plain = Reader()
    by_rows = copy.deepcopy(plain)
    write_used_rows(by_rows)
    assert by_rows.words.sparse
    assert not by_rows.places.sparse
    return plain, by_rows


@given(seed=st.integers(0, 99), lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_training_is_the_same_to_the_last_digit(seed, lengths):
    weights = []
    for model in both(seed):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(seed)
        for length in lengths:
            model(torch.randint(12, (2, length), generator=generator)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
            optimizer.zero_grad()
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@given(seed=st.integers(0, 99), batches=st.integers(2, 4))
def test_all_that_a_step_reads_is_added_and_the_next_step_begins_with_zeros(seed, batches):
    plain, by_rows = both(seed)
    for _ in range(2):
        words = torch.randint(12, (batches, 3, 5))
        for model in (plain, by_rows):
            model.zero_grad()
            for batch in words:
                (model(batch) + model(batch.flip(1))).backward()
        torch.testing.assert_close(by_rows.words.weight.grad, plain.words.weight.grad)
        assert by_rows.words.weight.grad.layout == torch.strided


def test_a_table_that_also_scores_words_has_its_whole_gradient():
    plain, by_rows = both(0)
    for model in (plain, by_rows, plain, by_rows):
        model.zero_grad()
        words = torch.tensor([[1, 2, 3]])
        (model(words) + (model.score.weight @ model.words.weight.T).square().mean()).backward()
    assert torch.equal(by_rows.words.weight.grad, plain.words.weight.grad)


def test_memory_of_the_gradient_is_that_of_the_step_before():
    _, model = both(0)
    places = []
    for word in (3, 5):
        model.zero_grad()
        model(torch.tensor([[word, 1]])).backward()
        places.append(model.words.weight.grad.data_ptr())
        assert model.words.weight.grad.any(dim=1).nonzero().flatten().tolist() == [1, word]
    assert places[0] == places[1]
