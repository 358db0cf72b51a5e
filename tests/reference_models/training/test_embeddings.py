"""The row-wise embedding gradient equals the dense gradient of PyTorch."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from reference_models.training import embeddings
from reference_models.training.embeddings import write_used_rows


class EmbeddingModel(nn.Module):
    """A model with a word embedding and a small position embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(12, 4, padding_idx=0)
        self.positions = nn.Embedding(2, 4)
        self.score = nn.Linear(4, 1)

    def forward(self, words: Tensor) -> Tensor:
        positions = torch.arange(words.shape[1]) % 2
        scores: Tensor = self.score(self.words(words) + self.positions(positions))
        return scores.square().mean()


@pytest.fixture(autouse=True)
def _treat_small_tables_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "LEAST_WEIGHTS", 12 * 4)


def make_models(seed: int) -> tuple[EmbeddingModel, EmbeddingModel]:
    torch.manual_seed(seed)
    plain = EmbeddingModel()
    by_rows = copy.deepcopy(plain)
    write_used_rows(by_rows)
    assert by_rows.words.sparse
    assert not by_rows.positions.sparse
    return plain, by_rows


@given(seed=st.integers(0, 99), lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_training_is_bit_identical(seed: int, lengths: list[int]) -> None:
    weights = []
    for model in make_models(seed):
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
def test_gradients_accumulate_within_a_step_and_reset_after_it(seed: int, batches: int) -> None:
    plain, by_rows = make_models(seed)
    for _ in range(2):
        words = torch.randint(12, (batches, 3, 5))
        for model in (plain, by_rows):
            model.zero_grad()
            for batch in words:
                (model(batch) + model(batch.flip(1))).backward()
        torch.testing.assert_close(by_rows.words.weight.grad, plain.words.weight.grad)
        assert by_rows.words.weight.grad.layout == torch.strided


def test_tied_output_embedding_gets_its_full_gradient() -> None:
    plain, by_rows = make_models(0)
    for model in (plain, by_rows, plain, by_rows):
        model.zero_grad()
        words = torch.tensor([[1, 2, 3]])
        (model(words) + (model.score.weight @ model.words.weight.T).square().mean()).backward()
    assert torch.equal(by_rows.words.weight.grad, plain.words.weight.grad)


def test_gradient_memory_is_reused() -> None:
    _, model = make_models(0)
    addresses = []
    for word in (3, 5):
        model.zero_grad()
        model(torch.tensor([[word, 1]])).backward()
        addresses.append(model.words.weight.grad.data_ptr())
        assert model.words.weight.grad.any(dim=1).nonzero().flatten().tolist() == [1, word]
    assert addresses[0] == addresses[1]
