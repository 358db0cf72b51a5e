"""All settings of a run."""

from dataclasses import dataclass, field

from reference_models.config.data import DataConfig
from reference_models.config.grounding import GroundingConfig
from reference_models.config.system import SystemConfig
from reference_models.config.training import TrainingConfig
from reference_models.errors import UserError


@dataclass
class RunConfig:
    """All settings of a run.

    Args:
        system: Name of the system, see `systems.get_system`.
        model: Settings of the system.
        output: Run directory: a new folder, or the directory of an interrupted run with the same settings.
        data: Where the samples are and how they become tensors.
        training: How the system is trained.
        grounding: How `i2srm data crops`, and `predict` with a detector, make object crops.
    """

    system: str
    model: SystemConfig
    output: str = "runs/i2srm"
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    grounding: GroundingConfig = field(default_factory=GroundingConfig)

    def __post_init__(self) -> None:
        sections = {"data": self.data, "model": self.model, "grounding": self.grounding}
        named = {f"{name}.{key}": value for name, section in sections.items() for key, value in vars(section).items()}
        for key, value in {"output": self.output, **named}.items():
            # Python represents such bytes as lone surrogates, which neither YAML nor safetensors can store.
            if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
                raise UserError(f"{key} must be UTF-8, got {value!r}; rename the folder, or work from inside it")
        if self.data.feature_cache is not None and not (self.reads_images and self.model.freeze_image_backbone):
            raise UserError(
                "data.feature_cache stores features of a frozen image backbone: it needs a system that reads images "
                f"and model.freeze_image_backbone=true, got system {self.system} and {self.model.freeze_image_backbone}"
            )
        if self.data.feature_cache is not None and self.model.backbone_train_mode:
            raise UserError(
                "data.feature_cache stores features for all epochs, but with model.backbone_train_mode=true they "
                "change with every mini-batch; set only one of the two"
            )

    @property
    def reads_images(self) -> bool:
        """Whether training reads images, including for the semantic loss only."""
        return bool(self.model.image_views)
