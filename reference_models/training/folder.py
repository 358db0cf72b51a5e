"""Run directory: created once, resumed with the same command, never overwritten."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from reference_models.config import DataConfig, RunConfig, SystemConfig, TrainingConfig
from reference_models.errors import UserError
from reference_models.files import read_json, write_folder, write_text

logger = logging.getLogger(__name__)
ENVIRONMENT = "environment"  # the only fact that may differ when a run resumes; a difference gives a warning
CONFIG, START, METRICS = "config.yaml", "start.json", "metrics.json"
# Image-loading workers outlive a killed training by up to 5 seconds and still hold its lock.
LOCK_SECONDS = 10


def start_of(config: RunConfig, **facts: object) -> dict[str, Any]:
    """Return what must be equal to resume a run: its settings, and facts such as the data fingerprint.

    Settings that do not affect the result are omitted, for example the folder name or the number of workers. Different
    spellings of a path, such as `a` and `./a`, are equal.
    """
    sections: dict[str, DataConfig | SystemConfig | TrainingConfig]
    sections = {"data": config.data, "model": config.model, "training": config.training}
    named: dict[str, Any] = {"system": config.system}
    named |= {f"{section}.{key}": value for section, part in sections.items() for key, value in asdict(part).items()}
    del named["training.workers"], named["training.log_to"]
    for key in ("data.root", "data.feature_cache", *(f"model.{name}" for name in config.model.local_paths())):
        if named[key] is not None and Path(named[key]).exists():
            named[key] = os.path.normpath(named[key])
    start: dict[str, Any] = json.loads(json.dumps(named | facts))
    return start


def check_folder(output: Path, start: dict[str, Any], *, complete: bool = True) -> None:
    """Check that `output` does not exist, or holds a run with the same settings and facts.

    A different environment (versions, device) is allowed; it logs a warning if the run is unfinished.

    Args:
        output: Run directory.
        start: Result of `start_of`.
        complete: Whether `start` contains all facts; if not, missing facts are not compared.

    Raises:
        UserError: If `output` holds something else.
    """
    if not output.exists():
        return
    if not (output / START).is_file():
        raise UserError(f"the folder {output} already exists and contains no run; choose another one with --output")
    before = read_json(output / START, "choose another folder with --output")
    keys = (before | start if complete else start).keys() - {ENVIRONMENT}
    changed = [key for key in before | start if key in keys and before.get(key) != start.get(key)]
    if changed:
        was = ", ".join(f"{key} was {before.get(key)!r} and is now {start.get(key)!r}" for key in changed)
        raise UserError(
            f"{output} already contains a run with other settings: {was}; repeat the original command to resume it, or "
            "choose another folder with --output"
        )
    if not (output / METRICS).exists():
        _warn_of_environment(output, before.get(ENVIRONMENT, {}), start.get(ENVIRONMENT, {}))


def _warn_of_environment(output: Path, before: dict[str, str], now: dict[str, str]) -> None:
    others = [key for key in now if before.get(key, now[key]) != now[key]]
    if others:
        logger.warning(
            "the run in %s started with %s and resumes with %s; its final weights may differ from an uninterrupted run",
            output,
            ", ".join(f"{key} {before[key]}" for key in others),
            ", ".join(f"{key} {now[key]}" for key in others),
        )


def check_unfinished(output: Path) -> None:
    """Check that `output` contains no finished run.

    Raises:
        UserError: If it does.
    """
    if (output / METRICS).exists():
        raise UserError(f"the run in {output} is already finished; choose another folder with --output")


def make_folder(output: Path, config: RunConfig, start: dict[str, Any]) -> None:
    """Create the run directory atomically, with the files that `check_folder` and `evaluate` need, if it is missing."""

    def fill(folder: Path) -> None:
        (folder / CONFIG).write_text(yaml.safe_dump(asdict(config), sort_keys=False))
        write_json(folder / START, start)

    if not output.exists():
        write_folder(output, fill)


@contextmanager
def locked(output: Path, checkpoints: Path, *, needed: bool) -> Iterator[None]:
    """Lock an unfinished run for this process, so that running the same command twice trains only once.

    Args:
        output: Run directory.
        checkpoints: Folder of its checkpoints, created if it is missing.
        needed: False for processes that do not write.

    Returns:
        A context manager.

    Raises:
        UserError: If another process is training the run or has just finished it.
        KeyboardInterrupt: After an interrupt, with a message that says how to resume.
    """
    if not needed:
        yield
        return
    checkpoints.mkdir(exist_ok=True)
    try:
        with FileLock(checkpoints / "lock", timeout=LOCK_SECONDS):
            check_unfinished(output)
            yield
    except Timeout as error:
        raise UserError(f"another process is training in {output}") from error
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"the run in {output} is unfinished; run the same command again to resume it") from stop


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")
