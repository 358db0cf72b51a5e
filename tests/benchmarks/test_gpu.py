"""The GPU benchmark in its reduced form: every section runs, and a failing section does not affect the others."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import variants
from benchmarks.batches import BIN
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import core, runner, steps
from benchmarks.gpu.findings import Check, Findings, to_markdown
from benchmarks.gpu.setting import Setting
from benchmarks.workload import SIZES, make_model
from reference_models.systems.i2srm import I2SRM

ROOT = Path(__file__).parents[2]


def good(setting: Setting, findings: Findings) -> None:
    findings.check("a", True, "detail")
    findings.table("numbers", "x", "y").add(1, None)


def raises(setting: Setting, findings: Findings) -> None:
    findings.check("before", True)
    raise RuntimeError("out of memory")


def is_stopped(setting: Setting, findings: Findings) -> None:
    findings.check("before", True)
    core.attempt(partial(os.kill, os.getpid(), signal.SIGTERM))
    findings.check("after", True)


def dies(setting: Setting, findings: Findings) -> None:
    os._exit(3)


def fails(setting: Setting, findings: Findings) -> None:
    findings.check("never holds", False)


def setting_in(folder: Path) -> Setting:
    return Setting(torch.device("cpu"), reduced=True, folder=folder)


def test_every_section_runs_without_a_gpu(tmp_path: Path) -> None:
    output = tmp_path / "found"
    call = [sys.executable, "-m", "benchmarks.gpu", "--reduced", "--output", str(output)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert f"[{len(runner.SECTIONS)}/{len(runner.SECTIONS)}]" in done.stdout
    found = json.loads((output / "gpu.json").read_text())
    assert found["reduced"]
    assert [section["section"] for section in found["sections"]] == list(runner.SECTIONS)
    for section in found["sections"]:
        assert section["good"]
        assert section["checks"] or all(table["rows"] for table in section["tables"])
    ways = [row[2] for row in next(s for s in found["sections"] if s["section"] == "steps")["tables"][0]["rows"]]
    assert ways == [
        *("HVPNeT's code", "+ feature cache", "+ bfloat16"),
        *("I2SRM's release", "+ feature cache", "+ bfloat16"),
    ]
    page = (output / "gpu.md").read_text()
    assert all(f"## {name}\n" in page for name in runner.SECTIONS)
    assert "failed" not in page


def test_failing_section_does_not_affect_the_others(tmp_path: Path) -> None:
    sections = {function.__name__: function for function in (dies, raises, fails, is_stopped, good)}
    found = {part.section: part for part in runner.run_sections(sections, setting_in(tmp_path), 600)}
    assert [name for name, part in found.items() if part.good] == ["good"]
    assert found["good"].checks == [Check("a", True, "detail")]
    assert found["good"].tables[0].rows == [[1, None]]
    assert found["dies"].error == "its process ended with code 3 and wrote nothing"
    for name, reason in (("raises", "RuntimeError: out of memory"), ("is_stopped", "TimeLimitReached: stopped")):
        assert reason in found[name].error
        assert found[name].checks == [Check("before", True)]
    page = to_markdown("a GPU", list(found.values()))
    assert "| good | 1 of 1 | " in page
    assert "**failed**: never holds" in page
    assert "| x | y |\n|---|---|\n| 1 | - |" in page


def test_section_is_not_started_after_the_time_limit(tmp_path: Path) -> None:
    [found] = runner.run_sections({"dies": dies}, setting_in(tmp_path), 0)
    assert (found.verdict, found.error) == ("not run", "the limit of 0 seconds was reached")


def test_exit_code_is_1_if_a_section_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "run_sections", lambda *_: [Findings("steps", error="x"), Findings("core")])
    monkeypatch.setattr("sys.argv", ["gpu", "--reduced", "--output", str(tmp_path / "new")])
    assert command.main() == 1
    assert "steps failed" in capsys.readouterr().out


def test_results_name_the_sections_that_were_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = [Findings(name, error="limit", was_run=False) for name in ("plan", "images")]
    monkeypatch.setattr(command, "run_sections", lambda *_: [Findings("core"), *left])
    monkeypatch.setattr("sys.argv", ["gpu", "--reduced", "--output", str(tmp_path / "new")])
    assert command.main() == 1
    printed = capsys.readouterr().out
    assert "no section failed" in printed
    assert "run them with --sections plan images" in printed
    page = (tmp_path / "new" / "gpu.md").read_text()
    assert "| core | 0 of 0 | 0 | ok |" in page
    assert "| plan | 0 of 0 | 0 | **not run** |" in page
    sections = json.loads((tmp_path / "new" / "gpu.json").read_text())["sections"]
    assert [section["was_run"] for section in sections] == [True, False, False]


def test_compile_is_not_among_the_sections_that_the_time_limit_cuts_first() -> None:
    assert list(runner.SECTIONS)[-3:] == ["plan", "images", "prediction"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a CUDA device, but torch"),
        (["--reduced", "--output", "."], "the folder . already exists; choose a new one with --output"),
    ],
)
def test_invalid_arguments_are_reported(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu", *arguments])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert message in capsys.readouterr().err


def test_weights_are_drawn_on_the_device(tmp_path: Path) -> None:
    model = Setting(torch.device("meta"), reduced=True, folder=tmp_path).new_model("re", SIZES["tiny"])
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


def test_clock_of_a_step_runs_inside_the_computation_of_its_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("re", SIZES["tiny"])
    replaced: list[None] = []
    monkeypatch.setattr(variants, "replace_dropout", lambda *_: replaced.append(None))

    def median(call: Callable[[], object], **_: object) -> float:
        assert model.vision.frozen is False
        replaced.clear()
        call()
        assert not replaced, "the step prepares the model while the clock runs"
        return 1.0

    monkeypatch.setattr(steps, "median_seconds", median)
    steps.time_step(setting_in(tmp_path), model, torch.tensor([8, 9]), variants.RELEASE, 64)


def test_steps_leave_out_what_a_gpu_does_not_have(tmp_path: Path) -> None:
    names = list(steps.ways(Setting(torch.device("cuda"), reduced=False, folder=tmp_path), "ner"))
    assert names == [
        "HVPNeT's code",
        "+ one pass of a frozen backbone, channels_last",
        "+ vectorised gates",
        "+ padding to the longest of the batch",
        "+ batches of similar length",
        "+ SDPA",
        "+ fused AdamW",
        "+ faster float32 products",
        "+ feature cache",
        "+ bfloat16",
        "both modules, in float32",
    ]


def test_only_grouped_variants_get_sentences_of_similar_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranges: list[tuple[bool, int]] = []

    def time_step(
        setting: Setting, model: I2SRM, lengths: Tensor, variant: variants.Variant, side: int
    ) -> tuple[float, None]:
        ranges.append((variant.grouped, int(lengths.max() - lengths.min())))
        return 1.0, None

    monkeypatch.setattr(steps, "time_step", time_step)
    steps.steps(setting_in(tmp_path), Findings("steps"))
    assert [grouped for grouped, _ in ranges] == [False, True, True] * 2
    assert all((most <= BIN) is grouped for grouped, most in ranges)


def test_host_synchronisation_is_detected_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = Findings("core")
    arguments = (setting_in(tmp_path), findings, "x", core.Modules("paper"), core.make_batch(False), "paper")
    core.check_waiting(*arguments)
    forward = core.Modules.forward

    def synchronising_forward(self: core.Modules, *batch: Any) -> Tensor | None:
        loss = forward(self, *batch)
        return loss if loss.item() else None

    monkeypatch.setattr(core.Modules, "forward", synchronising_forward)
    core.check_waiting(*arguments)
    assert [check.passed for check in findings.checks] == [True, False]
    assert "DataDependentOutputException" in findings.checks[1].detail
