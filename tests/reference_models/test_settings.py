"""Settings: shipped files hold the paper's numbers, the command line changes them, files are found by name."""

from pathlib import Path

import pytest

from reference_models.config import RunConfig
from reference_models.errors import UserError
from reference_models.settings import CONFIGS, find_config, read_settings
from reference_models.systems.configuration import RELEASE


@pytest.mark.parametrize(
    ("name", "epochs", "batch"), [("mnre", 25, 16), ("twitter2015", 30, 8), ("twitter2017", 30, 8)]
)
def test_the_paper_is_in_the_files(name: str, epochs: int, batch: int) -> None:
    config = read_settings(find_config(f"configs/{name}.yaml"), [])
    training, model = config.training, config.model
    assert (training.epochs, training.batch_size, training.warmup) == (epochs, batch, 0.06)
    assert (model.text, model.vision, model.semantic_weight, model.attn_mixup) == (
        "roberta-large",
        "resnet50",
        0.5,
        True,
    )
    assert (training.learning_rate, training.weight_decay, config.data.max_length) == (3e-5, 1e-2, 80)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_file_reads(path: Path) -> None:
    assert read_settings(path, []).output.startswith("runs/")


def test_the_command_line_comes_last() -> None:
    config = read_settings(
        find_config("mnre"), ["--training.epochs", "3", "--model.mixup", '{"heads": 2}', "--output", "x"]
    )
    assert (config.training.epochs, config.model.mixup, config.output) == (3, {"heads": 2}, "x")


def test_without_a_file_the_defaults_hold() -> None:
    assert read_settings(None, []) == RunConfig()


def test_a_file_of_ones_own_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mnre.yaml").write_text("output: mine\n")
    monkeypatch.chdir(tmp_path)
    assert read_settings(find_config("configs/mnre.yaml"), []).output == "mine"
    assert find_config("twitter2015") == CONFIGS / "twitter2015.yaml"


@pytest.mark.parametrize(
    "text",
    ["data: [1\n", "3\n", "data:\n  rooot: x\n", "training:\n  epochs: many\n", "\x00", "data: null\n", "model:\n"],
)
def test_a_wrong_file_is_one_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=r"mine\.yaml") as error:
        read_settings(tmp_path / "mine.yaml", [])
    assert "\n" not in str(error.value)


def test_the_release_is_in_its_file() -> None:
    model = read_settings(find_config("mnre-release"), []).model
    assert {key: getattr(model, key) for key in RELEASE} == RELEASE
    assert model.freeze_image_backbone


@pytest.mark.parametrize("option", ["--model.visual", "--model.freeze_image_backbone"])
def test_a_feature_cache_needs_a_frozen_image_backbone(option: str) -> None:
    overrides = ["--data.feature_cache", "x", "--model.freeze_image_backbone", "true", option]
    assert read_settings(None, [*overrides, "true"]).data.feature_cache == "x"
    with pytest.raises(UserError, match=r"data\.feature_cache .* needs model\.visual=true and model\.freeze") as error:
        read_settings(None, [*overrides, "false"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("section", ["data", "model", "training", "grounding"])
def test_an_empty_section_is_named(section: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"{section}: null\n")
    with pytest.raises(UserError, match=rf"mine\.yaml.*: {section} holds no settings \(null\); give it some"):
        read_settings(tmp_path / "mine.yaml", [])


def test_a_section_that_is_a_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: [1, 2]\n")
    with pytest.raises(UserError, match=r"data holds no settings \(\[1, 2\]\); give it some, or leave it out$"):
        read_settings(tmp_path / "mine.yaml", [])
