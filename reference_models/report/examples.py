"""Test samples as a reader sees them: picture, crops, and the sentence with what is true and what was predicted."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from reference_models.data.images import FORMATS, load_image
from reference_models.data.samples import Sample
from reference_models.report.markup import Markup, element, join
from reference_models.report.scores import NONE, outcomes
from reference_models.training.metrics import spans

Row = Mapping[str, Any]
Span = tuple[int, int, str]
PICTURE, CROP = 240, 96  # longer side, pixels


def pick(rows: Sequence[Row], count: int) -> list[Row]:
    """So many rows or fewer, evenly spaced."""
    return [rows[number * len(rows) // count] for number in range(count)] if len(rows) > count else list(rows)


def pick_examples(rows: Sequence[Row], count: int) -> tuple[list[Row], list[Row]]:
    """Rows that are right, and rows that are wrong, among those where there was something to find or was found."""
    telling = [row for row in rows if set(outcomes(row)) - {(NONE, NONE)}]
    right, wrong = ([row for row in telling if is_right(row) == verdict] for verdict in (True, False))
    return pick(right, count), pick(wrong, count)


def is_right(row: Row) -> bool:
    """Whether all that is true was predicted, and nothing else."""
    return all(true == said for true, said in outcomes(row))


def example(row: Row, sample: Sample) -> Markup:
    """A row of predictions with the pictures of its sample."""
    pictures = [thumbnail(sample.image, PICTURE)] if sample.image else []
    crops = element("div", *(thumbnail(path, CROP) for path in sample.crops), class_="crops")
    shown = element("div", *pictures, crops, class_="pictures") if pictures or sample.crops else Markup()
    words, true, said = row["words"], row["true"], row["predicted"]
    if isinstance(true, str):
        told = [
            sentence(words, _pair(row)),
            _answer("true", true, "right"),
            _answer("predicted", said, _verdict(is_right(row))),
        ]
    else:
        told = [
            _answer(name, sentence(words, sorted(spans(ours)), spans(theirs)))
            for name, ours, theirs in (("true", true, said), ("predicted", said, true))
        ]
    return element("figure", shown, element("figcaption", *told, element("p", row["id"], class_="note")))


def labelled(row: Row) -> Markup:
    """The sentence of a row with what is true of it."""
    if isinstance(row["true"], str):
        return join([sentence(row["words"], _pair(row)), " ", element("span", f"({row['true']})", class_="note")])
    return sentence(row["words"], sorted(spans(row["true"])))


def sentence(words: Sequence[str], marks: Sequence[Span], expected: set[Span] | None = None) -> Markup:
    """The words with marked spans, which may overlap; a mark that is not among the expected ones looks wrong."""
    pieces: list[str] = []
    covering = [tuple(mark for mark in marks if mark[0] <= number < mark[1]) for number in range(len(words))]
    for over, numbers in groupby(range(len(words)), key=covering.__getitem__):
        text = " ".join(words[number] for number in numbers)
        if over:
            looks = "plain" if expected is None else _verdict(expected.issuperset(over))
            label = element("small", ", ".join(kind for _, _, kind in over))
            text = element("mark", text, "\N{NO-BREAK SPACE}", label, class_=looks)
        pieces += [text, " "]
    return join(pieces[:-1])


def thumbnail(path: Path, side: int) -> Markup:
    """A picture in its own proportions, its longer side so many pixels, within the page."""
    with Image.open(path, formats=FORMATS) as header:
        longest = max(header.size)
        width, height = (max(1, round(side * length / longest)) for length in header.size)
    file = BytesIO()
    square = Image.fromarray(load_image(path, side).permute(1, 2, 0).numpy())
    square.resize((width, height)).save(file, "JPEG", quality=80)
    data = b64encode(file.getvalue()).decode()
    return element("img", src=f"data:image/jpeg;base64,{data}", alt=path.name, width=str(width), height=str(height))


def _pair(row: Row) -> list[Span]:
    return [(*row[name], name) for name in ("head", "tail")]


def _answer(name: str, said: str, looks: str = "plain") -> Markup:
    key = element("span", name, class_="key")
    return element("p", key, " ", element("span", said, class_=looks), class_="answer")


def _verdict(right: bool) -> str:
    return "right" if right else "wrong"
