"""A folder is never overwritten if its run is finished, has other settings or data, or if it contains no run."""

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from reference_models.config import RunConfig
from reference_models.data.formats import SPLITS
from reference_models.errors import UserError
from reference_models.settings import read_settings
from reference_models.training import folder, products
from reference_models.training.fingerprints import input_fingerprints
from reference_models.training.folder import METRICS, START, check_folder, locked, make_folder, start_of, write_json
from reference_models.training.run import read_samples, train
from tests.reference_models.training.tiny_runs import config, tiny_set

STEPS = ("--training.checkpoint_steps", "4")


def contents(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (STEPS, "is already finished"),
        ((*STEPS, "--training.seed", "7"), "training.seed was 0 and is now 7"),
        ((*STEPS, "--model.mixup.heads", "2"), "model.mixup was {} and is now {'heads': 2}"),
        ((), "training.checkpoint_steps was 4 and is now 0"),
    ],
)
def test_finished_run_is_not_changed(data: Path, finished: Path, overrides: tuple[str, ...], message: str) -> None:
    before = contents(finished)
    with pytest.raises(UserError, match=message):
        train(config(data, finished, *overrides))
    assert contents(finished) == before


def labels_fingerprint(settings: RunConfig) -> str:
    samples = {split: read_samples(settings, split) for split in SPLITS}
    return input_fingerprints(settings, samples)["labels_fingerprint"]


def test_other_data_or_process_count_raises(data: Path, finished: Path, tmp_path: Path) -> None:
    other = tiny_set(tmp_path, {"train": 8, "valid": 4, "test": 4})
    before, now = (labels_fingerprint(config(root, finished, *STEPS)) for root in (data, other))
    assert before != now
    start = start_of(config(data, finished, *STEPS), labels_fingerprint=now, processes=2)
    message = f"labels_fingerprint was '{before}' and is now '{now}', processes was 1 and is now 2;"
    with pytest.raises(UserError, match=message):
        check_folder(finished, start, complete=False)


@pytest.mark.parametrize("names", [[], ["notes.txt"], ["config.yaml"]])
def test_folder_without_a_run_is_not_changed(data: Path, tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="already exists and contains no run"):
        train(config(data, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == names


def test_missing_data_creates_no_folder(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        train(config(tmp_path / "nothing", tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_equivalent_paths_are_the_same_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    start = start_of(config(Path("a"), tmp_path / "run", "--model.text", "a"))
    for other in ("./a", "a/", "a/../a"):
        settings = config(Path("a"), tmp_path / "run", "--model.text", other)
        settings.data.root = other
        assert start_of(settings) == start
    assert start_of(config(Path("b"), tmp_path / "run", "--model.text", "a")) != start


def test_output_and_workers_do_not_identify_a_run(data: Path, tmp_path: Path) -> None:
    start = start_of(config(data, tmp_path / "run"))
    assert start == start_of(config(data, tmp_path / "moved", "--training.workers", "2"))
    assert start != start_of(config(data, tmp_path / "run", "--training.batch_size", "2"))


def test_run_directory_is_created_atomically(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(data, tmp_path / "deep" / "run")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folder, "write_json", fail)
        with pytest.raises(UserError, match=r"deep/run: cannot be written \(No space left on device\); free disk"):
            make_folder(tmp_path / "deep" / "run", settings, {"a": 1})
    assert not (tmp_path / "deep" / "run").exists()
    make_folder(tmp_path / "deep" / "run", settings, {"a": 1})
    check_folder(tmp_path / "deep" / "run", {"a": 1})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run"]
    assert (tmp_path / "deep" / "run" / START).is_file()


def test_concurrent_runs_of_one_command_train_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "LOCK_SECONDS", 0)
    checkpoints = tmp_path / "checkpoints"
    with locked(tmp_path, checkpoints, needed=True):
        with pytest.raises(UserError, match="another process"), locked(tmp_path, checkpoints, needed=True):
            pass
        with locked(tmp_path, checkpoints, needed=False):
            pass
    (tmp_path / METRICS).touch()  # finished while this process waited
    with pytest.raises(UserError, match="finished"), locked(tmp_path, checkpoints, needed=True):
        pass


def test_json_is_written_atomically(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert (tmp_path / "a.json").read_text() == '{\n "a": 1\n}\n'


def save_resnet(file: Path, seed: int) -> None:
    torch.manual_seed(seed)
    torch.save(resnet18().state_dict(), file)


def test_changed_image_backbone_weights_raise(data: Path, tmp_path: Path) -> None:
    file, settings = tmp_path / "weights.pt", config(data, tmp_path / "run", "--training.epochs", "1")
    settings.model.vision, settings.model.vision_weights = "resnet18", str(file)
    save_resnet(file, seed=1)
    train(settings)
    save_resnet(file, seed=2)
    with pytest.raises(UserError, match=r"weights_fingerprint was '\w{12}' and is now '\w{12}'; repeat"):
        train(settings)


def test_resume_with_other_versions_warns(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings, output = config(data, tmp_path / "run"), tmp_path / "run"
    facts = {"torch": "1.0", "device": "cpu"}
    make_folder(output, settings, start_of(settings, environment=facts))
    check_folder(output, start_of(settings, environment=facts))
    assert caplog.messages == []
    check_folder(output, start_of(settings, environment={"torch": "2.0", "device": "cpu"}))
    [message] = caplog.messages
    assert "started with torch 1.0 and resumes with torch 2.0" in message
    write_json(output / METRICS, {})
    caplog.clear()
    check_folder(output, start_of(settings, environment={"torch": "2.0", "device": "cpu"}))
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--training.learning_rates.heed=1", "no parameter name starts with 'heed'"),
        ("--training.fast_float32=true", "fast_float32: on this cpu"),
    ],
)
def test_rejected_training_setting_creates_no_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, message: str
) -> None:
    monkeypatch.setattr(products, "keeps_float32", lambda _: False)
    output = tmp_path / "run"
    with pytest.raises(UserError, match=message):
        train(config(data, output, wrong))
    assert list(tmp_path.iterdir()) == []


def test_compile_without_text_encoder_raises(data: Path, tmp_path: Path) -> None:
    basis = ["--data.root", str(data), "--output", str(tmp_path / "run")]
    settings = read_settings("synthetic-ner", [*basis, "--training.compile=true"], system="cnn-bilstm-crf")
    with pytest.raises(UserError, match=r"training\.compile and .* need a system with a text encoder"):
        train(settings)
    assert list(tmp_path.iterdir()) == []
