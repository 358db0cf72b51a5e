"""Mutated input files give samples or one UserError that names the file, and never another exception."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_models.config import RunConfig
from reference_models.data.formats.mnre import Mnre, read_relations
from reference_models.data.formats.twitter import Twitter
from reference_models.data.synthetic import generate
from reference_models.data.tokenizer import learn_tokenizer
from reference_models.errors import UserError
from reference_models.settings import CONFIGS, read_settings
from reference_models.tasks import NamedEntities, Relations
from reference_models.tasks.ner import tags_of
from reference_models.tasks.processor import Processor

TAGS = tuple(tags_of(("PER", "LOC", "ORG", "MISC")))

EXAMPLES = settings(max_examples=2000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 40)
PIECES = [
    b"",
    b"\n",
    b"\t",
    b"'",
    b"{",
    b"]",
    b"\\",
    b":",
    b"IMGID:",
    b"None",
    b"-1",
    b"1e999",
    b"B-PER",
    b"\xff",
    b"\x00",
]
PIECES += [b"\xef\xbb\xbf", b"\xe2\x80\x8b", b"lambda: 0", b"__import__('os')", b"(" * 300, b"&a [*a]", b"9" * 5000]
edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(PIECES) | st.binary(max_size=6)),
    min_size=1,
    max_size=5,
)


def mutate(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for place, length, piece in changes:
        start = int(place * len(content))
        content = content[:start] + piece + content[start + length :]
    return content


@contextmanager
def mutated(path: Path, changes: list[tuple[float, int, bytes]]) -> Iterator[None]:
    """Mutate the file inside the context; a UserError must name it in one line."""
    original = path.read_bytes()
    path.write_bytes(mutate(original, changes))
    try:
        yield
    except UserError as error:
        if path.name not in str(error) or "\n" in str(error):
            raise
    finally:
        path.write_bytes(original)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for task in ("ner", "re"):
        generate(folder / task, task, 0, {"train": 3})
    return folder


@EXAMPLES
@given(changes=edits)
def test_mutated_sentences(changes: list[tuple[float, int, bytes]], folder: Path) -> None:
    path = folder / "ner" / "train.txt"
    processor = Processor(
        learn_tokenizer([["so", "Ruby"]] * 3, 60), NamedEntities(TAGS), max_length=20, image_size=None
    )
    with mutated(path, changes):
        samples = list(Twitter().read(folder / "ner", "train"))
        batch = processor.collate([processor.encode(sample) for sample in samples])
        assert batch["labels"].shape == batch["word_mask"].shape


@EXAMPLES
@given(changes=edits, file=st.sampled_from(["txt/ours_train.txt", "ours_rel2id.json"]))
def test_mutated_relations(changes: list[tuple[float, int, bytes]], file: str, folder: Path) -> None:
    path = folder / "re" / file
    with mutated(path, changes):
        relations = read_relations(folder / "re")
        processor = Processor(learn_tokenizer([["so", "Ruby"]] * 3, 60), Relations(list(relations)), image_size=None)
        samples = list(Mnre().read(folder / "re", "train"))
        batch = processor.collate([processor.encode(sample) for sample in samples])
        assert batch["head_mask"].any(dim=1).all()
        assert batch["tail_mask"].any(dim=1).all()


@settings(max_examples=EXAMPLES.max_examples // 4)
@given(changes=edits)
def test_mutated_crop_dictionaries(changes: list[tuple[float, int, bytes]], folder: Path) -> None:
    path = folder / "re" / "txt" / "mre_train_dict.pth"
    with mutated(path, changes):
        assert all(isinstance(crop, Path) for sample in Mnre().read(folder / "re", "train") for crop in sample.crops)
    assert torch.load(path, weights_only=True)


@EXAMPLES
@given(changes=edits, name=st.sampled_from(sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))))
def test_mutated_settings_files(changes: list[tuple[float, int, bytes]], name: str, folder: Path) -> None:
    path = folder / "mine.yaml"
    path.write_bytes((CONFIGS / "data" / f"{name}.yaml").read_bytes())
    with mutated(path, changes):
        assert isinstance(read_settings(path, []), RunConfig)
