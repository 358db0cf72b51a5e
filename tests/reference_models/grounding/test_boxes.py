"""Box selection, and crops cut from the selected boxes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reference_models.grounding.boxes import LEAST_SIDE, MAX_OVERLAP, Box, cut, overlap, select_boxes

NUMBERS = st.one_of(st.floats(-50, 150), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 100.0]))
BOXES = st.lists(st.builds(Box, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.one_of(st.floats(0, 1), st.just(math.nan))))


def pixels(box: Box) -> set[tuple[int, int]]:
    left, top, right, bottom = (int(bound) for bound in box.bounds())
    return {(x, y) for x in range(left, right) for y in range(top, bottom)}


@given(BOXES, st.integers(1, 40), st.integers(1, 40), st.integers(1, 4))
def test_selected_boxes_are_inside_the_image_and_overlap_little(
    boxes: list[Box], width: int, height: int, top: int
) -> None:
    selected = select_boxes(boxes, width, height, top)
    assert len(selected) <= top
    assert [box.score for box in selected] == sorted((box.score for box in selected), reverse=True)
    for number, box in enumerate(selected):
        assert box.side() >= LEAST_SIDE
        assert pixels(box) <= {(x, y) for x in range(width) for y in range(height)}
        for other in selected[:number]:
            shared, either = pixels(box) & pixels(other), pixels(box) | pixels(other)
            assert overlap(box, other) == pytest.approx(len(shared) / len(either))
            assert len(shared) / len(either) <= MAX_OVERLAP


def test_best_boxes_are_kept_without_near_duplicates() -> None:
    good, duplicate, apart, low = (
        Box(0, 0, 10, 10, 0.9, "a"),
        Box(1, 0, 11, 10, 0.8, "b"),
        Box(20, 0, 30, 10, 0.5),
        Box(50, 50, 60, 60, 0.4),
    )
    assert select_boxes([low, apart, duplicate, good], 100, 100, 2) == [good, apart]
    assert select_boxes([low, Box(70, 0, 80, 10, 0.4)], 100, 100, 1) == [low]


def test_bounds_are_rounded_outwards_and_clipped_to_the_image() -> None:
    assert select_boxes([Box(-3.5, 1.2, 4.1, 99.0, 0.5)], 50, 20, 3) == [Box(0, 1, 5, 20, 0.5)]
    outside = [
        Box(60, 0, 70, 10, 0.5),
        Box(47, 0, 70, 10, 0.5),
        Box(5, 5, 5, 9, 0.5),
        Box(9, 5, 5, 9, 0.5),
        Box(-9, 0, -1, 5, 0.5),
    ]
    assert select_boxes(outside, 50, 20, 3) == []


def test_crop_is_the_resized_region() -> None:
    image = Image.new("RGB", (30, 20), "red")
    image.paste("blue", (10, 5, 20, 15))
    assert cut(image, Box(10, 5, 20, 15, 1.0), 8).tobytes() == Image.new("RGB", (8, 8), "blue").tobytes()
