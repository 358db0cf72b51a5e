"""The files, functions and layers named in docs/architecture.md exist."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "reference_models"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^\| \d+ \| `([^`]+)` \| (.+) \|$", PAGE, flags=re.MULTILINE)


def module_of(path: str) -> object:
    return import_module("reference_models." + path.removesuffix(".py").replace("/", "."))


def test_steps_of_a_sample_name_existing_files_and_functions() -> None:
    assert 8 <= len(STEPS) <= 12
    for path, description in STEPS:
        names = [
            name for name in re.findall(r"`([A-Za-z_.]+)`", description) if name.split(".")[0] in dir(module_of(path))
        ]
        assert names, path
        for name in names:
            thing = module_of(path)
            for part in name.split("."):
                thing = getattr(thing, part)
    assert all(
        (PACKAGE / path).is_file()
        for path in re.findall(r"`((?:[a-z0-9_]+/)+[a-z0-9_]+\.py)`", PAGE.split("## reference_models")[1])
        if not path.startswith("tests/")
    )


def test_extension_points_exist() -> None:
    rows = re.findall(r"^\| [a-z ]+ \| (.+) \| `([\w.]+)` \| `([\w./]+)` \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 5
    for base, register, test in rows:
        names = [register, *re.findall(r"`([\w.]+)`", base)]
        assert all(
            hasattr(import_module(f"reference_models.{name.rpartition('.')[0]}"), name.rpartition(".")[2])
            for name in names
        )
        assert (ROOT / test).is_file()


def test_layers_match_the_import_contract() -> None:
    shown = re.search(r"```\n(cli -> .*?)```", PAGE, flags=re.DOTALL).group(1)
    layers = [sorted(re.split(r",\s*", layer.strip())) for layer in shown.split("->")]
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    assert layers == [sorted(layer.split(" | ")) for layer in contract if layer != "__main__"]
