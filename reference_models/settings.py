"""Settings of a run: a system file merged with a data file, then overrides from the command line."""

import logging
import re
from argparse import SUPPRESS
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from reference_models.config import DataConfig, RunConfig, SystemConfig, TextSystemConfig, TrainingConfig
from reference_models.config.grounding import GroundingConfig
from reference_models.errors import UserError
from reference_models.names import suggest, suggest_path, unknown
from reference_models.unique_keys import RepeatedKeyError, UniqueKeyLoader

CONFIGS = Path(__file__).parent / "configs"
DEFAULT_SYSTEM = "i2srm"
HELP = {"-h", "--help"}
SECTIONS = {"data": DataConfig, "training": TrainingConfig, "grounding": GroundingConfig}
# Sections of a system file: settings for one task, and for one data set by the name of its file.
TASKS, DATA_SETS = "tasks", "data_sets"
# Folders of `CONFIGS`: what their files describe, and what can be given instead of the name of a file.
KINDS = {
    "data": ("data set", "the path of a YAML file or of a folder of data"),
    "systems": ("system", "the path of a YAML file"),
}
# Messages of jsonargparse about a value of the wrong type, and our names of the types.
WRONG_VALUE = re.compile(
    r"""Parser key "([\w.]+)": Expected a (?:<class '(\w+)'>|typing\.Literal\[(.+?)\])\. Got value: """
)
WRONG_UNION = re.compile(
    r'Parser key "([\w.]+)": Does not validate against any of the Union subtypes '
    r"Subtypes: \[(.+)\] Errors: .* Given value: "
)
UNION_PART = re.compile(r"<class '(\w+)'>|typing\.Literal\[(.+?)\]")
logger = logging.getLogger(__name__)
TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "dict": "a mapping, as in {key: value}"}
Settings = dict[str, Any]


def find_config(name: str, kind: str) -> Path:
    """Find the YAML file at a path, or a file of this package by its name with or without ".yaml".

    Args:
        name: A path or a name.
        kind: One of `KINDS`.

    Returns:
        Path of the file.

    Raises:
        UserError: If there is no such file.
    """
    for path in (Path(name), CONFIGS / kind / f"{name.removesuffix('.yaml')}.yaml"):
        if path.is_file():
            return path
    known = sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))
    what, others = KINDS[kind]
    raise unknown(what, name, known, f"{others} (there is none at {name}{suggest_path(Path(name))})")


def read_settings(
    data: str | Path | None, overrides: Sequence[str] = (), *, system: str | Path | None = None
) -> RunConfig:
    """Read the settings for training a system on a data set.

    Later sources override earlier ones: the system file, its section for the task, the data file, the section of the
    system file for the data set, the overrides.

    Args:
        data: Name or path of the data file, or a data folder, whose format is detected. A data file that names a
            `system` needs no system file, unless `system` is given. None for the defaults.
        overrides: Settings as on the command line, such as `["--training.epochs", "5"]`. `--help` prints every key with
            the value that the run would take and exits the program; without data and system, the defaults.
        system: Name or path of the system file; None for `DEFAULT_SYSTEM`.

    Returns:
        All settings of the run; a key that no source sets has its default.

    Raises:
        UserError: If the system has no such key, a value has the wrong type, the data format or the task is not
            registered, or a file is not YAML or has a key twice.
    """
    if data is None and system is None and "--help" in overrides:
        _parser("").parse_args(["--help"])  # exits before the heavy imports
    from reference_models.systems import get_system

    of_data: Settings = {}
    if data is not None:
        path, of_data = _read_data(data)
    of_system: Settings = {}
    system_path = None
    if "system" in of_data and system is None:
        name = of_data["system"]
    elif data is None and system is None:
        name = DEFAULT_SYSTEM
    else:
        system_path = find_config(str(system or DEFAULT_SYSTEM), "systems")
        of_system = _read(system_path)
        name = of_system.get("system")
        if not isinstance(name, str):
            raise UserError(f"{system_path}: expected the name of the system, as in system: {DEFAULT_SYSTEM}")
        of_data.pop("system", None)
    settings_class = get_system(name).settings_class
    for_task, for_data = of_system.pop(TASKS, {}), of_system.pop(DATA_SETS, {})
    if data is not None:
        _check_keys(of_data, name, path, skipped=None if system_path is None else settings_class)
        of_data["output"] = of_data.get("output", f"runs/{path.stem}" + (f"-{system_path.stem}" if system_path else ""))
        own = [for_task.get(_task(of_data, overrides), {}), of_data, for_data.get(path.stem, {})]
    else:
        own = []
    merged: Settings = {}
    for part in (of_system, *own):
        if part is not of_data:
            _check_keys(part, name, system_path)
        merged = _merge(merged, part)
    _check_overrides(overrides, name)
    merged.pop("system", None)
    source = f"settings from {data or 'the defaults'} and the command line"
    config = _parse(name, merged, overrides, source)
    _check_names(config.data, source)
    return config


