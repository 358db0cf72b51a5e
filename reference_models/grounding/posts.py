"""Object crops of single posts, made when they are asked for."""

from dataclasses import replace
from pathlib import Path

from reference_models.config.grounding import GroundingConfig
from reference_models.data.images import decode_image
from reference_models.data.samples import Sample
from reference_models.errors import UserError
from reference_models.files import writable
from reference_models.grounding.boxes import Box, cut, select_boxes
from reference_models.grounding.detectors import AnnotationDetector, Detector, load_detector
from reference_models.grounding.queries import choose_phrases


class PostGrounder:
    """Finds the objects of a post's image and writes their crops.

    Args:
        pairs: whether to look for the two entities of a relation, or for the noun phrases of the text.
        config: how.
        folder: for the crops.
        detector: instead of the one that `config` names.

    Attributes:
        version: tells apart two that may make other crops.

    Raises:
        UserError: weights or a pipeline that are needed and cannot be loaded.
    """

    def __init__(self, pairs: bool, config: GroundingConfig, folder: Path, *, detector: Detector | None = None) -> None:
        self.config, self.folder = config, folder
        self.detector = detector or load_detector(config)
        if isinstance(self.detector, AnnotationDetector):
            raise UserError(
                "grounding.detector=annotations takes the boxes that came with the data, which a post has not; choose "
                "another detector"
            )
        self.version = f"{self.detector.name} {self.detector.version}, {config}"
        _, self._find_phrases = choose_phrases(pairs, config, self.detector)

    def __call__(self, sample: Sample, name: str) -> Sample:
        """The sample with crops of its image, in files that begin with `name`; without any where nothing is found.

        Raises:
            UserError: the image cannot be read.
        """
        return self.locate(sample, name)[0]

    def locate(self, sample: Sample, name: str) -> tuple[Sample, list[Box]]:
        """The same, with the box of each crop in the image."""
        if sample.image is None:
            return sample, []
        try:
            image = decode_image(sample.image)
        except UserError as error:
            raise UserError(f"{sample.image}: {error}") from error
        [boxes] = self.detector.detect([image], self._find_phrases([sample]))
        chosen = select_boxes(boxes, image.width, image.height, self.config.top)
        crops = []
        with writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        for rank, box in enumerate(chosen):
            crops.append(self.folder / f"{name}_{rank}.png")
            with writable(crops[-1]):
                cut(image, box, self.config.size).save(crops[-1])
        return replace(sample, crops=tuple(crops)), chosen
