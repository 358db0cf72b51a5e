"""Makes the crops of one split, batch by batch, so that a run stopped at any moment can go on."""

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

NARROW = 100  # times as long as wide: detectors' own resizing would leave no pixel of the short side


@dataclass(frozen=True)
class SplitRun:
    """The making of one split's crops.

    Attributes:
        split: which.
        root: folder of the data set.
        place: where its parts are.
        settings: twelve hex digits that name everything the crops depend on, the images excepted.
        detector: finds the boxes.
        config: how many crops, and how large.
    """

    split: Split
    root: Path
    place: Layout
    settings: str
    detector: Detector
    config: GroundingConfig

    @property
    def manifest(self) -> Path:
        """The manifest of the finished split."""
        return self.root / f"crops_{self.split}.jsonl"

    @property
    def journal(self) -> Path:
        """What is complete of an unfinished split."""
        return self.root / f"crops_{self.split}.partial.jsonl"

    @property
    def folder(self) -> Path:
        """Where the crops go: a folder for each settings, so that no crop of others is ever touched."""
        return self.place.crops / f"{self.detector.name}-{self.settings[:8]}"

    def completed(self) -> list[Row]:
        """The manifest's rows, if the split is complete with these settings; else none."""
        rows = self._own_rows()
        return rows if not self.journal.exists() and self._crops_exist(rows) else []

    def check(self) -> None:
        """Refuse to replace what was made otherwise.

        Raises:
            UserError: there is a dictionary or a stopped run with other settings, and `config.overwrite` is off.
        """
        if self.config.overwrite:
            return
        manifest.read_journal(self.journal, self.settings)
        existing = self.place.dictionary()
        if existing and not self._own_rows():
            raise UserError(
                f"{existing}: this crop dictionary was made by others or with other settings, and can be used as "
                f"it is; set grounding.overwrite to replace it (its crops stay where they are)"
            )

    def make(self, queries: Sequence[ImageQuery], *, progress: bool) -> list[Row]:
        """Make what is missing, then write manifest and dictionary."""
        try:
            entries = manifest.read_journal(self.journal, self.settings)
        except UserError:  # allowed by `check`
            entries = {}
        entries = {key: rows for key, rows in entries.items() if self._crops_exist(rows)}
        manifest.write_journal(self.journal, self.settings, entries)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tqdm(total=len(queries), desc=f"crops of {self.split}", disable=not progress) as bar:
            for start in range(0, len(queries), self.config.batch_size):
                # Always the same batches, because what a detector sees beside an image changes its last digits.
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
        """The manifest's rows, if it has these settings and the dictionary says the same; else none."""
        rows = manifest.read_manifest(self.manifest)
        if not self.place.dictionary() or not rows or rows[0].settings != self.settings:
            return []
        try:
            key_type: Any = self.place.key_type
            names = read_crop_names(self.place.dictionaries, key_type, self.config.top)
        except UserError:
            return []
        return rows if {key: list(crops) for key, crops in names.items()} == manifest.crop_names(rows) else []

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
