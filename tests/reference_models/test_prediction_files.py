"""Prediction of many files: sharing between processes, resuming, and records of another model."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image

from reference_models import prediction_files
from reference_models.cli import main
from reference_models.config.grounding import GroundingConfig
from reference_models.prediction import Predictor
from reference_models.prediction_file import predict_file
from reference_models.prediction_files import Work, _work_through, predict_files


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    """Three files of 4, 5 and 6 posts; the second contains an invalid line."""
    Image.new("RGB", (60, 60), (200, 30, 30)).save(tmp_path / "red.png")
    paths = []
    for size in (4, 5, 6):
        posts = [{"id": number, "text": f"look , Ruby Vex {'again ' * number}!"} for number in range(size)]
        posts[-1]["image"] = "red.png"
        lines = [json.dumps(post) for post in posts]
        if size == 5:
            lines[2] = "not json"
        paths.append(tmp_path / f"{size}.jsonl")
        paths[-1].write_text("\n".join(lines) + "\n")
    return paths


def manifest(folder: Path) -> dict[str, dict[str, object]]:
    entries: dict[str, dict[str, object]] = json.loads((folder / "manifest.json").read_text())
    return entries


def work_in_this_process(work: Work) -> tuple[int, dict[Path, str]]:
    """Do the work of one process in this process."""
    number, failed, _ = _work_through(0, work)
    return number, failed


def run_jobs_in_this_process(
    function: Callable[[int], Any], items: Iterable[int], jobs: int
) -> Iterator[tuple[int, Future[Any]]]:
    """Run `run_jobs` without processes."""
    for item in items:
        call: Future[Any] = Future()
        call.set_result(function(item))
        yield item, call


def test_parallel_output_equals_single_file_output_with_manifest(
    runs: dict[str, Path], inputs: Sequence[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["predict", str(runs["ner"]), "--input", *map(str, inputs), "--output", str(out), "--jobs", "2"]
    assert main(command) == 1  # one post is invalid
    printed = capfd.readouterr().out
    assert "3 of 3 files are finished: 15 posts, 1 of them with an error, 0 longer than the length limit" in printed
    assert "15 of them were predicted now" in printed
    assert "5.jsonl: 5 posts, 1 of them with an error" in printed
    predictor = Predictor(runs["ner"])
    for path in inputs:
        predict_file(predictor, path, tmp_path / "alone.jsonl")
        assert (out / path.name).read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
        (tmp_path / "alone.jsonl").unlink()
    entries = manifest(out)
    assert {name: (entry["lines"], entry["errors"]) for name, entry in entries.items()} == {
        "4.jsonl": (4, 0),
        "5.jsonl": (5, 1),
        "6.jsonl": (6, 0),
    }
    assert {path.name for path in out.iterdir() if path.suffix != ".lock"} == {*entries, "manifest.json"}
    # The second call computes nothing and prints the counts of all files.
    assert main(command) == 1
    printed = capfd.readouterr().out
    assert "3 of 3 files are finished: 15 posts" in printed
    assert "predicted now" not in printed
    assert manifest(out) == entries


def test_interrupted_call_resumes_from_its_manifest(
    runs: dict[str, Path], inputs: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(runs["text-only"], inputs[:2], tmp_path / "out")
    work.output.mkdir()
    replace = Path.replace

    def interrupt(path: Path, target: Path) -> Path:
        if path.suffix == ".partial":
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupt)
        for post in inputs:  # the posts have images, but this model reads only text
            post.write_text(post.read_text().replace(', "image": "red.png"', ""))
        with pytest.raises(KeyboardInterrupt):
            work_in_this_process(work)
    assert set(manifest(work.output)) == {"4.jsonl"}
    assert not (work.output / "4.jsonl").exists()
    assert work_in_this_process(work) == (5, {})  # the four posts are not predicted again
    assert {name: entry["lines"] for name, entry in manifest(work.output).items()} == {"4.jsonl": 4, "5.jsonl": 5}


def test_locked_and_foreign_files_are_skipped_and_others_finish(
    runs: dict[str, Path], inputs: Sequence[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "5.jsonl").write_text("somebody's")
    work = Work(runs["ner"], inputs, out)
    with FileLock(out / "4.jsonl.lock"):
        summary = predict_files(work, 1)
    assert (summary.predicted, list(summary.finished), summary.elsewhere) == (6, [inputs[2]], [inputs[0]])
    assert "holds records of another call (input differs); delete it" in summary.failed[inputs[1]]
    assert (out / "5.jsonl").read_text() == "somebody's"
    assert f"{inputs[0]}: another process is writing its records" in str(summary)
    assert f"{inputs[1]}: failed: {out}/5.jsonl holds" in str(summary)
    other = predict_files(Work(runs["text-only"], inputs[2:], out), 1)
    assert "(model differs)" in other.failed[inputs[2]]
    assert str(other).startswith("0 of 1 files are finished: 0 posts")


def test_crops_of_each_file_are_in_a_separate_folder(
    runs: dict[str, Path], inputs: Sequence[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    work_in_this_process(
        Work(runs["ner"], inputs[:2], out, grounding=GroundingConfig(detector="centre", top=1, size=16))
    )
    assert [path.name for path in sorted(out.glob("*.crops/*"))] == ["line_4_0.png", "line_5_0.png"]
    assert str(manifest(out)["4.jsonl"]["ground"]).startswith("centre")


@pytest.mark.parametrize("options", [["--jobs", "2"], []], ids=["new folder", "folder that is there"])
def test_single_file_can_be_written_to_a_folder(
    options: list[str], runs: dict[str, Path], inputs: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    if not options:
        out.mkdir()
    monkeypatch.setattr(prediction_files, "run_jobs", run_jobs_in_this_process)
    assert main(["predict", str(runs["ner"]), "--input", str(inputs[0]), "--output", str(out), *options]) == 0
    assert list(manifest(out)) == ["4.jsonl"]
    assert (out / "4.jsonl").is_file()


def test_records_of_another_model_are_not_counted(
    runs: dict[str, Path], inputs: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def run_jobs_with_other_call(function: Callable[[int], Any], *others: Any) -> Any:
        """Simulate another call that finishes a file with another model."""
        yield from run_jobs_in_this_process(function, *others)
        entries = manifest(out)
        entries["4.jsonl"]["int8"] = True
        (out / "manifest.json").write_text(json.dumps(entries))

    monkeypatch.setattr(prediction_files, "run_jobs", run_jobs_with_other_call)
    summary = predict_files(Work(runs["ner"], inputs[:2], out), 1)
    assert list(summary.finished) == [inputs[1]]
    assert "holds records of another call (int8 differs)" in summary.failed[inputs[0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["4.jsonl", "gone.jsonl"], "gone.jsonl: the file does not exist"),
        (["4.jsonl", "more/4.jsonl"], "have the same name"),
        (["4.jsonl", "5.jsonl", "--output", "."], "choose another --output"),
        (["4.jsonl", "5.jsonl", "--jobs", "0"], "--jobs must be 1 or more, got 0"),
        (
            ["4.jsonl", "manifest.json"],
            "the name manifest.json is reserved for the summary of all files; rename the file",
        ),
        (["4.jsonl", "5.jsonl", "--output", "red.png"], "red.png: cannot be written"),
    ],
)
def test_invalid_arguments_raise_before_anything_is_written(
    options: list[str],
    message: str,
    runs: dict[str, Path],
    inputs: Sequence[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(inputs[0].parent)
    Path("more").mkdir()
    Path("manifest.json").write_text("")
    Path("more/4.jsonl").write_text("")
    before = sorted(Path().rglob("*"))
    assert main(["predict", str(runs["ner"]), "--output", "out", "--input", *options]) == 2
    assert message in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before
