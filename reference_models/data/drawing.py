"""Drawing of synthetic images: coloured figures on a cluttered background, with one shape per entity type."""

import colorsys
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIZE = 96
HUES = {"red": 0.0, "yellow": 0.15, "green": 0.35, "blue": 0.6, "purple": 0.83}
Point = tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """One object in an image: its entity type, its colour and its box (left, top, right, bottom) in pixels."""

    type: str
    colour: str
    box: tuple[int, int, int, int]


def _person() -> list[list[Point]]:
    head = [(0.25 * math.cos(a), -0.68 + 0.25 * math.sin(a)) for a in (i * math.pi / 8 for i in range(16))]
    return [head, [(-0.25, -0.35), (0.25, -0.35), (0.5, 0.95), (-0.5, 0.95)]]


def _mountains() -> list[list[Point]]:
    return [[(-0.95, 0.8), (-0.4, -0.7), (0.15, 0.8)], [(-0.1, 0.8), (0.45, -0.25), (0.95, 0.8)]]


def _tower() -> list[list[Point]]:
    floors = [[(-0.75, y), (0.75, y), (0.75, y + 0.3), (-0.75, y + 0.3)] for y in (-0.9, -0.4, 0.1, 0.6)]
    return [*floors, [(-0.15, -0.9), (0.15, -0.9), (0.15, 0.9), (-0.15, 0.9)]]


def _star() -> list[list[Point]]:
    tips = range(10)
    return [
        [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i in tips for r in [(0.95, 0.4)[i % 2]]]
    ]


SHAPES = {"PER": _person, "LOC": _mountains, "ORG": _tower, "MISC": _star}
SHAPE_NAMES = {"PER": "person", "LOC": "mountains", "ORG": "tower", "MISC": "star"}


def draw(objects: list[tuple[str, str]], rng: random.Random) -> tuple[Image.Image, list[Figure]]:
    """Draw up to four (type, colour) pairs, each in its own corner; return the image and the drawn figures."""
    image = Image.new("RGB", (SIZE, SIZE), _colour(rng.random(), 0.12, rng.uniform(0.55, 0.95)))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(4, 9)):
        _clutter(pen, rng)
    corners = rng.sample([(0, 0), (0, 1), (1, 0), (1, 1)], len(objects))
    figures = []
    for (type_, colour), (column, row) in zip(objects, corners, strict=True):
        radius = rng.uniform(15, 22)
        x = column * SIZE / 2 + rng.uniform(radius, SIZE / 2 - radius)
        y = row * SIZE / 2 + rng.uniform(radius, SIZE / 2 - radius)
        fill = _colour(HUES[colour] + rng.uniform(-0.02, 0.02), rng.uniform(0.75, 1.0), rng.uniform(0.65, 0.95))
        turn = rng.uniform(-0.12, 0.12)
        for polygon in SHAPES[type_]():
            pen.polygon(_place(polygon, x, y, radius, turn), fill=fill)
        box = (round(x - radius), round(y - radius), round(x + radius), round(y + radius))
        figures.append(Figure(type_, colour, box))
    return image, figures


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _clutter(pen: ImageDraw.ImageDraw, rng: random.Random) -> None:
    x, y, radius = rng.uniform(0, SIZE), rng.uniform(0, SIZE), rng.uniform(2, 7)
    corners = [(rng.uniform(-1, 1), rng.uniform(-1, 1)) for _ in range(rng.randint(3, 5))]
    pen.polygon(_place(corners, x, y, radius, 0.0), fill=_colour(rng.random(), 0.15, rng.uniform(0.2, 0.8)))


def _place(polygon: list[Point], x: float, y: float, radius: float, turn: float) -> list[Point]:
    cos, sin = math.cos(turn) * radius, math.sin(turn) * radius
    return [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in polygon]
