"""Draw the image of the README, a post with its crops and predictions: `python docs/make_post_image.py runs/demo/ner`.

The folder is the output of `i2srm demo --task ner`. The post is the first one of the test split with three objects and
two names of different types.
"""

import json
import sys
from itertools import takewhile
from pathlib import Path

from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

COLOURS = {"PER": "#c2410c", "LOC": "#15803d", "ORG": "#1d4ed8", "MISC": "#7e22ce"}
INK, FAINT, LINE, PAPER = "#1f2937", "#6b7280", "#d1d5db", "#ffffff"
SCALE = 2  # pixels per unit
WIDTH, HEIGHT = 790, 372


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which is part of matplotlib."""
    return ImageFont.truetype(findfont(f"DejaVu Sans:{'bold' if bold else 'regular'}"), size * SCALE)


class Canvas:
    """Drawing area with units that do not depend on the resolution."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def box(self, x: float, y: float, width: float, height: float, width_of_line: int = 1, **style: object) -> None:
        """Draw a rectangle with rounded corners."""
        corners = [x * SCALE, y * SCALE, (x + width) * SCALE, (y + height) * SCALE]
        self.pen.rounded_rectangle(corners, **{"radius": 8 * SCALE, "width": width_of_line * SCALE, **style})

    def outline(self, x: float, y: float, width: float, height: float) -> None:
        """Draw the frame of an object."""
        self.box(x, y, width, height, outline="#111827", width_of_line=2)

    def text(self, x: float, y: float, words: str, size: int, colour: str = INK, *, bold: bool = False) -> float:
        """Draw a line of text and return its width."""
        used = font(size, bold=bold)
        self.pen.text((x * SCALE, y * SCALE), words, font=used, fill=colour)
        return self.pen.textlength(words, font=used) / SCALE

    def paste(self, image: Image.Image, x: float, y: float, size: int) -> None:
        """Draw an image as a square."""
        scaled = image.convert("RGB").resize((size * SCALE, size * SCALE), Image.Resampling.LANCZOS)
        self.image.paste(scaled, (round(x * SCALE), round(y * SCALE)))

    def arrow(self, x: float, y: float, length: float) -> None:
        """Draw an arrow to the right."""
        self.pen.line([x * SCALE, y * SCALE, (x + length) * SCALE, y * SCALE], fill=FAINT, width=2 * SCALE)
        tip = [((x + length) * SCALE, y * SCALE)]
        tip += [((x + length - 7) * SCALE, (y + side) * SCALE) for side in (-5, 5)]
        self.pen.polygon(tip, fill=FAINT)


def entities(tags: list[str]) -> list[tuple[int, int, str]]:
    """Return start, end and type of each entity in BIO tags."""
    starts = [number for number, tag in enumerate(tags) if tag.startswith("B-")]
    inside = [sum(1 for _ in takewhile(lambda tag: tag.startswith("I-"), tags[start + 1 :])) for start in starts]
    return [(start, start + 1 + more, tags[start][2:]) for start, more in zip(starts, inside, strict=True)]


def read(path: Path) -> dict[str, dict]:
    """Read a JSON Lines file into a dict of rows by id."""
    return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}


def choose(rows: list[dict], truth: dict[str, dict]) -> dict:
    """Return the first post with three objects and two names of different types."""
    return next(
        row
        for row in rows
        if len(truth[row["id"]]["objects"]) == 3
        and len(entities(row["true"])) == len({kind for *_, kind in entities(row["true"])}) == 2
    )


def main(folder: Path, output: Path) -> None:
    """Draw a post of a demo folder and save it as PNG."""
    truth = read(folder / "data" / "posts" / "truth_test.jsonl")
    predicted, text_only = (read(folder / name / "predictions_test.jsonl") for name in ("i2srm", "text-only"))
    post = choose(list(predicted.values()), truth)
    image = Image.open(post["image"])
    objects = [figure["box"] for figure in truth[post["id"]]["objects"]]
    words, found = post["words"], entities(post["predicted"])

    canvas = Canvas(WIDTH, HEIGHT)
    badge = {"fill": "#111827", "radius": 3 * SCALE}
    # The post.
    canvas.box(16, 16, 330, 340, outline=LINE, fill="#f9fafb")
    canvas.box(30, 28, 30, 30, fill="#93c5fd", radius=15 * SCALE)
    canvas.text(70, 28, "A synthetic post", 12, bold=True)
    canvas.text(70, 44, f"test.txt, line {post['id'].split(':')[-1]}", 10, FAINT)
    canvas.text(30, 70, " ".join(words), 11)
    side = 246
    canvas.paste(image, 30, 98, side)
    ratio = side / image.width
    for number, (left, top, right, bottom) in enumerate(objects, start=1):
        place = (30 + left * ratio, 98 + top * ratio, (right - left) * ratio, (bottom - top) * ratio)
        canvas.outline(*place)
        canvas.box(place[0], place[1], 16, 16, **badge)
        canvas.text(place[0] + 4, place[1] + 1, str(number), 11, PAPER, bold=True)
    # Its crops.
    canvas.arrow(352, 186, 30)
    canvas.text(396, 28, "object crops", 12, FAINT)
    for number, box in enumerate(objects, start=1):
        y = 50 + (number - 1) * 100
        canvas.paste(image.crop(box), 396, y, 88)
        canvas.outline(396, y, 88, 88)
        canvas.box(396, y, 16, 16, **badge)
        canvas.text(400, y + 1, str(number), 11, PAPER, bold=True)
    # The predictions.
    canvas.arrow(494, 186, 30)
    answers = {"I2SRM": post["predicted"], "text-only model": text_only[post["id"]]["predicted"], "truth": post["true"]}
    for row, (title, tags) in enumerate(answers.items()):
        y = 50 + 104 * row
        canvas.text(540, y - 22, title, 12, FAINT)
        for line, (start, end, kind) in enumerate(entities(tags)):
            name = " ".join(words[start:end])
            width = canvas.pen.textlength(name, font=font(13, bold=True)) / SCALE
            canvas.box(540, y + 32 * line, width + 78, 26, outline=COLOURS[kind], fill=PAPER)
            canvas.text(550, y + 5 + 32 * line, name, 13, bold=True)
            canvas.text(560 + width, y + 6 + 32 * line, kind, 12, COLOURS[kind], bold=True)
        if not entities(tags):
            canvas.text(540, y + 5, "no entity", 13)
    canvas.image.quantize(128).save(output, optimize=True)
    print(f"{output}: {output.stat().st_size / 1000:.0f} kB; {' '.join(words)}: {found}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent / "_static" / "post.png")
