"""Makes the object crops of a data set: samples -> phrases -> boxes -> crops, dictionary and manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from reference_models.config import DataConfig
from reference_models.config.grounding import GroundingConfig
from reference_models.data.formats import SPLITS, get_format
from reference_models.data.samples import fingerprint
from reference_models.errors import UserError
from reference_models.grounding.detectors import AnnotationDetector, Detector, load_detector
from reference_models.grounding.queries import choose_phrases, image_queries
from reference_models.grounding.split_run import SplitRun
from reference_models.grounding.summary import Summary


def make_crops(
    data: DataConfig, config: GroundingConfig, *, detector: Detector | None = None, progress: bool = True
) -> list[Summary]:
    """Make the crops of all splits; after a stop at any moment, the same call goes on and ends with the same files.

    For each split the crops lie in a folder of their own below the one that the data format takes them from, the crop
    dictionary is where it looks for it, and `crops_SPLIT.jsonl` in the data folder has a line for each
    crop (`manifest.Row`). Dictionary and manifest appear when the split is complete; `crops_SPLIT.partial.jsonl` holds
    the progress until then. An image that cannot be read has no key in the dictionary. Nothing that exists is changed,
    except for a dictionary where `config.overwrite` says so; a split that is complete with the same settings is left.

    Args:
        data: which data set.
        config: how.
        detector: instead of the one that `config` names.
        progress: show a progress bar.

    Returns:
        A summary of each split.

    Raises:
        UserError: wrong settings or data, a dictionary that was made otherwise (before anything is written), or a
            folder that cannot be written to.
    """
    kind, root = get_format(data.format), Path(data.root)
    splits = {split: list(kind.read(root, split, max_crops=0)) for split in SPLITS}
    if not any(sample.image for samples in splits.values() for sample in samples):
        raise UserError(f"{root}: expected images to make crops of, and no sample has one")
    detector = detector or load_detector(config)
    if isinstance(detector, AnnotationDetector) and not any(s.regions for some in splits.values() for s in some):
        raise UserError(f"grounding.detector=annotations: expected data with marked boxes, and {root} has none")
    pairs = all(sample.head is not None for samples in splits.values() for sample in samples)
    source, find_phrases = choose_phrases(pairs, config, detector)
    runs = []
    for split, samples in splits.items():
        place = kind.layout(root, split)
        settings = {
            "detector": [detector.name, detector.version],
            "phrases": source,
            "labels": fingerprint(place.labels),
            "boxes": [config.threshold, config.top, config.size],
        }
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
        runs.append((samples, SplitRun(split, root, place, digest, detector, config)))
    for _, run in runs:
        run.check()
    summaries = []
    for samples, run in runs:
        try:
            if not (rows := run.completed()):
                queries = image_queries(samples, find_phrases(samples), run.place.key_type)
                rows = run.make(queries, progress=progress)
        except OSError as error:
            raise UserError(f"{error.filename}: crops cannot be written here ({error.strerror})") from error
        summaries.append(Summary.of(run.split, rows, run.place.dictionaries[0], run.manifest, run.folder))
    return summaries
