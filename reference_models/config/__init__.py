"""Settings of a run, as in its YAML file and on the command line; one file per section."""

from reference_models.config.checks import check_at_least
from reference_models.config.data import DataConfig, LongSamples, Policy, Resize
from reference_models.config.grounding import GroundingConfig
from reference_models.config.run import RunConfig
from reference_models.config.system import (
    SLOTS,
    Inputs,
    Slots,
    SystemConfig,
    TextSystemConfig,
    View,
    WordSystemConfig,
    path_setting,
)
from reference_models.config.training import Logger, TrainingConfig

__all__ = [
    "SLOTS",
    "DataConfig",
    "GroundingConfig",
    "Inputs",
    "Logger",
    "LongSamples",
    "Policy",
    "Resize",
    "RunConfig",
    "Slots",
    "SystemConfig",
    "TextSystemConfig",
    "TrainingConfig",
    "View",
    "WordSystemConfig",
    "check_at_least",
    "path_setting",
]
