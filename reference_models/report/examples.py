"""Test samples as HTML: image, crops, and the sentence with the true and predicted spans."""

from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from reference_models.data.images import FORMATS, load_image
from reference_models.data.samples import Sample
from reference_models.report.markup import Markup, element, join
from reference_models.tasks.task import Line, Span, Task

Row = Mapping[str, Any]
IMAGE, CROP = 240, 96  # longer side, pixels


def pick(rows: Sequence[Row], count: int) -> list[Row]:
    """Return at most `count` evenly spaced rows."""
    return [rows[number * len(rows) // count] for number in range(count)] if len(rows) > count else list(rows)


def pick_examples(task: Task, rows: Sequence[Row], count: int) -> tuple[list[Row], list[Row]]:
    """Return correct rows and wrong rows; rows with nothing to find and nothing predicted are left out."""
    telling = [row for row in rows if set(outcomes(task, row)) - {(None, None)}]
    right, wrong = ([row for row in telling if is_right(task, row) == verdict] for verdict in (True, False))
    return pick(right, count), pick(wrong, count)


def outcomes(task: Task, row: Row) -> list[tuple[str | None, str | None]]:
    """Return the outcomes of a row of predictions, see `Task.outcomes`."""
    return task.outcomes(row["true"], row["predicted"])


def is_right(task: Task, row: Row) -> bool:
    """Return whether the prediction equals the truth."""
    return all(true == predicted for true, predicted in outcomes(task, row))


def example(task: Task, row: Row, sample: Sample) -> Markup:
    """Show a row of predictions with the images of its sample."""
    images = [thumbnail(sample.image, IMAGE)] if sample.image else []
    crops = element("div", *(thumbnail(path, CROP) for path in sample.crops), class_="crops")
    shown = element("div", *images, crops, class_="images") if images or sample.crops else Markup()
    captions = [_line(row, line) for line in task.lines(row)]
    return element("figure", shown, element("figcaption", *captions, element("p", row["id"], class_="note")))


def labelled(task: Task, row: Row) -> Markup:
    """Show the sentence of a row with its true spans or relation."""
    line = task.line(row, "true")
    marked = sentence(row["words"], line.marks or ())
    return marked if line.text is None else join([marked, " ", element("span", f"({line.text})", class_="note")])


def sentence(words: Sequence[str], marks: Sequence[Span], expected: Collection[Span] | None = None) -> Markup:
    """Mark spans in a sentence; spans may overlap, and a span that is not in `expected` is styled as wrong."""
    pieces: list[str] = []
    covering = [tuple(mark for mark in marks if mark[0] <= number < mark[1]) for number in range(len(words))]
    for over, numbers in groupby(range(len(words)), key=covering.__getitem__):
        text = " ".join(words[number] for number in numbers)
        if over:
            looks = "plain" if expected is None else _verdict(set(over) <= set(expected))
            label = element("small", ", ".join(kind for _, _, kind in over))
            text = element("mark", text, "\N{NO-BREAK SPACE}", label, class_=looks)
        pieces += [text, " "]
    return join(pieces[:-1])


def thumbnail(path: Path, side: int) -> Markup:
    """Embed an image, scaled so that its longer side has `side` pixels."""
    with Image.open(path, formats=FORMATS) as header:
        longest = max(header.size)
        width, height = (max(1, round(side * length / longest)) for length in header.size)
    square = Image.fromarray(load_image(path, side).permute(1, 2, 0).numpy())
    source = embedded(square.resize((width, height)))
    return element("img", src=source, alt=path.name, width=str(width), height=str(height))


def embedded(image: Image.Image) -> str:
    """Return a data URL that holds an RGB image as JPEG."""
    file = BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"


def _line(row: Row, line: Line) -> Markup:
    looks = "plain" if line.right is None else _verdict(line.right)
    shown = (line.text or "") if line.marks is None else sentence(row["words"], line.marks, line.expected)
    if not line.name:
        return join([shown])
    key = element("span", line.name, class_="key")
    return element("p", key, " ", element("span", shown, class_=looks), class_="answer")


def _verdict(right: bool) -> str:
    return "right" if right else "wrong"
