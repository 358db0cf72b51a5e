"""Reads a run's settings: a YAML file, then overrides of the command line."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from reference_models.config import RunConfig
from reference_models.errors import UserError

SECTIONS = ("data", "model", "training", "grounding")
CONFIGS = Path(__file__).parent / "configs"


def find_config(name: str) -> Path:
    """The YAML file at a path, or one of those that come with the package: `mnre`, `mnre.yaml` or `configs/mnre.yaml`.

    Raises:
        UserError: there is no such file.
    """
    shipped = CONFIGS / f"{name.removeprefix('configs/').removesuffix('.yaml')}.yaml"
    for path in (Path(name), shipped):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    raise UserError(f"there is no configuration file {name}; those that come with the package: {known}")


def read_settings(path: Path | None, overrides: Sequence[str]) -> RunConfig:
    """The settings of a YAML file (None: the defaults), changed by overrides such as `["--training.epochs", "5"]`.

    `--help` among the overrides prints every key with its default and ends the program.

    Raises:
        UserError: a key that does not exist, a value of the wrong type, or a file that is not YAML.
    """
    parser = ArgumentParser(prog="i2srm train CONFIG", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="a YAML file of settings")
    parser.add_class_arguments(RunConfig, fail_untyped=True)
    try:
        namespace = parser.parse_args([*(["--config", str(path)] if path else []), *overrides])
        for name in SECTIONS:
            if not isinstance(section := namespace.get(name), Namespace):
                got = "null" if section is None else repr(section)
                raise UserError(f"{name} holds no settings ({got}); give it some, or leave it out")
        values = parser.instantiate_classes(namespace)
    except SystemExit:
        raise  # after --help
    except Exception as error:  # a damaged file can fail with almost any exception
        raise UserError(
            f"settings from {path or 'the defaults'} and the command line: {' '.join(str(error).split())}"
        ) from error
    return RunConfig(values.output, values.data, values.model, values.training, values.grounding)


def read_run_settings(path: Path, overrides: Sequence[str], changeable: Collection[str], command: str) -> RunConfig:
    """The settings of a finished run, changed by overrides that the command uses.

    Args:
        path: the run's YAML file.
        overrides: as on the command line.
        changeable: the keys that the command uses, or sections of them such as "grounding".
        command: its name, for the message.

    Raises:
        UserError: as `read_settings`, or an override that the command would ignore.
    """
    before, config = read_settings(path, []), read_settings(path, overrides)
    old, new = flat_settings(asdict(before)), flat_settings(asdict(config))
    for key in old | new:
        if old.get(key) != new.get(key) and not {key, key.split(".")[0]} & set(changeable):
            uses = f"it uses {', '.join(changeable)}" if changeable else "it uses no settings"
            raise UserError(f"{command} ignores --{key}, because the run was trained with its own; {uses}")
    return config


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by the keys of the command line."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        below = flat_settings(value) if isinstance(value, dict) else {}
        flat |= {f"{key}.{name}": inner for name, inner in below.items()} or {key: value}
    return flat
