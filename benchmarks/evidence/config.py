"""Configuration file of the benchmark: suites of data sets, arms, and training settings."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from attnmixup.checks import check_choice
from reference_models.errors import UserError

Half = Literal["design", "held_back"]
PLAIN = "plain"


@dataclass(frozen=True, kw_only=True)
class Training:
    """Training settings of a cell; the same for all arms of a data set.

    Attributes:
        hidden: Width C of the embeddings that the mixer sees.
        batch_size: Samples per step.
        steps: Number of AdamW steps, with cosine decay of the learning rate to 0.
        weight_decay: Weight decay of AdamW.
        learning_rates: Grid from which validation chooses one learning rate for each arm.
        head_factor: Learning rate of the layers that are not in the encoder, relative to that of the encoder. Without
            an encoder that is trained, relative to ``learning_rates``.
        choice_seeds: Number of leading seeds that choose the learning rate.
        seeds: Number of seeds at the chosen learning rate.
        evaluations: Number of points of the validation curve.
    """

    hidden: int = 128
    batch_size: int = 32
    steps: int = 400
    weight_decay: float = 0.01
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    head_factor: float = 1.0
    choice_seeds: int = 3
    seeds: int = 10
    evaluations: int = 12


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set of a suite: source, training subset and half.

    Attributes:
        name: Name in tables.
        suite: Name of the suite.
        source: A key of :data:`benchmarks.evidence.readers.SOURCES`.
        half: ``"design"`` sets may be used to develop a method, ``"held_back"`` sets only to report it.
        family: Name of the family; the source by default. Data sets of one family are one cluster in the means over
            data sets.
        subset: Training rows that a seed draws, see :func:`benchmarks.evidence.subsets.draw_subset`.
        training: Training settings of its cells.
    """

    name: str
    suite: str
    source: str
    half: Half
    family: str
    subset: dict[str, float] = field(default_factory=dict)
    training: Training


@dataclass(frozen=True, kw_only=True)
class Config:
    """Configuration of a benchmark.

    Attributes:
        encoder: See :func:`benchmarks.evidence.encoder.encoder_folder`.
        fine_tuned: Whether the encoder is trained; otherwise its features are computed once.
        data_sets: The data sets of all suites.
        arms: Names to options, see :func:`benchmarks.evidence.arms.make_mixer`.
    """

    encoder: str
    fine_tuned: bool
    data_sets: tuple[DataSet, ...]
    arms: dict[str, dict[str, Any] | None]


def load_config(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        UserError: If the file is not a benchmark configuration. The message names the file and what was expected.
    """
    try:
        content = yaml.safe_load(path.read_text())
        base = _training(Training(), content.get("training", {}))
        data_sets = []
        for suite, part in content["suites"].items():
            of_suite = _training(base, part.get("training", {}))
            data_sets += [_data_set(dict(entry), suite, of_suite) for entry in part["data_sets"]]
        arms = content["arms"]
        encoder, fine_tuned = content.get("encoder", "minilm"), content.get("fine_tuned", False)
    except KeyError as error:
        raise UserError(f"{path}: not a benchmark configuration, the key {error} is missing") from error
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a benchmark configuration ({type(error).__name__}: {error})") from error
    if not isinstance(fine_tuned, bool):
        raise UserError(f"{path}: expected fine_tuned to be true or false, got {fine_tuned!r}")
    names = [data_set.name for data_set in data_sets]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{path}: expected unique names of data sets, got several of {', '.join(sorted(repeated))}")
    if arms.get(PLAIN, "missing") is not None:
        raise UserError(f"{path}: expected the arm '{PLAIN}: null', with which all others are compared")
    return Config(encoder=encoder, fine_tuned=fine_tuned, data_sets=tuple(data_sets), arms=arms)


def _training(base: Training, changes: dict[str, Any]) -> Training:
    if "learning_rates" in changes:
        changes = {**changes, "learning_rates": tuple(float(rate) for rate in changes["learning_rates"])}
    changed = replace(base, **changes)
    if not 2 <= changed.choice_seeds <= changed.seeds:
        raise ValueError(f"expected 2 <= choice_seeds <= seeds, got {changed.choice_seeds} and {changed.seeds}")
    return changed


def _data_set(entry: dict[str, Any], suite: str, training: Training) -> DataSet:
    check_choice("half", entry["half"], Half)
    entry["training"] = _training(training, entry.get("training", {}))
    return DataSet(**{"family": entry["source"], "suite": suite, **entry})
