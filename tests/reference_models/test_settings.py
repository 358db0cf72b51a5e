"""Settings: shipped files have the values of the paper, the command line overrides them, lookup by name."""

from pathlib import Path

import pytest

from reference_models.config import RunConfig
from reference_models.data.formats import get_format
from reference_models.data.samples import Sample
from reference_models.errors import UserError
from reference_models.settings import CONFIGS, find_config, read_settings
from reference_models.systems import get_system
from reference_models.systems.bert import BERTConfig
from reference_models.systems.i2srm import RELEASE, I2SRMConfig
from reference_models.systems.maf import MAFConfig


@pytest.mark.parametrize(
    ("name", "epochs", "batch"), [("mnre", 25, 16), ("twitter2015", 30, 8), ("twitter2017", 30, 8)]
)
def test_shipped_files_have_the_settings_of_the_paper(name: str, epochs: int, batch: int) -> None:
    config = read_settings(name)
    training, model = config.training, config.model
    assert isinstance(model, I2SRMConfig)
    assert (training.epochs, training.batch_size, training.warmup) == (epochs, batch, 0.06)
    assert (model.text, model.vision, model.semantic_weight, model.attn_mixup) == (
        "roberta-large",
        "resnet50",
        0.5,
        True,
    )
    assert (training.learning_rate, training.weight_decay, config.data.max_length) == (3e-5, 1e-2, 80)


DATA, SYSTEMS = (sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml")) for kind in ("data", "systems"))


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("data", DATA)
def test_every_shipped_system_works_with_every_shipped_data_set(data: str, system: str) -> None:
    config = read_settings(data, system=system)
    assert config.output == f"runs/{data}-{system}"
    assert type(config.model) is get_system(config.system).settings_class
    if data.startswith("synthetic"):
        assert getattr(config.model, "text", "tiny") == config.model.vision == "tiny"


def test_command_line_overrides_files() -> None:
    overrides = ["--training.epochs", "3", "--model.mixup", '{"heads": 2}', "--output", "x"]
    config = read_settings("mnre", overrides)
    assert (config.training.epochs, config.model.mixup, config.output) == (3, {"heads": 2}, "x")


def test_defaults_are_used_without_a_file() -> None:
    assert read_settings(None) == RunConfig("i2srm", I2SRMConfig())


def test_later_sections_override_earlier_ones(tmp_path: Path) -> None:
    """Order: the system file, its section for the task, the data file, its section for the data, the command line."""
    data, system = tmp_path / "mine.yaml", tmp_path / "own.yaml"
    data.write_text("data: {format: mnre}\ntraining: {warmup: 0.3, clip: 3, seed: 3, learning_rates: {vision: 3}}\n")
    system.write_text(
        "system: hvpnet\n"
        "training: {epochs: 1, batch_size: 1, warmup: 0.1, clip: 1, seed: 1, learning_rates: {head: 1}}\n"
        "tasks: {re: {training: {batch_size: 2, warmup: 0.2, clip: 2, seed: 2}}, ner: {training: {epochs: 9}}}\n"
        "data_sets: {mine: {training: {clip: 4, seed: 4}}, other: {training: {epochs: 9}}}\n"
    )
    training = read_settings(data, ["--training.seed", "5"], system=system).training
    assert (training.epochs, training.batch_size, training.warmup, training.clip, training.seed) == (1, 2, 0.3, 4, 5)
    assert training.learning_rates == {"head": 1, "vision": 3}


def test_data_file_settings_that_a_system_lacks_are_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mine.yaml").write_text("model: {prefix: release, head_dropout: 0.2}\n")
    assert read_settings(tmp_path / "mine.yaml", system="bert").model.head_dropout == 0.2
    assert caplog.messages == [f"{tmp_path}/mine.yaml: the system bert has no setting model.prefix; it is ignored"]
    (tmp_path / "mine.yaml").write_text("model: {prefiks: release}\n")
    with pytest.raises(UserError, match=r"mine\.yaml: the system i2srm has no setting model\.prefiks; did you"):
        read_settings(tmp_path / "mine.yaml")


def test_file_with_a_system_is_used_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("system: bert\nmodel: {tag_head: softmax}\noutput: here\n")
    config = read_settings(tmp_path / "mine.yaml")
    assert config == RunConfig("bert", BERTConfig(tag_head="softmax"), "here")
    assert read_settings(tmp_path / "mine.yaml", system="hvpnet").system == "hvpnet"
    with pytest.raises(UserError, match=r"the system bert has no setting model\.prefix; did you mean"):
        read_settings(tmp_path / "mine.yaml", ["--model.prefix", "paper"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("i2rsm", "unknown system 'i2rsm', expected one of .*i2srm"),
        ("no.such.module:umt", r"the module no\.such\.module cannot be imported"),
    ],
)
def test_unknown_system_raises(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"system: {name}\n")
    with pytest.raises(UserError, match=message):
        read_settings(tmp_path / "mine.yaml")


def test_local_file_takes_precedence_over_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnre").write_text("output: mine\n")
    monkeypatch.chdir(tmp_path)
    assert read_settings("mnre").output == "mine"
    assert find_config("twitter2015.yaml", "data") == CONFIGS / "data" / "twitter2015.yaml"
    with pytest.raises(UserError, match=r"data set 'twitter2016', .*\(there is none at twitter2016\); did you mean"):
        find_config("twitter2016", "data")
    with pytest.raises(UserError, match=r"system 'hvpnett', .*, or the path of a YAML file .* mean hvpnet"):
        find_config("hvpnett", "systems")


@pytest.mark.parametrize(
    "text",
    ["data: [1\n", "3\n", "data:\n  rooot: x\n", "training:\n  epochs: many\n", "\x00", "data: null\n", "model:\n"],
)
def test_invalid_file_raises_a_one_line_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=r"mine\.yaml") as error:
        read_settings(tmp_path / "mine.yaml", [])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training.epochs", "many", "training.epochs must be a whole number, got many"),
        ("training.learning_rate", "x", "training.learning_rate must be a number, got x"),
        ("training.learning_rates", "{head: x}", "training.learning_rates must be a number, got x"),
        ("model.freeze_image_backbone", "maybe", "model.freeze_image_backbone must be true or false, got maybe"),
        ("model.mixup", "3", "model.mixup must be a mapping, as in {key: value}, got 3"),
        ("data.label_scheme", "x14", "data.label_scheme must be one of 'bio', 'x13', got x14"),
        ("training.threads", "two", "training.threads must be a whole number or 'measured', got two"),
        ("model.pair", "both", "model.pair must be one of 'mean', 'marker', got both"),
    ],
)
def test_value_of_a_wrong_type_raises_a_plain_message(key: str, value: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read_settings("mnre", [f"--{key}", value])
    assert str(error.value) == f"settings from mnre and the command line: {message}"


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("format", "jsnl", "unknown data format 'jsnl', expected one of .*; did you mean jsonl"),
        ("task", "nre", "unknown task 'nre', expected one of ner, re"),
    ],
)
def test_unknown_data_format_or_task_error_names_the_file(key: str, name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"data: {{{key}: {name}}}\n")
    for system in (None, "bert"):
        with pytest.raises(UserError, match=rf"^settings from .*mine\.yaml and the command line: {message}"):
            read_settings(tmp_path / "mine.yaml", system=system)
    with pytest.raises(UserError, match=rf"^settings from mnre and the command line: {message}"):
        read_settings("mnre", [f"--data.{key}", name])


