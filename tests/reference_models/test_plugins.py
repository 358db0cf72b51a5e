"""A data format with a label set, a detector and a metric from outside the package, through the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import reference_models

PLUGIN = '''
from reference_models.data.bio import check_tag
from reference_models.data.formats import DataFormat, Layout, register_format
from reference_models.data.samples import Sample, read_lines
from reference_models.grounding.boxes import Box
from reference_models.grounding.detectors import register_detector
from reference_models.tasks.metrics import register_metric


@register_format("slashes")
class Slashes(DataFormat):
    """A sentence on each line, as in "a.png Ann/B-singer sings/O"."""

    task = "ner"

    def layout(self, root, split):
        return Layout((root / f"{split}.slashes",), root, root / "crops" / split, (root / f"{split}_crops.pth",))

    def read(self, root, split, *, pairs=None, visual=True, max_crops=3):
        place = self.layout(root, split)
        names = self.crop_names(root, split, max_crops) if visual else {}
        for number, line in enumerate(read_lines(place.labels[0])):
            image, *pieces = line.split()
            words, tags = zip(*(piece.split("/") for piece in pieces))
            crops = tuple(place.crops / name for name in names.get(number, ()))
            yield Sample(f"{split}:{number + 1}", words, root / image if visual else None, crops, tags)


@register_detector("corner")
def load_corner(config):
    class Corner:
        name, version, takes_phrases = "corner", "1", False

        def detect(self, images, phrases):
            return [[Box(0, 0, 16, 16, 1.0)] for _ in images]

    return Corner()


@register_metric("exact_match", "ner")
def exact_match(true, predicted):
    return sum(map(list.__eq__, true, predicted)) / len(true)
'''
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


def test_what_others_register_works_from_the_check_to_the_prediction(install: Path) -> None:
    (install / "toy.py").write_text(PLUGIN)
    ran = run(install, "-c", COMMANDS, str(install))
    assert ran.returncode == 0, ran.stderr


def test_a_plug_in_that_cannot_be_imported_is_named(install: Path) -> None:
    (install / "toy.py").write_text("import not_there")
    ran = run(install, "-m", "reference_models", "data", "check", str(install))
    assert ran.returncode == 2
    assert "the plug-in toy cannot be loaded (ModuleNotFoundError: No module named 'not_there')" in ran.stderr
