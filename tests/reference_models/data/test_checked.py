"""The stored keys of image contents that are known to be readable."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_models.data.checked import FILE, add_checked, read_checked
from reference_models.data.features import KEY
from reference_models.errors import UserError

KEYS = st.lists(st.binary(min_size=16, max_size=16), max_size=6)


@given(first=KEYS, second=KEYS)
def test_added_keys_are_read_sorted_and_without_duplicates(
    first: list[bytes], second: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("checked") / "new"
    assert len(read_checked(folder)) == 0
    for keys in (first, second):
        add_checked(folder, np.array(keys, KEY))
    assert [bytes(key) for key in read_checked(folder)] == sorted({*first, *second})


def test_damaged_file_raises(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"half")
    with pytest.raises(UserError, match=f"{FILE} is damaged; delete it"):
        read_checked(tmp_path)
