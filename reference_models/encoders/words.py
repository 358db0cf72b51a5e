"""Tables of words, filled from pre-trained vectors, and encoders of their characters."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from reference_models.data.vectors import read_vectors
from reference_models.errors import UserError


def fill_words(table: nn.Embedding, path: str, ids: Mapping[str, int]) -> None:
    """Put pre-trained vectors into the rows of their words.

    Args:
        table: which is filled in place.
        path: of the vectors; "none" for none.
        ids: of the words.

    Raises:
        UserError: see `read_vectors`, or vectors of another width.
    """
    for word, vector in read_vectors(path, ids.keys()).items():
        if len(vector) != table.embedding_dim:
            raise UserError(
                f"model.word_vectors: {path} has vectors of {len(vector)} numbers, and the system has words of "
                f"{table.embedding_dim}; choose a file of that width"
            )
        table.weight.data[ids[word]] = torch.tensor(vector)


def bidirectional(lstm: nn.LSTM, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Run a bidirectional LSTM over right-padded sequences; the backward direction begins at the last real row.

    Args:
        lstm: of one layer.
        rows: (N, L, C).
        mask: (N, L), True for a real row. A sequence without any is run as one of its first row.

    Returns:
        The states (N, L, 2 H), zeros at padding, and the last states of both directions (N, 2 H).
    """
    lengths = mask.sum(dim=1).clamp(min=1).cpu()
    packed = pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
    states, (last, _) = lstm(packed)
    padded, _ = pad_packed_sequence(states, batch_first=True, total_length=rows.shape[1])
    return padded, torch.cat([last[0], last[1]], dim=-1)


def draw_lstm(lstm: nn.LSTM) -> None:
    """Draw matrices from U(+-sqrt(6 / (rows + columns))), with biases of 0, but 1 for the forget gate."""
    for name, parameter in lstm.named_parameters():
        if parameter.ndim == 2:
            gates = parameter.data.chunk(4)
            for gate in gates:
                nn.init.xavier_uniform_(gate)
        else:
            nn.init.zeros_(parameter)
            if name.startswith("bias_ih"):
                size = len(parameter) // 4
                nn.init.ones_(parameter.data[size : 2 * size])


class CharacterCNN(nn.Module):
    """A word as the largest values of a convolution over its characters (Ma and Hovy, ACL 2016).

    Args:
        count: ids of characters; 0 pads.
        width: of a character's vector.
        filters: of the convolution, which is the width of the output.
        dropout: of the characters' vectors.
        mask: False takes padding for characters, as published code does, so that a word depends on the longest one
            beside it.
    """

    def __init__(
        self, count: int, width: int = 30, filters: int = 30, dropout: float = 0.5, *, mask: bool = True
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(count, width, padding_idx=0)
        bound = (3 / width) ** 0.5
        nn.init.uniform_(self.table.weight, -bound, bound)
        nn.init.zeros_(self.table.weight[0])
        self.dropout, self.convolution = nn.Dropout(dropout), nn.Conv1d(width, filters, kernel_size=3, padding=1)
        self.width, self.mask = filters, mask

    def forward(self, characters: Tensor) -> Tensor:
        """Vectors (N, filters) of words, whose characters are (N, S)."""
        found = self.convolution(self.dropout(self.table(characters)).transpose(1, 2))
        mask = characters > 0 if self.mask else torch.ones_like(characters, dtype=torch.bool)
        found = found.masked_fill(~(mask | ~mask.any(dim=1, keepdim=True))[:, None], -torch.inf)
        largest: Tensor = found.max(dim=2).values
        return largest


class CharacterLSTM(nn.Module):
    """A word as the last states of both directions of an LSTM over its characters (Lample et al., NAACL 2016).

    Args:
        count: ids of characters; 0 pads.
        width: of a character's vector, and of each direction.
    """

    def __init__(self, count: int, width: int = 25) -> None:
        super().__init__()
        self.table = nn.Embedding(count, width, padding_idx=0)
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        draw_lstm(self.lstm)
        self.width = 2 * width

    def forward(self, characters: Tensor) -> Tensor:
        """Vectors (N, 2 width) of words, whose characters are (N, S)."""
        return bidirectional(self.lstm, self.table(characters), characters > 0)[1]