def read_run_settings(
    path: Path | None, overrides: Sequence[str], changeable: Collection[str], command: str
) -> RunConfig:
    """Read the settings of a trained model and apply the overrides.

    Args:
        path: The YAML file of the run; None for a model without a run, which has the defaults.
        overrides: Settings as on the command line.
        changeable: Keys that the command uses, or whole sections such as "grounding".
        command: Name of the command, for the message.

    Returns:
        Settings that differ from those of the run only in keys that the command uses.

    Raises:
        UserError: As in `read_settings`, or if the command would ignore an override.
    """
    before, config = read_settings(path), read_settings(path, overrides)
    old, new = flat_settings(asdict(before)), flat_settings(asdict(config))
    for key in old | new:
        if old.get(key) != new.get(key) and not {key, key.split(".")[0]} & set(changeable):
            uses = f"it uses only {', '.join(changeable)}" if changeable else "it uses no settings"
            raise UserError(f"{command} ignores --{key}, because the run keeps the settings of its training; {uses}")
    return config


def shared_overrides(overrides: Sequence[str], systems: Collection[str]) -> dict[str, list[str]]:
    """Select, for each system, the overrides of a command that the system has.

    Args:
        overrides: Settings as on the command line, such as `["--model.text", "bert-base-cased"]`.
        systems: Names or paths of the system files. A setting that no system has is kept for all, so that it is refused
            later.

    Returns:
        By system as in `systems`, its overrides in the order of `overrides`.
    """
    names = {system: _names(system) for system in systems}
    known = set[str]().union(*names.values())
    shared: dict[str, list[str]] = {system: [] for system in systems}
    for system, kept in shared.items():
        keeps = True
        for word in overrides:
            if word.startswith("--"):
                key = _key(word)
                keeps = key in names[system] or key not in known
            if keeps:
                kept.append(word)
    return shared


def _names(system: str) -> set[str]:
    """Return the keys of all settings of the system that a file names."""
    from reference_models.systems import get_system

    known = _keys(get_system(_read(find_config(system, "systems"))["system"]).settings_class)
    return {f"{section}.{key}" for section, keys in known.items() for key in keys}


def _key(word: str) -> str:
    """Return the setting that an option changes: `model.mixup` for `--model.mixup.dropout=0`."""
    return ".".join(word.removeprefix("--").partition("=")[0].split(".")[:2]).removesuffix("+")


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested settings to the keys of the command line."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        below = flat_settings(value) if isinstance(value, dict) else {}
        flat |= {f"{key}.{name}": inner for name, inner in below.items()} or {key: value}
    return flat


def _read(path: Path) -> Settings:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), UniqueKeyLoader)
    except RepeatedKeyError as error:
        raise UserError(f"{path}: {error}; merge the two, or remove one") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: expected a YAML file of settings ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected settings, as in training: {{epochs: 5}}, got {content!r}")
    return content


def _read_data(data: str | Path) -> tuple[Path, Settings]:
    """Return the path of the data file or data folder, and its settings."""
    from reference_models.data.formats import recognise  # imports torch

    shipped = CONFIGS / "data" / f"{data}.yaml"
    if Path(data).is_dir() and not shipped.is_file():
        return Path(data).resolve(), {"data": {"format": recognise(Path(data)).name, "root": str(data)}}
    path = find_config(str(data), "data")
    return path, _read(path)


def _task(of_data: Settings, overrides: Sequence[str]) -> str:
    """Return the task of the data, or what the data format usually has if the data cannot be read."""
    from reference_models.data.formats import get_format, list_formats  # imports torch

    data = dict(of_data.get("data") or {})
    for word, following in zip_longest(overrides, overrides[1:], fillvalue=""):
        option, equals, value = word.partition("=")
        if option in ("--data.task", "--data.format", "--data.root"):
            data[option.removeprefix("--data.")] = value if equals else following
    name = data.get("format", DataConfig.format)
    if data.get("task") or name not in list_formats():
        return data.get("task") or ""  # an unknown format is reported later, by `_check_names`
    data_format = get_format(name)
    try:
        return data_format.find_task(Path(data.get("root", DataConfig.root)))
    except UserError:
        return data_format.task


def _merge(first: Settings, second: Settings) -> Settings:
    """Merge two nested settings; the values of the second one win."""
    merged = first | second
    for key in first.keys() & second.keys():
        if isinstance(first[key], dict) and isinstance(second[key], dict):
            merged[key] = _merge(first[key], second[key])
    return merged


