"""The command line: train, evaluate and predict agree; a mistake gives one line, exit code 2 and no files."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from reference_models.cli import main, parse
from reference_models.data.formats.mnre import Mnre
from reference_models.data.formats.twitter import Twitter
from reference_models.data.samples import Sample
from reference_models.data.synthetic import generate
from reference_models.encoders.int8 import Int8Linear, product_is_exact
from reference_models.prediction import Predictor
from reference_models.systems.base import System, SystemOutput
from reference_models.training import products
from reference_models.training.run import PREDICTIONS

SIZES = {"train": 24, "valid": 6, "test": 6}
FILES = {"ner": "train.txt", "re": "txt/ours_train.txt"}


def train_arguments(task: str, root: Path, output: Path, *more: str) -> list[str]:
    overrides = [
        "--data.root",
        str(root),
        "--output",
        str(output),
        "--training.epochs",
        "1",
        "--training.batch_size",
        "8",
    ]
    return ["train", f"synthetic-{task}", *overrides, *more]


@pytest.fixture(scope="session")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for task in FILES:
        generate(folder / task / "posts", task, 0, SIZES)
    return folder


@pytest.fixture(scope="session")
def runs(data_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for task in FILES:
        assert main(train_arguments(task, data_sets / task / "posts", folder / task)) == 0
    return folder


@pytest.mark.parametrize(
    "line",
    [
        "train mnre bert --seeds 1 2 --training.epochs 3 --data.root=x",
        "train --training.epochs 3 --data.root=x mnre bert --seeds 1 2",
        "train --training.epochs 3 mnre --data.root=x bert --seeds 1 2",
    ],
)
def test_settings_can_be_anywhere_on_the_command_line(line: str) -> None:
    options = parse(line.split())
    assert (options.data, options.system, options.seeds) == ("mnre", "bert", [1, 2])
    pairs = " ".join(options.overrides).replace("=", " ").split()
    assert dict(zip(pairs[::2], pairs[1::2], strict=True)) == {"--training.epochs": "3", "--data.root": "x"}


def test_repeated_option_extends_the_first_one() -> None:
    options = parse(["predict", "RUN", "--input", "a", "b", "--input", "c", "--crops", "1", "--crops", "2"])
    assert ([path.name for path in options.input], options.crops) == (["a", "b", "c"], ["1", "2"])
    options = parse(["sweep", "table1", "--seeds", "1", "--data", "mnre", "--seeds", "2", "--data", "twitter2015"])
    assert (options.seeds, options.data, options.systems) == ([1, 2], ["mnre", "twitter2015"], [])
    assert parse(["train", "mnre", "--seeds", "1", "--seeds", "2"]).seeds == [1, 2]


def test_setting_without_a_value_does_not_consume_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    options = parse(["train", "--training.epochs", "--seeds", "1"])
    assert (options.overrides, options.seeds, options.data) == (["--training.epochs"], [1], None)


def test_no_arguments_prints_the_first_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    commands = re.findall(r"^  i2srm (\w+)", capsys.readouterr().out, flags=re.MULTILINE)
    assert commands == ["demo", "data", "train", "report", "predict", "app"]


def test_readme_prediction_example_runs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    block = re.search(r"<!-- predict -->\n```python\n(.*?)```", readme, flags=re.DOTALL)[1]
    exec(block.replace("runs/demo/ner/i2srm", str(runs / "ner")), {})
    assert capsys.readouterr().out.startswith("[")


@pytest.fixture
def copy(data_sets: Path, tmp_path: Path) -> Callable[[str], Path]:
    def make(task: str) -> Path:
        shutil.copytree(data_sets / task, tmp_path / task)
        return tmp_path / task / "posts"

    return make


def error_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that fails and return its one-line error."""
    capsys.readouterr()
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.split("\n") if line.startswith("i2srm: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("task", FILES)
def test_run_writes_model_scores_predictions_and_figure(task: str, runs: Path) -> None:
    run = runs / task
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["samples"] == SIZES
    assert 0 <= metrics["test"]["f1"] <= 1
    assert len((run / PREDICTIONS).read_text().splitlines()) == SIZES["test"]
    assert Image.open(run / "training.png").size[0] > 500
    assert any("semantic_loss" in entry for entry in json.loads((run / "history.json").read_text()))
    assert any(name.startswith("mixer.") for name in load_file(run / "model" / "model.safetensors"))


@pytest.mark.parametrize("task", FILES)
def test_evaluate_prints_the_saved_f1_and_predict_prints_a_result(
    task: str, runs: Path, data_sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs / task
    rows = [json.loads(line) for line in (run / PREDICTIONS).read_text().splitlines()]
    capsys.readouterr()
    assert main(["evaluate", str(run), "--split", "test"]) == 0
    f1 = json.loads((run / "metrics.json").read_text())["test"]["f1"]
    assert f"f1 {100 * f1:.2f}" in capsys.readouterr().out
    row = rows[0]
    arguments = ["predict", str(run), "--text", " ".join(row["words"]), "--image", row["image"]]
    if task == "re":
        head, tail = (" ".join(row["words"][slice(*row[name])]) for name in ("head", "tail"))
        arguments += ["--head", head, "--tail", tail]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("task", FILES)
def test_evaluate_prints_scores_per_class(task: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(runs / task), "--split", "train", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["split"], printed["samples"]) == ("train", SIZES["train"])
    supports = [scores["support"] for scores in printed["classes"].values()]
    assert supports == sorted(supports, reverse=True)
    correct = sum(scores["recall"] * scores["support"] for scores in printed["classes"].values())
    assert printed["scores"]["recall"] == pytest.approx(correct / sum(supports))
    if task == "ner":
        assert all(printed["classes"][kind]["f1"] == printed["scores"][f"{kind}_f1"] for kind in ("PER", "LOC"))
    assert main(["evaluate", str(runs / task), "--split", "train"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(printed["classes"])
    assert [int(line.split()[-3]) for line in lines] == supports


@pytest.mark.parametrize("task", FILES)
def test_metrics_contain_the_environment(task: str, runs: Path) -> None:
    metrics = json.loads((runs / task / "metrics.json").read_text())
    assert metrics["environment"]["torch"] == version("torch")
    assert metrics["environment"]["transformers"] == version("transformers")
    assert metrics["environment"]["device"].startswith(("cpu", "cuda"))
    assert metrics["precision"] == "fp32"
    assert metrics["classes"]["test"]


@pytest.mark.skipif(not product_is_exact(), reason="this CPU has no exact product of int8 matrices")
@pytest.mark.parametrize("command", [["evaluate"], ["predict", "--text", "Ruby Vex"]])
def test_int8_applies_only_to_the_text_encoder(
    command: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    computed: list[Int8Linear] = []
    forward = Int8Linear.forward

    def record_and_compute(layer: Int8Linear, x: torch.Tensor) -> torch.Tensor:
        computed.append(layer)
        return forward(layer, x)

    monkeypatch.setattr(Int8Linear, "forward", record_and_compute)
    for more, number in ([], 0), (["--int8"], 3 * 6):  # three layers with six linear layers each
        computed.clear()
        assert main([command[0], str(runs / "ner"), *command[1:], *more]) == 0
        assert len(set(computed)) == number
        assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("command", [["evaluate"], ["predict", "--text", "Ruby Vex"]])
def test_fast_float32_is_set_only_during_the_forward_pass(
    command: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(products, "medium_error", lambda device: 1e-7)
    held: set[str] = set()
    forward = System.forward

    def record_and_compute(*given: Any, **named: Any) -> SystemOutput:
        held.add(torch.get_float32_matmul_precision())
        return forward(*given, **named)

    monkeypatch.setattr(System, "forward", record_and_compute)
    for more, precision in ([], "highest"), (["--fast-float32"], "medium"):
        held.clear()
        assert main([command[0], str(runs / "ner"), *command[1:], *more]) == 0
        assert held == {precision}
    assert torch.get_float32_matmul_precision() == "highest"
    monkeypatch.setattr(products, "medium_error", lambda device: 1e-3)
    printed = error_line(capsys, [command[0], str(runs / "ner"), *command[1:], "--fast-float32"])
    assert "fast_float32: on this cpu the products would have a relative error of 1e-03" in printed


@pytest.mark.parametrize("command", [["evaluate"], ["predict", "--text", "Ruby Vex"]])
def test_unavailable_int8_gives_a_one_line_error(
    command: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(torch, "_int_mm")
    before = (runs / "ner" / "model" / "model.safetensors").read_bytes()
    assert "int8: this machine has no exact int8 matrix product" in error_line(
        capsys, [command[0], str(runs / "ner"), *command[1:], "--int8"]
    )
    assert (runs / "ner" / "model" / "model.safetensors").read_bytes() == before


def test_loaded_model_gives_the_saved_predictions(runs: Path, data_sets: Path) -> None:
    rows = [json.loads(line) for line in (runs / "ner" / PREDICTIONS).read_text().splitlines()]
    predictions = Predictor(runs / "ner").predict(list(Twitter().read(data_sets / "ner" / "posts", "test")))
    assert [prediction.answer for prediction in predictions] == [row["predicted"] for row in rows]


def test_prediction_changes_with_the_crop(runs: Path, data_sets: Path) -> None:
    words, image = ("Ruby", "Vex", "and", "Jade", "Kol"), next((data_sets / "re/posts/img_org/test").iterdir())
    seen = Sample("x:1", words, image, (image,), head=(0, 2), tail=(3, 5))
    blind = Sample("x:1", words, None, (), head=(0, 2), tail=(3, 5))
    first, second = (one.probabilities for one in Predictor(runs / "re").predict([seen, blind]))
    assert abs(sum(first.values()) - 1) < 1e-5
    assert first != second


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def cut_column(path: Path) -> None:
    first, second, *rest = path.read_text().split("\n")
    path.write_text("\n".join([first, second.split("\t")[0], *rest]))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


RE, RE_CROPS = FILES["re"], "txt/mre_train_dict.pth"
MISTAKES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "one column": ("ner", lambda r: cut_column(r / "train.txt"), r"train\.txt:2: expected a word, a tab and a tag"),
    "unknown tag": ("ner", lambda r: edit(r / "train.txt", "B-PER", "S-PER"), r"train\.txt:\d+: unknown tag 'S-PER'"),
    "empty file": ("ner", lambda r: (r / "valid.txt").write_text(""), r"valid\.txt: the file is empty"),
    "span outside": ("re", lambda r: edit(r / RE, "'pos': [", "'pos': [90, "), r"ours_train\.txt:1: "),
    "inverted span": ("re", lambda r: edit(r / RE, "'pos': [", "'pos': [9, 1] + ["), r"ours_train\.txt:1: "),
    "unknown relation": ("re", lambda r: edit(r / RE, "'relation': '", "'relation': 'x"), r"ours_train\.txt:\d+: .*'x"),
    "code": ("re", lambda r: edit(r / RE, "{'token'", "exit() or {'token'"), r"ours_train\.txt:1: .*literal"),
    "no rows": ("re", lambda r: (r / RE).write_text("\n"), r"ours_train\.txt: the file is empty"),
    "crops of numbers": (
        "re",
        lambda r: torch.save({0: [1]}, r / RE_CROPS),
        r"mre_train_dict\.pth: .*other than strings",
    ),
    "pickled code": (
        "ner",
        lambda r: (r / "posts_train_dict.pth").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR."),
        r"posts_train_dict\.pth: .*not executed",
    ),
    "missing image": (
        "re",
        lambda r: (r / "img_org/train/train_0.jpg").unlink(),
        r"train_0\.jpg: the file does not exist; sample ours_train\.txt:1 ",
    ),
    "truncated image": (
        "ner",
        lambda r: truncate(r.parent / "posts_images/train_0.jpg"),
        r"train_0\.jpg: .*truncated.*; sample train\.txt:1 ",
    ),
    "absent crop": (
        "ner",
        lambda r: (r.parent / "posts_aux_images/train/crops/train_0_crop_0.png").unlink(),
        r"train_0_crop_0\.png: the file does not exist; sample train\.txt:1 ",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_data_mistake_gives_a_one_line_error_and_writes_nothing(
    name: str, copy: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, damage, message = MISTAKES[name]
    root = copy(task)
    damage(root)
    line = error_line(capsys, train_arguments(task, root, tmp_path / "run"))
    assert re.search(message, line), line
    assert not (tmp_path / "run").exists()
    assert not Path("hacked").exists()


@pytest.mark.parametrize(("policy", "left"), [("blank", 24), ("drop", 22)])
def test_bad_images_can_be_blanked_or_dropped_and_are_listed(
    policy: str, left: int, copy: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = copy("ner")
    (root.parent / "posts_images/train_0.jpg").unlink()
    truncate(root.parent / "posts_images/train_1.jpg")
    assert main(train_arguments("ner", root, tmp_path / "run", "--data.bad_images", policy)) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["samples"]["train"] == left
    found = metrics["bad_images"]["train"]["found"]
    assert [Path(bad["file"]).name for bad in found] == ["train_0.jpg", "train_1.jpg"]
    assert found[0]["sample"] == "train.txt:1"
    assert "train_0.jpg" in caplog.text


def test_unusual_but_valid_data_work(copy: Callable[[str], Path], tmp_path: Path) -> None:
    root = copy("re")
    rows = (root / RE).read_text().splitlines()
    rows[0] = rows[0][:-1] + ", 'caption': ['a', 'b'], 'entity': []}"
    rows[1] = rows[1].replace("train_1.jpg", "a name with spaces.jpg")
    (root / RE).write_text("\n".join(rows) + "\n")
    (root / "img_org/train/train_1.jpg").rename(root / "img_org/train/a name with spaces.jpg")
    (root / "txt/ours_val.txt").rename(root / "txt/ours_val .txt")
    crops = torch.load(root / RE_CROPS, weights_only=True)
    torch.save({**crops, 10_000: ["of_no_row.png"]}, root / RE_CROPS)
    assert main(train_arguments("re", root, tmp_path / "run")) == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["--data.rooot", "x"], "rooot"),
        (["--training.epochs", "many"], r"training\.epochs.*many"),
        (["--training.epochs", "0"], r"training\.epochs must be 1 or more and finite, got 0"),
        (["--data.bad_images", "ignore"], "'error', 'blank', 'drop'"),
        (["--model.mixup", '{"sampling_ratio": 1}'], r"model\.mixup .*sampling_ratio"),
        (["--model.mixup", '{"sample_ratio": 7}'], r"model\.mixup .*sample_ratio.*7"),
        (["--model.vision", "resnet51"], "unknown image backbone 'resnet51', expected one of resnet18"),
        (["--model.vision", "resnet18", "--model.vision_weights", "no.pth"], r"model\.vision_weights: .*'no\.pth'"),
        (["--model.text", "no/folder"], r"model\.text: no tokenizer could be loaded from 'no/folder'"),
    ],
)
def test_invalid_setting_gives_a_one_line_error_and_writes_nothing(
    override: list[str], message: str, data_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capsys, train_arguments("re", data_sets / "re" / "posts", tmp_path / "run", *override))
    assert re.search(message, line), line
    assert not (tmp_path / "run").exists()


def test_unknown_key_or_missing_settings_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("data:\n  rooot: x\n")
    assert "rooot" in error_line(capsys, ["train", str(tmp_path / "mine.yaml")])
    assert "mnre, synthetic-ner, synthetic-re" in error_line(capsys, ["train", str(tmp_path / "other.yaml")])


def test_finished_run_is_not_overwritten(runs: Path, data_sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (runs / "ner").rglob("*")}
    assert str(runs / "ner") in error_line(capsys, train_arguments("ner", data_sets / "ner" / "posts", runs / "ner"))
    assert {path: path.stat().st_mtime_ns for path in (runs / "ner").rglob("*")} == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "needs head and tail"),
        (["--head", "Ruby"], "needs head and tail"),
        (["--input", "posts.jsonl"], "give either --text, or --input and --output"),
        (["--head", "Ruby", "--tail", "Kol"], "the tail entity 'Kol' is not in the sentence"),
        (["--head", "Ruby", "--tail", "Vex", "--image", "no.png"], r"no\.png: the file does not exist"),
    ],
)
def test_predict_mistake_gives_a_one_line_error(
    more: list[str], message: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(message, error_line(capsys, ["predict", str(runs / "re"), "--text", "Ruby Vex", *more]))


@pytest.mark.parametrize(("option", "values"), [("--image", ["a.png"]), ("--crops", ["a.png"]), ("--head", ["Ruby"])])
def test_option_for_one_post_with_input_file_raises(
    option: str, values: list[str], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "posts.jsonl").write_text('{"text": "Ruby Vex"}\n')
    files = ["--input", str(tmp_path / "posts.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    line = error_line(capsys, ["predict", str(runs / "ner"), *files, option, *values])
    assert f"{option} is for --text; each post of --input has its own {option[2:]}" in line
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(("more", "code"), [("", 0), ("no json\n", 1)])
def test_input_file_with_an_error_gives_exit_code_1(
    more: str, code: int, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "posts.jsonl").write_text(f'{{"text": "Ruby Vex"}}\n{{"text": "{"Ruby " * 100}"}}\n{more}')
    files = ["--input", str(tmp_path / "posts.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert main(["predict", str(runs / "ner"), *files]) == code
    assert f"{2 + code} posts, {code} of them with an error, 1 longer than the limit" in capsys.readouterr().out


def test_truncated_post_is_reported(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(runs / "ner"), "--text", "x " * 100]) == 0
    assert "the last 22 words are beyond the limit of 80 sub-words and were ignored" in capsys.readouterr().err


def test_predict_accepts_a_run_a_model_folder_or_a_hub_name(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Predictor(runs / "ner").save_pretrained(tmp_path / "saved")
    cached = tmp_path / "hub" / "models--me--posts"
    shutil.copytree(tmp_path / "saved", cached / "snapshots" / "1")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    post = ["--text", "Ruby Vex", "--image", str(tmp_path / "a.png"), "--ground", "--grounding.detector", "centre"]
    outputs = []
    for model in (runs / "ner", runs / "ner" / "model", tmp_path / "saved", "me/posts"):
        assert main(["predict", str(model), *post]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0]
    assert set(outputs) == {outputs[0]}
    (cached / "snapshots" / "1" / "processor.json").unlink()
    line = error_line(capsys, ["predict", "me/posts", *post])
    assert line.endswith("me/posts is on the Hub, but was not saved by i2srm: processor.json is missing")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("empty", "this folder is neither"), ("not_there", "no such folder"), ("me/posts", "the download failed")],
)
def test_path_without_a_model_gives_a_one_line_error(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    line = error_line(capsys, ["predict", name, "--text", "Ruby Vex"])
    assert f"{name}: expected the directory of a finished run, a model folder, or a model on the Hub" in line
    assert reason in line


def test_unfinished_run_cannot_be_used_for_prediction(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "ner", tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    line = error_line(capsys, ["predict", str(tmp_path / "run"), "--text", "Ruby Vex"])
    assert line.endswith("run is not the directory of a finished run: " + f"{tmp_path}/run/metrics.json is missing")


def test_evaluate_on_a_folder_without_a_run_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{tmp_path} is not the directory of a finished run" in error_line(capsys, ["evaluate", str(tmp_path)])


def test_the_nearest_file_is_suggested(
    data_sets: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").symlink_to(runs)
    (tmp_path / "birds.yaml").touch()
    (tmp_path / "bird.jpg").touch()
    (tmp_path / "posts").symlink_to(data_sets / "ner" / "posts")
    monkeypatch.chdir(tmp_path)
    post = ["predict", "runs/ner", "--text", "Ruby"]
    for arguments, nearest in (
        (["train", "birdz.yaml"], "birds.yaml"),
        (["train", "synthetic-ner", "--data.root", "post", "--output", "new"], "posts"),
        (["data", "check", "post"], "posts"),
        (["evaluate", "runs/nerr"], "runs/ner"),
        (["predict", "runs/nerr", "--text", "Ruby"], "runs/ner"),  # not on the hub either
        ([*post, "--image", "birds.jpg"], "bird.jpg"),
        ([*post, "--crops", "birds.jpg"], "bird.jpg"),
        (["predict", "runs/ner", "--input", "bird.yaml", "--output", "out.jsonl"], "birds.yaml"),
    ):
        assert f"; did you mean {nearest}?" in error_line(capsys, arguments)


@pytest.mark.parametrize(("arguments", "nearest"), [(["trian"], "train"), (["data", "chek", "x"], "check")])
def test_the_nearest_command_is_suggested(
    arguments: list[str], nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err.endswith(f"; did you mean {nearest}?\n")
    with pytest.raises(SystemExit, match="2"):
        main(["zzz"])
    assert "did you mean" not in capsys.readouterr().err


def test_unknown_command_line_option_exits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["demo", "--quik"])
    assert "unrecognized arguments: --quik" in capsys.readouterr().err


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert all(f"--{key}" in text for key in ("data.bad_images", "model.semantic_weight", "training.learning_rates"))
    assert "--model.prefix" not in text
    assert "--seeds 0 1 2" in text
    assert "--settings" not in text
    with pytest.raises(SystemExit, match="0"):
        main(["train", "mnre", "hvpnet", "--help"])
    text = capsys.readouterr().out
    assert "--model.prefix" in text
    assert "default: bert-base-uncased" in text


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = (
        [sys.executable, "-c", code, *arguments] if code else [sys.executable, "-m", "reference_models", *arguments]
    )
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_does_not_import_heavy_packages() -> None:
    code = (
        "import sys, reference_models.cli as cli\n"
        "try: cli.main(['train', '--help'])\n"
        "finally: print(sorted({'torch', 'transformers', 'accelerate'} & set(sys.modules)), file=sys.stderr)"
    )
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert "--training.epochs" in done.stdout


def test_package_runs_as_the_command() -> None:
    done = run_python("", "--version")
    assert (done.returncode, done.stdout) == (0, f"i2srm {version('attnmixup')}\n")


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("jsonargparse", ["train", "mnre"], "reference"),
        ("transformers", ["train", "mnre"], "reference"),
        ("gradio", ["app", "runs/x"], "app"),
    ],
)
def test_missing_package_error_names_the_extra(package: str, command: list[str], extra: str) -> None:
    code = (
        f"import sys; sys.modules['{package}'] = None; import reference_models.cli as c; sys.exit(c.main(sys.argv[1:]))"
    )
    done = run_python(code, *command)
    hint = f"install what this command needs, in the folder of the repository: pip install '.[{extra}]'"
    assert (done.returncode, done.stderr) == (2, f"i2srm: the package {package} is not installed; {hint}\n")


def test_synthetic_data_have_the_requested_training_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("reference_models.data.synthetic.SIZES", {"train": 9, "valid": 2, "test": 3})
    for name, options, size in (("small", ["--train", "5"], 5), ("usual", [], 9)):
        assert main(["data", "synthetic", "ner", str(tmp_path / name), *options]) == 0
        sizes = [len((tmp_path / name / f"truth_{split}.jsonl").read_text().splitlines()) for split in SIZES]
        assert sizes == [size, 2, 3]
    capsys.readouterr()
    assert "--train must be 1 or more" in error_line(capsys, ["data", "synthetic", "ner", "none", "--train", "0"])


def test_synthetic_data_in_a_nonempty_folder_raise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not empty" in error_line(capsys, ["data", "synthetic", "ner", str(Path(__file__).parent)])


def test_data_crops_and_data_check(data_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "posts"
    shutil.copytree(data_sets / "re" / "posts", root)
    for dictionary in (root / "txt").glob("*.pth"):
        dictionary.unlink()
    arguments = ["--data.root", str(root), "--grounding.detector", "centre", "--grounding.size", "32"]
    assert main(["data", "crops", "synthetic-re", *arguments]) == 0
    assert all(len(sample.crops) == 3 for sample in Mnre().read(root, "train"))
    capsys.readouterr()
    assert main(["data", "check", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fatal"] == []
    (root / "img_org/train/train_0.jpg").unlink()
    assert main(["data", "check", str(root)]) == 1
    assert "train_0.jpg" in capsys.readouterr().out


def test_report_is_written_into_the_run_directory(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(runs / "ner")]) == 0
    assert (runs / "ner" / "report.html").read_text().startswith("<!doctype html>")


def test_sweep_lists_its_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "table5", "--data", "synthetic-re", "--output", str(tmp_path / "sweep"), "--list"]) == 0
    assert "0 of 4 are finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        "demo --output out --seed",
        "data synthetic ner out --seed",
        "train mnre --output out --seeds 0",
        "sweep table5 --seeds",
    ],
)
@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_invalid_seed_raises_before_anything_is_written(
    command: str, seed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    option = "--seeds" if "--seeds" in command else "--seed"
    message = f"i2srm: {option} must be a whole number from 0 to 4294967295, got {seed}"
    assert error_line(capsys, [*command.split(), seed]) == message
    assert list(tmp_path.iterdir()) == []


def test_seeds_print_mean_and_standard_deviation(
    data_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train_arguments("re", data_sets / "re" / "posts", tmp_path / "run", "--seeds", "3", "5")) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())["scores"]["test"]["f1"]
    printed = capsys.readouterr().out
    assert f"f1 {100 * summary['mean']:.2f} ± {100 * summary['deviation']:.2f}" in printed
    assert "seeds 3, 5" in printed


def test_one_seed_has_no_standard_deviation(
    data_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train_arguments("re", data_sets / "re" / "posts", tmp_path / "run", "--seeds", "3")) == 0
    assert "±" not in capsys.readouterr().out


def test_options_cannot_be_abbreviated(data_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "seed" in error_line(
        capsys, train_arguments("re", data_sets / "re" / "posts", tmp_path / "run", "--seed", "3")
    )
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["demo", "--out", str(tmp_path / "demo")])


@pytest.mark.parametrize(
    ("command", "setting", "value"),
    [
        (["evaluate"], "data.max_length", "40"),
        (["evaluate"], "model.attn_mixup", "false"),
        (["evaluate"], "output", "elsewhere"),
        (["report"], "training.epochs", "9"),
        (["predict", "--text", "Ruby Vex"], "grounding.top", "1"),
        (["predict", "--text", "Ruby Vex", "--ground"], "data.root", "elsewhere"),
    ],
)
def test_settings_that_a_command_ignores_raise(
    command: list[str], setting: str, value: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capsys, [command[0], str(runs / "ner"), *command[1:], f"--{setting}", value])
    assert re.search(rf"{command[0]}.* ignores --{setting}, .*it uses (no settings|[\w., ]+)$", line), line


def test_settings_that_a_command_uses_are_accepted(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(runs / "ner"), "--training.batch_size", "2", "--data.max_length", "80"]) == 0


def test_label_scheme_x13_tags_sub_words(data_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--data.label_scheme", "x13"]
    assert main(train_arguments("ner", data_sets / "ner" / "posts", tmp_path / "run", *more)) == 0
    assert load_file(tmp_path / "run" / "model" / "model.safetensors")["head.linear.weight"].shape[0] == 13
    f1 = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["f1"]
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert f"f1 {100 * f1:.2f}" in capsys.readouterr().out
    assert main(["predict", str(tmp_path / "run"), "--text", "Ruby Vex"]) == 0
    line = error_line(capsys, train_arguments("re", data_sets / "re" / "posts", tmp_path / "other", *more))
    assert "data.label_scheme=x13 is for named entities" in line


def test_softmax_tag_head_has_no_crf(data_sets: Path, tmp_path: Path) -> None:
    more = ["--model.tag_head", "softmax"]
    assert main(train_arguments("ner", data_sets / "ner" / "posts", tmp_path / "run", *more)) == 0
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert "head.linear.weight" in weights
    assert not any(name.startswith("head.crf") for name in weights)
    assert main(["evaluate", str(tmp_path / "run")]) == 0


def test_uncreatable_folder_gives_a_one_line_error(
    data_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    line = error_line(capsys, train_arguments("ner", data_sets / "ner" / "posts", tmp_path / "file" / "run"))
    assert "Not a directory" in line
    assert error_line(capsys, ["demo", "--quick", "--output", str(tmp_path / "file" / "demo")]).count("file/demo") == 1


def test_data_of_the_other_task_give_a_one_line_error(
    data_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capsys, train_arguments("re", data_sets / "ner" / "posts", tmp_path / "run"))
    assert line.endswith("ours_rel2id.json: cannot be read (No such file or directory)")


def test_shell_completion_lists_commands_and_options() -> None:
    pytest.importorskip("shtab", reason="shtab is not installed: pip install shtab")
    done = run_python("", "--completion", "bash")
    assert done.returncode == 0
    shell = subprocess.run(["bash", "-n"], input=done.stdout, capture_output=True, text=True, check=False)
    assert (shell.returncode, shell.stderr) == (0, "")
    for word in ("app", "predict", "--text", "--host"):
        assert word in done.stdout
