"""Creation of the object crops of a data set: samples -> phrases -> boxes -> crops, dictionary and manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

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
    data: DataConfig,
    config: GroundingConfig,
    *,
    pairs: bool | None = None,
    detector: Detector | None = None,
    progress: bool = True,
) -> list[Summary]:
    """Make the crops of all splits. An interrupted call resumes with the same call and gives the same files.

    The crops of a split are written to a subfolder of the crop folder of the data format, and the crop dictionary to
    the path where the data format reads it. `crops_SPLIT.jsonl` in the data folder has one line per crop
    (`manifest.Row`). Dictionary and manifest are written when the split is complete; until then, the progress is in
    `crops_SPLIT.partial.jsonl`. An unreadable image has no key in the dictionary. Existing files are not changed,
    except for a dictionary if it is empty or `config.overwrite` is set. A split that is complete with the same settings
    is skipped. The dictionary and the manifest of a split without images are empty.

    Args:
        data: Data settings.
        config: Grounding settings.
        pairs: Whether a sample is a relation of two entities, as in `DataFormat.read`.
        detector: Detector to use instead of the one in `config`.
        progress: Whether to show a progress bar.

    Returns:
        A summary of each split.

    Raises:
        UserError: If the settings or the data are invalid, a folder is not writable, another process is making the
            crops, or a dictionary was made in another way (this is checked before anything is written).
    """
    kind, root = get_format(data.format), Path(data.root)
    splits = {split: list(kind.read(root, split, pairs=pairs, max_crops=0)) for split in SPLITS}
    if not any(sample.image for samples in splits.values() for sample in samples):
        raise UserError(f"{root}: expected samples with images, from which crops are cut, but no sample has one")
    detector = detector or load_detector(config)
    if isinstance(detector, AnnotationDetector) and not any(s.regions for some in splits.values() for s in some):
        raise UserError(
            f"grounding.detector=annotations: expected data with annotated boxes, but {root} has none; choose another "
            "detector"
        )
    of_pairs = all(sample.head is not None for samples in splits.values() for sample in samples)
    source, find_phrases = choose_phrases(of_pairs, config, detector)
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
    summaries = []
    with _locked(root):
        for _, run in runs:
            run.check()
        for samples, run in runs:
            if not (rows := run.completed()):
                queries = image_queries(samples, find_phrases(samples), run.place.key_type)
                rows = run.make(queries, progress=progress)
            paths = (run.place.dictionaries[0], run.manifest, run.folder)
            summaries.append(Summary.of(run.split, detector.name, rows, *paths))
    return summaries


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Lock the crops of a data set against other processes; OS errors inside the block become a `UserError`."""
    lock = FileLock(root / "crops.lock", timeout=0)
    try:
        with lock:
            try:
                yield
            finally:
                Path(lock.lock_file).unlink()
    except Timeout as error:
        raise UserError(
            f"another process is making the crops of {root}; wait for it, then run the command again"
        ) from error
    except OSError as error:
        raise UserError(f"{error.filename or root}: the crops cannot be written ({error.strerror})") from error