def test_data_folder_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("posts", "mnre"):
        (tmp_path / folder).mkdir()
        for split in ("train", "valid", "test"):
            (tmp_path / folder / f"{split}.jsonl").touch()
    config = read_settings("posts", ["--training.epochs", "3"], system="bert")
    assert (config.data.format, config.data.root, config.output) == ("jsonl", "posts", "runs/posts-bert")
    assert config.training.epochs == 3
    monkeypatch.chdir(tmp_path / "posts")
    assert read_settings(".").output == "runs/posts-i2srm"
    monkeypatch.chdir(tmp_path)
    assert read_settings("mnre").data.format == "mnre"  # shipped files take precedence over folders
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^empty: expected files that match one data format"):
        read_settings("empty")


def test_release_file_matches_the_release_preset() -> None:
    model = read_settings("mnre", system="i2srm-release").model
    assert {key: getattr(model, key) for key in RELEASE} == RELEASE
    assert model.freeze_image_backbone


@pytest.mark.parametrize(("data", "dropout"), [("twitter2015", 0.1), ("twitter2017", 0.1), ("mnre", 0.0)])
def test_hvpnet_decays_all_parameters_and_drops_out_before_the_tags_only(data: str, dropout: float) -> None:
    config = read_settings(data, system="hvpnet")
    assert config.training.decay_all
    assert config.model.head_dropout == dropout


@pytest.mark.parametrize(("system", "epochs"), [("umt", (24, 22)), ("adapcoatt", (24, 22)), ("maf", (24, 23))])
def test_published_epochs_differ_between_both_twitter_data_sets(system: str, epochs: tuple[int, int]) -> None:
    read = [read_settings(f"twitter{year}", system=system).training.epochs for year in (2015, 2017)]
    assert read == list(epochs)


@pytest.mark.parametrize(("data", "sentence"), [("twitter2015", "pooler"), ("synthetic-ner", "first")])
def test_maf_aligns_the_pooled_sentence_where_the_pooler_is_pretrained(data: str, sentence: str) -> None:
    model = read_settings(data, system="maf").model
    assert isinstance(model, MAFConfig)
    assert model.sentence == sentence


@pytest.mark.parametrize(("system", "frozen"), [("i2srm", "false"), ("bert", "true")])
def test_feature_cache_needs_images_and_a_frozen_backbone(system: str, frozen: str) -> None:
    overrides = ["--data.feature_cache", "x", "--model.freeze_image_backbone"]
    assert read_settings(None, [*overrides, "true"]).data.feature_cache == "x"
    with pytest.raises(UserError, match=r"data\.feature_cache .* needs a system that reads images") as error:
        read_settings("mnre", [*overrides, frozen], system=system)
    assert "\n" not in str(error.value)


