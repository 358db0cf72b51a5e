"""The example of a Space serves a saved model, needs what the package needs, and says the version of Gradio."""

import importlib.util
import re
import tomllib
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml

from reference_models.data.synthetic import generate
from reference_models.prediction import Predictor
from reference_models.settings import read_settings
from reference_models.training.run import train

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "examples" / "space"


def test_a_saved_model_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install '.[app]'")
    generate(tmp_path / "posts", "ner", 0, {"train": 16, "valid": 4, "test": 4})
    more = ["--data.root", str(tmp_path / "posts"), "--output", str(tmp_path / "run"), "--training.epochs", "1"]
    train(read_settings("synthetic-ner", more))
    Predictor(tmp_path / "run").save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("space", SPACE / "app.py")
    space = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(space)
    with space.serve("127.0.0.1", None) as address:
        page = urlopen(address).read().decode()
    assert "i2srm: i2srm from model" in page
    assert "No examples" not in page
    assert "Predict" in page


def test_it_needs_what_the_package_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["reference"], *extras["app"]]
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    assert lines == [line for line in wanted if not line.startswith("attnmixup")]


def test_its_card_fits() -> None:
    header = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert (SPACE / header["app_file"]).is_file()
    least = next(line for line in (SPACE / "requirements.txt").read_text().splitlines() if line.startswith("gradio"))
    assert re.fullmatch(r"6\.\d+\.\d+", header["sdk_version"])
    assert header["sdk_version"].startswith(least.removeprefix("gradio>="))
