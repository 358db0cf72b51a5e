"""The plug-in from the page on extending works with all commands from the check to prediction."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import reference_models

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "extend.md"
COMMANDS = """
import json, sys
from pathlib import Path
from PIL import Image
from reference_models.cli import main

root, run = Path(sys.argv[1]) / "set", Path(sys.argv[1]) / "run"
root.mkdir()
Image.new("RGB", (40, 30), "red").save(root / "a.png")
for split, size in (("train", 16), ("valid", 4), ("test", 4)):
    (root / f"{split}.slashes").write_text("a.png Ann/B-singer Lee/I-singer sings/O\\n" * size)
settings = ["--data.format", "slashes", "--data.root", str(root), "--output", str(run), "--training.epochs", "2"]
assert main(["data", "check", str(root)]) == 0
assert main(["data", "crops", "synthetic-ner", *settings, "--grounding.detector", "corner"]) == 0
assert len(list((root / "crops").rglob("*.png"))) == 24
assert main(["train", "synthetic-ner", *settings]) == 0
assert main(["evaluate", str(run)]) == 0
assert main(["report", str(run)]) == 0
assert main(["predict", str(run), "--text", "Ann Lee sings"]) == 0
scores = json.loads((run / "metrics.json").read_text())["test"]
assert {"singer_f1", "exact_match"} <= set(scores), scores
other = root.with_name("mentions")
assert main(["train", "synthetic-ner", *settings, "--data.task", "mentions", "--output", str(other)]) == 0
assert "entity_f1" in json.loads((other / "metrics.json").read_text())["test"]
assert main(["evaluate", str(other)]) == 0
assert main(["report", str(other)]) == 0
assert main(["predict", str(other), "--text", "Ann Lee sings"]) == 0
"""


@pytest.fixture
def install(tmp_path: Path) -> Path:
    (tmp_path / "toy-1.0.dist-info").mkdir()
    (tmp_path / "toy-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (tmp_path / "toy-1.0.dist-info" / "entry_points.txt").write_text("[reference_models.plugins]\ntoy = toy\n")
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    root = Path(reference_models.__file__).parent.parent
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(root)])}
    return subprocess.run([sys.executable, *command], env=paths, capture_output=True, text=True, check=False)


def test_plugin_of_the_extension_guide_works_in_every_command(install: Path) -> None:
    blocks = re.findall(r"```py\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 4
    (install / "toy.py").write_text("\n\n".join(blocks))
    ran = run(install, "-c", COMMANDS, str(install))
    assert ran.returncode == 0, ran.stderr


def test_plugin_that_cannot_be_imported_raises(install: Path) -> None:
    (install / "toy.py").write_text("import not_there")
    ran = run(install, "-m", "reference_models", "data", "check", str(install))
    assert ran.returncode == 2
    assert "the plug-in toy cannot be loaded (ModuleNotFoundError: No module named 'not_there')" in ran.stderr
