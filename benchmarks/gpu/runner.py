"""Runs each section in its own process, so that one that fails, hangs or loses the GPU does not affect the others."""

import json
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.gpu.compiling import compiling
from benchmarks.gpu.core import core
from benchmarks.gpu.findings import Findings, from_json
from benchmarks.gpu.images import images
from benchmarks.gpu.parity import parity
from benchmarks.gpu.prediction import prediction
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.steps import against_plan, steps
from benchmarks.gpu.training import training

Section = Callable[[Setting, Findings], None]
GRACE = 10.0  # seconds that a stopped section has to write its findings
# In order of importance, because the time limit leaves out the last ones.
SECTIONS: dict[str, Section] = {
    "core": core,
    "parity": parity,
    "steps": steps,
    "compile": compiling,
    "training": training,
    "plan": against_plan,
    "images": images,
    "prediction": prediction,
}


class TimeLimitReached(BaseException):
    """Raised inside a section to stop it. It is no `Exception`, which a section may catch and continue."""


def run_sections(sections: Mapping[str, Section], setting: Setting, limit: float) -> list[Findings]:
    """Run sections and return their findings; after `limit` seconds, stop the current one and start no other."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])  # import once; sections are forked from this process
    end, found = time.monotonic() + limit, []
    for number, (name, section) in enumerate(sections.items(), 1):
        print(f"[{number}/{len(sections)}] {name}", flush=True)
        start = time.monotonic()
        if start >= end:
            findings = Findings(name, error=f"the limit of {limit:.0f} seconds was reached", was_run=False)
        else:
            process = context.Process(target=run_section, args=(name, section, setting))
            process.start()
            findings = wait_for_findings(name, process, setting, end)
        findings.seconds = time.monotonic() - start
        print(f"    {findings.verdict} after {findings.seconds:.0f} s", flush=True)
        found.append(findings)
    return found


def wait_for_findings(name: str, process: BaseProcess, setting: Setting, end: float) -> Findings:
    """Return the findings that the process of a section wrote. The process is stopped at `end`."""
    process.join(max(0.0, end - time.monotonic()))
    if process.is_alive():
        process.terminate()
        process.join(GRACE)
        process.kill()
        process.join()
    result = result_file(setting, name)
    if result.exists():
        return from_json(json.loads(result.read_text()))
    return Findings(name, error=f"its process ended with code {process.exitcode} and wrote nothing")


def run_section(name: str, section: Section, setting: Setting) -> None:
    """Run one section in this process and write its findings, even if it fails."""
    findings = Findings(name)
    signal.signal(signal.SIGTERM, stop)
    with TemporaryDirectory(dir=setting.folder) as folder:
        try:
            section(replace(setting, folder=Path(folder)), findings)
        except (Exception, TimeLimitReached):  # the other sections must continue after any error
            findings.error = "\n".join(traceback.format_exc().splitlines()[-12:])
            print(findings.error, flush=True)
    partial = result_file(setting, name).with_suffix(".partial")
    partial.write_text(json.dumps(asdict(findings)))
    partial.rename(result_file(setting, name))


def result_file(setting: Setting, name: str) -> Path:
    return setting.folder / f"{name}.json"


def stop(*_: object) -> None:
    raise TimeLimitReached("stopped at the time limit")
