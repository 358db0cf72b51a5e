"""Word embeddings with pre-trained vectors, and character encoders."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from reference_models.data.vectors import read_vectors
from reference_models.errors import UserError


def fill_words(table: nn.Embedding, path: str, ids: Mapping[str, int]) -> None:
    """Copy pre-trained vectors into the rows of their words.

    Args:
        table: Word embeddings, changed in place.
        path: File of the vectors; "none" for no vectors.
        ids: Ids of the words.

    Raises:
        UserError: If the vectors have another width than the embeddings; see also `read_vectors`.
    """
    for word, vector in read_vectors(path, ids.keys()).items():
        if len(vector) != table.embedding_dim:
            raise UserError(
                f"model.word_vectors: {path} has vectors of width {len(vector)}, but the system expects width "
                f"{table.embedding_dim}; choose a file of that width"
            )
        table.weight.data[ids[word]] = torch.tensor(vector)


def bidirectional(lstm: nn.LSTM, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Run a bidirectional LSTM over right-padded sequences; the backward direction starts at the last real row.

    Args:
        lstm: LSTM with one layer.
        rows: (N, L, C).
        mask: (N, L), True for a real row. An empty sequence is treated as a sequence of its first row.

    Returns:
        The states (N, L, 2 H), zeros at padding, and the last states of both directions (N, 2 H).
    """
    lengths = mask.sum(dim=1).clamp(min=1).cpu()
    packed = pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
    states, (last, _) = lstm(packed)
    padded, _ = pad_packed_sequence(states, batch_first=True, total_length=rows.shape[1])
    return padded, torch.cat([last[0], last[1]], dim=-1)


def draw_lstm(lstm: nn.LSTM) -> None:
    """Initialise the gate matrices from U(+-sqrt(6 / (rows + columns))), biases with 0 and the forget gate's with 1."""
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
    """Character encoder of words: max-pooling of a convolution over the characters (Ma and Hovy, ACL 2016).

    Args:
        count: Number of character ids; id 0 is padding.
        width: Width of the character embeddings.
        filters: Filters of the convolution, the width of the output.
        dropout: Dropout of the character embeddings.
        mask: False treats padding as characters, as in published code, so that the vector of a word depends on the
            longest word of the batch.
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
        """Encode words with character ids (N, S) as vectors (N, filters)."""
        found = self.convolution(self.dropout(self.table(characters)).transpose(1, 2))
        mask = characters > 0 if self.mask else torch.ones_like(characters, dtype=torch.bool)
        found = found.masked_fill(~(mask | ~mask.any(dim=1, keepdim=True))[:, None], -torch.inf)
        largest: Tensor = found.max(dim=2).values
        return largest


class CharacterLSTM(nn.Module):
    """Character encoder of words: last states of a bidirectional LSTM over the characters (Lample et al., NAACL 2016).

    Args:
        count: Number of character ids; id 0 is padding.
        width: Width of the character embeddings and of each direction.
    """

    def __init__(self, count: int, width: int = 25) -> None:
        super().__init__()
        self.table = nn.Embedding(count, width, padding_idx=0)
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        draw_lstm(self.lstm)
        self.width = 2 * width

    def forward(self, characters: Tensor) -> Tensor:
        """Encode words with character ids (N, S) as vectors (N, 2 width)."""
        return bidirectional(self.lstm, self.table(characters), characters > 0)[1]
