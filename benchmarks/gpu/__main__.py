"""Check and measure everything that needs a GPU; at most eight minutes on one H100.

python -m benchmarks.gpu [--output gpu] [--sections core steps] [--reduced]

It checks the core (every dtype, one compiled graph, a host that never waits), compares the systems with a CPU in
float32, TF32, bfloat16 and float16, and counts graph breaks. It measures training steps against published code and the
computed plan, filling the feature cache, prediction, memory, and a short training run that must reach a fixed F1.

Weights are random and nothing is downloaded. --output is a new folder for gpu.json and gpu.md. Each section runs in its
own process; if one fails, the others continue. When the eight minutes are over, the current section is stopped, and the
results name the sections that were not run. In both cases the exit code is 1. --reduced uses tiny models and works
without a GPU; its times are not meaningful.
"""

import argparse
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.gpu.findings import to_markdown
from benchmarks.gpu.runner import SECTIONS, run_sections
from benchmarks.gpu.setting import Setting

LIMIT = 480.0  # seconds


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="new folder for the results")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--reduced", action="store_true", help="use tiny models; also works without a GPU")
    options = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.reduced:
        parser.error(
            f"expected a CUDA device, but torch {torch.__version__} finds none; run this on a machine with a GPU, or "
            "add --reduced for tiny models on the CPU (its times are not meaningful)"
        )
    if options.output.exists():
        parser.error(f"the folder {options.output} already exists; choose a new one with --output")
    options.output.mkdir(parents=True)
    device = torch.device("cuda" if has_gpu else "cpu")
    name = torch.cuda.get_device_name(device) if has_gpu else platform.machine()
    title = f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}{', reduced' if options.reduced else ''}"
    print(title, flush=True)
    with TemporaryDirectory() as folder:
        chosen = {section: SECTIONS[section] for section in options.sections}
        found = run_sections(chosen, Setting(device, options.reduced, Path(folder)), LIMIT)
    result = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "reduced": options.reduced}
    result["sections"] = [asdict(findings) | {"good": findings.good} for findings in found]
    (options.output / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.output / "gpu.md").write_text(to_markdown(title, found))
    failed, left = ([part.section for part in found if part.verdict == verdict] for verdict in ("failed", "not run"))
    print(f"Results are in {options.output}/gpu.md; {', '.join(failed) or 'no section'} failed")
    if left:
        print(f"The time limit was reached before {', '.join(left)}; run them with --sections {' '.join(left)}")
    return 1 if failed or left else 0


if __name__ == "__main__":
    sys.exit(main())
