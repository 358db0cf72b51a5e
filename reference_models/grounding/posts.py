"""Object crops of single posts, made on request."""

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
    """Finds the objects in the image of a post and writes their crops.

    Args:
        pairs: If True, search for the two entities of a relation; if False, for the noun phrases of the sentence.
        config: Grounding settings.
        folder: Folder for the crops.
        detector: Detector to use instead of the one in `config`.

    Attributes:
        version: Detector and settings. Two instances with the same version make the same crops.

    Raises:
        UserError: If the detector, its weights or the spaCy pipeline cannot be loaded, or the detector needs
            annotations.
    """

    def __init__(self, pairs: bool, config: GroundingConfig, folder: Path, *, detector: Detector | None = None) -> None:
        self.config, self.folder = config, folder
        self.detector = detector or load_detector(config)
        if isinstance(self.detector, AnnotationDetector):
            raise UserError(
                "grounding.detector=annotations uses the annotated boxes of a data set, which a post does not have; "
                "choose another detector"
            )
        self.version = f"{self.detector.name} {self.detector.version}, {config}"
        _, self._find_phrases = choose_phrases(pairs, config, self.detector)

    def __call__(self, sample: Sample, name: str) -> Sample:
        """Return the sample with crops of its image, in files that start with `name`; no crops if nothing is found.

        Raises:
            UserError: If the image cannot be read.
        """
        return self.locate(sample, name)[0]

    def locate(self, sample: Sample, name: str) -> tuple[Sample, list[Box]]:
        """Return the sample with crops, and the box of each crop in the image."""
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
