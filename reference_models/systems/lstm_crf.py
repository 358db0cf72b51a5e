"""CNN-BiLSTM-CRF (Ma and Hovy, ACL 2016) and HBiLSTM-CRF (Lample et al., NAACL 2016): words and their characters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reference_models.config import Inputs, WordSystemConfig, check_at_least
from reference_models.data.tokenizer import FIRST_WORD, UNKNOWN
from reference_models.encoders.words import CharacterCNN, CharacterLSTM, bidirectional, draw_lstm
from reference_models.errors import UserError
from reference_models.systems.base import Encoded, System
from reference_models.systems.registry import register


@dataclass
class LSTMCRFConfig(WordSystemConfig):
    """Settings of the LSTM taggers, in addition to the common ones.

    Args:
        char_encoder: "cnn" (Ma and Hovy: 200 units per direction) or "lstm" (Lample et al.: 100 units per direction and
            a tanh layer of 100).
        word_width: Width of the word embeddings.
        input_dropout: Dropout of words concatenated with their characters, and of the character embeddings of "cnn".
        unknown_rate: Probability in training that a word which occurs once in the training split is replaced by the
            unknown word, so that the unknown word is trained (Lample et al.: 0.5, with `min_count` 1).
        mask_characters: False makes "cnn" pool over padding too, as the published code does.
    """

    head_dropout: float = 0.5
    char_encoder: Literal["cnn", "lstm"] = "cnn"
    word_width: int = 100
    input_dropout: float = 0.5
    unknown_rate: float = 0.0
    mask_characters: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, "model", unknown_rate=0)
        if self.unknown_rate > 1:
            raise UserError(f"model.unknown_rate is a fraction and must be 1 or less, got {self.unknown_rate}")

    @property
    def inputs(self) -> Inputs:
        """See `SystemConfig`."""
        return Inputs(characters=True)


@register("lstm_crf")
class LSTMCRF(System):
    """A bidirectional LSTM over words and their characters.

    The CRF transitions are constant; in Ma and Hovy's model they also depend on the word.
    """

    config_class = LSTMCRFConfig
    settings: LSTMCRFConfig
    tasks = ("ner",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        settings, cnn = self.settings, self.settings.char_encoder == "cnn"
        self.words = nn.Embedding(max(config.vocabulary, 2), settings.word_width, padding_idx=0)
        bound = (3 / settings.word_width) ** 0.5
        nn.init.uniform_(self.words.weight, -bound, bound)
        count = max(config.characters, 2)
        self.characters = (
            CharacterCNN(count, dropout=settings.input_dropout, mask=settings.mask_characters)
            if cnn
            else CharacterLSTM(count)
        )
        self.dropout = nn.Dropout(settings.input_dropout)
        units = 200 if cnn else 100
        self.lstm = nn.LSTM(settings.word_width + self.characters.width, units, batch_first=True, bidirectional=True)
        draw_lstm(self.lstm)
        self.project = None if cnn else nn.Linear(2 * units, 100)
        self.finish(2 * units if cnn else 100)

    def make_text_encoder(self) -> None:
        """Return None: the system reads words; see `System`."""

    def encode(self, batch: Mapping[str, Tensor]) -> Encoded:
        """Return the states of both directions at each word; see `System`."""
        mask = batch["word_mask"]
        ids = batch["input_ids"].gather(1, batch["word_starts"])
        if self.training and self.settings.unknown_rate > 0:
            rare = (ids >= FIRST_WORD) & (ids < FIRST_WORD + self.config.rare_words)
            drawn = torch.rand(ids.shape, device=ids.device) < self.settings.unknown_rate
            ids = ids.masked_fill(rare & drawn, UNKNOWN)
        words = self.words(ids)
        characters = self.characters(batch["characters"].flatten(0, 1)).unflatten(0, mask.shape)
        h, _ = bidirectional(self.lstm, self.dropout(torch.cat([words, characters], dim=-1)), mask)
        return Encoded(h if self.project is None else torch.tanh(self.project(h)), mask)
