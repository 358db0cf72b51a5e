"""Cached features on disk: rows are read back unchanged, and damaged files raise an error."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference_models.data.features import (
    BLANK,
    KEY,
    FeatureCache,
    Index,
    content_key,
    path_key,
    read_index,
    shard_file,
    write_shard,
)
from reference_models.errors import UserError

# Some keys end with zero bytes, which a NumPy byte string would strip.
keys = st.lists(st.integers(0, 3).map(lambda n: bytes([n, 0, 1, *[0] * 13])) | st.binary(min_size=16, max_size=16))


def write(folder: Path, sizes: dict[int, int], width: int = 6) -> dict[Path, torch.Tensor]:
    """Write shards of random cells with path keys; images are named by shard and row. Returns the cells by path."""
    generator = np.random.default_rng(0)
    rows: dict[Path, torch.Tensor] = {}
    for number, size in sizes.items():
        cells = generator.normal(size=(size, 4, width)).astype(np.float32)
        paths = [Path(f"{number}-{row}.jpg") for row in range(size)]
        write_shard(shard_file(folder, number), np.array([path_key(path) for path in paths], KEY), cells)
        rows |= dict(zip(paths, torch.tensor(cells), strict=True))
    return rows


def make_cache(folder: Path) -> FeatureCache:
    return FeatureCache({"cells": (folder, read_index(folder))}, {"cells": "all"})


@given(known=keys, requested=keys)
def test_index_matches_a_dictionary(known: list[bytes], requested: list[bytes]) -> None:
    places = {key: (number, 2 * number) for number, key in enumerate(known)}
    index = Index.make(np.array(list(places), KEY), np.array(list(places.values())).reshape(-1, 2))
    found = index.find(np.array([*known, *requested], KEY))
    assert [tuple(place) for place in found.tolist()] == [places.get(key, (-1, -1)) for key in [*known, *requested]]


def test_path_keys_depend_on_names_and_content_keys_on_bytes(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1"), ("d", b"")):
        (tmp_path / name).write_bytes(content)
    contents = [content_key(tmp_path / name) for name in "abcd"]
    assert contents[0] == contents[2]
    assert len({*contents, content_key(None)}) == 4
    assert len({path_key(tmp_path / name) for name in "abcd"}) == 4
    assert content_key(None) == path_key(None) == BLANK
    assert path_key(Path("caf\udce9.jpg"))  # a name that is not valid UTF-8


def test_rows_are_read_in_any_order(tmp_path: Path) -> None:
    rows = write(tmp_path, {0: 3, 2: 1, 11: 4})
    cache = make_cache(tmp_path)
    paths = random.Random(0).choices(list(rows), k=20)
    assert torch.equal(cache.read(paths)["image_cells"], torch.stack([rows[path] for path in paths]))
    with pytest.raises(ValueError, match=r"9-9\.jpg is not among the images"):
        cache.read([paths[0], Path("9-9.jpg")])


def test_interrupted_write_adds_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {0: 3})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, {1: 2})
    assert len(read_index(tmp_path).keys) == 3
    write(tmp_path, {1: 2})
    assert len(read_index(tmp_path).keys) == 5
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:100],
        lambda whole: whole[:-1],
        lambda whole: whole + b"\0",
        lambda whole: b"\xff" * 8 + whole[8:],
        lambda whole: whole.replace(b"features", b"featured"),
    ],
    ids=["empty", "truncated header", "truncated data", "trailing byte", "header too long", "wrong tensor name"],
)
def test_damaged_shard_raises_a_one_line_error(damage: object, tmp_path: Path) -> None:
    write(tmp_path, {0: 3, 1: 3})
    cache = make_cache(tmp_path)
    file = shard_file(tmp_path, 1)
    file.write_bytes(damage(file.read_bytes()))
    for read in (lambda: read_index(tmp_path), lambda: cache.read([Path("1-0.jpg")])):
        with pytest.raises(UserError, match=r"shard-000001\.safetensors is a damaged feature file .*delete") as error:
            read()
        assert "\n" not in str(error.value)
    cache.read([Path("0-0.jpg")])
    file.unlink()
    assert len(read_index(tmp_path).keys) == 3


def test_every_changed_byte_of_a_row_is_detected(tmp_path: Path) -> None:
    write(tmp_path, {0: 2})
    index = read_index(tmp_path)
    file = shard_file(tmp_path, 0)
    whole = file.read_bytes()
    data = range(8 + int.from_bytes(whole[:8], "little"), len(whole))
    detected = 0
    for place in data:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        cache = FeatureCache({"cells": (tmp_path, index)}, {"cells": "all"})
        try:
            cache.read([Path("0-0.jpg")])
        except UserError as error:
            assert "row 0 does not match its checksum" in str(error)  # noqa: PT017
            detected += 1
        else:
            with pytest.raises(UserError, match="row 1"):
                cache.read([Path("0-1.jpg")])
    assert detected == len(data) // 2


def private_memory() -> int:
    """Anonymous memory of this process in bytes, that is, memory not backed by a file."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc/self/status is not available")
def test_reading_rows_does_not_load_whole_shards(tmp_path: Path) -> None:
    rows = write(tmp_path, {0: 512, 1: 512}, width=4096)
    cache = make_cache(tmp_path)
    paths = list(rows)[::100]
    del rows
    before = private_memory()
    for path in paths:
        cache.read([path])
    assert private_memory() - before < 8e6 < shard_file(tmp_path, 0).stat().st_size / 4


def test_pickled_cache_contains_only_the_index(tmp_path: Path) -> None:
    rows = write(tmp_path, {0: 100, 1: 100}, width=512)
    cache = make_cache(tmp_path)
    cache.read(list(rows))
    sent = pickle.dumps(cache)
    assert len(sent) < 200 * 24 + 2000
    received = pickle.loads(sent)
    torch.testing.assert_close(received.read(list(rows)), cache.read(list(rows)), atol=0, rtol=0)
