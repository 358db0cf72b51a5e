"""The whole pipeline works inside a folder with a non-UTF-8 name; such a setting raises before training."""

import json
import os
from pathlib import Path

import pytest

from reference_models.cli import main
from reference_models.data.synthetic import generate

NAME = os.fsdecode(b"caf\xe9 $x_$")  # Latin-1, and characters that start a formula in matplotlib


@pytest.mark.parametrize(("task", "pair"), [("ner", []), ("re", ["--head", "Ruby", "--tail", "Vex"])])
def test_folder_with_a_non_utf8_name(
    task: str, pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        (tmp_path / NAME).mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    generate(tmp_path / NAME / "posts", task, 0, {"train": 8, "valid": 4, "test": 4})
    options = ["--training.epochs", "1", "--output", "$x_$", "--data.root"]
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["train", f"synthetic-{task}", *options, f"{NAME}/posts"]) == 2
    assert "data.root must be UTF-8, got 'caf\\udce9" in capsys.readouterr().err
    assert not (tmp_path / "$x_$").exists()

    monkeypatch.chdir(tmp_path / NAME)
    run = Path("$x_$")
    assert main(["train", f"synthetic-{task}", *options, "posts"]) == 0
    rows = [json.loads(line) for line in (run / "predictions_test.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(Path(row["image"]).is_file() for row in rows)
    assert main(["evaluate", str(run)]) == 0
    assert main(["report", str(run)]) == 0
    assert main(["predict", str(run), "--text", "Ruby Vex", "--image", os.path.abspath(rows[0]["image"]), *pair]) == 0
