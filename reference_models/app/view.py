"""HTML for the page: marked sentences, probabilities, crops in their image, attention, and errors."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from reference_models.analysis.crop_attention import CropAttention
from reference_models.app.answers import Answer
from reference_models.app.examples import Bounds
from reference_models.data.images import decode_image
from reference_models.data.samples import Sample
from reference_models.report.examples import embedded, sentence, thumbnail
from reference_models.report.markup import Markup, element, heat_map, join, table
from reference_models.tasks import Task
from reference_models.tasks.task import Prediction

LARGEST = 640  # longer side of the image of a post, pixels
CROP = 96  # longer side of a crop, pixels
LIKELIEST = 5  # number of probabilities shown


def answer_view(task: Task, answer: Answer) -> Markup:
    """Show the whole answer to a post."""
    columns = [
        prediction_view(task, "With the image" if answer.alone else "Prediction", answer.sample, answer.prediction)
    ]
    if answer.alone:
        columns.append(prediction_view(task, "Without the image", answer.sample, answer.alone))
    parts = [note(text) for text in answer.notes]
    parts.append(element("div", *columns, class_="columns"))
    if answer.sample.image or answer.sample.crops:
        parts.append(seen(answer.sample, answer.boxes))
    if answer.attention is not None:
        parts.append(attention(answer.attention, answer.sample))
    return element("div", *parts, class_="answer-view")


def prediction_view(task: Task, title: str, sample: Sample, prediction: Prediction) -> Markup:
    """Show a prediction: the sentence with marked spans, and the probabilities."""
    line = task.line(task.to_row(sample, prediction.answer), "predicted")
    parts = [element("p", sentence(sample.words, line.marks or ()), class_="sentence")]
    if line.text is not None:
        parts.append(element("p", f"{task.noun}: ", element("strong", line.text)))
    rows = task.likeliest(sample, prediction)[:LIKELIEST]
    parts.append(probabilities(task.noun, rows) if rows else element("p", f"No {task.noun} found.", class_="note"))
    return element("section", element("h2", title), *parts, class_="prediction")


def probabilities(noun: str, rows: Sequence[tuple[str, float]]) -> Markup:
    """Show a table of names and probabilities with a bar for each; `noun` titles the names, such as "entity"."""
    lines = [
        [name, join([element("span", class_="bar", style=f"--share:{100 * p:.1f}%"), f"{100 * p:.1f}%"])]
        for name, p in rows
    ]
    return table([noun, "probability"], lines)


def seen(sample: Sample, boxes: Sequence[Bounds | None]) -> Markup:
    """Show the image with the numbered boxes of its crops, and the crops."""
    shown = [boxed_image(sample.image, boxes)] if sample.image else []
    crops = [
        element("figure", thumbnail(path, CROP), element("figcaption", f"crop {number}"))
        for number, path in enumerate(sample.crops, start=1)
    ]
    notes = []
    if not crops:
        notes.append(note("There are no crops."))
    elif sample.image and not any(boxes):
        notes.append(note("The positions of these crops in the image are unknown."))
    return element("section", element("h2", "Image and crops"), *notes, element("div", *shown, *crops, class_="images"))


def boxed_image(path: Path, boxes: Sequence[Bounds | None]) -> Markup:
    """Draw numbered boxes (left, top, right, bottom in pixels) on an image; None leaves a box out."""
    image = decode_image(path)
    width, height = image.size
    image.thumbnail((LARGEST, LARGEST))
    unit = max(width, height) / 100
    drawn: list[Markup] = []
    for number, box in enumerate(boxes, start=1):
        if box is None:
            continue
        left, top, right, bottom = box
        place = {"x": f"{left}", "y": f"{top}", "width": f"{right - left}", "height": f"{bottom - top}"}
        drawn += [element("rect", **place, class_="halo"), element("rect", **place, class_="box")]
        drawn.append(
            element("rect", x=f"{left}", y=f"{top}", width=f"{6 * unit:g}", height=f"{6 * unit:g}", class_="badge")
        )
        middle = {"x": f"{left + 3 * unit:g}", "y": f"{top + 4.6 * unit:g}", "font-size": f"{5 * unit:g}"}
        drawn.append(element("text", str(number), **middle, class_="number"))
    count = sum(box is not None for box in boxes)
    label = f"The image of the post with the boxes of {count} crops" if count else "The image of the post"
    shown = element("image", href=embedded(image), width=f"{width}", height=f"{height}")
    view = {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": label}
    return element("svg", shown, *drawn, **view, class_="post-image")


def attention(found: CropAttention, sample: Sample) -> Markup:
    """Show the attention of a sample's words to its images as a heat map."""
    strongest = max(found.shares.max().item(), 1e-9)
    cells = [[(f"{100 * share:.1f}", share / strongest) for share in row] for row in found.shares.tolist()]
    known = {path: f"crop {number}" for number, path in enumerate(sample.crops, start=1)}
    names = [known.get(path, "image") for path in found.images]
    return element(
        "section",
        element("h2", "Attention to the images"),
        element(
            "p",
            "Percentage of each word's attention (row) that goes to each image (column), averaged over all layers and "
            "heads. The rest goes to the text.",
            class_="note",
        ),
        heat_map("word", found.words, names, cells),
    )


def file_view(counts: Mapping[str, int]) -> Markup:
    """Show how many posts of a file were processed and how many had an error."""
    errors = f"{counts['errors']} with an error" if counts["errors"] else "none with an error"
    return element("p", f"{counts['posts']} posts processed, {errors}.", role="status", class_="done")


def note(text: str) -> Markup:
    """Show a remark."""
    return element("p", text, class_="note")


def problem(text: str) -> Markup:
    """Show an error message, which a screen reader announces at once."""
    return element("div", element("strong", "No prediction: "), text, role="alert", class_="problem")
