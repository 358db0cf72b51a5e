"""The folder of a run: begun once, continued by the same command, never written over."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from reference_models.config import DataConfig, RunConfig, SystemConfig, TrainingConfig
from reference_models.errors import UserError
from reference_models.files import read_json, writable, write_text

logger = logging.getLogger(__name__)
ENVIRONMENT = "environment"  # the fact that is compared, but may differ
CONFIG, START, METRICS = "config.yaml", "start.json", "metrics.json"
# The workers that load images outlive a killed training by up to 5 seconds, and hold its lock.
LOCK_SECONDS = 10


def start_of(config: RunConfig, **facts: object) -> dict[str, Any]:
    """What a run must share with the one it goes on with: its settings, and facts such as the data's fingerprint.

    What changes nothing about the result is left out: the name of the folder, say, or the number of workers. Two ways
    to write a path, `a` and `./a`, are one setting.
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
    """Check that `output` is free, or holds a run that started in the same way.

    Other versions or another device are no other run, but a warning where the run is unfinished.

    Args:
        output: folder of the run.
        start: from `start_of`.
        complete: whether `start` holds all facts; otherwise what it lacks is not compared.

    Raises:
        UserError: it does not.
    """
    if not output.exists():
        return
    if not (output / START).is_file():
        raise UserError(f"the folder {output} exists already and holds no run; name another one with --output")
    before = read_json(output / START, "name another folder with --output")
    keys = (before | start if complete else start).keys() - {ENVIRONMENT}
    changed = [key for key in before | start if key in keys and before.get(key) != start.get(key)]
    if changed:
        was = ", ".join(f"{key} was {before.get(key)!r} and is now {start.get(key)!r}" for key in changed)
        raise UserError(
            f"a run of other settings exists already in {output}: {was}; repeat its command to go on with it, or name "
            "another folder with --output"
        )
    if not (output / METRICS).exists():
        _warn_of_environment(output, before.get(ENVIRONMENT, {}), start.get(ENVIRONMENT, {}))


def _warn_of_environment(output: Path, before: dict[str, str], now: dict[str, str]) -> None:
    others = [key for key in now if before.get(key, now[key]) != now[key]]
    if others:
        logger.warning(
            "the run in %s began with %s and resumes with %s: it may end with other weights than in one go",
            output,
            ", ".join(f"{key} {before[key]}" for key in others),
            ", ".join(f"{key} {now[key]}" for key in others),
        )


def check_unfinished(output: Path) -> None:
    """Check that the run in `output`, if there is one, is not finished.

    Raises:
        UserError: it is.
    """
    if (output / METRICS).exists():
        raise UserError(f"the run in {output} exists already and is finished; name another folder with --output")


def make_folder(output: Path, config: RunConfig, start: dict[str, Any]) -> None:
    """Begin a run, unless it is begun: the folder appears with all that `check_folder` and `evaluate` need."""
    if output.exists():
        return
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with writable(output):
        partial.mkdir(parents=True)
        (partial / CONFIG).write_text(yaml.safe_dump(asdict(config), sort_keys=False))
        write_json(partial / START, start)
        partial.rename(output)


@contextmanager
def locked(output: Path, checkpoints: Path, *, needed: bool) -> Iterator[None]:
    """Keep an unfinished run to this process, so that the same command given twice trains once.

    Args:
        output: folder of the run.
        checkpoints: its folder of checkpoints, made if it is not there.
        needed: False for the processes that leave the writing to another.

    Returns:
        A context manager.

    Raises:
        UserError: another process has the run, or has just finished it.
        KeyboardInterrupt: where one came, with a message that says how to go on.
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
        raise KeyboardInterrupt(f"the run in {output} is unfinished; the same command goes on with it") from stop


def write_json(path: Path, value: object) -> None:
    """Write a JSON file that appears whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")