def _keys(settings_class: type[SystemConfig]) -> dict[str, set[str]]:
    sections = {**SECTIONS, "model": settings_class}
    return {section: {part.name for part in fields(kind)} for section, kind in sections.items()}


def _check_keys(part: Settings, system: str, path: Path | None, *, skipped: type[SystemConfig] | None = None) -> None:
    """Check the keys of a file.

    Args:
        part: Content of the file.
        system: Name of the system.
        path: Path of the file.
        skipped: If not None, `model` settings that only other systems have are removed from `part`, with a warning for
            the user's own file; if None, they are an error.
    """
    from reference_models.systems import get_system, list_systems

    known = _keys(get_system(system).settings_class)
    for section, content in list(part.items()):
        if section in ("system", "output"):
            continue
        if section not in known:
            raise UserError(f"{path}: {_unknown(section, system, [*known, 'output', 'system'])}")
        if not isinstance(content, dict):
            got = "null" if content is None else repr(content)
            raise UserError(f"{path}: {section} contains no settings ({got}); add some, or remove the section")
        for key in [key for key in content if key not in known[section]]:
            others = {name for other in list_systems() for name in _keys(get_system(other).settings_class)["model"]}
            if skipped is None or section != "model" or key not in others:
                names = [f"{section}.{name}" for name in known[section]]
                raise UserError(f"{path}: {_unknown(f'{section}.{key}', system, names)}")
            if path is not None and CONFIGS not in path.parents:
                logger.warning("%s: the system %s has no setting model.%s; it is ignored", path, system, key)
            part[section] = {name: value for name, value in part[section].items() if name != key}


def _check_overrides(overrides: Sequence[str], system: str) -> None:
    from reference_models.systems import get_system

    known = _keys(get_system(system).settings_class)
    names = ["help", "output", *(f"{section}.{key}" for section, keys in known.items() for key in keys)]
    for word in overrides:
        if word.startswith("--"):
            key = _key(word)
            if key not in names:
                raise UserError(f"the command line: {_unknown(key, system, names)}")


def _unknown(key: str, system: str, names: Sequence[str]) -> str:
    advice = suggest(key, names) or "; i2srm train DATA SYSTEM --help lists all settings"
    return f"the system {system} has no setting {key}{advice}"


def _wrong_value(match: re.Match[str]) -> str:
    key, kind, choices = match.groups()
    return f"{key} must be {f'one of {choices}' if choices else TYPES.get(kind, kind)}, got "


def _wrong_union(match: re.Match[str]) -> str:
    parts = (choices or TYPES.get(kind, kind) for kind, choices in UNION_PART.findall(match[2]))
    return f"{match[1]} must be {' or '.join(parts)}, got "


def _check_names(data: DataConfig, source: str) -> None:
    """Check that the data format and the task are registered."""
    from reference_models.data.formats import get_format
    from reference_models.tasks import get_task

    try:
        get_format(data.format)
        if data.task is not None:
            get_task(data.task)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def _new_parser(name: str) -> ArgumentParser:
    """Create the parser for the settings of a system; for the name "", of the settings that all systems share."""
    settings_class: type[SystemConfig] = TextSystemConfig
    if name:
        from reference_models.systems import get_system

        settings_class = get_system(name).settings_class
    parser = ArgumentParser(
        prog="i2srm train DATA SYSTEM",
        description=(
            f"Settings of the system {name}."
            if name
            else "Settings of all systems. Give DATA and SYSTEM to list the settings of one system with their values."
        )
        + " In addition, --seeds 0 1 2 trains once per seed.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--settings", action="config", help=SUPPRESS)
    parser.add_argument("--output", type=str, default="runs/i2srm", help="run directory")
    for section, kind in {"data": DataConfig, "model": settings_class, **SECTIONS}.items():
        parser.add_class_arguments(kind, section, fail_untyped=True)
    return parser


_parser = cache(_new_parser)


def _parse(name: str, merged: Settings, overrides: Sequence[str], source: str) -> RunConfig:
    parser = _parser(name)
    given = ["--settings", yaml.safe_dump(merged), *(word for word in overrides if word not in HELP)]
    try:
        namespace = parser.parse_args(given)
        if HELP & set(overrides):
            parser = _new_parser(name)  # not the cached one, because its defaults change
            parser.set_defaults({key: value for key, value in vars(namespace.as_flat()).items() if key != "settings"})
            parser.parse_args(["--help"])  # exits
        values = parser.instantiate_classes(namespace)
    except SystemExit:
        raise  # after --help
    except Exception as error:  # a wrong value can raise almost any exception
        reason = WRONG_UNION.sub(_wrong_union, WRONG_VALUE.sub(_wrong_value, " ".join(str(error).split())))
        raise UserError(f"{source}: {reason}") from error
    return RunConfig(name, values.model, values.output, values.data, values.training, values.grounding)
