"""The LSTM taggers: padding of words and characters, LSTM directions, and the character encoder against loops."""

import math
from typing import Any

import pytest
import torch

from reference_models.encoders.words import CharacterCNN, CharacterLSTM, bidirectional
from reference_models.errors import UserError
from reference_models.systems.lstm_crf import LSTMCRF, LSTMCRFConfig
from tests.reference_models.slow_layers import dot, linear, lstm
from tests.reference_models.tiny_models import make_batch, make_model

each_encoder = pytest.mark.parametrize("char_encoder", ["cnn", "lstm"])


def make(**options: Any) -> LSTMCRF:
    system: LSTMCRF = make_model(LSTMCRF, task="ner", **options).eval()
    return system


@each_encoder
def test_layer_sizes_match_the_published_ones(char_encoder: str) -> None:
    system = make(char_encoder=char_encoder)
    wide = {"cnn": (130, 400), "lstm": (150, 100)}[char_encoder]
    assert (system.lstm.input_size, system.head.linear.in_features) == wide
    counted = sum(p.numel() for p in system.lstm.parameters())
    assert counted == {"cnn": 4 * 2 * 200 * (130 + 200 + 2), "lstm": 4 * 2 * 100 * (150 + 100 + 2)}[char_encoder]


@each_encoder
def test_word_encoding_does_not_depend_on_longer_words(char_encoder: str) -> None:
    encoder = {"cnn": CharacterCNN, "lstm": CharacterLSTM}[char_encoder](12).eval()
    rows = torch.tensor([[3, 4, 0, 0, 0], [5, 0, 0, 0, 0], [3, 4, 5, 6, 7], [0, 0, 0, 0, 0]])
    together = encoder(rows)
    torch.testing.assert_close(encoder(rows[:1, :2])[0], together[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder(rows[1:2, :1])[0], together[1], atol=1e-6, rtol=0)
    assert together.isfinite().all()


@pytest.mark.parametrize("mask", [True, False])
def test_character_mask_removes_the_effect_of_longer_words(mask: bool) -> None:
    """A fault of published code: in the padding of a word, the bias of the convolution can be the maximum."""
    encoder = make(mask_characters=mask).characters
    with torch.no_grad():
        encoder.convolution.bias.fill_(9.0)
        encoder.table.weight[1:] = -encoder.convolution.weight.sum(dim=(0, 2)).sign()
        alone, beside = encoder(torch.tensor([[3, 4]])), encoder(torch.tensor([[3, 4, 0, 0, 0], [3, 4, 5, 6, 7]]))
    assert torch.allclose(alone[0], beside[0], atol=1e-6) == mask


def slow_characters(encoder: CharacterCNN | CharacterLSTM, word: list[int]) -> list[float]:
    rows = encoder.table.weight[word].tolist()
    if isinstance(encoder, CharacterLSTM):
        return lstm(encoder.lstm, rows)[-1] + lstm(encoder.lstm, rows, backward=True)[0]
    ends = [[0.0] * len(rows[0])]
    rows = ends + rows + ends
    kernel, bias = encoder.convolution.weight.transpose(1, 2).tolist(), encoder.convolution.bias.tolist()
    return [
        max(sum(dot(kernel[f][k], rows[t + k]) for k in range(3)) for t in range(len(word))) + bias[f]
        for f in range(len(bias))
    ]


@pytest.mark.parametrize("kind", [CharacterCNN, CharacterLSTM])
def test_characters_agree_with_loops(kind: type[CharacterCNN | CharacterLSTM]) -> None:
    encoder, word = kind(12).eval(), [3, 7, 5]
    torch.testing.assert_close(encoder(torch.tensor([[*word, 0, 0]]))[0], torch.tensor(slow_characters(encoder, word)))


@each_encoder
@pytest.mark.parametrize("sample", [0, 1])
def test_h_agrees_with_loops_over_words(sample: int, char_encoder: str) -> None:
    system, batch = make(char_encoder=char_encoder, word_width=5), make_batch("ner")
    rows = []
    mask = batch["word_mask"][sample]
    for start, characters in zip(
        batch["word_starts"][sample][mask], batch["characters"][sample][mask].tolist(), strict=True
    ):
        written = [character for character in characters if character > 0]
        word = system.words.weight[batch["input_ids"][sample, start]].tolist()
        rows.append(word + slow_characters(system.characters, written))
    states = zip(lstm(system.lstm, rows), lstm(system.lstm, rows, backward=True), strict=True)
    expected = [forward + backward for forward, backward in states]
    if char_encoder == "lstm":
        expected = [[math.tanh(x) for x in linear(system.project, state)] for state in expected]
    with torch.no_grad():
        h = system.encode(batch).h[sample][mask]
    torch.testing.assert_close(h, torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_rare_words_become_unknown_only_in_training() -> None:
    system, read = make(unknown_rate=0.5, rare_words=3), []  # ids 2 to 4
    system.words.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    rare, frequent = torch.full((1, 4000), 4), torch.full((1, 4000), 5)
    batch = {"word_starts": torch.arange(4000)[None], "word_mask": torch.ones(1, 4000, dtype=torch.bool)}
    batch["characters"] = torch.ones(1, 4000, 1, dtype=torch.long)
    with torch.no_grad():
        for training, ids in ((True, rare), (True, frequent), (False, rare)):
            system.train(training).encode(batch | {"input_ids": ids})
    unknown = [(ids == 1).float().mean().item() for ids in read]
    assert unknown[0] == pytest.approx(0.5, abs=0.05)
    assert set(read[0].unique().tolist()) == {1, 4}
    assert unknown[1:] == [0, 0]
    with pytest.raises(UserError, match=r"model\.unknown_rate is a fraction and must be 1 or less, got 2"):
        LSTMCRFConfig(unknown_rate=2)


def test_reversed_sentence_gives_mirrored_states() -> None:
    """A reversed sentence through swapped directions gives the mirrored states; padding stays on the right."""
    torch.manual_seed(0)
    lstm, mirror = (torch.nn.LSTM(3, 2, batch_first=True, bidirectional=True) for _ in range(2))
    state = lstm.state_dict()
    swapped = {
        name: state[name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse"] for name in state
    }
    mirror.load_state_dict(swapped)
    rows, mask = torch.randn(1, 6, 3), torch.arange(6)[None] < 4
    states, last = bidirectional(lstm, rows, mask)
    backwards = torch.cat([rows[:, :4].flip(1), rows[:, 4:]], dim=1)
    other, _ = bidirectional(mirror, backwards, mask)
    torch.testing.assert_close(states[:, :4], torch.cat(other[:, :4].flip(1).chunk(2, dim=-1)[::-1], dim=-1))
    assert states[:, 4:].abs().sum() == 0
    torch.testing.assert_close(last, torch.cat([states[:, 3, :2], states[:, 0, 2:]], dim=-1))
    alone, _ = bidirectional(lstm, rows[:, :4], mask[:, :4])
    torch.testing.assert_close(alone, states[:, :4])


@each_encoder
def test_embeddings_learn_and_scores_are_deterministic(char_encoder: str) -> None:
    system, batch = make(char_encoder=char_encoder), make_batch("ner")
    with torch.no_grad():
        assert torch.equal(system(**batch).scores, system(**batch).scores)
    system.train()(**batch).loss.backward()
    for table in (system.words, system.characters.table):
        assert table.weight.grad[1:].abs().sum() > 0
        assert table.weight.grad[0].abs().sum() == 0
    assert (system.lstm.bias_ih_l0[200:400] == 1).all() == (char_encoder == "cnn")
