"""Fingerprints of the inputs of a run, so that resuming detects changed data or weights."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from reference_models.config import RunConfig
from reference_models.data.features import content_key
from reference_models.data.formats import get_format
from reference_models.data.samples import Sample, Split, fingerprint
from reference_models.data.threads import map_ahead


def input_fingerprints(config: RunConfig, samples: Mapping[Split, Sequence[Sample]]) -> dict[str, str]:
    """Compute a fingerprint of 12 hex digits for each input of a run.

    Args:
        config: Settings of the run.
        samples: Samples of each split, as returned by its reader.

    Returns:
        Fingerprints by name: "labels_fingerprint" for all label files together; for each split, its label file, its
        images with their crops, and its texts about images; the relations with their ids; weights in local files and
        folders. Inputs that the run does not read are omitted.
    """
    root, kind = Path(config.data.root), get_format(config.data.format)
    files = {split: kind.layout(root, split).labels for split in samples}
    prints = {"labels_fingerprint": fingerprint(chain.from_iterable(files.values()))}
    prints |= {f"{split}_labels_fingerprint": fingerprint(paths) for split, paths in files.items()}
    if (declared := kind.labels(root)) is not None:
        prints["relation_ids_fingerprint"] = _digest([repr(declared).encode()])
    if config.reads_images:
        prints |= {f"{split}_images_fingerprint": images_fingerprint(rows) for split, rows in samples.items()}
    if kinds := config.model.inputs.texts:
        for split, rows in samples.items():
            read = (repr((sample.id, [one for one in sample.image_texts if one[0] in kinds])) for sample in rows)
            prints[f"{split}_image_texts_fingerprint"] = _digest(line.encode() for line in read)
    for name, value in config.model.local_paths().items():
        path = Path(value)
        prints[f"{name}_fingerprint"] = folder_fingerprint(path) if path.is_dir() else fingerprint([path])
    return prints


def images_fingerprint(samples: Iterable[Sample]) -> str:
    """Compute a fingerprint of images and crops: their names, their contents and the samples they belong to."""
    listed = [(sample.id, [path for path in (sample.image, *sample.crops) if path]) for sample in samples]
    paths = list(dict.fromkeys(path for _, own in listed for path in own))
    contents = dict(zip(paths, map_ahead(_content, paths), strict=True))
    named = ((repr((name, [path.name for path in own])).encode(), own) for name, own in listed)
    return _digest(part for text, own in named for part in (text, *(contents[path] for path in own)))


def folder_fingerprint(folder: Path) -> str:
    """Compute a fingerprint of the names and contents of the files directly in a folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return _digest(part for file in files for part in (file.name.encode(errors="surrogateescape"), content_key(file)))


def _content(path: Path) -> bytes:
    try:
        return content_key(path)
    except OSError:  # `data.bad_images` decides later what to do about a missing image
        return b"unreadable"


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:12]
