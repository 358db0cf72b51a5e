"""Finished runs on tiny synthetic sets whose first test sentence contains HTML: two of I2SRM and one text-only.

Another run, of ITA, reads texts about images."""

from ast import literal_eval
from pathlib import Path

import pytest

from reference_models.data.synthetic import generate
from reference_models.settings import read_settings
from reference_models.training.run import train
from tests.reference_models.page_parser import HOSTILE

SIZES = {"train": 32, "valid": 8, "test": 24}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("report")
    for task, file in (("ner", "test.txt"), ("re", "txt/ours_test.txt")):
        data = root / task / "posts"
        generate(data, task, 0, SIZES)
        text = data / file
        first, rest = text.read_text().split("\n\n" if task == "ner" else "\n", maxsplit=1)
        if task == "ner":
            sentence = f"{first}\n{HOSTILE}\tO\n\n{rest}"
        else:
            row = literal_eval(first)
            sentence = f"{row | {'token': [*row['token'], HOSTILE]}!r}\n{rest}"
        text.write_text(sentence)
    for name, task, system in (("ner", "ner", "i2srm"), ("re", "re", "i2srm"), ("text-only", "ner", "text-only")):
        basis = ["--data.root", str(root / task / "posts"), "--output", str(root / "runs" / name)]
        sizes = ["--training.epochs", "2", "--training.batch_size", "8"]
        train(read_settings(f"synthetic-{task}", [*basis, *sizes], system=system))
    return {name: root / "runs" / name for name in ("ner", "re", "text-only")}


@pytest.fixture(scope="session")
def run_with_texts(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ITA, which reads tags of the image, on the data of the other entity runs."""
    root = read_settings(runs["ner"] / "config.yaml").data.root
    output = tmp_path_factory.mktemp("texts") / "run"
    basis = ["--data.root", root, "--output", str(output), "--model.texts", '["tags", "caption"]']
    train(read_settings("synthetic-ner", [*basis, "--training.epochs", "2"], system="ita"))
    return output