def test_backbone_train_mode_needs_a_frozen_backbone_without_cache() -> None:
    drifting = ["--model.backbone_train_mode", "true"]
    assert read_settings("mnre", drifting, system="hvpnet").model.backbone_train_mode
    with pytest.raises(UserError, match=r"data\.feature_cache stores features .* with model\.backbone_train_mode=true"):
        read_settings("mnre", [*drifting, "--data.feature_cache", "x"], system="hvpnet")
    with pytest.raises(UserError, match=r"model\.backbone_train_mode is for a frozen image backbone"):
        read_settings("mnre", [*drifting, "--model.freeze_image_backbone", "false"], system="hvpnet")


@pytest.mark.parametrize("section", ["data", "model", "training", "grounding"])
def test_empty_section_raises(section: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"{section}: null\n")
    with pytest.raises(UserError, match=rf"mine\.yaml.*: {section} contains no settings \(null\); add some"):
        read_settings(tmp_path / "mine.yaml", [])


def test_list_as_a_section_raises(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: [1, 2]\n")
    with pytest.raises(UserError, match=r"data contains no settings \(\[1, 2\]\); add some, or remove the section$"):
        read_settings(tmp_path / "mine.yaml", [])


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("training: {epochs: 1}\noutput: x\ntraining: {seed: 1}\n", "training", "line 1 and again in line 3"),
        ("training:\n  epochs: 1\n  'epochs': 2\n", "epochs", "line 2 and again in line 3"),
        ("model:\n  mixup:\n    - {heads: 1, heads: 2}\n", "heads", "line 3 and again in line 3"),
    ],
)
def test_duplicate_key_in_a_file_raises(text: str, key: str, lines: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"mine\.yaml: the key '{key}' is in {lines}; merge the two, or remove one$"):
        read_settings(tmp_path / "mine.yaml")


def test_key_may_override_a_merged_key(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "data: {root: &root x}\n"
        "training:\n"
        "  learning_rates: &rates {<<: &other {head: 1, vision: 1}, head: 2}\n"
        "model:\n"
        "  mixup: {<<: [*rates, *other], vision: 3, root: *root}\n"
    )
    config = read_settings(tmp_path / "mine.yaml")
    assert config.training.learning_rates == {"head": 2, "vision": 1}
    assert config.model.mixup == {"head": 2, "vision": 3, "root": "x"}


def test_python_tags_in_a_file_are_not_executed(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"output: !!python/object/apply:os.mkdir [{tmp_path}/made]\n")
    with pytest.raises(UserError, match=r"mine\.yaml: expected a YAML file"):
        read_settings(tmp_path / "mine.yaml")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("seed", ["-1", "4294967296", "5000000000"])
def test_invalid_seed_raises(seed: str) -> None:
    with pytest.raises(UserError, match=rf"training\.seed must be a whole number from 0 to 4294967295, got {seed}$"):
        read_settings("mnre", ["--training.seed", seed])
    assert read_settings("mnre", ["--training.seed", "4294967295"]).training.seed == 2**32 - 1


def test_help_shows_the_values_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    before = read_settings("twitter2017")
    with pytest.raises(SystemExit, match="0"):
        read_settings("twitter2017", ["--help", "--training.epochs", "7", "--training.learning_rates.head", "0.25"])
    text = " ".join(capsys.readouterr().out.split())
    for key, value in {
        "training.epochs EPOCHS Passes over the training split. (type: int": "7",
        "training.batch_size BATCH_SIZE Mini-batch size per process. (type: int": "8",
        "output OUTPUT run directory (type: str": before.output,
    }.items():
        assert f"--{key}, default: {value})" in text
    assert "default: roberta-large)" in text
    assert "default: {'head': 0.25})" in text
    assert read_settings("twitter2017") == before  # the help does not change the defaults of the parser


def test_system_section_follows_the_task_of_the_data(tmp_path: Path) -> None:
    sample = Sample("0", ("Ann", "lives", "in", "Rome"), head=(0, 1), tail=(3, 4), relation="lives_in")
    (tmp_path / "relations").mkdir()
    get_format("jsonl").write(tmp_path / "relations", {"train": [sample]}, ["lives_in"])
    root = ["--data.root", str(tmp_path / "relations")]
    training = read_settings(tmp_path / "relations", system="hvpnet").training
    assert (training.epochs, training.learning_rates) == (15, {"head": 3e-5})
    for option in (["--data.format", "jsonl"], ["--data.format=jsonl"]):
        assert read_settings("twitter2017", [*option, *root], system="hvpnet").training.epochs == 15
    assert read_settings(tmp_path / "relations", ["--data.task", "ner"], system="hvpnet").training.epochs == 30
    assert read_settings("twitter2017", ["--data.format", "jsonl"], system="hvpnet").training.epochs == 30
