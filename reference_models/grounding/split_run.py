"""Creation of the crops of one split, batch by batch, so that an interrupted run can resume."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from reference_models.config.grounding import GroundingConfig
from reference_models.data.crop_sources import manifest_path
from reference_models.data.formats import Layout
from reference_models.data.images import decode_image
from reference_models.data.samples import Split, read_crop_names
from reference_models.errors import UserError
from reference_models.files import write_whole
from reference_models.grounding import manifest
from reference_models.grounding.boxes import Box, cut, select_boxes
from reference_models.grounding.detectors import AnnotationDetector, Detector
from reference_models.grounding.manifest import Key, Row
from reference_models.grounding.queries import ImageQuery

NARROW = 100  # maximum aspect ratio; for longer images, the resizing of a detector would reduce the short side to zero


@dataclass(frozen=True)
class SplitRun:
    """A run that makes the crops of one split.

    Attributes:
        split: Name of the split.
        root: Folder of the data set.
        place: Paths of the parts of the split.
        settings: Twelve hex digits that identify everything the crops depend on, except the images.
        detector: Detector that finds the boxes.
        config: Grounding settings, such as the number and the size of the crops.
    """

    split: Split
    root: Path
    place: Layout
    settings: str
    detector: Detector
    config: GroundingConfig

    @property
    def manifest(self) -> Path:
        """Path of the manifest of the complete split."""
        return manifest_path(self.root, self.split)

    @property
    def journal(self) -> Path:
        """Path of the progress file of an incomplete split."""
        return self.root / f"crops_{self.split}.partial.jsonl"

    @property
    def folder(self) -> Path:
        """Folder of the crops; one per detector and settings, so that crops of other runs are never overwritten."""
        return self.place.crops / f"{self.detector.name}-{self.settings[:8]}"

    def completed(self) -> list[Row]:
        """Return the rows of the manifest if the split is complete with these settings; otherwise an empty list."""
        rows = self._own_rows()
        return rows if not self.journal.exists() and self._crops_exist(rows) else []

    def check(self) -> None:
        """Check that no crops from other settings would be replaced.

        Raises:
            UserError: If there is a dictionary or an interrupted run with other settings and `config.overwrite` is off.
        """
        if self.config.overwrite:
            return
        manifest.read_journal(self.journal, self.settings)
        existing = self.place.dictionary()
        if existing and not self._own_rows() and self._dictionary() != {}:  # an empty one can be replaced without loss
            raise UserError(
                f"{existing}: this crop dictionary was made by others or with other settings; use it without making "
                f"new crops, or set grounding.overwrite to replace it (the old crop files are kept)"
            )

    def make(self, queries: Sequence[ImageQuery], *, progress: bool) -> list[Row]:
        """Make the missing crops, then write manifest and dictionary."""
        try:
            entries = manifest.read_journal(self.journal, self.settings)
        except UserError:  # other settings; `check` allowed this because of `config.overwrite`
            entries = {}
        entries = {key: rows for key, rows in entries.items() if self._crops_exist(rows)}
        manifest.write_journal(self.journal, self.settings, entries)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tqdm(total=len(queries), desc=f"crops of {self.split}", disable=not progress) as bar:
            for start in range(0, len(queries), self.config.batch_size):
                # The batches are always the same, because the other images in a batch change the last digits of a box.
                batch = {start + i: p for i, p in enumerate(queries[start : start + self.config.batch_size])}
                if any(query.key not in entries for query in batch.values()):
                    made = self._process(batch)
                    manifest.append_journal(self.journal, made)
                    entries |= made
                bar.update(len(batch))
        rows = [row for query in queries for row in entries[query.key]]
        manifest.write_manifest(self.manifest, rows)
        manifest.write_dictionary(self.place.dictionaries[0], manifest.crop_names(rows))
        self.journal.unlink()
        return rows

    def _own_rows(self) -> list[Row]:
        """Return the rows of the manifest if it has these settings and matches the dictionary; otherwise none."""
        rows = manifest.read_manifest(self.manifest)
        if not rows or rows[0].settings != self.settings:
            return []
        return rows if self._dictionary() == manifest.crop_names(rows) else []

    def _dictionary(self) -> dict[Key, list[str]] | None:
        """Return the content of the crop dictionary; None if it does not exist or is not a crop dictionary."""
        if not self.place.dictionary():
            return None
        try:
            key_type: Any = self.place.key_type
            names = read_crop_names(self.place.dictionaries, key_type, self.config.top)
        except UserError:
            return None
        return {key: list(crops) for key, crops in names.items()}

    def _crops_exist(self, rows: Sequence[Row]) -> bool:
        return all((self.place.crops / row.crop).is_file() for row in rows if row.crop)

    def _process(self, batch: dict[int, ImageQuery]) -> dict[Key, list[Row]]:
        images, problems = {}, {}
        for number, query in batch.items():
            try:
                image = decode_image(query.image)
            except UserError as error:
                problems[number] = str(error)
                continue
            if max(image.size) > NARROW * min(image.size):
                problems[number] = f"{image.width} x {image.height} pixels are too narrow for a detector"
            else:
                images[number] = image
        if isinstance(self.detector, AnnotationDetector):
            found = {n: self.detector.boxes(batch[n].regions, *image.size) for n, image in images.items()}
        else:
            phrases = [list(batch[number].phrases) for number in images]
            found = dict(zip(images, self.detector.detect(list(images.values()), phrases), strict=True))
        made = {}
        for number, query in batch.items():
            if number in problems:
                rows = [self._row(query, sample, problem=problems[number]) for sample in query.samples]
            else:
                rows = self._save_crops(number, query, images[number], found[number])
            made[query.key] = rows or [self._row(query, sample) for sample in query.samples]
        return made

    def _save_crops(self, number: int, query: ImageQuery, image: Image.Image, boxes: Sequence[Box]) -> list[Row]:
        rows = []
        for rank, box in enumerate(select_boxes(boxes, *image.size, self.config.top)):
            file = self.folder / f"{number}_{query.image.stem}_{rank}.png"
            write_whole(file, partial(cut(image, box, self.config.size).save, format="PNG"))
            rows.append(
                self._row(
                    query,
                    query.phrases.get(box.phrase or "", query.samples[0]),
                    phrase=box.phrase,
                    box=[int(bound) for bound in box.bounds()],
                    score=box.score,
                    crop=str(file.relative_to(self.place.crops)),
                )
            )
        return rows

    def _row(self, query: ImageQuery, sample: str, **found: Any) -> Row:
        return Row(
            key=query.key,
            sample=sample,
            image=os.path.relpath(query.image, self.root),
            detector=self.detector.name,
            version=self.detector.version,
            settings=self.settings,
            **found,
        )
