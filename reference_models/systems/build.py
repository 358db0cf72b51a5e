"""Construction of a system with the pre-trained weights from its settings."""

from typing import Any

from reference_models.config import SystemConfig, TextSystemConfig, WordSystemConfig
from reference_models.encoders.text import readable_length
from reference_models.encoders.weights import fill_backbone, load_text, tiny_text_config
from reference_models.errors import UserError
from reference_models.systems.base import System
from reference_models.systems.registry import get_system
from reference_models.tasks import get_task
from reference_models.tasks.processor import Processor


def build_system(name: str, settings: SystemConfig, processor: Processor) -> System:
    """Build a system for the task and labels of a processor, and load its pre-trained weights.

    Args:
        name: Name of the system, see `get_system`.
        settings: Instance of the system's `settings_class`.
        processor: Processor with the task, labels and vocabulary.

    Returns:
        The system, in training mode, on the CPU.

    Raises:
        UserError: If the system does not support the task, the weights cannot be found or do not fit, the system cannot
            use the encoder, or AttnMixup or the semantic loss does not accept its options.
    """
    kind = get_system(name)
    if kind.tasks is not None and not isinstance(processor.task, tuple(map(get_task, kind.tasks))):
        raise UserError(f"the system {name} is for {', '.join(kind.tasks)}, but the data are for {processor.task.name}")
    fixed: dict[str, Any] = {"task": processor.task.name, "labels": processor.task.labels}
    fixed["vocabulary"], fixed["rare_words"] = len(processor.tokenizer), processor.rare_words
    fixed["characters"] = 0 if processor.characters is None else len(processor.characters) + 2
    pretrained = None
    if isinstance(settings, TextSystemConfig):
        vocabulary = fixed["vocabulary"]
        pretrained = None if settings.text == "tiny" else load_text(settings.text, vocabulary)
        fixed["text_config"] = tiny_text_config(vocabulary) if pretrained is None else pretrained.config
        readable = readable_length(fixed["text_config"])
        if readable is not None and processor.max_length + processor.text_length > readable:
            texts = f" and model.text_length is {processor.text_length}" if processor.texts else ""
            raise UserError(
                f"data.max_length is {processor.max_length}{texts}, but the text encoder {settings.text!r} reads at "
                f"most {readable} sub-words; set data.max_length to {readable - processor.text_length} or less"
            )
    config = kind.config_class(**vars(settings), **fixed)
    try:
        system = kind(config)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, UserError) else UserError(f"model.mixup or model.semantic: {error}") from error
    if isinstance(settings, TextSystemConfig) and pretrained is not None:
        system.fill_text_encoder(pretrained, settings.text)
    if isinstance(settings, WordSystemConfig):
        system.fill_words(settings.word_vectors, processor.tokenizer.get_vocab())
    if system.vision is not None and settings.vision != "tiny" and settings.vision_weights != "none":
        fill_backbone(system.vision, settings.vision_weights)
    return system
