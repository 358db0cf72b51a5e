"""CoNLL files: one word and its tag per line, a blank line between sentences, no images."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from reference_models.data.bio import check_tag, is_tag
from reference_models.data.formats.base import SPLITS, DataFormat, register_format
from reference_models.data.formats.layout import Layout
from reference_models.data.samples import Sample, Split, read_lines
from reference_models.errors import UserError

VALID_NAMES = ("valid", "dev", "val")


@register_format("conll")
class Conll(DataFormat):
    """CoNLL files `{train,valid,test}.txt` or `.conll` (also `dev` or `val`) with BIO tags of any types.

    The first column is the word and the last column is the tag. Columns are separated by tabs, or by spaces if the line
    has no tab. `-DOCSTART-` lines are skipped.
    """

    task = "ner"
    has_images = False

    def layout(self, root: Path, split: Split) -> Layout:
        """See `DataFormat`."""
        names = VALID_NAMES if split == "valid" else (split,)
        files = [root / f"{name}.{suffix}" for name in names for suffix in ("txt", "conll")]
        return Layout((next((file for file in files if file.is_file()), files[0]),), images=root, crops=root)

    def recognises(self, root: Path) -> bool:
        """See `DataFormat`: whether a label file starts with a word and a tag."""
        for split in SPLITS:
            [path] = self.layout(root, split).labels
            try:
                lines = (line for line in read_lines(path) if line.strip() and not _starts_document(line))
                columns = _columns(next(lines, ""))
            except UserError:
                continue
            if len(columns) > 1 and is_tag(columns[-1]):
                return True
        return False

    def read(
        self, root: Path, split: Split, *, pairs: bool | None = None, visual: bool = True, max_crops: int = 3
    ) -> Iterator[Sample]:
        """See `DataFormat`."""
        [path] = self.layout(root, split).labels
        rows: list[tuple[str, str]] = []
        first = 0
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip(" ") or _starts_document(line):
                if rows:
                    yield _sample(path, first, rows)
                rows = []
                continue
            where = f"{path}:{number}"
            columns = _columns(line)
            if len(columns) < 2 or not columns[0]:
                raise UserError(f"{where}: expected a word and a tag, separated by a tab or space, got {line!r}")
            first = first if rows else number
            rows.append((columns[0], check_tag(columns[-1], where)))
        if rows:
            yield _sample(path, first, rows)

    def write(self, root: Path, samples: Mapping[Split, Sequence[Sample]], labels: Sequence[str] | None = None) -> None:
        """See `DataFormat`; images are omitted."""
        root.mkdir(parents=True, exist_ok=True)
        for split, rows in samples.items():
            lines: list[str] = []
            for sample in rows:
                words = zip(sample.words, sample.tags or ["O"] * len(sample.words), strict=True)
                lines += [*(f"{word}\t{tag}" for word, tag in words), ""]
            (root / f"{split}.txt").write_text("\n".join(lines), encoding="utf-8")


def _columns(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split(" ")


def _starts_document(line: str) -> bool:
    return line.startswith("-DOCSTART-")


def _sample(path: Path, number: int, rows: Sequence[tuple[str, str]]) -> Sample:
    words, tags = zip(*rows, strict=True)
    return Sample(id=f"{path.name}:{number}", words=words, tags=tags)
